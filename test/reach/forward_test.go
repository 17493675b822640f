package reach

import (
	"net/netip"
	"slices"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/test/reach/prober"
)

// published are the forwards of the workloads in the tests, as `-p` takes them. The host's ports of one workload are those of
// n1a moved by a thousand times its place.
var published = []struct {
	workload string
	ports    []string
}{
	{"n1a", []string{"8080:7777", "8080:7777/udp", "8080:7777/sctp",
		"9000-9010:9000-9010", "9000-9010:9000-9010/udp", "9000-9010:9000-9010/sctp",
		"9100-9110:9200-9210", "9100-9110:9200-9210/udp", "9100-9110:9200-9210/sctp",
		"203.0.113.10:8081:7777", "[2001:db8:2::10]:8081:7777", "127.0.0.1:8082:7777/udp"}},
	{"noffa", []string{"8180:7777", "8180:7777/udp", "8180:7777/sctp"}},
	{"nisoa", []string{"8280:7777", "8280:7777/udp", "8280:7777/sctp"}},
	{"r1a", []string{"8380:7777", "8380:7777/udp", "8380:7777/sctp"}},
	{"roffa", []string{"8480:7777", "8480:7777/udp", "8480:7777/sctp"}},
	{"rmasqa", []string{"8580:7777", "8580:7777/udp", "8580:7777/sctp"}},
}

// anywhere is the host's port, by workload, of the forward that listens on every address with all protocols.
var anywhere = map[string]uint16{"n1a": 8080, "noffa": 8180, "nisoa": 8280, "r1a": 8380, "roffa": 8480, "rmasqa": 8580}

// publish makes the forwards and listens at their ends, on the ports tried and on those beside the ranges.
func (l *lab) publish() {
	l.Helper()
	for _, p := range published {
		l.flat.forward(p.workload, p.ports...)
	}
	for _, port := range []uint16{8999, 9000, 9005, 9010, 9011, 9199, 9200, 9205, 9210, 9211} {
		if err := l.actor("n1a").agent.Listen(prober.Listen{Kind: prober.TCP, Port: port}, prober.Listen{Kind: prober.UDP, Port: port}); err != nil {
			l.Fatal(err)
		}
	}
}

// onLoopback is the row of the host by its loopback address.
const onLoopback = "host, on 127.0.0.1"

// transports are the kinds that have ports.
var transports = []prober.Kind{prober.TCP, prober.UDP, prober.SCTP}

// forwardCells are the trials of every row of the table of forwards: for each published workload, from everybody to
// every address of the host.
func (l *lab) forwardCells(tab table) []trial {
	hosts := linkAddrs(l.T, l.host.Machine)
	var all []trial
	first := l.actor(published[0].workload)
	for _, p := range published {
		target := l.actor(p.workload)
		for _, from := range l.actors {
			if isSecond(from) && from.net != target.net || l.passesTwice(from) {
				continue
			}
			row := l.forwardRow(from, target)
			for _, at := range hosts {
				if target != first && !l.telling(from, target, at.link) {
					continue
				}
				all = append(all, l.forwardTrials(tab, row, from, target, at.addr, hosts)...)
			}
		}
		all = append(all, l.forwardTrials(tab, onLoopback, l.host, target, netip.MustParseAddr("127.0.0.1"), hosts)...)
	}
	return all
}

// isSecond reports whether it is the second workload of its network, to which others are what they are to the first.
func isSecond(a *actor) bool { return a.workload() && a.Name == a.net.name+"b" }

// telling reports whether a link's addresses are tried for every workload: those of the others are what they are to the first.
func (l *lab) telling(from, target *actor, link string) bool {
	all := []string{"lo", "eth0", "br0", "fn-n2", "fn-noff", "fn-roff", "fn-h1", "fn-" + target.net.name}
	return slices.Contains(all, link) || from.net != nil && link == "fn-"+from.net.name
}

// passesTwice reports whether what it sends to the host's published ports passes the host's NAT twice, and so does not work.
func (l *lab) passesTwice(a *actor) bool {
	return l.nfCall && a.workload() && a.net.bridged() && a.net.uplink() == "eth0"
}

// forwardRow is the row of the table that says what from may expect of target's forwards.
func (l *lab) forwardRow(from, target *actor) string {
	isolated := ""
	if target.net.model.IsolatePorts {
		isolated = ", ports isolated"
	}
	switch {
	case from == l.host:
		return "host"
	case from.onLAN():
		return "LAN, internet"
	case from == target:
		return "the workload itself" + isolated
	case from.net == target.net:
		return "its neighbours" + isolated
	}
	return from.net.row
}

func (l *lab) forwardTrials(tab table, row string, from, target *actor, at netip.Addr, hosts []linkAddr) []trial {
	yes, err := tab.cell(row, "reached")
	if err != nil {
		l.Fatal(err)
	}
	if at.IsLinkLocalUnicast() && !l.sample(from, l.host) {
		return nil
	}
	tr := trial{cell: "forward from " + row, from: from, to: at, port: anywhere[target.Name], never: target}
	if at.Is6() && at.IsLinkLocalUnicast() {
		tr.to = at.WithZone(from.link)
	}
	hidden := l.hidden(at, hosts) && from != l.host
	if yes == "yes" && !at.IsLinkLocalUnicast() && !hidden {
		tr.by, tr.never, tr.source, tr.atPort = target, nil, l.forwardSources(tab, row, from, target, at, hosts), prober.Port
	}
	ownGateway := from.workload() && from.net.model.Mode == model.HostOnly && slices.Contains(addrsOf(hosts, "fn-"+from.net.name), at)
	var all []trial
	for _, kind := range transports {
		tr.kind = kind
		tr.refused = ownGateway && kind == prober.TCP // there the host is, and has nobody on that port
		all = append(all, tr)
	}
	return all
}

func (l *lab) hidden(at netip.Addr, hosts []linkAddr) bool {
	for _, h := range hosts {
		if h.addr == at {
			return l.hiddenGateway(h.link)
		}
	}
	return false
}

// forwardSources are the addresses that the target may see.
func (l *lab) forwardSources(tab table, row string, from, target *actor, at netip.Addr, hosts []linkAddr) []netip.Addr {
	whose, err := tab.cell(row, "source that the workload sees")
	if err != nil {
		l.Fatal(err)
	}
	switch whose {
	case "the client's":
		return sameScope(from.addrs, at)
	case "the gateway's":
		return sameScope(addrsOf(hosts, "fn-"+target.net.name), at)
	case "the host's":
		var all []netip.Addr
		for _, h := range hosts {
			all = append(all, h.addr)
		}
		return sameScope(all, at)
	}
	l.Fatalf("%s: the source %q of row %q is not understood", specification, whose, row)
	return nil
}

// rangeTrials try the first, the middle and the last port of the ranges, and those beside them, from afar, from the host
// and from the workload itself.
func (l *lab) rangeTrials() []trial {
	target := l.actor("n1a")
	var all []trial
	for _, from := range []string{"lan1", "inet", "host", "n1a", "n1b", "n2a"} {
		for _, to := range hostLAN1 {
			for _, kind := range transports {
				tr := trial{cell: "forwarded range", from: l.actor(from), kind: kind, to: to}
				for at, port := range map[uint16]uint16{9000: 9000, 9005: 9005, 9010: 9010, 9100: 9200, 9105: 9205, 9110: 9210} {
					tr.port, tr.atPort, tr.by, tr.never = at, port, target, nil
					all = append(all, tr)
				}
				for _, beside := range []uint16{8999, 9011, 9099, 9111, 9200} {
					tr.port, tr.by, tr.never = beside, nil, target
					all = append(all, tr)
				}
			}
		}
	}
	return all
}

// oneAddressTrials try forwards that name an address of the host, on it and on the others.
func (l *lab) oneAddressTrials() []trial {
	target := l.actor("n1a")
	var all []trial
	for _, from := range []string{"lan1", "lan2", "inet", "host", "n1a", "n1b", "n2b"} {
		for i := range hostLAN1 {
			tr := trial{cell: "forward of one address", from: l.actor(from), kind: prober.TCP, port: 8081}
			tr.to, tr.by = hostLAN2[i], target
			all = append(all, tr)
			tr.to, tr.by, tr.never = hostLAN1[i], nil, target
			all = append(all, tr)
			tr.to, tr.kind, tr.port = hostLAN1[i], prober.UDP, 8082
			all = append(all, tr)
		}
	}
	return append(all,
		trial{cell: "forward of 127.0.0.1", from: l.host, kind: prober.UDP, to: addrs("127.0.0.1")[0], port: 8082, by: target},
		trial{cell: "forward of 127.0.0.1", from: l.host, kind: prober.TCP, to: addrs("127.0.0.1")[0], port: 8081, never: target})
}
