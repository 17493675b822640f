package checkup

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/model"
)

// returnRoutes: what leaves a routed network keeps its source, and the LAN answers only if it knows the way. Whether it does
// can't be seen from here.
func returnRoutes(f Facts) []api.Finding {
	var list []api.Finding
	for _, v := range families {
		for _, n := range routedNetworks(f.View, v) {
			if n.Translates() || n.ProxyARP {
				continue
			}
			via, router := way(f, n, v)
			if !via.IsValid() {
				continue
			}
			found := api.Finding{Code: CodeReturnRoute, Level: note, What: fmt.Sprintf("network %s is routed: machines outside answer its workloads only if they know the way back", n.Name),
				Owner: "on " + router + ": " + strings.Join(routesTo(n, v, via), "; "), Fix: fmt.Sprintf("flatnet net set %s --masquerade", n.Name)}
			list = append(list, found)
		}
	}
	return list
}

func routesTo(n model.Network, v family, via netip.Addr) []string {
	var lines []string
	for _, s := range n.Subnets {
		if familyOf(s.Prefix.Addr()) == v {
			lines = append(lines, fmt.Sprintf("ip %sroute add %s via %s", v.flag(), s.Prefix, via))
		}
	}
	return lines
}

// way is the host's address on the LAN that a network leaves to, and who needs the route.
func way(f Facts, n model.Network, v family) (via netip.Addr, router string) {
	link, router := n.Uplink, "the machines of the LAN"
	if all := defaultsOf(f.Host, v); len(all) > 0 && len(all[0].Hops) > 0 && (link == "" || link == all[0].Hops[0].Link) {
		link = all[0].Hops[0].Link
		if to := all[0].Hops[0].Via; to.IsValid() {
			router = "the router " + to.String() + ", or on each machine of the LAN"
		}
	}
	return f.View.Node.AddrOn(link, v == 1), router
}

// OtherBridge is a bridge that is not flatnet's, with a private network that this host routes for.
type OtherBridge struct {
	Name string
	Addr netip.Prefix // the host's on it
	Peer netip.Addr   // somebody on it; zero: nobody is known
}

// OtherBridges are those with a port, an address that the internet does not route, and no default route by them. Such a bridge
// with a NIC in it is a LAN of its own.
func OtherBridges(f Facts) []OtherBridge {
	var list []OtherBridge
	for _, l := range f.Host.Links {
		if n, ours := networkOn(f.View, l.Name); ours && n.ForeignBridge() {
			continue // another's bridge, but our rules
		}
		if l.Kind != "bridge" || isOurs(l) || !isUp(l) || leadsOut(f, l.Name) || isLAN(f, l.Name) {
			continue
		}
		for _, p := range l.Addrs {
			if p.Addr().Is4() && p.Addr().IsPrivate() {
				list = append(list, OtherBridge{l.Name, p, peerOn(f, l.Name, p)})
			}
		}
	}
	return list
}

func peerOn(f Facts, bridge string, p netip.Prefix) netip.Addr {
	for _, o := range f.Others {
		inner, _ := o.inner()
		for _, a := range inner.Addrs {
			if o.Bridge == bridge && p.Masked().Contains(a.Addr()) {
				return a.Addr()
			}
		}
	}
	return netip.Addr{}
}

func isUp(l kernel.LinkInfo) bool { return slices.Contains(l.Flags, "UP") }

func leadsOut(f Facts, link string) bool {
	return slices.ContainsFunc(f.View.Node.Routes, func(r model.HostRoute) bool { return r.Link == link && r.Via.IsValid() }) ||
		slices.ContainsFunc(f.Host.Defaults, func(d kernel.DefaultRoute) bool {
			return slices.ContainsFunc(d.Hops, func(h kernel.DefaultHop) bool { return h.Link == link })
		})
}

// isLAN reports whether a bridge has no ports at all, or one that leads out of the machine: hardware, a VLAN, a bond, a tunnel.
func isLAN(f Facts, bridge string) bool {
	ports := 0
	for _, l := range f.Host.Links {
		if l.Master != bridge {
			continue
		}
		if l.Kind != "veth" && l.Kind != "tun" {
			return true
		}
		ports++
	}
	return ports == 0
}
