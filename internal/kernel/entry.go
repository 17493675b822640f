package kernel

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
	"github.com/flatnet/flatnet/internal/model"
)

// Neighbours and FDB entries come in the same messages (struct ndmsg of linux/neighbour.h): a neighbour says which MAC address has
// an IP address, an FDB entry behind which outer IP address a MAC address is.
//
// Both are permanent, and of those the kernel keeps as many as are made: neither do they count towards
// net.ipv4.neigh.default.gc_thresh3, 1024 by default, nor does its collector take them (net/core/neighbour.c neigh_alloc, since 5.0). Tried
// with 12,000 on a kernel of defaults, beside which ordinary neighbours still were learned.

// entry is a neighbour or an FDB entry as the kernel tells it, whosever.
type entry struct {
	index     int // of its link
	fdb       bool
	permanent bool
	plain     bool // no port, VNI or link of its own, nobody's proxy
	addr      netip.Addr
	mac       model.MAC
}

// parseEntry reads RTM_NEWNEIGH or RTM_DELNEIGH.
func parseEntry(p []byte) (e entry, ok bool) {
	if len(p) < unix.SizeofNdMsg {
		return entry{}, false
	}
	e.index = int(binary.NativeEndian.Uint32(p[4:]))
	e.fdb = p[0] == unix.AF_BRIDGE
	e.permanent = binary.NativeEndian.Uint16(p[8:])&unix.NUD_PERMANENT != 0
	e.plain = p[10]&unix.NTF_PROXY == 0
	for typ, a := range netlink.Attrs(p[unix.SizeofNdMsg:]) {
		switch typ {
		case unix.NDA_DST:
			e.addr, _ = netip.AddrFromSlice(a)
		case unix.NDA_LLADDR:
			if len(a) == len(e.mac) {
				copy(e.mac[:], a)
			}
		case unix.NDA_PORT, unix.NDA_VNI, unix.NDA_IFINDEX:
			e.plain = false
		}
	}
	return e, e.fdb || e.addr.IsValid()
}

// object is the entry as a value of the dataplane, if it is one: every FDB entry of a link, and the neighbours that stay. An FDB entry
// that says more than ours do is told without Dst, so that it differs from every one that is wanted.
func (e entry) object(link string) (o dataplane.Object, ok bool) {
	switch {
	case !e.fdb:
		return dataplane.Neighbour{Link: link, Addr: e.addr, MAC: e.mac}, e.permanent && e.plain
	case !e.permanent || !e.plain:
		return dataplane.FDB{Link: link, MAC: e.mac}, true
	}
	return dataplane.FDB{Link: link, MAC: e.mac, Dst: e.addr}, true
}

// dumpEntries yields the neighbours of a link, or its FDB entries.
func dumpEntries(c *netlink.Conn, index int, fdb bool, restart func(), each func(entry)) error {
	var b netlink.Batch
	b.Begin(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
	header := make([]byte, unix.SizeofNdMsg)
	if fdb { // the two tables are asked for those of one link in two ways
		header[0] = unix.AF_BRIDGE
		putIndex(header, index)
		b.Raw(header)
	} else {
		b.Raw(header)
		b.Uint32(unix.NDA_IFINDEX, uint32(index))
	}
	return c.Dump(&b, restart, func(m netlink.Message) error {
		if e, ok := parseEntry(m.Data); ok && m.Type == unix.RTM_NEWNEIGH && e.index == index && e.fdb == fdb {
			each(e)
		}
		return nil
	})
}

// entries observes what is on our tunnel links. There all is ours, whoever made it.
func (o *observation) entries(c *netlink.Conn) error {
	for i := range o.ours {
		l := &o.ours[i]
		if l.Kind != dataplane.VXLAN {
			continue
		}
		for _, fdb := range []bool{false, true} {
			var found []dataplane.Object
			err := dumpEntries(c, l.index, fdb, func() { found = found[:0] }, func(e entry) {
				if one, ok := e.object(l.Name); ok {
					found = append(found, one)
				}
			})
			if err != nil {
				return err
			}
			o.others = append(o.others, found...)
		}
	}
	return nil
}

func encodeNeighbour(b *netlink.Batch, typ, flags uint16, n dataplane.Neighbour, index int) {
	b.Begin(typ, flags)
	b.Raw(entryMsg(family(n.Addr), index, 0))
	b.Bytes(unix.NDA_DST, n.Addr.AsSlice())
	if typ == unix.RTM_NEWNEIGH {
		b.Bytes(unix.NDA_LLADDR, n.MAC[:])
		b.Uint8(ndaProtocol, dataplane.RouteProtocol)
	}
}

// encodeFDB appends a message. One of the zero or a multicast address may lead to several places; a deletion without Dst is of all.
func encodeFDB(b *netlink.Batch, typ, flags uint16, f dataplane.FDB, index int) {
	b.Begin(typ, flags)
	b.Raw(entryMsg(unix.AF_BRIDGE, index, unix.NTF_SELF))
	b.Bytes(unix.NDA_LLADDR, f.MAC[:])
	if typ == unix.RTM_NEWNEIGH {
		b.Bytes(unix.NDA_DST, f.Dst.AsSlice())
	}
}

// entryMsg is struct ndmsg of a permanent entry.
func entryMsg(family uint8, index int, flags uint8) []byte {
	p := make([]byte, unix.SizeofNdMsg)
	p[0] = family
	putIndex(p, index)
	binary.NativeEndian.PutUint16(p[8:], unix.NUD_PERMANENT)
	p[10] = flags
	return p
}
