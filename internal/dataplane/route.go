package dataplane

import (
	"fmt"
	"net/netip"
	"strings"
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

func (r Route) String() string {
	var b strings.Builder
	dest := r.Dest.String()
	if r.Dest.Bits() == 0 {
		dest = "default"
	}
	b.WriteString("route " + dest)
	b.WriteString(r.path())
	return b.String()
}

func (r Route) path() string {
	var b strings.Builder
	if r.Via.IsValid() {
		b.WriteString(" via " + r.Via.String())
	}
	if r.Link != "" {
		b.WriteString(" dev " + r.Link)
	}
	if r.OnLink {
		b.WriteString(" onlink")
	}
	if r.Source.IsValid() {
		b.WriteString(" src " + r.Source.String())
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.Table != 0 {
		fmt.Fprintf(&b, " table %d", r.Table)
	}
	if r.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", r.MTU)
	}
	return b.String()
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
