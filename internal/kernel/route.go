package kernel

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// defaultMetric6 is what the kernel gives an IPv6 route of no metric (net/ipv6_route.h IP6_RT_PRIO_USER); dataplane.Route
// has 0 for it, as for IPv4.
const defaultMetric6 = 1024

// route is a route as the kernel tells it, ours or not.
type route struct {
	dest   netip.Prefix
	table  int
	metric int
	proto  uint8
	kind   uint8 // RTN_UNICAST …
	cloned bool
	source netip.Addr
	mtu    int
	hops   []hop // one, but for multipath
}

// hop is one of a route's next hops.
type hop struct {
	via    netip.Addr
	onLink bool // by flag
	index  int  // of the link
}

func (r *route) ours() bool {
	return r.proto == dataplane.RouteProtocol && r.kind == unix.RTN_UNICAST && !r.cloned
}

// parseRoute reads an RTM_NEWROUTE or RTM_DELROUTE message.
func parseRoute(p []byte) (r route, ok bool) {
	if len(p) < unix.SizeofRtMsg {
		return route{}, false
	}
	fam, bits := p[0], int(p[1])
	r = route{table: int(p[4]), proto: p[5], kind: p[7]}
	r.cloned = binary.NativeEndian.Uint32(p[8:])&unix.RTM_F_CLONED != 0
	dest := netip.IPv4Unspecified()
	if fam == unix.AF_INET6 {
		dest = netip.IPv6Unspecified()
	}
	single := hop{onLink: binary.NativeEndian.Uint32(p[8:])&unix.RTNH_F_ONLINK != 0}
	for typ, a := range netlink.Attrs(p[unix.SizeofRtMsg:]) {
		switch typ {
		case unix.RTA_DST:
			dest, _ = netip.AddrFromSlice(a)
		case unix.RTA_TABLE:
			r.table = int(a.Uint32())
		case unix.RTA_PRIORITY:
			r.metric = int(a.Uint32())
		case unix.RTA_PREFSRC:
			r.source, _ = netip.AddrFromSlice(a)
		case unix.RTA_OIF:
			single.index = int(a.Uint32())
		case unix.RTA_GATEWAY, unix.RTA_VIA:
			single.via = parseVia(typ, a)
		case unix.RTA_METRICS:
			r.mtu = parseRouteMTU(a)
		case unix.RTA_MULTIPATH:
			r.hops = parseHops(a)
		}
	}
	if r.hops == nil {
		r.hops = []hop{single}
	}
	if fam == unix.AF_INET6 && r.metric == defaultMetric6 {
		r.metric = 0
	}
	r.dest = netip.PrefixFrom(dest, bits)
	return r, (fam == unix.AF_INET || fam == unix.AF_INET6) && r.dest.IsValid()
}

// parseVia reads RTA_GATEWAY, an address of the route's family, or RTA_VIA, one of any: two bytes of family come first.
func parseVia(typ uint16, a netlink.Attr) netip.Addr {
	if typ == unix.RTA_VIA && len(a) >= 2 {
		a = a[2:]
	}
	via, _ := netip.AddrFromSlice(a)
	return via
}

func parseRouteMTU(metrics netlink.Attr) (mtu int) {
	for typ, a := range netlink.Attrs(metrics) {
		if typ == unix.RTAX_MTU {
			mtu = int(a.Uint32())
		}
	}
	return mtu
}

// parseHops reads an array of struct rtnexthop, each with attributes.
func parseHops(p []byte) (hops []hop) {
	for len(p) >= unix.SizeofRtNexthop {
		n := int(binary.NativeEndian.Uint16(p))
		if n < unix.SizeofRtNexthop || n > len(p) {
			return hops
		}
		h := hop{index: int(binary.NativeEndian.Uint32(p[4:]))}
		for typ, a := range netlink.Attrs(p[unix.SizeofRtNexthop:n]) {
			if typ == unix.RTA_GATEWAY || typ == unix.RTA_VIA {
				h.via = parseVia(typ, a)
			}
		}
		hops = append(hops, h)
		p = p[min((n+3)&^3, len(p)):]
	}
	return hops
}

// object is the route as a value of the dataplane; ours have one hop.
func (r *route) object(names map[int]string) dataplane.Route {
	o := dataplane.Route{
		Dest: r.dest, Table: r.table, Metric: r.metric,
		Via: r.hops[0].via, OnLink: r.hops[0].onLink, Link: names[r.hops[0].index], Source: r.source, MTU: r.mtu,
	}
	if o.Table == unix.RT_TABLE_MAIN {
		o.Table = 0
	}
	return o
}

func encodeRoute(b *netlink.Batch, typ, flags uint16, r dataplane.Route, index int) {
	b.Begin(typ, flags)
	b.Raw(routeMsg(typ, r))
	b.Uint32(unix.RTA_TABLE, uint32(routeTable(r)))
	if r.Dest.Bits() > 0 {
		b.Bytes(unix.RTA_DST, r.Dest.Addr().AsSlice())
	}
	if index != 0 {
		b.Uint32(unix.RTA_OIF, uint32(index))
	}
	encodeVia(b, r)
	if m := routeMetric(r); m != 0 {
		b.Uint32(unix.RTA_PRIORITY, uint32(m))
	}
	if typ == unix.RTM_DELROUTE {
		return
	}
	if r.Source.IsValid() {
		b.Bytes(unix.RTA_PREFSRC, r.Source.AsSlice())
	}
	if r.MTU != 0 {
		metrics := b.Nest(unix.RTA_METRICS)
		b.Uint32(unix.RTAX_MTU, uint32(r.MTU))
		b.End(metrics)
	}
}

// routeMsg is struct rtmsg. The protocol keeps a deletion from finding a route that is not ours.
func routeMsg(typ uint16, r dataplane.Route) []byte {
	p := make([]byte, unix.SizeofRtMsg)
	p[0] = family(r.Dest.Addr())
	p[1] = uint8(r.Dest.Bits())
	p[4] = unix.RT_TABLE_UNSPEC // RTA_TABLE has it
	p[5] = dataplane.RouteProtocol
	p[7] = unix.RTN_UNICAST
	if r.OnLink {
		binary.NativeEndian.PutUint32(p[8:], unix.RTNH_F_ONLINK)
	}
	switch {
	case typ == unix.RTM_DELROUTE:
		p[6] = unix.RT_SCOPE_NOWHERE // any
	case r.Dest.Addr().Is4() && !r.Via.IsValid():
		p[6] = unix.RT_SCOPE_LINK
	default:
		p[6] = routeScope(r)
	}
	return p
}

// routeScope is 0 ("global") but for the IPv4 routes to a network's peers, which differ in nothing but their gateways. The kernel looks
// through all routes of one link, source, metric and scope for one of the same gateway before it makes another
// (net/ipv4/fib_semantics.c, fib_find_info), so that ten thousand would take it two seconds. Below "link" every scope means the same to
// packets: that the gateway is nearer than where they go.
func routeScope(r dataplane.Route) uint8 {
	if !r.Via.Is4() || !r.Dest.Addr().Is4() || !r.Source.IsValid() || r.Dest.Bits() == 0 {
		return unix.RT_SCOPE_UNIVERSE
	}
	sum := uint32(2166136261) // FNV-1a
	for _, b := range r.Dest.Addr().AsSlice() {
		sum = (sum ^ uint32(b)) * 16777619
	}
	return uint8(sum % unix.RT_SCOPE_LINK)
}

func encodeVia(b *netlink.Batch, r dataplane.Route) {
	switch {
	case !r.Via.IsValid():
	case r.Via.Is6() == r.Dest.Addr().Is6():
		b.Bytes(unix.RTA_GATEWAY, r.Via.AsSlice())
	default:
		via := binary.NativeEndian.AppendUint16(nil, uint16(family(r.Via)))
		b.Bytes(unix.RTA_VIA, append(via, r.Via.AsSlice()...))
	}
}

func routeTable(r dataplane.Route) int {
	if r.Table == 0 {
		return unix.RT_TABLE_MAIN
	}
	return r.Table
}

func routeMetric(r dataplane.Route) int {
	if r.Metric == 0 && r.Dest.Addr().Is6() {
		return defaultMetric6
	}
	return r.Metric
}
