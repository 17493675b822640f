package agent

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// returnRoutes says how machines of the LAN come to a routed network, or to one of the cluster: to each of its ranges by way of this host.
// It is nil for other networks, and for one that is not started.
func returnRoutes(v model.View, n model.Network) *api.ReturnRoutes {
	if n.Mode != model.Routed && n.Mode != model.Cluster || !n.Active {
		return nil
	}
	if n.ProxyARP {
		return &api.ReturnRoutes{Note: fmt.Sprintf("no route is needed: this host answers on %s for the addresses of the workloads", n.Uplink)}
	}
	d := &api.ReturnRoutes{Note: "the LAN answers only with these routes, on its router or on each machine"}
	if n.Masquerade {
		d.Note = "the LAN needs these routes only to come in; what leaves has this host's address"
	}
	if n.Mode == model.Cluster {
		d.Note = "the LAN comes in only with these routes; any node will do, not only the workload's own"
	}
	for _, r := range n.Ranges() {
		if via := lanAddr(v, n, r.Addr().Is6()); via.IsValid() {
			d.Routes = append(d.Routes, returnRoute(r, via))
		}
	}
	if len(d.Routes) == 0 {
		d.Note = "the LAN needs a route to each subnet by way of this host, which has no address there yet"
	}
	return d
}

// lanAddr is this host's address on the LAN that the network leaves to.
func lanAddr(v model.View, n model.Network, v6 bool) netip.Addr {
	for _, name := range uplinks(v, n) {
		if a := v.Node.AddrOn(name, v6); a.IsValid() {
			return a
		}
	}
	return netip.Addr{}
}

func returnRoute(subnet netip.Prefix, via netip.Addr) api.ReturnRoute {
	r := api.ReturnRoute{Subnet: subnet.String(), Via: via.String(), Linux: fmt.Sprintf("ip route add %s via %s", subnet, via)}
	if via.Is6() {
		r.Windows = fmt.Sprintf("route -p add %s %s", subnet, via)
		r.Router = fmt.Sprintf("ipv6 route %s %s", subnet, via)
		return r
	}
	r.Windows = fmt.Sprintf("route -p add %s mask %s %s", subnet.Addr(), netmask(subnet), via)
	r.Router = fmt.Sprintf("ip route %s %s %s", subnet.Addr(), netmask(subnet), via)
	return r
}

// netmask is a prefix length as four numbers.
func netmask(p netip.Prefix) string {
	words := make([]string, 4)
	for i := range words {
		words[i] = fmt.Sprint(maskByte(p.Bits(), i))
	}
	return strings.Join(words, ".")
}
