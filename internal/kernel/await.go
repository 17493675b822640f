package kernel

import (
	"context"
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// Some of what netlink has acknowledged the kernel does a little later, by works of its own, and until then it throws packets away. The
// sender repeats an ARP request or a neighbour solicitation after a second. So Apply returns only when
//
//   - links carry. When the second end of a veth goes up, both have a carrier at once; but it is a work that makes the first end send, has
//     its bridge forward for it, and the bridge send if that was its first port (net/core/link_watch.c). Whoever asks for a link has that
//     done for it, since Linux 6.8 (net/core/rtnetlink.c, rtnl_getlink); before, the answer says that it is still to be done;
//   - IPv6 addresses are heard. The route that makes one the host's own and its multicast group come by a work, also without a search
//     for duplicates (net/ipv6/addrconf.c, addrconf_dad_work).

// For how long Apply waits for such a work, and how long it pauses where the kernel does not tell of the end. What fails here is no error:
// at worst a packet is lost.
const (
	patience = 50 * time.Millisecond
	pause    = time.Millisecond
)

// await returns when what the steps have made can be used.
func (k *Kernel) await(ctx context.Context, s *space, steps dataplane.Plan) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var addrs []netip.Addr
	for _, step := range steps {
		if step.Op == dataplane.Del {
			continue
		}
		switch o := step.Object.(type) {
		case dataplane.Link:
			if isFar(o) && o.Up {
				k.awaitNear(ctx, farEnd{s.path, o.Name})
			}
		case dataplane.Address:
			if a := o.Prefix.Addr(); a.Is6() && !a.IsLinkLocalUnicast() {
				addrs = append(addrs, a)
			}
		}
	}
	if addrs = notHeard(s.conn, addrs); len(addrs) > 0 {
		s.awaitAddresses(ctx, addrs)
	}
}

// awaitNear waits for the end of a veth that was set up first, and for its bridge.
func (k *Kernel) awaitNear(ctx context.Context, far farEnd) {
	end, ok := k.memory.nearEnd(far.netns, far.name)
	if !ok {
		return
	}
	near, err := k.enter(end.netns)
	if err != nil {
		return
	}
	defer near.leave()
	if port := awaitCarrier(ctx, near.conn, func(b *netlink.Batch) { encodeGetLink(b, end.name) }); port.master != 0 {
		awaitCarrier(ctx, near.conn, func(b *netlink.Batch) { encodeGetLinkAt(b, port.master) })
	}
}

// carrier is what the kernel tells of a link's readiness.
type carrier struct {
	master int
	late   bool // it has a carrier, and what follows from that is not done yet
}

func awaitCarrier(ctx context.Context, c *netlink.Conn, ask func(*netlink.Batch)) (now carrier) {
	for {
		var b netlink.Batch
		ask(&b)
		now = carrier{}
		c.Do(&b, func(_ int, m netlink.Message) { now = parseCarrier(m.Data) })
		if !now.late || ctx.Err() != nil {
			return now
		}
		time.Sleep(pause)
	}
}

func parseCarrier(p []byte) (now carrier) {
	l, ok := parseLink(p)
	if !ok {
		return now
	}
	flags := binary.NativeEndian.Uint32(p[8:])
	return carrier{master: l.master, late: flags&unix.IFF_LOWER_UP != 0 && flags&unix.IFF_RUNNING == 0}
}

// awaitAddresses waits until the kernel takes the addresses for its own.
func (s *space) awaitAddresses(ctx context.Context, addrs []netip.Addr) {
	var routes *netlink.Listener
	err := s.do(func() (err error) {
		routes, err = netlink.Listen(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
		return err
	})
	if err != nil {
		return
	}
	defer routes.Close()
	for len(notHeard(s.conn, addrs)) > 0 && routes.Wait(ctx) == nil {
		if _, err := routes.Drain(func(netlink.Message) error { return nil }); err != nil {
			return
		}
	}
}

// notHeard are the addresses that packets to do not end here.
func notHeard(c *netlink.Conn, addrs []netip.Addr) (not []netip.Addr) {
	var b netlink.Batch
	for len(addrs) > 0 {
		asked := addrs[:min(len(addrs), netlink.MaxBatch)]
		addrs = addrs[len(asked):]
		b.Reset()
		for _, a := range asked {
			encodeGetRoute(&b, a)
		}
		local := make([]bool, len(asked))
		c.Do(&b, func(i int, m netlink.Message) {
			local[i] = len(m.Data) >= unix.SizeofRtMsg && m.Data[7] == unix.RTN_LOCAL
		})
		for i, a := range asked {
			if !local[i] {
				not = append(not, a)
			}
		}
	}
	return not
}

// encodeGetRoute asks by which route a packet to an address goes.
func encodeGetRoute(b *netlink.Batch, to netip.Addr) {
	header := make([]byte, unix.SizeofRtMsg)
	header[0], header[1] = family(to), uint8(to.BitLen())
	b.Begin(unix.RTM_GETROUTE, 0)
	b.Raw(header)
	b.Bytes(unix.RTA_DST, to.AsSlice())
}
