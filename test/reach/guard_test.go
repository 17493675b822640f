package reach

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/internal/model"
)

// forgery is a frame that a workload sends, and the row of the table of frames that it is an example of.
type forgery struct {
	row    string
	what   string
	frame  []byte
	marker []byte
}

// self is what a sender honestly has, and what it could claim.
type self struct {
	mac, otherMAC  model.MAC
	v4, v6, local  netip.Addr
	other4, other6 netip.Addr
	to             model.MAC
	round          uint32 // tells the markers of one round from those of another
}

// forgeries are examples of each row of the table, to one MAC.
func (s self) forgeries() []forgery {
	var all []forgery
	add := func(row, what string, build func(marker []byte) []byte) {
		marker := fmt.Appendf(nil, "<%d,%02d>", s.round, len(all))
		all = append(all, forgery{row, what, build(marker), marker})
	}
	frame := func(kind uint16, payload []byte) []byte { return ether(s.to, s.mac, kind, payload) }
	nd := func(src netip.Addr, kind byte, body []byte) func([]byte) []byte {
		return func(m []byte) []byte {
			return frame(etherIPv6, ipv6(src, allNodes, protoICMPv6, icmpv6(src, allNodes, kind, body, m)))
		}
	}
	hidden := func(kind byte, body []byte) func([]byte) []byte {
		return func(m []byte) []byte {
			return frame(etherIPv6, ipv6(s.local, allNodes, protoHopByHop, hopByHop(protoICMPv6, icmpv6(s.local, allNodes, kind, body, m))))
		}
	}
	gram := func(m []byte) []byte { return udp(9, 9, m) }

	add("from another MAC", "IPv4", func(m []byte) []byte {
		return ether(s.to, s.otherMAC, etherIPv4, ipv4(s.v4, broadcast4, gram(m)))
	})
	add("from another MAC", "ARP", func(m []byte) []byte { return ether(s.to, s.otherMAC, etherARP, arpReply(s.mac, s.v4, m)) })
	add("IPv4 from another address", "", func(m []byte) []byte { return frame(etherIPv4, ipv4(s.other4, broadcast4, gram(m))) })
	add("IPv4 from another address", "of the internet", func(m []byte) []byte { return frame(etherIPv4, ipv4(inetAddrs[0], broadcast4, gram(m))) })
	add("IPv6 from another address", "", func(m []byte) []byte { return frame(etherIPv6, ipv6(s.other6, allNodes, protoUDP, gram(m))) })
	add("IPv6 from another address", "link-local", func(m []byte) []byte {
		return frame(etherIPv6, ipv6(s.otherMAC.LinkLocal(), allNodes, protoUDP, gram(m)))
	})
	add("ARP that claims another address", "", func(m []byte) []byte { return frame(etherARP, arpReply(s.mac, s.other4, m)) })
	add("ARP that claims another MAC", "", func(m []byte) []byte { return frame(etherARP, arpReply(s.otherMAC, s.v4, m)) })
	add("neighbour advertisement for another address", "", nd(s.local, neighbourAdvert, advert(s.other6)))
	add("neighbour advertisement for another address", "link-local", nd(s.local, neighbourAdvert, advert(s.otherMAC.LinkLocal())))
	add("neighbour advertisement for another address", "behind a hop-by-hop header", hidden(neighbourAdvert, advert(s.other6)))
	add("router advertisement", "", nd(s.local, routerAdvert, make([]byte, 12)))
	add("router advertisement", "behind a hop-by-hop header", hidden(routerAdvert, make([]byte, 12)))
	add("router advertisement", "redirect", nd(s.local, redirect, make([]byte, 36)))
	add("DHCP and DAD from the unspecified address", "DHCP", func(m []byte) []byte {
		return frame(etherIPv4, ipv4(netip.IPv4Unspecified(), broadcast4, udp(68, 67, m)))
	})
	add("DHCP and DAD from the unspecified address", "DAD", nd(netip.IPv6Unspecified(), neighbourSolic, advert(s.v6)))
	add("DHCP and DAD from the unspecified address", "ARP probe", func(m []byte) []byte { return frame(etherARP, arpReply(s.mac, netip.IPv4Unspecified(), m)) })
	add("neither IP nor ARP", "", func(m []byte) []byte { return frame(etherExperimental, m) })
	add("neither IP nor ARP", "IPv4 in a VLAN", func(m []byte) []byte {
		return frame(etherVLAN, append([]byte{0, 42, 8, 0}, ipv4(s.other4, broadcast4, gram(m))...))
	})
	add("its own", "ARP", func(m []byte) []byte { return frame(etherARP, arpReply(s.mac, s.v4, m)) })
	add("its own", "neighbour advertisement", nd(s.v6, neighbourAdvert, advert(s.v6)))
	add("its own", "IPv6", func(m []byte) []byte { return frame(etherIPv6, ipv6(s.v6, allNodes, protoUDP, gram(m))) })
	add("its own", "IPv4", func(m []byte) []byte { return frame(etherIPv4, ipv4(s.v4, broadcast4, gram(m))) }) // the last: what follows it is late
	return all
}

// guardCells tries every row of the table of frames on the named networks; open says that all of it must pass.
func (l *lab) guardCells(tab table, from, to *actor, open bool) []string {
	l.Helper()
	var wrong []string
	s := self{
		mac: l.macOf(from), otherMAC: model.MAC{2, 0xba, 0xd0, 0xba, 0xd0, 1},
		v4: from.addrs[0], v6: global6(from), local: l.macOf(from).LinkLocal(),
		other4: from.net.addrs(77)[0], other6: from.net.addrs(77)[1],
	}
	watch := []sniffPoint{{to, "eth0"}}
	if n := from.net.model; n.Routes() || n.HostPresent() || from.net.bridged() { // else the host hears nothing at all
		watch = append(watch, sniffPoint{l.host, from.net.model.BridgeName()})
	}
	for _, p := range watch {
		if err := p.agent.Sniff(p.link); err != nil {
			l.Fatal(err)
		}
	}
	for _, dst := range []model.MAC{broadcastMAC, l.macOf(to)} {
		l.token++
		s.to, s.round = dst, l.token
		wrong = append(wrong, l.sendForgeries(tab, from, watch, s.forgeries(), open)...)
		watch = watch[:1] // the bridge hears nothing of what is for somebody else
	}
	return wrong
}

// sniffPoint is where frames that leave a port arrive.
type sniffPoint struct {
	*actor
	link string
}

func (l *lab) sendForgeries(tab table, from *actor, watch []sniffPoint, forgeries []forgery, open bool) []string {
	l.Helper()
	var wrong []string
	var frames [][]byte
	for _, f := range forgeries {
		frames = append(frames, f.frame)
	}
	send := func() {
		if err := from.agent.Send(from.link, frames...); err != nil {
			l.Fatal(err)
		}
	}
	for _, p := range watch {
		caught := l.caughtUntil(p, forgeries[len(forgeries)-1].marker, send)
		for _, f := range forgeries {
			passed := slices.ContainsFunc(caught, func(frame []byte) bool { return bytes.Contains(frame, f.marker) })
			if want := open || l.passes(tab, f.row, from.net); passed != want {
				wrong = append(wrong, fmt.Sprintf("[%s] %s: %s seen on %s of %s: got %t, want %t", f.row, from.Name, f.what, p.link, p.Name, passed, want))
			}
		}
	}
	return wrong
}

// caughtUntil sends, again when the kernel loses frames, and returns what a sniffer caught until that marker came, if it
// does in time, and a little longer.
func (l *lab) caughtUntil(p sniffPoint, marker []byte, send func()) [][]byte {
	l.Helper()
	var all [][]byte
	take := func() {
		frames, err := p.agent.Caught(p.link)
		if err != nil {
			l.Fatal(err)
		}
		all = append(all, frames...)
	}
	last := func(f []byte) bool { return bytes.Contains(f, marker) }
	for end := time.Now().Add(l.patience); !slices.ContainsFunc(all, last) && time.Now().Before(end); {
		send()
		for again := time.Now().Add(time.Second); !slices.ContainsFunc(all, last) && time.Now().Before(again); {
			time.Sleep(5 * time.Millisecond)
			take()
		}
	}
	time.Sleep(50 * time.Millisecond) // frames may overtake each other between processors
	take()
	return all
}

// passes is what the table says of a frame on a network.
func (l *lab) passes(tab table, row string, n *network) bool {
	l.Helper()
	if row == "its own" || n.model.Mode == model.Cable {
		return true
	}
	column := "isolated, bridged, cable"
	if n.model.GuardsAddresses() {
		column = "nat, routed, host-only"
	}
	cell, err := tab.cell(row, column)
	if err != nil {
		l.Fatal(err)
	}
	return cell == "yes"
}

func (l *lab) macOf(a *actor) model.MAC {
	l.Helper()
	fields := strings.Fields(a.Run("ip", "-o", "link", "show", a.link)) // … link/ether 02:… brd …
	i := slices.Index(fields, "link/ether")
	mac, err := model.ParseMAC(fields[i+1])
	if err != nil {
		l.Fatal(err)
	}
	return mac
}

func global6(a *actor) netip.Addr {
	i := slices.IndexFunc(a.addrs, func(x netip.Addr) bool { return x.Is6() && !x.IsLinkLocalUnicast() })
	return a.addrs[i]
}

// guards tries every mode with the guard as it is, and one workload without.
func (l *lab) guards(tab table) []string {
	l.Helper()
	var wrong []string
	for _, name := range []string{"n1", "noff", "h1", "hoff", "i1", "c1", "r1", "rprox", "bnic", "bbr"} {
		wrong = append(wrong, l.guardCells(tab, l.actor(name+"a"), l.actor(name+"b"), false)...)
	}
	return append(wrong, l.guardCells(tab, l.actor("n1free"), l.actor("n1b"), true)...)
}

// isolationTrials try endpoints that are isolated singly in a network that is not: directly, and by way of the gateway.
func (l *lab) isolationTrials() []trial {
	x, y, a, b := l.actor("n1x"), l.actor("n1y"), l.actor("n1a"), l.actor("n1b")
	iso, isoToo := l.actor("nisoa"), l.actor("nisob")
	viaGateway := [][2]*actor{{iso, isoToo}, {isoToo, iso}, {b, a}, {x, y}}
	for _, pair := range viaGateway {
		for i, gw := range pair[0].net.gateways() {
			pair[0].IP(fmt.Sprintf("route add %s/%d via %s", sameScope(pair[1].addrs, gw)[0], []int{32, 128}[i], gw))
		}
	}
	var all []trial
	add := func(cell string, from, to *actor, ok bool) {
		for _, addr := range to.addrs {
			tr := trial{cell: cell, from: from, to: scoped(addr, from, to)}
			if ok {
				tr.by, tr.source = to, sameScope(from.addrs, addr)
			}
			all = append(all, every(tr)...)
		}
	}
	add("isolated network, by way of the gateway", iso, isoToo, false)
	add("isolated network, by way of the gateway", isoToo, iso, false)
	add("isolated endpoint to another, by way of the gateway", x, y, false)
	add("isolated endpoint to another", y, x, false)
	add("isolated endpoint to one that is not", x, a, true)
	add("isolated endpoint from one that is not", a, y, true)
	add("one network, by way of the gateway", b, a, true)
	return all
}
