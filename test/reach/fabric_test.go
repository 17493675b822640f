package reach

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/test/rig"
)

// fabric is three nodes of a cluster, two on a LAN and one behind its router, with everybody around them:
//
//	inet ── router ─┬─ c
//	                └─ LAN ─┬─ a, b
//	                        ├─ lan1, kept (routes to everything by a), lan2 (by b)
//	                        └─ lan0 (no routes)
//
// Each node is stricter than the one before about where packets may come from (rp_filter).
type fabric struct {
	*lab
	nodes []*node
	seats []*seat

	docked *seat                // see guest
	macs   map[string]model.MAC // see mac
}

// node is a host with a flatnetd.
type node struct {
	*seat
	rig      *rig.Host
	underlay []netip.Addr
	own      map[string][]netip.Addr // its addresses on each network, by network
}

// seat is an actor with its place in the cluster.
type seat struct {
	*actor
	kind string // node, lan, or the mode of its network
	at   *node  // a workload's
	on   string // a workload's network
	by   string // a LAN machine's: the node that its routes lead to; empty: it has none
}

// overlays are the cluster networks of the tests. The first is what init makes.
var overlays = []struct {
	name string
	spec api.ClusterSpec
}{
	{"cluster", api.ClusterSpec{NoMasquerade: keptPrefixes}},
	{"under6", api.ClusterSpec{Underlay: "ipv6", NoMasquerade: keptPrefixes}},
	{"direct", api.ClusterSpec{DirectRouting: true, NoMasquerade: keptPrefixes}},
	{"hostgw", api.ClusterSpec{Backend: "host-gw", Nodes: []string{"a", "b"}, NoMasquerade: keptPrefixes}},
}

var (
	nodeAddrs = map[string][]netip.Addr{
		"a": addrs("198.51.100.11", "2001:db8:1::11"), "b": addrs("198.51.100.12", "2001:db8:1::12"), "c": addrs("203.0.113.13", "2001:db8:2::13"),
	}
	lanMachines  = map[string]int{"lan0": 20, "lan1": 21, "lan2": 22, "kept": 30}
	routesBy     = map[string]string{"lan1": "a", "lan2": "b", "kept": "a", "inet": "a"}
	keptPrefixes = []string{"198.51.100.30/32", "2001:db8:1::30/128"}
	routerC      = addrs("203.0.113.1", "2001:db8:2::1")
	allPools     = []netip.Prefix{netip.MustParsePrefix("10.240.0.0/13"), netip.MustParsePrefix("fd00:240::/28")}
	localNets    = []netip.Prefix{netip.MustParsePrefix("10.66.0.0/16"), netip.MustParsePrefix("fd66::/32")} // of node a
)

// locals are networks that nodes have for themselves.
var locals = []struct {
	node, name, mode, subnet4, subnet6 string
}{
	{"a", "nata", "nat", "10.66.1.0/24", "fd66:0:1::/64"},
	{"a", "onlya", "host-only", "10.66.2.0/24", "fd66:0:2::/64"},
	{"a", "routa", "routed", "10.66.3.0/24", "fd66:0:3::/64"},
	{"b", "natb", "nat", "10.67.4.0/24", "fd67:0:4::/64"},
}

// pools are the ranges of the index-th cluster network.
func pools(index int) []string {
	return []string{fmt.Sprintf("10.%d.0.0/16", 241+index), fmt.Sprintf("fd00:%d::/48", 241+index)}
}

func newFabric(t *testing.T) *fabric {
	t.Helper()
	rig.Program(t, "flatnet-etcd") // beside flatnetd
	f := &fabric{lab: &lab{T: t, topo: kerneltest.NewTopology(t), patience: patience}, macs: map[string]model.MAC{}}
	f.cable()
	f.found()
	f.forgetJoining()
	f.furnish()
	f.roam()
	return f
}

// cable makes all machines, their addresses and what they know of each other.
func (f *fabric) cable() {
	f.Helper()
	lan, router, inet := f.topo.Machine("switch"), f.topo.Machine("router"), f.topo.Machine("inet")
	lan.IP("link add br0 type bridge mcast_snooping 0", "link set br0 up")
	plug := func(m *kerneltest.Machine) {
		port := "p" + m.Name
		f.topo.Cable(m, "eth0", lan, port)
		lan.IP("link set " + port + " master br0")
	}
	plug(router)
	f.topo.Cable(router, "eth1", inet, "eth0")
	number(router, "eth0", routerLAN, 0)
	number(router, "eth1", routerInet, 0)
	number(inet, "eth0", inetAddrs, 0)
	route(inet, "default", "::/0", routerInet)
	router.Sysctl("net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1")
	f.everywhere(router, "a")
	for _, name := range []string{"a", "b", "c"} {
		f.cableNode(name, router, plug)
	}
	for name, place := range lanMachines {
		m := f.topo.Machine(name)
		plug(m)
		number(m, "eth0", addrs(fmt.Sprintf("198.51.100.%d", place), fmt.Sprintf("2001:db8:1::%d", place)), 0)
		m.Sysctl("net/ipv4/conf/all/accept_redirects=0", "net/ipv4/conf/eth0/accept_redirects=0", "net/ipv6/conf/all/accept_redirects=0", "net/ipv6/conf/eth0/accept_redirects=0")
		route(m, "203.0.113.0/24", "2001:db8:2::/64", routerLAN)
		route(m, "192.0.2.0/24", "2001:db8:f::/64", routerLAN)
		if by := routesBy[name]; by != "" {
			f.everywhere(m, by)
		}
		f.machine(m, routesBy[name])
	}
	f.machine(inet, "a")
}

func (f *fabric) cableNode(name string, router *kerneltest.Machine, plug func(*kerneltest.Machine)) {
	m := f.topo.Machine(name)
	via := routerLAN
	if name == "c" {
		f.topo.Cable(m, "eth0", router, "eth2")
		number(router, "eth2", routerC, 0)
		via = routerC
	} else {
		plug(m)
	}
	number(m, "eth0", nodeAddrs[name], 0)
	route(m, "default", "::/0", via)
	strict := map[string][]string{
		"a": {"net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/eth0/rp_filter=0"},
		"b": {"net/ipv4/conf/all/rp_filter=0", "net/ipv4/conf/eth0/rp_filter=1"},
		"c": {"net/ipv4/conf/all/rp_filter=1", "net/ipv4/conf/eth0/rp_filter=0"},
	}
	m.Sysctl(strict[name]...)
	if name == "b" { // c has its default route
		route(m, localNets[0].String(), localNets[1].String(), nodeAddrs["a"])
	}
	f.nodes = append(f.nodes, &node{seat: &seat{actor: &actor{Machine: m}, kind: "node"}, underlay: nodeAddrs[name], own: map[string][]netip.Addr{}})
}

// everywhere gives a machine routes to all networks of the cluster and of node a.
func (f *fabric) everywhere(m *kerneltest.Machine, by string) {
	route(m, allPools[0].String(), allPools[1].String(), nodeAddrs[by])
	route(m, localNets[0].String(), localNets[1].String(), nodeAddrs["a"])
}

func (f *fabric) machine(m *kerneltest.Machine, by string) {
	f.sit(&seat{actor: f.add(m, nil, "eth0"), kind: "lan", by: by})
}

func (f *fabric) sit(s *seat) *seat {
	s.addrs = global(s.actor)
	f.seats = append(f.seats, s)
	return s
}

var joinLine = regexp.MustCompile(`sudo flatnet (join \S+ --token fn1\.\S+)`)

// found begins the cluster on a; b and c join it.
func (f *fabric) found() {
	f.Helper()
	for _, n := range f.nodes {
		n.rig = rig.New(f.T, n.Machine)
	}
	args := []string{"init", "-y", "--name", "a"}
	for _, p := range pools(0) {
		args = append(args, "--pool", p)
	}
	m := joinLine.FindStringSubmatch(f.nodes[0].rig.Flatnet(args...))
	if m == nil {
		f.Fatal("init shows no command to join with")
	}
	for _, n := range f.nodes[1:] {
		n.rig.Flatnet(append(strings.Fields(m[1]), "--name", n.Name)...)
	}
}

// furnish makes all networks and workloads.
func (f *fabric) furnish() {
	f.Helper()
	ctx, client := context.Background(), f.nodes[0].rig.Client()
	if _, err := client.EditNetwork(ctx, "cluster", api.NetworkEdit{Cluster: &api.ClusterEdit{NoMasquerade: keptPrefixes}}); err != nil {
		f.Fatal(err)
	}
	for i, o := range overlays[1:] {
		for _, p := range pools(i + 1) {
			o.spec.Pools = append(o.spec.Pools, api.PoolSpec{Subnet: p})
		}
		m := api.Manifest{APIVersion: api.APIVersion, Kind: api.KindNetwork, Metadata: api.Metadata{Name: o.name}, Network: &api.NetworkSpec{Mode: "cluster", Cluster: &o.spec}}
		if _, err := client.CreateNetwork(ctx, m); err != nil {
			f.Fatal(err)
		}
	}
	var all []berth
	for _, l := range locals {
		f.node(l.node).rig.Flatnet("net", "create", l.name, "--mode", l.mode, "--subnet", l.subnet4, "--subnet", l.subnet6)
		all = append(all, berth{f.node(l.node), l.name + "1", l.mode, l.name})
	}
	for _, o := range overlays {
		for _, n := range f.nodes {
			if len(o.spec.Nodes) > 0 && !slices.Contains(o.spec.Nodes, n.Name) {
				continue
			}
			f.blocks(n, o.name)
			for i := range map[string]int{"a": 2, "b": 1, "c": 1}[n.Name] {
				all = append(all, berth{n, fmt.Sprintf("%s-%s%d", o.name, n.Name, i+1), "cluster", o.name})
			}
		}
	}
	for _, b := range all {
		f.run(b.at, b.name, "--network", b.on)
	}
	for _, b := range all { // after all of them, as their link-local addresses take a while
		f.attach(b)
	}
}

// berth is a workload that is to be.
type berth struct {
	at             *node
	name, kind, on string
}

// blocks waits until a node has its part of a network.
func (f *fabric) blocks(n *node, network string) {
	f.Helper()
	n.rig.Eventually(n.Name+" has blocks of "+network, func() bool {
		net, err := n.rig.Client().Network(context.Background(), network)
		return err == nil && net.Status.State == "active" && len(net.Status.Subnets) == 2
	})
}

// roam starts the nodes' own agents, once they have all their addresses.
func (f *fabric) roam() {
	f.Helper()
	for _, n := range f.nodes {
		n.seat.actor = f.add(n.Machine, nil, "eth0")
		f.sit(n.seat)
		for _, a := range linkAddrs(f.T, n.Machine) {
			if net, ours := strings.CutPrefix(a.link, "fn-"); ours && !a.addr.IsLinkLocalUnicast() && net != "default" {
				n.own[net] = append(n.own[net], a.addr)
			}
		}
	}
}

// run starts a workload that sleeps.
func (f *fabric) run(n *node, name string, flags ...string) {
	f.Helper()
	n.rig.Flatnet(append(append([]string{"run", "-d", "--name", name}, flags...), "--", "sleep", "infinity")...)
}

// attach starts a workload's agent.
func (f *fabric) attach(b berth) *seat {
	f.Helper()
	net := &network{name: b.on, model: model.Network{Name: b.on, Mode: model.Mode(b.kind)}}
	return f.sit(&seat{actor: f.add(b.at.rig.Workload(b.name), net, "eth0"), kind: b.kind, at: b.at, on: b.on})
}

func (f *fabric) node(name string) *node {
	return f.nodes[slices.IndexFunc(f.nodes, func(n *node) bool { return n.Name == name })]
}

func (f *fabric) seat(name string) *seat {
	i := slices.IndexFunc(f.seats, func(s *seat) bool { return s.Name == name })
	if i < 0 {
		f.Fatalf("nobody is called %q", name)
	}
	return f.seats[i]
}
