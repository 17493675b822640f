package foreign

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/model"
)

// Probes are the packets that must pass on a node for its networks to do what they promise.
func Probes(v model.View) []Probe {
	var all []Probe
	for _, name := range slices.Sorted(maps.Keys(v.Networks)) {
		n := v.Networks[name]
		if !n.Active || !n.HasBridge() {
			continue
		}
		for _, s := range n.Subnets {
			all = append(all, networkProbes(v, n, s)...)
		}
	}
	return all
}

func networkProbes(v model.View, n model.Network, s model.Subnet) []Probe {
	peers := endpointsIn(v, n, s)
	probes := bridgedProbes(n, peers)
	if n.HostPresent() {
		probes = append(probes, hostProbes(n, s, peers[0])...)
	}
	if !n.Routes() {
		return probes
	}
	for _, up := range uplinksOf(v, n, s.Prefix.Addr().Is6()) {
		probes = append(probes, outProbes(n, peers[0], up)...)
		probes = append(probes, forwardProbes(v, n, s, up)...)
	}
	return probes
}

// peer is one endpoint of a network.
type peer struct {
	port string // link on the host
	mac  model.MAC
	addr netip.Addr
}

// endpointsIn are two endpoints in a subnet; where there are fewer, ones that could be.
func endpointsIn(v model.View, n model.Network, s model.Subnet) [2]peer {
	var peers []peer
	for _, name := range slices.Sorted(maps.Keys(v.Workloads)) {
		e, ok := v.Workloads[name].Endpoint(n.Name)
		if !ok {
			continue
		}
		for _, a := range e.Addrs {
			if s.Prefix.Contains(a) {
				peers = append(peers, peer{model.HostLinkName(name, e.IfName), e.MAC, a})
			}
		}
	}
	free := s.Prefix.Masked().Addr().Next()
	for i := len(peers); i < 2; i++ {
		if free == s.Gateway {
			free = free.Next()
		}
		name := fmt.Sprintf("workload%d", i+1)
		peers = append(peers, peer{model.HostLinkName(name, "eth0"), model.EndpointMAC(name, n.Name), free})
		free = free.Next()
	}
	return [2]peer{peers[0], peers[1]}
}

// Ports that stand for all: what is refused to them is mostly refused to all.
const (
	httpsPort  = 443
	clientPort = 50000 // of those that the system gives (RFC 6335 §6)
)

// ask is a probe that begins a connection and one that answers it.
func ask(p Probe) []Probe {
	p.Proto, p.SrcPort, p.DstPort = unix.IPPROTO_TCP, clientPort, httpsPort
	back := p
	back.In, back.Out, back.Src, back.Dst = p.Out, p.In, p.Dst, p.Src
	back.SrcPort, back.DstPort, back.Answer, back.SrcMAC = p.DstPort, p.SrcPort, true, model.MAC{}
	return []Probe{p, back}
}

func bridgedProbes(n model.Network, peers [2]peer) []Probe {
	a, b := peers[0], peers[1]
	both := ask(Probe{Name: fmt.Sprintf("workloads of %s reach each other", n.Name), Link: n.BridgeName(), Way: Bridged,
		In: a.port, Out: b.port, SrcMAC: a.mac, Src: a.addr, Dst: b.addr})
	both[1].SrcMAC = b.mac
	return both
}

func hostProbes(n model.Network, s model.Subnet, workload peer) []Probe {
	bridge := n.BridgeName()
	ping := Probe{Name: fmt.Sprintf("workloads of %s reach their gateway", n.Name), Link: bridge, Way: ToHost, In: bridge,
		SrcMAC: workload.mac, Src: workload.addr, Dst: s.Gateway, Proto: unix.IPPROTO_ICMP}
	if ping.v6() {
		ping.Proto = unix.IPPROTO_ICMPV6
	}
	anyPort := ping
	anyPort.Proto, anyPort.SrcPort = unix.IPPROTO_TCP, clientPort
	fromHost := ask(Probe{Name: fmt.Sprintf("the host reaches workloads of %s", n.Name), Link: bridge, Way: FromHost, Out: bridge,
		Src: s.Gateway, Dst: workload.addr})
	fromHost[1].Way, fromHost[1].SrcMAC = ToHost, workload.mac
	return append(fromHost, ping, anyPort)
}

// uplink is a link to the outside and a machine there.
type uplink struct {
	link  model.HostLink
	there netip.Addr
}

func uplinksOf(v model.View, n model.Network, v6 bool) []uplink {
	var ups []uplink
	for _, r := range v.Node.Routes {
		l, ok := v.Node.Link(r.Link)
		if !ok || r.Dest.Bits() != 0 || r.Dest.Addr().Is6() != v6 || n.Uplink != "" && n.Uplink != r.Link {
			continue
		}
		there := r.Via
		if !there.IsValid() || there.Is6() != v6 {
			there = example(v6)
		}
		if !slices.ContainsFunc(ups, func(u uplink) bool { return u.link.Name == l.Name }) {
			ups = append(ups, uplink{l, there})
		}
	}
	return ups
}

// example is an address of nobody (RFC 5737, RFC 3849).
func example(v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1})
	}
	return netip.AddrFrom4([4]byte{198, 51, 100, 1})
}

func outProbes(n model.Network, workload peer, up uplink) []Probe {
	both := ask(Probe{Name: fmt.Sprintf("workloads of %s reach the outside by %s", n.Name, up.link.Name), Link: n.BridgeName(),
		In: n.BridgeName(), Out: up.link.Name, SrcMAC: workload.mac, Src: workload.addr, Dst: up.there})
	if n.Translates() {
		both[1].Before = hostAddr(model.Forward{}, up.link, workload.addr.Is6()) // answers come to the host
	}
	return both
}

func inProbes(n model.Network, workload peer, up uplink) []Probe {
	both := ask(Probe{Name: fmt.Sprintf("workloads of %s are reached by %s", n.Name, up.link.Name), Link: n.BridgeName(),
		In: up.link.Name, Out: n.BridgeName(), Src: up.there, Dst: workload.addr})
	both[1].SrcMAC = workload.mac
	return both
}

// forwardProbes are one forward of each protocol: rules that tell ports apart behind DNAT are rare, forwards many.
func forwardProbes(v model.View, n model.Network, s model.Subnet, up uplink) []Probe {
	var probes []Probe
	seen := map[model.Proto]bool{}
	for _, f := range v.AllForwards() {
		to, ok := forwardTarget(v, n, s, f)
		before := hostAddr(f, up.link, to.Is6())
		if !ok || seen[f.Proto] || !before.IsValid() {
			continue
		}
		seen[f.Proto] = true
		probes = append(probes, Probe{
			Name: fmt.Sprintf("the forward %s is reached by %s", f.Name(), up.link.Name), Link: n.BridgeName(), Way: Forwarded,
			In: up.link.Name, Out: n.BridgeName(), Src: up.there, Before: before, Dst: to, Proto: uint8(f.Proto), SrcPort: clientPort, DstPort: f.Ports.First,
		})
	}
	return probes
}

func forwardTarget(v model.View, n model.Network, s model.Subnet, f model.Forward) (netip.Addr, bool) {
	if f.Network != n.Name {
		return netip.Addr{}, false
	}
	e, _ := v.Workloads[f.Workload].Endpoint(n.Name)
	for _, a := range e.Addrs {
		if s.Prefix.Contains(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// hostAddr is the address that a forward is asked at on a link.
func hostAddr(f model.Forward, l model.HostLink, v6 bool) netip.Addr {
	for _, p := range l.Addrs {
		a := p.Addr()
		if a.Is6() == v6 && !a.IsLinkLocalUnicast() && (!f.HostIP.IsValid() || f.HostIP.IsUnspecified() || f.HostIP == a) {
			return a
		}
	}
	return netip.Addr{}
}
