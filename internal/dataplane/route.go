package dataplane

import (
	"fmt"
	"net/netip"
)

// Route is a route with our protocol number.
type Route struct {
	Dest   netip.Prefix // identity; 0.0.0.0/0 or ::/0 is the default route
	Table  int          // identity; 0 is main
	Metric int          // identity
	Via    netip.Addr   // zero: on-link
	OnLink bool         // Via is taken for a neighbour whatever the addresses of the link (RTNH_F_ONLINK)
	Link   string
	Source netip.Addr // preferred source address
	MTU    int        // bytes
}

// Key is destination, table and metric.
func (r Route) Key() Key { return Route{Dest: r.Dest, Table: r.Table, Metric: r.Metric} }

func (r Route) kind() kind { return kindRoute }

func (r Route) String() string { return string(r.append(nil)) }

func (r Route) append(b []byte) []byte {
	b = append(b, "route "...)
	if r.Dest.Bits() == 0 {
		b = append(b, "default"...)
	} else {
		b = r.Dest.AppendTo(b)
	}
	return r.appendPath(b)
}

func (r Route) path() string { return string(r.appendPath(nil)) }

func (r Route) appendPath(b []byte) []byte {
	if r.Via.IsValid() {
		b = r.Via.AppendTo(append(b, " via "...))
	}
	if r.Link != "" {
		b = append(append(b, " dev "...), r.Link...)
	}
	if r.OnLink {
		b = append(b, " onlink"...)
	}
	if r.Source.IsValid() {
		b = r.Source.AppendTo(append(b, " src "...))
	}
	if r.Metric != 0 {
		b = fmt.Appendf(b, " metric %d", r.Metric)
	}
	if r.Table != 0 {
		b = fmt.Appendf(b, " table %d", r.Table)
	}
	if r.MTU != 0 {
		b = fmt.Appendf(b, " mtu %d", r.MTU)
	}
	return b
}

// RouteProtocol marks our routes (rtm_protocol), rules (FRA_PROTOCOL), proxied neighbours (NDA_PROTOCOL) and addresses (IFA_PROTO,
// kernel 5.18): a number that /etc/iproute2/rt_protos leaves free.
const RouteProtocol = 157

// RouteRule is a rule of policy routing (ip rule) with our protocol number: what has the source address is looked up in a table
// of its own before the main one.
type RouteRule struct {
	Priority int        // identity; lower ones are asked first
	From     netip.Addr // identity
	Table    int
}

// Key is priority and source.
func (r RouteRule) Key() Key { return RouteRule{Priority: r.Priority, From: r.From} }

func (r RouteRule) kind() kind { return kindRouteRule }

func (r RouteRule) String() string {
	return fmt.Sprintf("rule priority %d from %s lookup %d", r.Priority, r.From, r.Table)
}

// ProxyNeighbour makes the host answer ARP or neighbour discovery for an address on a link that is not ours (ip neigh add proxy).
type ProxyNeighbour struct {
	Link string     // identity
	Addr netip.Addr // identity
}

// Key is the whole.
func (p ProxyNeighbour) Key() Key { return p }

func (p ProxyNeighbour) kind() kind { return kindProxyNeighbour }

func (p ProxyNeighbour) String() string { return fmt.Sprintf("proxy %s dev %s", p.Addr, p.Link) }
