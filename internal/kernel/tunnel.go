package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// tunnel is what the kernel tells of a VXLAN link beyond a dataplane.Tunnel.
type tunnel struct {
	learns bool // where MAC addresses are from the packets that come in
	odd    bool // is of another sort than ours, which can't be changed
}

// parseTunnel reads IFLA_INFO_DATA of a VXLAN link.
func (l *link) parseTunnel(data netlink.Attr) {
	var zeroTx4, zeroTx6, zeroRx6 bool
	t := &l.Tunnel
	for typ, a := range netlink.Attrs(data) {
		switch typ {
		case unix.IFLA_VXLAN_ID:
			t.VNI = a.Uint32()
		case unix.IFLA_VXLAN_PORT:
			t.Port = a.Uint16BE()
		case unix.IFLA_VXLAN_LOCAL, unix.IFLA_VXLAN_LOCAL6:
			t.Local, _ = netip.AddrFromSlice(a)
		case unix.IFLA_VXLAN_LEARNING:
			l.learns = a.Uint8() != 0
		case unix.IFLA_VXLAN_UDP_CSUM:
			zeroTx4 = a.Uint8() == 0
		case unix.IFLA_VXLAN_UDP_ZERO_CSUM6_TX:
			zeroTx6 = a.Uint8() != 0
		case unix.IFLA_VXLAN_UDP_ZERO_CSUM6_RX:
			zeroRx6 = a.Uint8() != 0
		case unix.IFLA_VXLAN_COLLECT_METADATA, unix.IFLA_VXLAN_VNIFILTER, unix.IFLA_VXLAN_PROXY, unix.IFLA_VXLAN_RSC,
			unix.IFLA_VXLAN_L2MISS, unix.IFLA_VXLAN_L3MISS, unix.IFLA_VXLAN_REMCSUM_TX, unix.IFLA_VXLAN_REMCSUM_RX:
			l.odd = l.odd || a.Uint8() != 0
		case unix.IFLA_VXLAN_GBP, unix.IFLA_VXLAN_GPE: // there or not there
			l.odd = true
		}
	}
	t.NoTxCsum = zeroTx4
	if t.Local.Is6() {
		t.NoTxCsum = zeroTx6
		l.odd = l.odd || zeroTx6 != zeroRx6
	}
}

// asTold is the tunnel as a value of the dataplane. One with settings that a dataplane.Tunnel has no words for is told without
// its port, so that it differs from every one that is wanted.
func (t tunnel) asTold(o dataplane.Tunnel) dataplane.Tunnel {
	if t.learns || t.odd {
		o.Port = 0
	}
	return o
}

// encodeTunnel appends what a new VXLAN link is made with.
func encodeTunnel(b *netlink.Batch, t dataplane.Tunnel) {
	b.Uint32(unix.IFLA_VXLAN_ID, t.VNI)
	b.Bytes(unix.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, t.Port))
	encodeLocal(b, t)
	b.Uint8(unix.IFLA_VXLAN_LEARNING, 0)
	if t.Local.Is6() {
		b.Uint8(unix.IFLA_VXLAN_UDP_ZERO_CSUM6_TX, flag(t.NoTxCsum))
		b.Uint8(unix.IFLA_VXLAN_UDP_ZERO_CSUM6_RX, flag(t.NoTxCsum))
	} else {
		b.Uint8(unix.IFLA_VXLAN_UDP_CSUM, flag(!t.NoTxCsum))
	}
}

func encodeLocal(b *netlink.Batch, t dataplane.Tunnel) {
	if t.Local.Is6() {
		b.Bytes(unix.IFLA_VXLAN_LOCAL6, t.Local.AsSlice())
	} else if t.Local.IsValid() {
		b.Bytes(unix.IFLA_VXLAN_LOCAL, t.Local.AsSlice())
	}
}

// encodeTunnelUpdate appends a message with what can change in place (drivers/net/vxlan/vxlan_core.c, vxlan_changelink). With an MTU in it
// that is refused.
func encodeTunnelUpdate(b *netlink.Batch, old link, l dataplane.Link) {
	if l.Kind != dataplane.VXLAN || l.Tunnel.Local == old.Tunnel.Local && !old.learns {
		return
	}
	b.Begin(unix.RTM_NEWLINK, 0)
	b.Raw(infoMsg(old.index, 0, 0))
	info := b.Nest(unix.IFLA_LINKINFO)
	b.String(unix.IFLA_INFO_KIND, string(l.Kind))
	data := b.Nest(unix.IFLA_INFO_DATA)
	encodeLocal(b, l.Tunnel)
	b.Uint8(unix.IFLA_VXLAN_LEARNING, 0)
	b.End(data)
	b.End(info)
}

// isSilent reports whether nothing is to be sent by a link on the kernel's own account: it is a tunnel, shapes, is the port of a bridge, or
// is Quiet. Its link-local address would have three routes in a table that the kernel walks through whenever a link changes, be looked for by
// others, and tell of itself.
func isSilent(l dataplane.Link) bool {
	return l.Quiet || l.Kind == dataplane.VXLAN || l.Kind == dataplane.IFB || l.Kind == dataplane.Veth && l.Master != ""
}

// encodeNoAutoAddress appends a message that keeps a new link from giving itself a link-local address. The kernel sets it up before it
// reads this when both are in one message (net/core/rtnetlink.c, do_setlink).
func encodeNoAutoAddress(b *netlink.Batch, index int) {
	b.Begin(unix.RTM_NEWLINK, 0)
	b.Raw(infoMsg(index, 0, 0))
	spec := b.Nest(unix.IFLA_AF_SPEC)
	inet6 := b.Nest(unix.AF_INET6)
	b.Uint8(unix.IFLA_INET6_ADDR_GEN_MODE, addrGenNone)
	b.End(inet6)
	b.End(spec)
}

// checkTunnelFree looks for another VXLAN link with the VNI and port of a new one, of which the kernel only says that there is one.
// One of the same name is to be replaced, or will be found to be there.
func (j *job) checkTunnelFree(l dataplane.Link) error {
	if l.Kind != dataplane.VXLAN {
		return nil
	}
	j.flush() // it may delete that one
	var taken error
	err := dumpVXLANs(j.space.conn, func() { taken = nil }, func(other link) {
		if other.Name == l.Name || !collide(other.Tunnel, l.Tunnel) {
			return
		}
		taken = fmt.Errorf("VNI %d at UDP port %d has link %q, which %w", l.Tunnel.VNI, l.Tunnel.Port, other.Name, ErrNotOurs)
		if other.marked {
			taken = fmt.Errorf("VNI %d at UDP port %d has link %q of %s", l.Tunnel.VNI, l.Tunnel.Port, other.Name, other.Owner)
		}
	})
	return errors.Join(err, taken)
}

// listenTo has Watch hear of what happens on a link from its making on.
func (j *job) listenTo(index int) error {
	if j.space.path != dataplane.HostNetns {
		return nil
	}
	return j.k.ear.admit(index)
}

// collide reports whether two links can't be both: packets of IPv4 and of IPv6 come to sockets of their own.
func collide(a, b dataplane.Tunnel) bool {
	return a.VNI == b.VNI && a.Port == b.Port && a.Local.Is6() == b.Local.Is6()
}

// explainTunnel says whose the port is when a VXLAN link could not go up for its sake: of a program, or of a VXLAN link that treats
// checksums in another way.
func (j *job) explainTunnel(t *task, l dataplane.Link) {
	if l.Kind != dataplane.VXLAN || !errors.Is(t.err, unix.EADDRINUSE) {
		return
	}
	holder := ""
	err := dumpVXLANs(j.space.conn, func() { holder = "" }, func(other link) {
		if other.Name != l.Name && other.Up && other.Tunnel.Port == l.Tunnel.Port && other.Tunnel.Local.Is6() == l.Tunnel.Local.Is6() {
			holder = fmt.Sprintf(", which link %q has too", other.Name)
		}
	})
	t.err = errors.Join(fmt.Errorf("UDP port %d%s: %w", l.Tunnel.Port, holder, t.err), err)
}

// dumpVXLANs yields all VXLAN links, whosever.
func dumpVXLANs(c *netlink.Conn, restart func(), each func(link)) error {
	var b netlink.Batch
	b.Begin(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	b.Raw(infoMsg(0, 0, 0))
	b.Uint32(unix.IFLA_EXT_MASK, extSkipStats)
	info := b.Nest(unix.IFLA_LINKINFO)
	b.String(unix.IFLA_INFO_KIND, string(dataplane.VXLAN))
	b.End(info)
	return c.Dump(&b, restart, func(m netlink.Message) error {
		if l, ok := parseLink(m.Data); ok && l.Kind == dataplane.VXLAN {
			each(l)
		}
		return nil
	})
}

// settleTunnel is for after a VXLAN link, or another that is silent, was written.
func (j *job) settleTunnel(t *task, l dataplane.Link) {
	if !isSilent(l) || t.Op == dataplane.Del {
		return
	}
	t.err = ignoring(t.err, unix.EAFNOSUPPORT) // a kernel without IPv6 has nothing to keep the link from
	if l.Kind == dataplane.VXLAN && t.err == nil && t.index == 0 && t.seen != nil && t.seen.Tunnel.Local != l.Tunnel.Local {
		t.err = j.forgetPaths(l, t.seen.index)
	}
}

// forgetPaths has the kernel choose the outer source address of every peer anew. Each FDB entry keeps that with the route to its peer
// for as long as no route or address changes (include/net/dst_cache.h), also when the link has another Local by now.
func (j *job) forgetPaths(l dataplane.Link, index int) error {
	if l.Tunnel.Local.Is4() {
		return j.space.do(func() error { return writeSysctl("net/ipv4/route/flush", "1") })
	}
	// IPv6 has no such file that does it. Any address that comes and goes will do; this one is of the prefix that leads nowhere (RFC 6666).
	brief := dataplane.Address{Link: l.Name, Prefix: netip.MustParsePrefix("100::9d/128")}
	var err error
	for _, on := range []int{index, 1} { // lo, if the link has no IPv6
		var b netlink.Batch
		encodeAddress(&b, unix.RTM_NEWADDR, unix.NLM_F_CREATE, brief, on)
		encodeAddress(&b, unix.RTM_DELADDR, 0, brief, on)
		if err = errors.Join(j.space.conn.Do(&b, nil)...); err == nil {
			return nil
		}
	}
	return fmt.Errorf("forget the paths of %s: %w", l.Name, err)
}
