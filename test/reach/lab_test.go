package reach

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/test/reach/prober"
)

// lab is the host with everybody around it, an agent in each namespace:
//
//	inet ── router ── LAN1 ┬─ eth0 host br0 ── eth1 ── lan2
//	          lan1 ───┘    └─ eth2 host eth3 ── lan3
//	                                └─ bridges of flatnet ── workloads
type lab struct {
	*testing.T
	topo     *kerneltest.Topology
	lan1     *kerneltest.Machine // the switch of the LAN beside eth0
	tap      *actor              // on it
	lan3     *kerneltest.Machine // beside eth3, where the host has no address
	host     *actor
	nets     []*network
	actors   []*actor // all, the host too
	flat     *flatnet
	nfCall   bool // bridge-nf-call-iptables
	patience time.Duration
	token    uint32
}

// actor is somebody who sends and receives.
type actor struct {
	*kerneltest.Machine
	agent *prober.Agent
	net   *network     // whose workload it is; nil for machines
	link  string       // by which it is attached; the scope of link-local addresses
	addrs []netip.Addr // on that link
}

func (a *actor) workload() bool { return a.net != nil }

// onLAN reports whether it is a machine of the LAN, as the workloads of bridged networks are too.
func (a *actor) onLAN() bool { return a.net == nil || a.net.bridged() }

// isolated reports whether its port is.
func (a *actor) isolated() bool {
	return a.net.model.IsolatePorts || slices.ContainsFunc(singles, func(s single) bool { return s.name == a.Name && s.flag == "--isolate" })
}

// portsIsolated ends the names of rows.
const portsIsolated = ", ports isolated"

// network is one of the networks that the lab has, and the row of the table that it is an example of.
type network struct {
	name  string
	row   string
	index int
	fixed bool // has subnets of its own in every mode
	place int  // of the gateway in its subnets; 0: the first
	model model.Network
}

var rows = []network{
	{name: "n1", row: "nat"},
	{name: "n2", row: "nat"},
	{name: "noff", row: "nat, host adapter off"},
	{name: "niso", row: "nat, ports isolated"},
	{name: "h1", row: "host-only"},
	{name: "h2", row: "host-only"},
	{name: "hoff", row: "host-only, host adapter off"},
	{name: "hiso", row: "host-only, ports isolated"},
	{name: "i1", row: "isolated"},
	{name: "i2", row: "isolated"},
	{name: "iiso", row: "isolated, ports isolated"},
	{name: "c1", row: "cable"},
	{name: "r1", row: "routed"},
	{name: "roff", row: "routed, host adapter off"},
	{name: "riso", row: "routed, ports isolated"},
	{name: "rmasq", row: "routed, masquerade"},
	{name: "rprox", row: "routed, proxy ARP"},
	{name: "bnic", row: "bridged, on a NIC"},
	{name: "bbr", row: "bridged, on a bridge"},
}

// singles are further workloads, set apart by a flag.
type single struct{ name, network, flag string }

var singles = []single{{"n1x", "n1", "--isolate"}, {"n1y", "n1", "--isolate"}, {"n1free", "n1", "--guard=false"},
	{"h1free", "h1", "--guard=false"}, {"hisofree", "hiso", "--guard=false"}, {"hofffree", "hoff", "--guard=false"}, {"i1free", "i1", "--guard=false"}}

func (l *lab) network(name string) *network {
	return l.nets[slices.IndexFunc(l.nets, func(n *network) bool { return n.name == name })]
}

// define settles what the network's row means in the model.
func (n *network) define(index int) {
	n.index = index
	mode, rest, _ := strings.Cut(n.row, ", ")
	n.model = model.Network{Name: n.name, Mode: model.Mode(mode), Active: true}
	switch rest {
	case "host adapter off":
		n.model.NoHostAdapter = true
	case "ports isolated":
		n.model.IsolatePorts = true
	case "masquerade":
		n.model.Masquerade = true
	case "proxy ARP":
		n.model.ProxyARP, n.model.Uplink = true, "eth0"
	case "on a NIC":
		n.model.Uplink = "eth2"
	case "on a bridge":
		n.model.Bridge = "br0"
	}
	if n.numbered() {
		for i, p := range n.prefixes() {
			n.model.Subnets = append(n.model.Subnets, model.Subnet{Prefix: p, Gateway: n.gateways()[i]})
		}
	}
}

// numbered reports whether flatnet gives the addresses; else the guests do.
func (n *network) numbered() bool { return n.model.NeedsSubnet() || n.bridged() }

func (n *network) bridged() bool { return n.model.Mode == model.Bridged }

// uplink is the host's link to the LAN that a bridged network is a piece of.
func (n *network) uplink() string {
	if n.model.Bridge != "" {
		return n.model.Bridge
	}
	return "eth0" // on the same LAN as eth2
}

// prefixes are the network's subnets: of its own, a part of LAN1, or the LAN's.
func (n *network) prefixes() []netip.Prefix {
	texts := []string{fmt.Sprintf("10.66.%d.0/24", n.index), fmt.Sprintf("fd66:%x::/64", n.index)}
	switch {
	case n.fixed:
	case n.model.ProxyARP:
		texts = []string{"198.51.100.64/28", "2001:db8:1:0:66::/80"}
	case n.model.Uplink == "eth2":
		texts = []string{"198.51.100.0/26", "2001:db8:1::/80"} // but for rprox's part
	case n.model.Bridge != "":
		texts = []string{"203.0.113.0/24", "2001:db8:2::/64"}
	}
	return []netip.Prefix{netip.MustParsePrefix(texts[0]), netip.MustParsePrefix(texts[1])}
}

// addrs are those of the network's number-th workload.
func (n *network) addrs(number int) []netip.Addr {
	if n.bridged() && !n.fixed {
		number += 30 // beside the machines
	}
	var all []netip.Addr
	for _, p := range n.prefixes() {
		all = append(all, nth(p, number))
	}
	return all
}

// gateways are where the gateway of each family is, or would be.
func (n *network) gateways() []netip.Addr {
	switch {
	case n.fixed:
	case n.model.Uplink == "eth2":
		return routerLAN
	case n.bridged():
		return hostLAN2
	}
	var all []netip.Addr
	for _, p := range n.prefixes() {
		all = append(all, nth(p, max(n.place, 1)))
	}
	return all
}

// The machines' addresses.
var (
	hostLAN1   = addrs("198.51.100.10", "2001:db8:1::10")
	hostLAN2   = addrs("203.0.113.10", "2001:db8:2::10")
	hostLo     = addrs("10.255.0.1", "fd00:255::1")
	lan1Addrs  = addrs("198.51.100.20", "2001:db8:1::20")
	lan2Addrs  = addrs("203.0.113.20", "2001:db8:2::20")
	routerLAN  = addrs("198.51.100.1", "2001:db8:1::1")
	routerInet = addrs("192.0.2.1", "2001:db8:f::1")
	inetAddrs  = addrs("192.0.2.20", "2001:db8:f::20")
)

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, s := range texts {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

// newLab builds everything but networks.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{T: t, topo: kerneltest.NewTopology(t), patience: patience}
	host, lan1, lan2 := l.topo.Machine("host"), l.topo.Machine("lan1"), l.topo.Machine("lan2")
	router, inet, lan := l.topo.Machine("router"), l.topo.Machine("inet"), l.topo.Machine("switch")
	l.lan1 = lan
	lan.IP("link add br0 type bridge", "link set br0 up")
	for i, end := range []struct {
		*kerneltest.Machine
		link string
	}{{host, "eth0"}, {lan1, "eth0"}, {router, "eth0"}, {host, "eth2"}} {
		port := fmt.Sprintf("p%d", i)
		l.topo.Cable(end.Machine, end.link, lan, port)
		lan.IP("link set " + port + " master br0")
	}
	l.topo.Cable(host, "eth1", lan2, "eth0")
	host.IP("link add br0 type bridge", "link set br0 up", "link set eth1 master br0")
	l.topo.Cable(router, "eth1", inet, "eth0")
	l.lan3 = l.topo.Machine("lan3")
	l.topo.Cable(host, "eth3", l.lan3, "eth0")
	number(l.lan3, "eth0", addrs("198.18.3.20", "2001:db8:3::20"), 0)
	number(host, "lo", hostLo, 0)
	number(host, "eth0", hostLAN1, 0)
	number(host, "br0", hostLAN2, 0)
	number(lan1, "eth0", lan1Addrs, 0)
	number(lan2, "eth0", lan2Addrs, 0)
	number(router, "eth0", routerLAN, 0)
	number(router, "eth1", routerInet, 0)
	number(inet, "eth0", inetAddrs, 0)
	router.Sysctl("net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1")
	route(host, "default", "::/0", routerLAN)
	for m, via := range map[*kerneltest.Machine][]netip.Addr{lan1: hostLAN1, lan2: hostLAN2, router: hostLAN1} {
		route(m, "10.0.0.0/8", "fc00::/7", via)
	}
	route(router, "203.0.113.0/24", "2001:db8:2::/64", hostLAN1)
	route(inet, "default", "::/0", routerInet)
	route(lan1, "default", "::/0", routerLAN)
	route(lan2, "default", "::/0", hostLAN2) // it can't know better
	l.host = l.add(host, nil, "eth0")
	l.add(lan1, nil, "eth0")
	l.add(lan2, nil, "eth0")
	l.add(inet, nil, "eth0")
	l.tapped(&actor{Machine: lan})
	return l
}

func number(m *kerneltest.Machine, link string, as []netip.Addr, bits int) {
	for _, a := range as {
		size := bits
		if size == 0 {
			size = map[bool]int{false: 24, true: 64}[a.Is6()]
		}
		m.IP(fmt.Sprintf("address add %s/%d dev %s nodad", a, size, link))
	}
}

func route(m *kerneltest.Machine, v4, v6 string, via []netip.Addr) {
	m.IP(fmt.Sprintf("route add %s via %s", v4, via[0]), fmt.Sprintf("route add %s via %s", v6, via[1]))
}

// add starts an agent in a machine.
func (l *lab) add(m *kerneltest.Machine, n *network, link string) *actor {
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
	a := &actor{Machine: m, agent: agent, net: n, link: link}
	for _, one := range linkAddrs(l.T, m) {
		if one.link == link {
			a.addrs = append(a.addrs, one.addr)
		}
	}
	l.actors = append(l.actors, a)
	return a
}

// linkAddr is an address with its link.
type linkAddr struct {
	link string
	addr netip.Addr
}

// linkAddrs are the addresses of a machine, without 127.0.0.0/8 and ::1, once none of them is tentative any more and the kernel has also
// come round to routing them to itself, which for IPv6 is a work of its own (net/ipv6/addrconf.c, addrconf_dad_work).
func linkAddrs(t testing.TB, m *kerneltest.Machine) []linkAddr {
	t.Helper()
	var all []linkAddr
	kerneltest.Eventually(t, "addresses of "+m.Name, func() bool {
		out, routed := m.Run("ip", "-j", "address"), m.Run("ip", "-6", "route", "show", "table", "local", "type", "local")
		all = nil
		var links []struct {
			IfName string `json:"ifname"`
			Addrs  []struct {
				Local     netip.Addr `json:"local"`
				Tentative bool       `json:"tentative"`
			} `json:"addr_info"`
		}
		if err := json.Unmarshal([]byte(out), &links); err != nil {
			t.Fatal(err)
		}
		for _, l := range links {
			for _, a := range l.Addrs {
				if a.Tentative || a.Local.Is6() && !a.Local.IsLoopback() && !strings.Contains(routed, "local "+a.Local.String()+" ") {
					return false
				}
				if a.Local.IsValid() && !a.Local.IsLoopback() {
					all = append(all, linkAddr{l.IfName, a.Local})
				}
			}
		}
		return true
	})
	return all
}

// addNetworks makes all networks with two workloads each.
func (l *lab) addNetworks() {
	l.Helper()
	l.addEach(rows, singles)
}

func (l *lab) addEach(nets []network, singles []single) {
	l.Helper()
	for i, n := range nets {
		n.define(i + 1)
		l.nets = append(l.nets, &n)
		l.flat.network(n.model)
	}
	for _, n := range l.nets {
		for j, suffix := range []string{"a", "b"} {
			l.flat.workload(n.name+suffix, n, 10+j)
		}
	}
	for j, s := range singles {
		l.flat.workload(s.name, l.network(s.network), 20+j, s.flag)
	}
	for _, n := range l.nets { // after all of them, as their link-local addresses take a while
		for j, suffix := range []string{"a", "b"} {
			l.attach(n.name+suffix, n, 10+j)
		}
	}
	for j, s := range singles {
		l.attach(s.name, l.network(s.network), 20+j)
	}
	for _, n := range l.nets {
		if n.model.Mode != model.Cable && !n.numbered() { // a route of the host makes it try
			l.host.IP(fmt.Sprintf("route add %s dev fn-%s", n.prefixes()[0], n.name))
		}
	}
}

// attach starts the workload's agent and gives it what lets it try: addresses where guests number themselves, and
// default routes to the gateway's place, by the bridge's MAC where nobody would answer for it.
func (l *lab) attach(name string, n *network, number int) *actor {
	m := kerneltest.At(l.T, name, l.flat.netns(name))
	if !n.numbered() {
		for i, p := range n.prefixes() {
			m.IP(fmt.Sprintf("address add %s/%d dev eth0 nodad", n.addrs(number)[i], p.Bits()))
		}
	}
	l.wayOut(m, n)
	if n.bridged() {
		via := hostLAN1
		if n.uplink() == "br0" {
			via = hostLAN2
		}
		route(m, "10.0.0.0/8", "fc00::/7", via) // as any machine of the LAN has
	}
	return l.add(m, n, "eth0")
}

// wayOut gives a workload default routes where flatnet does not, and the bridge's MAC where nobody would answer for the gateway.
func (l *lab) wayOut(m *kerneltest.Machine, n *network) (undo func()) {
	if n.model.Routes() || n.bridged() {
		return func() {}
	}
	var back []string
	for i, gw := range n.gateways() {
		if n.model.Mode != model.HostOnly || n.model.NoHostAdapter {
			m.IP(fmt.Sprintf("neigh replace %s lladdr %s dev eth0 nud permanent", gw, model.BridgeMAC(n.name)))
			back = append(back, fmt.Sprintf("neigh del %s dev eth0", gw))
		}
		route := fmt.Sprintf("%s via %s", []string{"default", "::/0"}[i], gw)
		m.IP("route add " + route)
		back = append(back, "route del "+route)
	}
	return func() { m.IP(back...) }
}

func nth(p netip.Prefix, n int) netip.Addr {
	b := p.Addr().AsSlice()
	b[len(b)-1] += byte(n)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// actor returns the one of that name.
func (l *lab) actor(name string) *actor {
	i := slices.IndexFunc(l.actors, func(a *actor) bool { return a.Name == name })
	if i < 0 {
		l.Fatalf("no actor %q", name)
	}
	return l.actors[i]
}

// dump writes failures and what there is to see of the host and the named actors to a file, and returns its path.
func (l *lab) dump(failures []string, names ...string) string {
	f, err := os.CreateTemp("", "reach-*.txt")
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	fmt.Fprintln(f, strings.Join(failures, "\n"))
	if l.host != nil {
		names = append([]string{l.host.Name}, names...)
	}
	for _, name := range names {
		fmt.Fprintln(f, l.actor(name).Dump())
	}
	return f.Name()
}
