package model

import (
	"net/netip"
	"slices"
	"strings"
)

// View is one immutable snapshot of what is asked of a node, and of the facts of the node it is asked of. Whoever changes
// a View makes a new one; the maps of a published View are never written again.
type View struct {
	Node      Node
	Networks  map[string]Network  // by name
	Workloads map[string]Workload // by name; this node's own
	Forwards  map[string]Forward  // by Forward.Name(); standing ones, beside those in Workloads

	Self    string             // this node's member ID; empty: it is in no cluster
	Members map[string]Member  // of the cluster, by ID, with this one
	Leases  map[LeaseKey]Lease // of the cluster's networks
}

// AllForwards returns the standing forwards and those published with workloads, ordered by name.
func (v View) AllForwards() []Forward {
	var all []Forward
	for _, f := range v.Forwards {
		all = append(all, f)
	}
	for _, w := range v.Workloads {
		all = append(all, w.Forwards...)
	}
	type named struct { // a name costs more to make than to compare
		name    string
		forward Forward
	}
	order := make([]named, len(all))
	for i, f := range all {
		order[i] = named{f.Name(), f}
	}
	slices.SortFunc(order, func(a, b named) int { return strings.Compare(a.name, b.name) })
	for i, o := range order {
		all[i] = o.forward
	}
	return all
}

// Node is what is true of the machine apart from anything flatnet made: its links, addresses and routes.
type Node struct {
	Name        string
	Links       []HostLink
	Routes      []HostRoute
	LoopbackBPF bool // forwards can be answered at [::1]: package kernel/bpf works here
}

// HostLink is a link of the host that is not ours.
type HostLink struct {
	Name     string
	Bridge   bool
	Wireless bool // IEEE 802.11
	IPOnly   bool // carries packets, no Ethernet frames: tun, WireGuard, PPP
	MTU      int  // bytes
	Up       bool
	Loopback bool
	Master   string // the bridge it is a port of
	AcceptRA int    // net.ipv6.conf.NAME.accept_ra; -1 when there is no IPv6
	RPFilter int    // the greater of net.ipv4.conf.NAME.rp_filter and that of all: 1 strict, 2 loose (RFC 3704)
	Addrs    []netip.Prefix
}

// HostRoute is a route of the host that is not ours, of any table but local.
type HostRoute struct {
	Dest   netip.Prefix // 0.0.0.0/0 or ::/0 for a default route
	Via    netip.Addr   // zero when on-link
	Link   string
	Proto  string // iproute2's word: kernel, boot, static, ra, dhcp, bird, … or a number
	Metric int
}

// Uplinks returns the links by which the node has a default route of either family, best metric first.
func (n Node) Uplinks() []HostLink {
	routes := slices.Clone(n.Routes)
	slices.SortStableFunc(routes, func(a, b HostRoute) int { return a.Metric - b.Metric })
	var up []HostLink
	for _, r := range routes {
		if r.Dest.Bits() != 0 {
			continue
		}
		l, ok := n.Link(r.Link)
		if ok && !slices.ContainsFunc(up, func(h HostLink) bool { return h.Name == l.Name }) {
			up = append(up, l)
		}
	}
	return up
}

// Link returns the host's link of that name.
func (n Node) Link(name string) (HostLink, bool) {
	for _, l := range n.Links {
		if l.Name == name {
			return l, true
		}
	}
	return HostLink{}, false
}

// AddrOn returns the host's address on a link, as machines there know it: the one in the subnet of the default route's gateway, else
// the first that is not link-local. It is zero where there is none.
func (n Node) AddrOn(link string, v6 bool) netip.Addr {
	l, _ := n.Link(link)
	addrs := slices.DeleteFunc(slices.Clone(l.Addrs), func(p netip.Prefix) bool { return p.Addr().Is6() != v6 || p.Addr().IsLinkLocalUnicast() })
	routes := slices.Clone(n.Routes)
	slices.SortStableFunc(routes, func(a, b HostRoute) int { return a.Metric - b.Metric })
	for _, r := range routes {
		if r.Dest.Bits() != 0 || r.Link != link {
			continue
		}
		for _, p := range addrs {
			if p.Masked().Contains(r.Via) {
				return p.Addr()
			}
		}
	}
	if len(addrs) == 0 {
		return netip.Addr{}
	}
	return addrs[0].Addr()
}

// Has says which link of the host has an address.
func (n Node) Has(a netip.Addr) (link string, ok bool) {
	for _, l := range n.Links {
		for _, p := range l.Addrs {
			if p.Addr() == a {
				return l.Name, true
			}
		}
	}
	return "", false
}

// LacksLink names the link of the host that a network needs and that is not there: its uplink, or the bridge it borrows.
func (v View) LacksLink(n Network) (name string, lacks bool) {
	name = n.Uplink
	if n.BorrowsBridge() {
		name = n.Bridge
	}
	_, there := v.Node.Link(name)
	return name, name != "" && !there
}

// DefaultMTU is what a network uses when nothing says otherwise (RFC 894).
const DefaultMTU = 1500

// MTU is the one that a network uses: its own, else its uplink's or that of the bridge it borrows, else the smallest of the default routes' links.
func (v View) MTU(n Network) int {
	if n.MTU != 0 {
		return n.MTU
	}
	if n.Mode == Cluster {
		return v.clusterMTU(n)
	}
	lan := n.Uplink
	if n.BorrowsBridge() {
		lan = n.Bridge
	}
	if l, ok := v.Node.Link(lan); ok {
		return l.MTU
	}
	mtu := 0
	for _, l := range v.Node.Uplinks() {
		if mtu == 0 || l.MTU < mtu {
			mtu = l.MTU
		}
	}
	if mtu == 0 {
		return DefaultMTU
	}
	return mtu
}
