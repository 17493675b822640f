package kernel

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/netlink"
	"github.com/flatnet/flatnet/internal/model"
)

// Of linux/netfilter/nfnetlink_conntrack.h.
const (
	ctGet       = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1 // IPCTNL_MSG_CT_GET
	ctDelete    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE
	ctTupleOrig = 1                                 // CTA_TUPLE_ORIG
	ctStatus    = 3                                 // CTA_STATUS
	ctID        = 12                                // CTA_ID
	ctZone      = 18                                // CTA_ZONE
	ctFilter    = 25                                // CTA_FILTER, kernel 5.8
	ctOrigFlags = 1                                 // CTA_FILTER_ORIG_FLAGS
	ctIP        = 1                                 // CTA_TUPLE_IP
	ctSource4   = 1                                 // CTA_IP_V4_SRC
	ctSource6   = 3                                 // CTA_IP_V6_SRC
	ctDest4     = 2                                 // CTA_IP_V4_DST
	ctDest6     = 4                                 // CTA_IP_V6_DST
	ctProto     = 2                                 // CTA_TUPLE_PROTO
	ctProtoNum  = 1                                 // CTA_PROTO_NUM
	ctDestPort  = 3                                 // CTA_PROTO_DST_PORT

	ctFilterProto = 1 << 3 // CTA_FILTER_F_CTA_PROTO_NUM, net/netfilter/nf_internals.h
	ctSeenReply   = 1 << 1 // IPS_SEEN_REPLY, linux/netfilter/nf_conntrack_common.h
)

// connection is one of conntrack's, as far as it matters here.
type connection struct {
	proto   model.Proto
	from    netip.Addr     // before any translation
	to      netip.AddrPort // before any translation
	replied bool           // packets were seen in both directions
	handles []handle       // what names it to the kernel
}

// handle is an attribute taken over as it came.
type handle struct {
	typ   uint16
	value []byte
}

// FlushConntrack forgets the host's connections of a protocol that were first sent to these ports of dest, of any address
// when dest is the zero Addr, and returns how many. A UDP flow would else be translated as before, for as long as it lasts.
func (k *Kernel) FlushConntrack(ctx context.Context, proto model.Proto, dest netip.Addr, ports model.Ports) (int, error) {
	families := []uint8{unix.AF_INET, unix.AF_INET6}
	if dest.IsValid() {
		families = []uint8{family(dest)}
	}
	return k.flushConntrack(ctx, families, proto, func(x connection) bool {
		return x.proto == proto && (!dest.IsValid() || x.to.Addr() == dest) &&
			ports.First <= x.to.Port() && x.to.Port() <= ports.Last
	})
}

// FlushConntrackFrom forgets the host's connections that were begun from an address in the prefix, of all protocols, and returns how
// many; with unrepliedOnly those alone that nothing ever came back on. A flow that goes on would else be translated, or not, as when it
// began: a ping that runs while its network's masquerade is switched on.
func (k *Kernel) FlushConntrackFrom(ctx context.Context, prefix netip.Prefix, unrepliedOnly bool) (int, error) {
	return k.flushConntrack(ctx, []uint8{family(prefix.Addr())}, 0, func(x connection) bool {
		return prefix.Contains(x.from) && !(unrepliedOnly && x.replied)
	})
}

// flushConntrack forgets the connections that match; a proto other than 0 has the kernel choose too.
func (k *Kernel) flushConntrack(ctx context.Context, families []uint8, proto model.Proto, match func(connection) bool) (int, error) {
	var c *netlink.Conn
	err := (&space{ns: k.hostNS}).do(func() (err error) {
		c, err = netlink.Open(unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("conntrack: %w", err)
	}
	defer c.Close()
	flushed := 0
	for _, family := range families {
		n, err := flushFamily(c, family, match, proto)
		flushed += n
		if err != nil {
			return flushed, fmt.Errorf("conntrack: %w", err)
		}
	}
	return flushed, ctx.Err()
}

func flushFamily(c *netlink.Conn, family uint8, match func(connection) bool, proto model.Proto) (int, error) {
	found, err := dumpConnections(c, family, proto, match)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) { // no filters yet
		found, err = dumpConnections(c, family, 0, match)
	}
	if err != nil {
		return 0, err
	}
	flushed := 0
	for some := range slices.Chunk(found, netlink.MaxBatch) {
		var b netlink.Batch
		for _, x := range some {
			b.Begin(ctDelete, 0)
			b.Raw([]byte{family, 0, 0, 0}) // struct nfgenmsg
			for _, h := range x.handles {
				b.Bytes(h.typ, h.value)
			}
		}
		errs := c.Do(&b, nil)
		for i := range some {
			if errs == nil || errs[i] == nil {
				flushed++
			}
		}
		for _, e := range errs {
			err = errors.Join(err, ignoring(e, unix.ENOENT)) // it ended by itself
		}
	}
	return flushed, err
}

// dumpConnections returns the connections that match; a proto other than 0 has the kernel choose too.
func dumpConnections(c *netlink.Conn, family uint8, proto model.Proto, match func(connection) bool) ([]connection, error) {
	var b netlink.Batch
	b.Begin(ctGet, unix.NLM_F_DUMP)
	b.Raw([]byte{family, 0, 0, 0})
	if proto != 0 {
		encodeFilter(&b, proto)
	}
	var found []connection
	err := c.Dump(&b, func() { found = nil }, func(m netlink.Message) error {
		if len(m.Data) < 4 {
			return nil
		}
		if x := parseConnection(m.Data[4:]); match(x) {
			found = append(found, x)
		}
		return nil
	})
	return found, err
}

func encodeFilter(b *netlink.Batch, proto model.Proto) {
	tuple := b.Nest(ctTupleOrig)
	inner := b.Nest(ctProto)
	b.Uint8(ctProtoNum, uint8(proto))
	b.End(inner)
	b.End(tuple)
	filter := b.Nest(ctFilter)
	b.Uint32(ctOrigFlags, ctFilterProto)
	b.End(filter)
}

func parseConnection(p []byte) (x connection) {
	for typ, a := range netlink.Attrs(p) {
		switch typ {
		case ctTupleOrig:
			x.parseTuple(a)
			x.handles = append(x.handles, handle{typ | unix.NLA_F_NESTED, slices.Clone(a)})
		case ctStatus:
			x.replied = a.Uint32BE()&ctSeenReply != 0
		case ctID, ctZone:
			x.handles = append(x.handles, handle{typ, slices.Clone(a)})
		}
	}
	return x
}

func (x *connection) parseTuple(tuple netlink.Attr) {
	var addr netip.Addr
	var port uint16
	for part, a := range netlink.Attrs(tuple) {
		for typ, v := range netlink.Attrs(a) {
			switch {
			case part == ctIP && (typ == ctDest4 || typ == ctDest6):
				addr, _ = netip.AddrFromSlice(v)
			case part == ctIP && (typ == ctSource4 || typ == ctSource6):
				x.from, _ = netip.AddrFromSlice(v)
			case part == ctProto && typ == ctProtoNum:
				x.proto = model.Proto(v.Uint8())
			case part == ctProto && typ == ctDestPort:
				port = v.Uint16BE()
			}
		}
	}
	x.to = netip.AddrPortFrom(addr, port)
}
