package reach

import (
	"net/netip"
	"slices"
	"testing"
)

// The rows of the table of cluster networks.
const (
	sameNode       = "workload → workload of the same node"
	otherNode      = "workload → workload of another node"
	hostToWorkload = "host → workload of any node"
	ownHost        = "workload → its own node's addresses"
	otherHost      = "workload → another node's underlay address"
	otherGateway   = "workload → another node's gateway"
	otherLocal     = "workload → what only another node has"
	hostToHost     = "host → another node's underlay address"
	hostToGateway  = "host → another node's gateway"
	clusterToLAN   = "workload → LAN, internet"
	clusterToKept  = "workload → LAN, internet, on the no-masquerade list"
	lanToCluster   = "LAN, internet → workload or gateway, by a route to any node"
	noRoute        = "LAN, internet → workload or gateway, without a route"
	toRouted       = "workload → routed network of its node"
	fromRouted     = "routed network of a node → workload or gateway of any node"
	toForeign      = "workload → other network"
	fromForeign    = "other network → workload or other node's gateway"
	notOn          = "host without the network → workload or gateway, by a route to any node"
)

func TestClusterReachability(t *testing.T) {
	f := newFabric(t)
	tab := readTable(t, "in a cluster")
	f.each(t, "networks", func() { f.try(f.clusterCells(tab)) })
	f.none(f.untracked())
	f.none(f.invalidPackets())
	f.guest()
	f.each(t, "tunnels", func() { f.none(f.shoot(f.tunnelShots())) })
	offers := readTable(t, "forward in a cluster, from")
	f.offer()
	both := f.addTwofold()
	f.each(t, "forwards", func() { f.try(f.offerTrials(offers)) })
	f.each(t, "on two networks", func() { f.try(f.twofoldTrials(both)) })
	f.sizes("cluster", 1450, "b1", "c1")
	f.sizes("under6", 1430, "b1", "c1")
	f.sizes("direct", 1450, "b1", "c1")
	f.switches()
	for _, cell := range append(tab.unread(), offers.unread()...) {
		t.Errorf("%s: nobody tried %q", specification, cell)
	}
}

// each runs a test with and without bridged packets passing through iptables and nft's inet tables.
func (f *fabric) each(t *testing.T, name string, run func()) {
	for _, on := range []string{"0", "1"} {
		t.Run(name+",bridge-nf-call-iptables="+on, func(sub *testing.T) {
			f.T = sub
			defer func() { f.T = t }()
			f.bridgeNFCall(on)
			run()
		})
	}
}

func (f *fabric) bridgeNFCall(on string) {
	for _, n := range f.nodes {
		n.Sysctl("net/bridge/bridge-nf-call-iptables="+on, "net/bridge/bridge-nf-call-ip6tables="+on, "net/bridge/bridge-nf-call-arptables="+on)
	}
}

// answer is what a row of the table says for a pair.
type answer struct {
	row    string
	source []netip.Addr // its addresses on the network
}

// clusterCells are the trials from everybody to everybody, where one of them is of the cluster.
func (f *fabric) clusterCells(tab table) []trial {
	f.Helper()
	var all []trial
	for _, from := range f.seats {
		for _, to := range f.seats {
			for _, at := range f.targets(to) {
				if a, ok := f.expect(from, to, at); ok && from != to {
					all = append(all, f.cellTrials(tab, a, from, to, at.addr)...)
				}
			}
		}
	}
	return all
}

// cellTrials makes trials of one row.
func (f *fabric) cellTrials(tab table, a answer, from, to *seat, at netip.Addr) []trial {
	f.Helper()
	if a.row == unreached {
		return every(trial{cell: a.row, from: from.actor, to: at})
	}
	reached, err := tab.cell(a.row, "reached")
	if err != nil {
		f.Fatal(err)
	}
	source, err := tab.cell(a.row, "source that is seen")
	if err != nil {
		f.Fatal(err)
	}
	tr := trial{cell: a.row, from: from.actor, to: at}
	switch reached {
	case "yes":
		tr.by, tr.source = to.actor, sameScope(f.meant(source, from, at, a), at)
	case "no":
	default:
		f.Fatalf("%s: cell %q of %q is not understood", specification, reached, a.row)
	}
	return every(tr)
}

// meant are the addresses that the table's words mean.
func (f *fabric) meant(words string, from *seat, at netip.Addr, a answer) []netip.Addr {
	f.Helper()
	switch words {
	case "its own":
		return from.addrs
	case "its node's underlay address":
		return from.at.underlay
	case "its address on the network", "the gateway's", "any of its own":
		return a.source
	}
	f.Fatalf("%s: the source %q of row %q is not understood", specification, words, a.row)
	return nil
}

// target is an address with the network that it is of; none for those of the underlay and of LAN machines.
type target struct {
	addr netip.Addr
	on   string
}

// targets are all addresses of somebody.
func (f *fabric) targets(s *seat) []target {
	var all []target
	for _, a := range s.addrs {
		all = append(all, target{a, s.on})
	}
	if s.kind == "node" {
		for net, as := range f.node(s.Name).own {
			for _, a := range as {
				all = append(all, target{a, net})
			}
		}
	}
	slices.SortFunc(all, func(a, b target) int { return a.addr.Compare(b.addr) })
	return all
}

func isOverlay(network string) bool {
	for _, o := range overlays {
		if o.name == network {
			return true
		}
	}
	return false
}

// expect finds the row that a pair is an example of; ok is false for pairs that have nothing to do with cluster networks.
func (f *fabric) expect(from, to *seat, at target) (a answer, ok bool) {
	switch from.kind {
	case "cluster":
		return f.fromCluster(from, to, at), true
	case "node":
		return f.fromNode(f.node(from.Name), to, at)
	case "lan":
		row := lanToCluster
		if from.by == "" {
			row = noRoute
		}
		return answer{row: row}, isOverlay(at.on)
	case "routed":
		return answer{row: fromRouted}, isOverlay(at.on) && !f.hasHere(from, to)
	}
	return answer{row: fromForeign}, isOverlay(at.on) && !f.hasHere(from, to)
}

// hasHere reports whether an address is of a workload's own node: of such the other table tells.
func (f *fabric) hasHere(from, to *seat) bool { return to.kind == "node" && from.at.Name == to.Name }

func (f *fabric) fromCluster(from, to *seat, at target) answer {
	switch here := f.hasHere(from, to) || to.at == from.at; {
	case to.kind == "lan" && to.Name == "kept":
		return answer{row: clusterToKept}
	case to.kind == "lan":
		return answer{row: clusterToLAN}
	case to.kind == "node" && here:
		return answer{row: ownHost}
	case to.kind == "node" && at.on == "":
		return answer{row: otherHost}
	case at.on == from.on && to.kind == "node":
		return answer{row: otherGateway}
	case at.on == from.on && here:
		return answer{row: sameNode}
	case at.on == from.on:
		return answer{row: otherNode}
	case at.on == "routa" && here:
		return answer{row: toRouted}
	case at.on == "routa", to.kind == "node" && !isOverlay(at.on) && at.on != "natb":
		return answer{row: otherLocal}
	case isOverlay(at.on) && !f.isOn(from.at, at.on):
		return answer{row: otherLocal}
	}
	return answer{row: toForeign}
}

func (f *fabric) isOn(n *node, network string) bool { return len(n.own[network]) > 0 }

func (f *fabric) fromNode(n *node, to *seat, at target) (answer, bool) {
	switch {
	case to.kind == "node" && at.on == "":
		return answer{row: hostToHost}, true
	case !isOverlay(at.on):
		return answer{}, false
	case !f.isOn(n, at.on):
		return answer{row: notOn}, true
	case to.kind == "node":
		return answer{row: hostToGateway, source: n.own[at.on]}, true
	}
	return answer{row: hostToWorkload, source: n.own[at.on]}, true
}
