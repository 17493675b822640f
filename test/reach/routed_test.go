package reach

import (
	"net/netip"
	"slices"

	"github.com/flatnet/flatnet/test/reach/prober"
)

// stranger is a machine on LAN1 that knows nothing but the LAN: no router, and no route to any network.
func (l *lab) stranger() *actor {
	l.Helper()
	m := l.topo.Machine("stranger")
	l.topo.Cable(m, "eth0", l.lan1, "p9")
	l.lan1.IP("link set p9 master br0")
	number(m, "eth0", addrs("198.51.100.21", "2001:db8:1::21"), 0)
	return l.add(m, nil, "eth0")
}

// returnRoutes is the order of the tutorials: a machine without the route back hears a routed workload and cannot answer; masquerade
// or an address of the LAN let it; and with the route it answers, and comes in too.
func (l *lab) returnRoutes(stranger *actor) {
	l.Helper()
	l.try(l.withoutRoute(stranger))
	route(stranger.Machine, "10.0.0.0/8", "fc00::/7", hostLAN1)
	defer stranger.IP("route del 10.0.0.0/8", "route del fc00::/7")
	l.try(l.withRoute(stranger))
}

func (l *lab) withoutRoute(stranger *actor) []trial {
	var all []trial
	for _, name := range []string{"r1a", "roffa", "risoa"} {
		for _, a := range global(stranger) {
			tr := trial{cell: "routed: no route back", from: l.actor(name), to: a, by: stranger, source: sameScope(l.actor(name).addrs, a), unanswered: true}
			for _, kind := range []prober.Kind{prober.ICMP, prober.UDP, prober.SCTP} { // the prober sees no connection that was not answered
				tr.kind = kind
				all = append(all, tr)
			}
			all = append(all, trial{cell: tr.cell, from: tr.from, kind: prober.TCP, to: a})
		}
	}
	for _, name := range []string{"rmasqa", "n1a"} {
		all = append(all, crossing("no route back: source = host", l.actor(name), stranger, hostLAN1)...)
	}
	for _, name := range []string{"rproxa", "rproxb", "bnica"} { // with addresses of the LAN
		a := l.actor(name)
		all = append(all, crossing("an address of the LAN needs no route", stranger, a, stranger.addrs)...)
		all = append(all, crossing("an address of the LAN needs no route", a, stranger, a.addrs)...)
	}
	return all
}

func (l *lab) withRoute(stranger *actor) []trial {
	var all []trial
	for _, name := range []string{"r1a", "roffa", "risoa", "rmasqa"} {
		a := l.actor(name)
		all = append(all, crossing("routed: a route on the outside, inbound", stranger, a, stranger.addrs)...)
		if !a.net.model.Masquerade {
			all = append(all, crossing("routed: a route back", a, stranger, a.addrs)...)
		}
	}
	return all
}

// crossing are trials of all kinds from one to the other, by its addresses that can be routed to.
func crossing(cell string, from, to *actor, source []netip.Addr) []trial {
	var all []trial
	for _, a := range global(to) {
		all = append(all, every(trial{cell: cell, from: from, to: a, by: to, source: sameScope(source, a)})...)
	}
	return all
}

func global(a *actor) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(a.addrs), netip.Addr.IsLinkLocalUnicast)
}
