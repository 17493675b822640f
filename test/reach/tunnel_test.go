package reach

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/test/reach/prober"
)

const (
	vxlanPort  = 8472
	vxlanValid = 0x08 // the flag of a header with a network number (RFC 7348 section 5)
)

// vnis are the numbers of the networks that have tunnels, as they were made.
var vnis = map[string]uint32{"cluster": 1, "under6": 2, "direct": 3}

// forged is a frame that somebody sends, whatever it claims; in it is a datagram with a token for everybody's port.
type forged struct {
	cell string
	from *seat
	link string
	to   model.MAC
	ip   [2]netip.Addr // source and destination
	in   *inner        // nil: the datagram itself
	by   *seat         // who must see it; nil: nobody

	token uint32
}

// inner is a packet in a tunnel.
type inner struct {
	vni uint32
	to  model.MAC
	ip  [2]netip.Addr
}

func (s *forged) String() string {
	text := fmt.Sprintf("[%s] %s sends %s → %s", s.cell, s.from.Name, s.ip[0], s.ip[1])
	if s.in != nil {
		text += fmt.Sprintf(", in it VNI %d %s → %s", s.in.vni, s.in.ip[0], s.in.ip[1])
	}
	return text
}

func (s *forged) frame(own model.MAC) []byte {
	token := binary.BigEndian.AppendUint32(nil, s.token)
	if s.in == nil {
		return packetIn(s.to, own, s.ip, 9, prober.Port, token)
	}
	header := []byte{vxlanValid, 0, 0, 0, byte(s.in.vni >> 16), byte(s.in.vni >> 8), byte(s.in.vni), 0}
	return packetIn(s.to, own, s.ip, 50000, vxlanPort, append(header, packetIn(s.in.to, own, s.in.ip, 9, prober.Port, token)...))
}

// packetIn is a datagram in a frame, with its checksum.
func packetIn(to, own model.MAC, ip [2]netip.Addr, from, port uint16, payload []byte) []byte {
	datagram := udp(from, port, payload)
	pseudo := append(ip[0].AsSlice(), ip[1].AsSlice()...)
	pseudo = append(pseudo, 0, protoUDP)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(datagram)))
	binary.BigEndian.PutUint16(datagram[6:], checksum(append(pseudo, datagram...)))
	if ip[0].Is4() {
		return ether(to, own, etherIPv4, ipv4(ip[0], ip[1], datagram))
	}
	return ether(to, own, etherIPv6, ipv6(ip[0], ip[1], protoUDP, datagram))
}

// shoot sends the shots and tells which ended otherwise than expected: first those that must not arrive, so that what comes after
// them has passed them.
func (f *fabric) shoot(shots []*forged) []string {
	f.Helper()
	for _, s := range shots {
		f.token++
		s.token = f.token
	}
	seen := map[uint32][]sighting{}
	look := func() {
		for token, some := range f.carryOut(nil).seen {
			seen[token] = append(seen[token], some...)
		}
	}
	arrived := func(s *forged) bool {
		return slices.ContainsFunc(seen[s.token], func(one sighting) bool { return one.by == s.by.actor })
	}
	var yes, no []*forged
	for _, s := range shots {
		if s.by == nil {
			no = append(no, s)
		} else {
			yes = append(yes, s)
		}
	}
	f.fire(no, 3) // as the kernel may lose one
	for end := time.Now().Add(f.patience); ; time.Sleep(silence) {
		yes = slices.DeleteFunc(yes, arrived)
		if len(yes) == 0 || time.Now().After(end) {
			break
		}
		f.fire(yes, 1)
		time.Sleep(10 * time.Millisecond)
		look()
	}
	time.Sleep(silence)
	look()
	var wrong []string
	for _, s := range shots {
		switch {
		case s.by == nil && len(seen[s.token]) > 0:
			wrong = append(wrong, fmt.Sprintf("%s: want nothing to arrive%s", s, describe(prober.Result{}, seen[s.token])))
		case s.by != nil && !arrived(s):
			wrong = append(wrong, fmt.Sprintf("%s: want it to reach %s%s", s, s.by.Name, describe(prober.Result{}, seen[s.token])))
		}
	}
	f.Logf("%d shots", len(shots))
	return wrong
}

// fire sends frames, all of one link at once: to close a packet socket takes the kernel a while.
func (f *fabric) fire(shots []*forged, times int) {
	f.Helper()
	type place struct {
		from *seat
		link string
	}
	frames := map[place][][]byte{}
	for _, s := range shots {
		at := place{s.from, s.link}
		frames[at] = append(frames[at], slices.Repeat([][]byte{s.frame(f.mac(s.from.Machine, s.link))}, times)...)
	}
	for at, frames := range frames {
		if err := at.from.agent.Send(at.link, frames...); err != nil {
			f.Fatal(err)
		}
	}
}

// tunnelShots are those that come as tunnel packets or in another network's name.
func (f *fabric) tunnelShots() []*forged {
	f.Helper()
	var all []*forged
	for name := range vnis {
		all = append(all, f.strangers(name)...)
		all = append(all, f.crossing(name)...)
		all = append(all, f.spokenByWorkloads(name)...)
		all = append(all, f.throughNodes(name)...)
	}
	return append(all, f.plain()...)
}

// mac is a link's; they do not change.
func (f *fabric) mac(m *kerneltest.Machine, link string) model.MAC {
	f.Helper()
	at := m.Name + " " + link
	if _, known := f.macs[at]; !known {
		f.macs[at] = f.macOf(&actor{Machine: m, link: link})
	}
	return f.macs[at]
}

// outer are the underlay addresses between which a network's tunnel packets travel.
func outer(network string, from, to []netip.Addr) [2]netip.Addr {
	i := 0
	if network == "under6" {
		i = 1
	}
	return [2]netip.Addr{from[i], to[i]}
}

// into are tunnel packets for a node's workload, its gateway and itself, of both families, in the name of another node's workload.
func (f *fabric) into(network string, n *node, saying *seat) []inner {
	var all []inner
	to := f.tunnelMAC(n, network)
	workload := f.seat(network + "-" + n.Name + "1")
	for i := range saying.addrs {
		for _, dst := range []netip.Addr{workload.addrs[i], n.own[network][i], n.underlay[i]} {
			all = append(all, inner{vni: vnis[network], to: to, ip: [2]netip.Addr{saying.addrs[i], dst}})
		}
	}
	return all
}

func (f *fabric) tunnelMAC(n *node, network string) model.MAC {
	return f.mac(n.Machine, "fx-"+network)
}

// whose is the seat that an address on a node is of.
func (f *fabric) whose(n *node, network string, a netip.Addr) *seat {
	if w := f.seat(network + "-" + n.Name + "1"); slices.Contains(w.addrs, a) {
		return w
	}
	return n.seat
}

// strangers are tunnel packets from a node, from somebody who is none, and from somebody who claims to be one.
func (f *fabric) strangers(network string) []*forged {
	a, b, lan0 := f.node("a"), f.node("b"), f.seat("lan0")
	mac := f.mac(a.Machine, "eth0")
	var all []*forged
	for _, in := range f.into(network, a, f.seat(network+"-b1")) {
		by := f.whose(a, network, in.ip[1])
		all = append(all,
			&forged{cell: "a tunnel's packet from a node", from: b.seat, link: "eth0", to: mac, ip: outer(network, b.underlay, a.underlay), in: &in, by: by},
			&forged{cell: "a tunnel's packet from a stranger", from: lan0, link: "eth0", to: mac, ip: outer(network, lan0.addrs, a.underlay), in: &in},
			&forged{cell: "a tunnel's packet from a stranger, to the gateway", from: lan0, link: "eth0", to: mac, ip: outer(network, lan0.addrs, a.own[network]), in: &in},
			&forged{cell: "a tunnel's packet from a stranger in a node's name", from: lan0, link: "eth0", to: mac, ip: outer(network, b.underlay, a.underlay), in: &in, by: by})
	}
	return all
}

// invalidPackets sends segments that conntrack finds invalid: by a tunnel they reach their network's workload, untranslated they must not leave.
func (f *fabric) invalidPackets() []string {
	f.Helper()
	var wrong []string
	for _, c := range []struct {
		from, to string
		passes   bool
	}{{"cluster-a1", "cluster-b1", true}, {"cluster-a1", "lan1", false}, {"hostgw-a1", "lan1", false}} {
		from, to := f.seat(c.from), f.seat(c.to)
		if passed := f.passesInvalid(from.actor, to.actor, "eth0", model.BridgeMAC(from.on)); passed != c.passes {
			wrong = append(wrong, fmt.Sprintf("[invalid segment] %s → %s: passes %t, want %t", c.from, c.to, passed, c.passes))
		}
	}
	return wrong
}

// crossing are packets that leave a tunnel for something that is not of its network, or in the name of a workload of this node.
func (f *fabric) crossing(network string) []*forged {
	a, b, saying := f.node("a"), f.node("b"), f.seat(network+"-b1")
	mac, tunnel := f.mac(a.Machine, "eth0"), f.tunnelMAC(a, network)
	cross := func(cell string, src, dst netip.Addr) *forged {
		return &forged{cell: cell, from: b.seat, link: "eth0", to: mac, ip: outer(network, b.underlay, a.underlay), in: &inner{vnis[network], tunnel, [2]netip.Addr{src, dst}}}
	}
	var all []*forged
	for i, src := range saying.addrs {
		for _, name := range []string{"cluster-a1", "under6-a1", "direct-a1", "hostgw-a1", "nata1", "onlya1", "routa1", "lan1", "inet", "c"} {
			if to := f.seat(name); to.on != network {
				all = append(all, cross("out of the tunnel of another network", src, to.addrs[i]))
			}
		}
		all = append(all, cross("out of the tunnel in the name of a workload here", f.seat(network + "-a2").addrs[i], f.seat(network + "-a1").addrs[i]))
	}
	return all
}

// spokenByWorkloads are tunnel packets that workloads send, to their own node and to others.
func (f *fabric) spokenByWorkloads(network string) []*forged {
	var all []*forged
	for _, name := range []string{"cluster-a1", "under6-a1", "direct-a1", "hostgw-a1", "nata1", "onlya1", "routa1", "natb1", "cluster-c1"} {
		from := f.seat(name)
		for _, n := range f.nodes {
			for _, in := range f.into(network, n, f.seat(network+"-"+f.otherThan(n).Name+"1")) {
				all = append(all, &forged{cell: "a tunnel's packet from a workload", from: from, link: "eth0", to: model.BridgeMAC(from.on),
					ip: outer(network, from.addrs, n.underlay), in: &in})
			}
		}
	}
	return all
}

// otherThan is a node that is not n.
func (f *fabric) otherThan(n *node) *node {
	return f.nodes[slices.IndexFunc(f.nodes, func(o *node) bool { return o != n })]
}

// throughNodes are tunnel packets that a node passes on: those between nodes it must, those of others that it translates to its own
// address it must not.
func (f *fabric) throughNodes(network string) []*forged {
	a, b, c, guest := f.node("a"), f.node("b"), f.node("c"), f.guest()
	mac := f.mac(a.Machine, "eth0")
	dock := f.mac(a.Machine, "dock0")
	var all []*forged
	for _, in := range f.into(network, c, f.seat(network+"-b1")) {
		all = append(all,
			&forged{cell: "a tunnel's packet by way of a node", from: b.seat, link: "eth0", to: mac, ip: outer(network, b.underlay, c.underlay), in: &in, by: f.whose(c, network, in.ip[1])},
			&forged{cell: "a tunnel's packet from another tool's container", from: guest, link: "eth0", to: dock, ip: outer(network, guest.addrs, c.underlay), in: &in})
	}
	return all
}

// guest is a container of another tool on node a, which leaves with the node's address.
func (f *fabric) guest() *seat {
	f.Helper()
	if f.docked != nil {
		return f.docked
	}
	a, m := f.node("a"), f.topo.Machine("guest")
	f.topo.Cable(m, "eth0", a.Machine, "dock0")
	number(m, "eth0", addrs("172.30.0.2", "fd30::2"), 0)
	number(a.Machine, "dock0", addrs("172.30.0.1", "fd30::1"), 0)
	a.Run("nft", "add table inet dock; add chain inet dock out { type nat hook postrouting priority 100; }; "+
		"add rule inet dock out ip saddr 172.30.0.0/24 oifname eth0 masquerade; add rule inet dock out ip6 saddr fd30::/64 oifname eth0 masquerade")
	f.docked = &seat{actor: f.add(m, nil, "eth0")}
	f.docked.addrs = global(f.docked.actor)
	return f.docked
}

// plain are packets that come by the underlay in the name of a workload of the network that is without tunnels.
func (f *fabric) plain() []*forged {
	a, b, saying := f.node("a"), f.node("b"), f.seat("hostgw-b1")
	mac := f.mac(a.Machine, "eth0")
	var all []*forged
	for i, src := range saying.addrs {
		for _, name := range []string{"cluster-a1", "under6-a1", "direct-a1", "hostgw-a1", "nata1", "onlya1"} {
			to := f.seat(name)
			s := &forged{cell: "without a tunnel, to another network", from: b.seat, link: "eth0", to: mac, ip: [2]netip.Addr{src, to.addrs[i]}}
			if name == "hostgw-a1" {
				s.cell, s.by = "without a tunnel", to
			}
			all = append(all, s)
		}
	}
	return all
}

// forgetJoining forgets the datagrams by which a host that joins is asked whether its tunnel's port is open: it is no node yet, so they are
// tracked.
func (f *fabric) forgetJoining() {
	f.Helper()
	for _, n := range f.nodes {
		for _, family := range []string{"ipv4", "ipv6"} {
			_, _ = n.Try("conntrack", "-D", "-f", family, "-p", "udp", "--dport", fmt.Sprint(vxlanPort)) // fails when there are none
		}
	}
}

// untracked tells which nodes keep connections of the tunnels themselves, or none of what is in them.
func (f *fabric) untracked() []string {
	f.Helper()
	var wrong []string
	for _, n := range f.nodes {
		for i, family := range []string{"ipv4", "ipv6"} {
			all := n.Run("conntrack", "-L", "-f", family)
			outer, inner := 0, 0
			for line := range strings.Lines(all) {
				switch {
				case strings.Contains(line, fmt.Sprintf("dport=%d ", vxlanPort)):
					outer++
				case strings.Contains(line, "src="+f.seat("cluster-" + n.Name + "1").addrs[i].String()+" "):
					inner++
				}
			}
			if outer > 0 || inner == 0 {
				wrong = append(wrong, fmt.Sprintf("[conntrack] %s, %s: %d connections are of tunnels, %d of what is in them", n.Name, family, outer, inner))
			}
		}
	}
	return wrong
}
