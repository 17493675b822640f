package reach

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/test/rig"
)

// The walk's networks: the one that is edited, and its bystanders of each kind.
var (
	edited     = network{name: "e", row: "nat", fixed: true}
	bystanders = []network{{name: "n1", row: "nat"}, {name: "r1", row: "routed"}, {name: "h1", row: "host-only"}, edited}
)

// editRows are the rows of the table that an edit can lead to without another subnet.
var editRows = []string{
	"nat", "nat, host adapter off", "nat, ports isolated",
	"routed", "routed, host adapter off", "routed, ports isolated", "routed, masquerade",
	"host-only", "host-only, host adapter off", "host-only, ports isolated",
	"isolated", "isolated, ports isolated",
	"bridged, on a NIC", "bridged, on a bridge",
}

// TestEdits walks a network at random through all modes under its workloads. After each step its cells hold, nothing of the plan is left,
// and pings every 10 ms between others and over the host lost nothing; nor did those on the network itself, as long as the table lets
// its workloads reach each other and its bridge stays the same. See rig.Walk for REACH_SEED and REACH_STEPS.
func TestEdits(t *testing.T) {
	r, steps := rig.Walk(t, "REACH", 12)
	l := newLab(t)
	l.flat = newFlatnet(l)
	l.addEach(bystanders, nil)
	w := walk{lab: l, rand: r, net: l.network("e"), table: readTable(t, "network")}
	w.a, w.b = l.actor("ea"), l.actor("eb")
	others := w.start([2]string{"n1a", "n1b"}, [2]string{"n1a", "lan1"}, [2]string{"r1a", "n1gw"}, [2]string{"r1b", "lan2"}, [2]string{"h1a", "h1b"})
	for i := range steps {
		w.step(i)
		if t.Failed() {
			break
		}
	}
	w.lostNothing(others)
	l.flat.uninstall() // the next test's daemon has the same directories
}

// walk is a network on its way.
type walk struct {
	*lab
	rand   *rand.Rand
	net    *network
	table  table
	a, b   *actor
	bridge string   // of others
	ahead  []string // rows still to be visited
}

// step edits, and checks.
func (w *walk) step(i int) {
	before, bridge := w.net.row, w.bridge
	flags := w.choose()
	unbroken := w.neighbours(before) && w.neighbours(w.net.row)
	var inside []*pinging
	if unbroken {
		inside = w.start([2]string{"ea", "eb"}, [2]string{"eb", "ea"})
	}
	w.Logf("step %d: %s → %s: net set e %s", i+1, before, w.net.row, strings.Join(flags, " "))
	w.flat.must(append([]string{"net", "set", "e", "-y"}, flags...)...)
	w.converged()
	w.setBridgeNF([]string{"0", "1"}[w.rand.IntN(2)]) // and no neighbour is forgotten: what waits for its answer would be lost
	w.check()
	if w.bridge == bridge {
		w.lostNothing(inside)
		return
	}
	for p, lost := range w.lost(inside) { // the ports go over to another bridge one after the other
		w.Logf("ping from %s: lost %v, as the ports changed bridges", p.what, lost)
	}
}

// neighbours reports whether workloads reach each other, by the table.
func (w *walk) neighbours(row string) bool { return w.yes(w.table, row, toNeighbour) }

// choose takes the next row, or another setting, and says it in flags.
func (w *walk) choose() []string {
	if len(w.ahead) == 0 {
		w.ahead = slices.Clone(editRows)
		w.rand.Shuffle(len(w.ahead), func(i, j int) { w.ahead[i], w.ahead[j] = w.ahead[j], w.ahead[i] })
	}
	if w.rand.IntN(4) == 0 {
		if flags := w.setting(); flags != nil {
			return flags
		}
	}
	w.net.row, w.ahead = w.ahead[0], w.ahead[1:]
	w.net.define(w.net.index)
	n := w.net.model
	flags := []string{"--mode", string(n.Mode), "--isolate-ports=" + onOff(n.IsolatePorts)}
	if n.NeedsSubnet() {
		flags = append(flags, "--host-adapter="+onOff(!n.NoHostAdapter), "--gateway", w.net.gateways()[0].String(), "--gateway", w.net.gateways()[1].String())
	}
	if n.Mode == model.Routed {
		flags = append(flags, fmt.Sprintf("--masquerade=%t", n.Masquerade))
	}
	if w.bridge != n.Bridge {
		flags = append(flags, "--bridge", cmp.Or(n.Bridge, "none"), "--mtu", "0") // a smaller one is refused there
		w.bridge = n.Bridge
	}
	if n.Uplink != "" {
		flags = append(flags, "--uplink", n.Uplink)
	}
	return flags
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// setting changes what is no mode; nil where there is none to change.
func (w *walk) setting() []string {
	own := w.net.prefixes()
	if w.net.bridged() {
		return nil
	}
	switch w.rand.IntN(3) {
	case 0:
		return []string{"--mtu", []string{"0", "1280", "1400"}[w.rand.IntN(3)]}
	case 1:
		half := 25 + w.rand.IntN(2)
		return []string{"--ip-range", fmt.Sprintf("%s/%d", own[0].Addr(), half)}
	}
	if !w.net.model.NeedsSubnet() {
		return nil
	}
	w.net.place = []int{1, 2, 254}[w.rand.IntN(3)]
	w.net.define(w.net.index)
	return []string{"--gateway", w.net.gateways()[0].String(), "--gateway", w.net.gateways()[1].String()}
}

// converged fails when the daemon wants something else than there is.
func (w *walk) converged() {
	w.Helper()
	if out, err := w.flat.try("plan"); err != nil {
		w.Errorf("after the edit a plan is left: %v\n%s", err, out)
	}
}

// check tries the cells of the network as it is now.
func (w *walk) check() {
	w.Helper()
	if w.net.bridged() {
		w.checkBridged()
		return
	}
	for _, a := range []*actor{w.a, w.b} {
		undo := w.wayOut(a.Machine, w.net)
		defer undo()
		a.addrs = addrsOf(linkAddrs(w.T, a.Machine), "eth0")
	}
	if !w.net.model.NeedsSubnet() { // a route of the host makes it try
		route := fmt.Sprintf("%s dev fn-e", w.net.prefixes()[0])
		w.host.IP("route add " + route)
		defer w.host.IP("route del " + route)
	}
	hosts := linkAddrs(w.T, w.host.Machine)
	var all []trial
	for _, from := range w.actors {
		for _, to := range w.actors {
			if from != to && (from.net == w.net || to.net == w.net || from.Name == "n1a" || from.Name == "r1a") {
				all = append(all, w.pair(w.table, from, to, hosts)...)
			}
		}
	}
	w.try(all)
}

// checkBridged tries what holds for a bridged network whose addresses are not the LAN's: its workloads and whoever is on the LAN reach
// each other where they look for each other there, and nobody reaches it over the host.
func (w *walk) checkBridged() {
	w.Helper()
	lan, other := w.actor("lan1"), "lan2"
	if w.net.uplink() == "br0" {
		lan, other = w.actor("lan2"), "lan1"
	}
	for i, p := range w.net.prefixes() {
		lan.IP(fmt.Sprintf("route add %s dev eth0", p))
		defer lan.IP(fmt.Sprintf("route del %s dev eth0", p))
		for _, a := range []*actor{w.a, w.b} {
			a.IP(fmt.Sprintf("route add %s dev eth0", lan.addrs[i]))
			defer a.IP(fmt.Sprintf("route del %s dev eth0", lan.addrs[i]))
		}
	}
	cell := "edited to " + w.net.row
	all := slices.Concat(crossing(cell, w.a, w.b, w.a.addrs), crossing(cell, w.b, w.a, w.b.addrs), crossing(cell, w.a, lan, w.a.addrs),
		crossing(cell, lan, w.b, lan.addrs))
	for _, name := range []string{"host", "n1a", "r1a", "h1a", other} {
		for _, a := range global(w.a) {
			all = append(all, every(trial{cell: cell, from: w.actor(name), to: a})...)
		}
	}
	w.try(all)
}
