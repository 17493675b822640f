package reach

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/test/reach/prober"
)

// The columns of the table of networks.
const (
	toNeighbour = "workload ↔ workload"
	fromHost    = "host → workload"
	toGateway   = "workload → own gateway"
	toHost      = "workload → host's other addresses"
	toLAN       = "workload → LAN, internet"
	fromLAN     = "LAN, internet → workload"
	toOther     = "workload → other network"
)

// What cells say that is not the whole answer.
const (
	asLAN      = "as the LAN"                      // whatever a machine of the LAN may
	routedOnly = "routed ones"                     // to networks of mode routed
	byUplink   = "yes, by its uplink, source kept" // not to what is beside another NIC
)

func TestReachability(t *testing.T) {
	l := newLab(t)
	before := l.traces()
	l.flat = newFlatnet(l)
	l.addNetworks()
	tabs := l.readTables()
	l.both(t, "networks", func() { l.try(l.cells(tabs.networks)) })
	l.both(t, "frames", func() { l.none(l.guards(tabs.frames)) })
	l.both(t, "provocations", func() { l.none(l.provoked()) })
	isolation := l.isolationTrials()
	l.both(t, "isolation", func() { l.try(isolation) })
	l.publish()
	l.both(t, "forwards", func() {
		l.try(l.forwardCells(tabs.forwards))
		l.try(append(l.rangeTrials(), l.oneAddressTrials()...))
		l.none(l.loopbackIsClosed())
		l.none(l.invalidPackets())
		l.none(l.spokenFor())
		l.loopback6()
		l.removedForward()
	})
	onLink, uplinks, dark, stranger := l.onLinkTrials(), l.uplinkTrials(), l.darkLAN(), l.stranger()
	l.both(t, "beside", func() {
		l.try(slices.Concat(onLink, uplinks, dark))
		l.returnRoutes(stranger)
	})
	l.host.IP("address del 198.51.100.11/24 dev eth0", "address del 2001:db8:1::11/64 dev eth0")
	l.attachments()
	for _, tab := range []table{tabs.networks, tabs.forwards, tabs.frames} {
		for _, cell := range tab.unread() {
			if !strings.HasPrefix(cell, "cluster: ") { // that is TestClusterReachability's
				t.Errorf("%s: nobody tried %q", specification, cell)
			}
		}
	}
	l.flat.uninstall()
	if left := leftBehind(before, l.traces()); len(left) > 0 {
		t.Errorf("after the uninstall:\n%s", strings.Join(left, ""))
	}
}

// tables are those of the specification.
type tables struct{ networks, forwards, frames table }

func (l *lab) readTables() tables {
	return tables{readTable(l.T, "network"), readTable(l.T, "from"), readTable(l.T, "frame")}
}

// none fails for everything that is wrong.
func (l *lab) none(wrong []string) {
	l.Helper()
	for _, w := range wrong {
		l.Error(w)
	}
}

// both runs a test with and without bridged packets passing through iptables and nft's inet tables.
func (l *lab) both(t *testing.T, name string, run func()) {
	for _, bridgeNF := range []string{"0", "1"} {
		t.Run(name+",bridge-nf-call-iptables="+bridgeNF, func(sub *testing.T) {
			l.T = sub
			defer func() { l.T = t }()
			l.bridgeNF(bridgeNF)
			run()
		})
	}
}

func (l *lab) bridgeNF(on string) {
	l.setBridgeNF(on)
	l.forgetNeighbours()
}

func (l *lab) setBridgeNF(on string) {
	l.nfCall = on == "1"
	l.host.Sysctl("net/bridge/bridge-nf-call-iptables="+on, "net/bridge/bridge-nf-call-ip6tables="+on, "net/bridge/bridge-nf-call-arptables="+on)
}

// cells are the trials of every cell of the table.
func (l *lab) cells(tab table) []trial {
	hosts := linkAddrs(l.T, l.host.Machine)
	var all []trial
	for _, from := range l.actors {
		if !from.onLAN() && !l.yes(tab, from.net.row, toGateway) {
			all = append(all, l.toEverybody(from)...)
		}
		for _, to := range l.actors {
			if from != to {
				all = append(all, l.pair(tab, from, to, hosts)...)
			}
		}
	}
	return all
}

// pair are the trials from one actor to all addresses of another.
func (l *lab) pair(tab table, from, to *actor, hosts []linkAddr) []trial {
	var all []trial
	switch {
	case from.onLAN() && to.onLAN() && (from.net == nil || from.net != to.net):
		return l.machines(tab, from, to, hosts)
	case from.workload() && to == l.host:
		for _, at := range hosts {
			if at.addr.Is6() && at.addr.IsLinkLocalUnicast() && at.link != "fn-"+from.net.name && !l.sample(from, l.host) {
				continue
			}
			all = append(all, l.atHost(tab, from, at, hosts)...)
		}
		return all
	}
	column, row := columnOf(l, from, to)
	ok := l.yes(tab, row, column) && l.meant(tab, row, column, to)
	for _, a := range to.addrs {
		if a.IsLinkLocalUnicast() && !local(from, to) && !l.sample(from, to) {
			continue
		}
		tr := trial{cell: row + ": " + column, from: from, to: scoped(a, from, to)}
		if ok && (local(from, to) || !a.IsLinkLocalUnicast()) {
			tr.by = to
			tr.source = l.sources(tab, row, column, from, to, a, hosts)
		}
		all = append(all, every(tr)...)
	}
	return all
}

// machines are the trials between machines of the LAN, which flatnet must leave alone; workloads of bridged networks are such.
func (l *lab) machines(tab table, from, to *actor, hosts []linkAddr) []trial {
	l.Helper()
	at := to.addrs
	if to == l.host {
		at = nil
		for _, h := range hosts {
			at = append(at, h.addr)
		}
	}
	cell := "not ours"
	for _, c := range machineCells(l, from, to, hosts) {
		if l.cell(tab, c[0], c[1]) != asLAN {
			l.Errorf("%s: cell %q of %q: want %q", specification, c[1], c[0], asLAN)
		}
		cell = c[0] + ": " + c[1]
	}
	var all []trial
	for _, a := range at {
		if a.IsLinkLocalUnicast() {
			continue
		}
		tr := trial{cell: cell, from: from, to: a, by: to}
		if from != l.host {
			tr.source = sameScope(from.addrs, a)
		}
		all = append(all, every(tr)...)
	}
	return all
}

// machineCells are the rows and columns of bridged networks that a pair of machines is of.
func machineCells(l *lab, from, to *actor, hosts []linkAddr) [][2]string {
	var all [][2]string
	if to.workload() {
		column := fromLAN
		if from == l.host {
			column = fromHost
		}
		all = append(all, [2]string{to.net.row, column})
	}
	switch {
	case !from.workload():
	case to.workload():
		all = append(all, [2]string{from.net.row, toOther})
	case to != l.host:
		all = append(all, [2]string{from.net.row, toLAN})
	default:
		all = append(all, [2]string{from.net.row, toHost})
		if len(addrsOf(hosts, from.net.model.BridgeName())) > 0 {
			all = append(all, [2]string{from.net.row, toGateway})
		}
	}
	return all
}

// sample thins out the pairs that try each other's link-local addresses over a link that they don't share: every one of them
// fills a place of the kernel's neighbour table, which has 1024 for all namespaces together. The first workload of each
// row of the table and the machines try one of each kind.
func (l *lab) sample(from, to *actor) bool {
	return l.isFirst(from) && slices.Contains([]string{"host", "lan1", "n2a", "noffa", "h2a", "i2a"}, to.Name)
}

func (l *lab) isFirst(a *actor) bool {
	if a.net == nil {
		return true
	}
	first := slices.IndexFunc(l.nets, func(n *network) bool { return n.row == a.net.row })
	return a.Name == l.nets[first].name+"a"
}

// local reports whether the two share a link.
func local(from, to *actor) bool {
	return from.net == to.net || from.Name == "host" && to.net != nil && to.net.model.Mode != model.Cable
}

func columnOf(l *lab, from, to *actor) (column, row string) {
	switch {
	case from == l.host:
		return fromHost, to.net.row
	case from.net == to.net && from.isolated() && to.isolated():
		return toNeighbour, string(from.net.model.Mode) + portsIsolated
	case from.net == to.net:
		return toNeighbour, from.net.row
	case from.onLAN():
		return fromLAN, to.net.row
	case to.onLAN():
		return toLAN, from.net.row
	}
	return toOther, from.net.row
}

// scoped adds the link by which the sender would reach a link-local address.
func scoped(a netip.Addr, from, to *actor) netip.Addr {
	if !a.Is6() || !a.IsLinkLocalUnicast() {
		return a
	}
	if from.Name == "host" && to.net.model.Mode != model.Cable {
		return a.WithZone("fn-" + to.net.name)
	}
	return a.WithZone(from.link)
}

func (l *lab) yes(tab table, row, column string) bool {
	l.Helper()
	switch c := l.cell(tab, row, column); c {
	case "yes", "yes, source = host", "yes, source kept", byUplink, "yes, with a route", "yes, without a route", routedOnly, asLAN:
		return true
	case "no", "–", "forwards only":
		return false
	default:
		l.Fatalf("%s: cell %q of %q says %q, which the test does not understand", specification, column, row, c)
		return false
	}
}

func (l *lab) cell(tab table, row, column string) string {
	l.Helper()
	c, err := tab.cell(row, column)
	if err != nil {
		l.Fatal(err)
	}
	return c
}

// meant reports whether a yes includes to.
func (l *lab) meant(tab table, row, column string, to *actor) bool {
	switch l.cell(tab, row, column) {
	case routedOnly:
		return to.net.model.Mode == model.Routed
	case byUplink:
		return !to.beyondLAN2()
	}
	return true
}

// beyondLAN2 reports whether the host reaches it by its second LAN.
func (a *actor) beyondLAN2() bool {
	return a.Name == "lan2" || a.net != nil && a.net.bridged() && a.net.uplink() == "br0"
}

// sources are the addresses that the target may see: the sender's own, or those of the host's NIC by which it leaves.
func (l *lab) sources(tab table, row, column string, from, to *actor, a netip.Addr, hosts []linkAddr) []netip.Addr {
	if from == l.host {
		return sameScope(addrsOf(hosts, "fn-"+to.net.name), a)
	}
	if strings.Contains(l.cell(tab, row, column), "source = host") {
		nic := hostLAN1
		if to.beyondLAN2() {
			nic = hostLAN2
		}
		return sameScope(nic, a)
	}
	return sameScope(from.addrs, a)
}

func addrsOf(hosts []linkAddr, link string) []netip.Addr {
	var all []netip.Addr
	for _, h := range hosts {
		if h.link == link {
			all = append(all, h.addr)
		}
	}
	return all
}

// sameScope picks the addresses that can speak to a: of its family, and link-local exactly when it is.
func sameScope(all []netip.Addr, a netip.Addr) []netip.Addr {
	var same []netip.Addr
	for _, one := range all {
		if one.Is6() == a.Is6() && (one.IsLinkLocalUnicast() == a.IsLinkLocalUnicast() || one.Is4()) {
			same = append(same, one)
		}
	}
	return same
}

// atHost are the trials from a workload to one address of the host.
func (l *lab) atHost(tab table, from *actor, at linkAddr, hosts []linkAddr) []trial {
	column := toHost
	own := at.link == "fn-"+from.net.name
	if own {
		column = toGateway
	}
	row := from.net.row
	if own && len(from.net.model.Subnets) == 0 {
		l.Errorf("%s has an address on %s", l.host.Name, at.link)
	}
	tr := trial{cell: fmt.Sprintf("%s: %s (%s)", row, column, at.link), from: from, to: at.addr}
	if at.addr.Is6() && at.addr.IsLinkLocalUnicast() {
		tr.to = at.addr.WithZone(from.link)
	}
	linkLocalElsewhere := at.addr.Is6() && at.addr.IsLinkLocalUnicast() && !own
	if l.yes(tab, row, column) && !linkLocalElsewhere && (own || !l.hiddenGateway(at.link)) {
		tr.by = l.host
		tr.source = sameScope(from.addrs, at.addr)
	}
	return every(tr)
}

// hiddenGateway reports whether a link of the host is of a nat network with the host adapter off.
func (l *lab) hiddenGateway(link string) bool {
	for _, n := range l.nets {
		if link == "fn-"+n.name {
			return n.model.NoHostAdapter
		}
	}
	return false
}

// forgetNeighbours empties the neighbour tables, whose places all namespaces of the machine share.
func (l *lab) forgetNeighbours() {
	for _, a := range l.actors {
		a.IP("neigh flush all")
	}
}

// toEverybody are broadcasts and multicasts, which the host must not hear where it has no address.
func (l *lab) toEverybody(from *actor) []trial {
	tr := trial{cell: from.net.row + ": " + toGateway, from: from, never: l.host}
	var all []trial
	for _, a := range addrs("255.255.255.255", "224.0.0.1", "ff02::1%eth0") {
		for _, kind := range []prober.Kind{prober.ICMP, prober.UDP} {
			tr.kind, tr.to = kind, a
			all = append(all, tr)
		}
	}
	return all
}
