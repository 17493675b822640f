package reach

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/flatnet/flatnet/test/reach/prober"
)

// The rows of the table of forwards in a cluster.
const (
	forLAN        = "LAN, internet"
	forOwnNode    = "its own node"
	forLoopback   = "its own node, on 127.0.0.1"
	forOtherNode  = "another node, on an underlay address"
	forOtherGate  = "another node, on a gateway"
	forNeighbour  = "its network on the same node, itself too"
	forAfar       = "its network on other nodes"
	forOverlay    = "other networks of the cluster"
	forNAT        = "nat, routed network of the same node"
	forNATAfar    = "nat of another node, on an underlay address"
	forRoutedAfar = "routed network of another node"
	forClosed     = "host-only"
)

// offers are the published workloads: the port of their node, for all protocols.
var offers = []struct {
	workload string
	port     uint16
}{{"cluster-a1", 8080}, {"under6-b1", 8180}, {"hostgw-a1", 8280}, {"nata1", 8380}, {"direct-c1", 8480}}

func (f *fabric) offer() {
	f.Helper()
	for _, o := range offers {
		f.publishAt(f.seat(o.workload), o.port)
	}
}

func (f *fabric) publishAt(s *seat, port uint16) {
	f.Helper()
	args := []string{"net", "forward", "add", s.Name}
	for _, proto := range []string{"tcp", "udp", "sctp"} {
		args = append(args, fmt.Sprintf("%d:%d/%s", port, prober.Port, proto))
	}
	s.at.rig.Flatnet(args...)
}

// offerTrials are from everybody to every offer, on all addresses of its node that are underlay addresses or of the cluster.
func (f *fabric) offerTrials(tab table) []trial {
	f.Helper()
	var all []trial
	for _, o := range offers {
		target := f.seat(o.workload)
		for _, at := range f.targets(target.at.seat) {
			if at.on != "" && !isOverlay(at.on) {
				continue
			}
			for _, from := range f.seats {
				if a, ok := f.expectOffer(from, target, at); ok {
					all = append(all, f.offered(tab, a, from, target, at.addr, o.port)...)
				}
			}
		}
		a := answer{row: forLoopback, source: target.at.own[target.on]}
		all = append(all, f.offered(tab, a, target.at.seat, target, netip.MustParseAddr("127.0.0.1"), o.port)...)
	}
	return all
}

func (f *fabric) offered(tab table, a answer, from, target *seat, at netip.Addr, port uint16) []trial {
	f.Helper()
	all := f.cellTrials(tab, a, from, target, at)
	all = slices.DeleteFunc(all, func(tr trial) bool { return tr.kind == prober.ICMP })
	for i := range all {
		tr := &all[i]
		tr.cell, tr.port, tr.atPort = "forward in a cluster: "+tr.cell, port, prober.Port
		if tr.by == nil {
			tr.atPort, tr.never = 0, target.actor
		}
	}
	return all
}

// expectOffer finds the row that a pair is an example of; ok is false where nothing is said. On addresses that somebody does not reach
// a forward is not reached either: such have no row of the table.
func (f *fabric) expectOffer(from, target *seat, at target) (a answer, ok bool) {
	n := target.at
	own := answer{source: n.own[target.on]}
	row := func(name string) (answer, bool) { own.row = name; return own, true }
	switch here := from == n.seat || from.at == n; {
	case from.kind == "host-only":
		return row(forClosed)
	case from.kind == "lan" && (from.by != "" || at.on == ""):
		return row(forLAN)
	case from.kind == "lan":
		return answer{row: unreached}, true
	case from == n.seat:
		own.source = f.everyAddr(n)
		return row(forOwnNode)
	case from.kind == "node" && at.on == "":
		return row(forOtherNode)
	case from.kind == "node":
		own.source = f.node(from.Name).own[at.on]
		own.row = forOtherGate
		return own, f.isOn(f.node(from.Name), at.on)
	case from.on == target.on && here:
		return row(forNeighbour)
	case from.kind == "cluster" && !here && at.on != "" && at.on != from.on:
		return answer{row: unreached}, f.isOn(from.at, at.on)
	case from.kind == "cluster" && from.on == target.on:
		return row(forAfar)
	case from.kind == "cluster":
		return row(forOverlay)
	case here:
		return row(forNAT)
	case from.kind == "routed":
		return row(forRoutedAfar)
	case at.on == "":
		return row(forNATAfar)
	}
	return answer{row: unreached}, true
}

// unreached is no row: the address is not reached at all.
const unreached = "an address that is not reached"

func (f *fabric) everyAddr(n *node) []netip.Addr {
	var all []netip.Addr
	for _, t := range f.targets(n.seat) {
		all = append(all, t.addr)
	}
	return all
}

// twice are workloads that are on node a's nat network and on the cluster's at once, and which of them has their default route.
var twice = []struct{ name, first, second string }{{"both1", "nata", "cluster"}, {"both2", "cluster", "nata"}}

// twofold is such a workload with its addresses on each network.
type twofold struct {
	*seat
	first string
	on    map[string][]netip.Addr
}

func (f *fabric) addTwofold() []twofold {
	f.Helper()
	var all []twofold
	for _, w := range twice {
		f.run(f.node("a"), w.name, "--network", w.first, "--network", w.second)
	}
	for _, w := range twice {
		m := f.node("a").rig.Workload(w.name)
		t := twofold{&seat{actor: f.add(m, nil, "eth0"), kind: "both", at: f.node("a")}, w.first, map[string][]netip.Addr{}}
		for _, a := range linkAddrs(f.T, m) {
			if !a.addr.IsLinkLocalUnicast() {
				net := map[string]string{"eth0": w.first, "eth1": w.second}[a.link]
				t.on[net] = append(t.on[net], a.addr)
			}
		}
		all = append(all, t)
		f.publishAt(t.seat, 8580+uint16(len(all))*100)
	}
	return all
}

// twofoldTrials: each network reaches such a workload as it does others, and answers go back the way that questions came.
func (f *fabric) twofoldTrials(all []twofold) []trial {
	f.Helper()
	var trials []trial
	for number, t := range all {
		both := func(from *actor, to []netip.Addr, by *actor, source []netip.Addr) {
			for i, a := range to {
				tr := trial{cell: "on two networks at once, first " + t.first, from: from, to: a, by: by}
				if by != nil {
					tr.source = sameScope(source, to[i])
				}
				trials = append(trials, every(tr)...)
			}
		}
		inCluster, inNAT, node := t.on["cluster"], t.on["nata"], f.node("a")
		for _, name := range []string{"cluster-a1", "cluster-b1", "cluster-c1", "lan1", "lan2", "inet"} {
			both(f.seat(name).actor, inCluster, t.actor, f.seat(name).addrs)
		}
		for _, n := range f.nodes {
			both(n.actor, inCluster, t.actor, n.own["cluster"])
		}
		both(f.seat("nata1").actor, inNAT, t.actor, f.seat("nata1").addrs)
		both(node.actor, inNAT, t.actor, node.own["nata"])
		for _, name := range []string{"under6-a1", "under6-b1", "hostgw-b1", "natb1", "onlya1"} {
			both(f.seat(name).actor, inCluster, nil, nil)
			both(f.seat(name).actor, inNAT, nil, nil)
		}
		for _, name := range []string{"cluster-a1", "cluster-b1", "lan1", "inet"} {
			both(f.seat(name).actor, inNAT, nil, nil)
		}
		for _, name := range []string{"cluster-a1", "cluster-b1", "cluster-c1"} {
			both(t.actor, f.seat(name).addrs, f.seat(name).actor, inCluster)
		}
		for _, n := range f.nodes[1:] {
			both(t.actor, n.own["cluster"], n.actor, inCluster)
		}
		shown := map[string][]netip.Addr{"nata": node.underlay, "cluster": inCluster}[t.first]
		both(t.actor, f.seat("nata1").addrs, f.seat("nata1").actor, inNAT)
		both(t.actor, f.seat("lan1").addrs, f.seat("lan1").actor, node.underlay)
		both(t.actor, f.seat("inet").addrs, f.seat("inet").actor, node.underlay)
		both(t.actor, f.seat("kept").addrs, f.seat("kept").actor, shown)
		both(t.actor, f.node("b").underlay, f.node("b").actor, shown)
		for _, name := range []string{"lan0", "lan1", "inet", "cluster-b1", "cluster-c1", "under6-b1", "under6-a1"} {
			for _, kind := range transports {
				for _, a := range node.underlay {
					trials = append(trials, trial{cell: "on two networks at once, published", from: f.seat(name).actor, kind: kind, to: a, port: 8680 + uint16(number)*100,
						by: t.actor, atPort: prober.Port, source: sameScope(f.seat(name).addrs, a)})
				}
			}
		}
	}
	return trials
}
