package reach

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/test/reach/prober"
)

// What the host answers by itself, to whatever source a packet claims. Its answers carry content of the packet.
var (
	tooFar    = addrs("203.0.113.99", "2001:db8:2::99") // behind a narrow route
	noWay     = addrs("2001:db8:2::98")[0]              // behind a route that refuses
	narrowMTU = 1280
)

// provocation is a packet that makes a host answer.
type provocation struct {
	what   string
	packet func(src netip.Addr, marker []byte) []byte
}

// provocations are of one family (0 IPv4, 1 IPv6), for a host that has the address gateway.
func provocations(family int, gateway netip.Addr) []provocation {
	long := make([]byte, narrowMTU)
	if family == 0 {
		to := func(dst netip.Addr, h header4) func(netip.Addr, []byte) []byte {
			return func(src netip.Addr, m []byte) []byte { return h.packet(src, dst, udp(9, 9, append(m, h.filler...))) }
		}
		return []provocation{
			{"TTL 1", to(lan2Addrs[0], header4{ttl: 1})},
			{"too long, not to be fragmented", to(tooFar[0], header4{ttl: 64, filler: long})},
			{"an option that is none", to(lan2Addrs[0], header4{ttl: 64, options: []byte{7, 2, 0, 0}})}, // RFC 791: record route has 3 octets at least
			{"ping of the gateway", func(src netip.Addr, m []byte) []byte {
				return header4{ttl: 64, proto: protoICMP}.packet(src, gateway, icmpEcho(m))
			}},
		}
	}
	to := func(dst netip.Addr, hops byte, filler []byte) func(netip.Addr, []byte) []byte {
		return func(src netip.Addr, m []byte) []byte {
			p := ipv6(src, dst, protoUDP, udp(9, 9, append(m, filler...)))
			p[7] = hops
			return p
		}
	}
	odd := func(dst netip.Addr) func(netip.Addr, []byte) []byte {
		return func(src netip.Addr, m []byte) []byte {
			return ipv6(src, dst, protoHopByHop, append([]byte{protoUDP, 0, 0xbe, 4, 0, 0, 0, 0}, udp(9, 9, m)...)) // RFC 8200 section 4.2: 10, tell the source
		}
	}
	return []provocation{
		{"hop limit 1", to(lan2Addrs[1], 1, nil)},
		{"hop limit 1, to a neighbour that is none", to(netip.MustParseAddr("fe80::77"), 1, nil)},
		{"too long", to(tooFar[1], 64, long)},
		{"no way", to(noWay, 64, nil)},
		{"an option that nobody knows", odd(lan2Addrs[1])},
		{"an option that nobody knows, to all", odd(allNodes)},
		{"ping of the gateway", func(src netip.Addr, m []byte) []byte {
			return ipv6(src, gateway, protoICMPv6, icmpv6(src, gateway, echoRequest6, []byte{0, 1, 0, 1}, m))
		}},
	}
}

// provoked sends provocations from closed networks, with sources from anywhere and with their own, and looks at the host's NICs:
// nothing of them may come out.
func (l *lab) provoked() []string {
	l.Helper()
	l.host.IP(fmt.Sprintf("route replace %s dev br0 mtu %d", tooFar[0], narrowMTU), fmt.Sprintf("route replace %s dev br0 mtu %d", tooFar[1], narrowMTU),
		fmt.Sprintf("route replace unreachable %s", noWay))
	defer l.host.IP(fmt.Sprintf("route del %s", tooFar[0]), fmt.Sprintf("route del %s", tooFar[1]), fmt.Sprintf("route del unreachable %s", noWay))
	l.host.Sysctl("net/ipv4/icmp_ratelimit=0", "net/ipv6/icmp/ratelimit=0", "net/ipv4/icmp_msgs_per_sec=100000", "net/ipv4/icmp_msgs_burst=10000")
	var wrong []string
	for _, name := range []string{"n1free", "h1a", "h1free", "hisoa", "hisofree", "hoffa", "hofffree", "i1a", "i1free", "iisoa"} {
		from := l.actor(name)
		control := from.net.model.Mode == model.NAT // which is not closed: there it is seen that the host does answer
		for _, p := range l.provoke(from) {
			switch {
			case p.out && !control:
				wrong = append(wrong, fmt.Sprintf("[nothing leaves a closed network] %s of %s: what the host says of it leaves by a NIC", p.what, name))
			case !p.out && control && p.forged:
				wrong = append(wrong, fmt.Sprintf("[control] %s of %s provokes nothing, so it tells nothing", p.what, name))
			}
		}
	}
	return wrong
}

// shot is a provocation that was sent, and whether something of it came out by a NIC.
type shot struct {
	what   string
	forged bool
	out    bool
	marker []byte
}

func (l *lab) provoke(from *actor) []shot {
	l.Helper()
	var shots []shot
	var frames [][]byte
	mac := l.macOf(from)
	for _, dst := range []model.MAC{model.BridgeMAC(from.net.name), model.HostSideMAC(mac)} {
		for family, gateway := range from.net.gateways() {
			for _, src := range []netip.Addr{inetAddrs[family], lan1Addrs[family], sameScope(from.addrs, gateway)[0]} {
				for _, p := range provocations(family, gateway) {
					for tags := range 3 { // VLAN 0 is no VLAN: the kernel takes such tags off, two of them too
						l.token++
						s := shot{what: fmt.Sprintf("%s, %d tags, from %s to %s", p.what, tags, src, dst), marker: fmt.Appendf(nil, "<p%08x>", l.token)}
						s.forged = !slices.Contains(from.addrs, src)
						shots = append(shots, s)
						frames = append(frames, tagged(tags, ether(dst, mac, []uint16{etherIPv4, etherIPv6}[family], p.packet(src, s.marker))))
					}
				}
			}
		}
	}
	caught := l.leaving(func() {
		if err := from.agent.Send("eth0", frames...); err != nil {
			l.Fatal(err)
		}
	})
	for i, s := range shots {
		shots[i].out = slices.ContainsFunc(caught, func(f []byte) bool { return bytes.Contains(f, s.marker) })
	}
	return shots
}

// leaving are the frames that leave by the host's NICs while send is carried out; what the host then sends itself proves that the taps
// hear.
func (l *lab) leaving(send func()) [][]byte {
	l.Helper()
	var all [][]byte
	taps := []sniffPoint{{l.tap, "p0"}, {l.actor("lan2"), "eth0"}}
	for _, p := range taps {
		if err := p.agent.Sniff(p.link); err != nil {
			l.Fatal(err)
		}
	}
	send()
	for i, p := range taps {
		l.token++
		marker := fmt.Appendf(nil, "<t%08x>", l.token)
		link := []string{"eth0", "br0"}[i]
		frame := ether(broadcastMAC, l.macOf(&actor{Machine: l.host.Machine, link: link}), etherExperimental, marker)
		all = append(all, l.caughtUntil(p, marker, func() {
			if err := l.host.agent.Send(link, frame); err != nil {
				l.Fatal(err)
			}
		})...)
	}
	return all
}

// tapped starts an agent on the switch of LAN1, which hears what leaves by eth0.
func (l *lab) tapped(m *actor) {
	l.Helper()
	agent, err := prober.Start(m.Name, m.Start)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() {
		if err := agent.Stop(); err != nil {
			l.Errorf("agent %s: %v", m.Name, err)
		}
	})
	m.agent = agent
	l.tap = m
}

// tagged puts tags of VLAN 0 into a frame.
func tagged(n int, frame []byte) []byte {
	return slices.Insert(frame, 12, bytes.Repeat([]byte{etherVLAN >> 8, etherVLAN & 0xff, 0, 0}, n)...)
}

// header4 is what of an IPv4 header packets differ in.
type header4 struct {
	ttl     byte
	proto   byte
	options []byte
	filler  []byte // for what is behind it
}

func (h header4) packet(src, dst netip.Addr, payload []byte) []byte {
	size := 20 + len(h.options)
	b := []byte{0x40 | byte(size/4), 0, 0, 0, 0, 0, 0x40, 0, h.ttl, cmp.Or(h.proto, protoUDP), 0, 0} // don't fragment
	binary.BigEndian.PutUint16(b[2:], uint16(size+len(payload)))
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	b = append(b, h.options...)
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, payload...)
}

func icmpEcho(marker []byte) []byte {
	b := append([]byte{8, 0, 0, 0, 0, 1, 0, 1}, marker...)
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}
