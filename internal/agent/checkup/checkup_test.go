package checkup

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/model"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write golden files")

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix
	up     = []string{"BROADCAST", "MULTICAST", "UP", "LOWER_UP"}
)

func defaultVia(via, link string, metric int) kernel.DefaultRoute {
	d := kernel.DefaultRoute{Metric: metric, Proto: "boot", Hops: []kernel.DefaultHop{{Link: link}}}
	if via != "" {
		d.Hops[0].Via = addr(via)
		d.V6 = d.Hops[0].Via.Is6()
	}
	return d
}

func endpoint(network, workload string, addrs ...string) model.Endpoint {
	e := model.Endpoint{Network: network, IfName: "eth0", MAC: model.EndpointMAC(workload, network)}
	for _, a := range addrs {
		e.Addrs = append(e.Addrs, addr(a))
	}
	return e
}

func inside(w model.Workload, link kernel.LinkInfo, defaults ...kernel.DefaultRoute) kernel.Space {
	lo := kernel.LinkInfo{Index: 1, Name: "lo", Flags: []string{"LOOPBACK", "UP", "LOWER_UP"}, Addrs: []netip.Prefix{prefix("127.0.0.1/8")}}
	link.Index, link.Flags = 2, up
	if link.Name == "" {
		link.Name, link.MAC = "eth0", w.Endpoints[0].MAC.String()
	}
	return kernel.Space{Links: []kernel.LinkInfo{lo, link}, Defaults: defaults}
}

// healthy is a host with an uplink, a network of two families with two workloads, and nothing to find.
func healthy() Facts {
	web := model.Workload{Name: "web", Netns: "/run/netns/web", Endpoints: []model.Endpoint{endpoint("lab", "web", "10.66.0.2", "fd66::2")}}
	db := model.Workload{Name: "db", Netns: "/elsewhere/db", Endpoints: []model.Endpoint{endpoint("lab", "db", "10.66.0.3", "fd66::3")}}
	lab := model.Network{Name: "lab", Mode: model.NAT, Active: true, Subnets: []model.Subnet{
		{Prefix: prefix("10.66.0.0/24"), Gateway: addr("10.66.0.1")}, {Prefix: prefix("fd66::/64"), Gateway: addr("fd66::1")}}}
	v4, v6 := defaultVia("10.66.0.1", "eth0", 0), defaultVia("fd66::1", "eth0", 0)
	return Facts{
		View: model.View{
			Networks: map[string]model.Network{"lab": lab}, Workloads: map[string]model.Workload{"web": web, "db": db},
			Node: model.Node{Name: "host", Links: []model.HostLink{{Name: "eth0", Up: true, AcceptRA: 2, Addrs: []netip.Prefix{prefix("192.0.2.10/24"), prefix("2001:db8::10/64")}}}},
		},
		Host: kernel.Space{
			Links: []kernel.LinkInfo{
				{Index: 2, Name: "eth0", Flags: up, Addrs: []netip.Prefix{prefix("192.0.2.10/24"), prefix("2001:db8::10/64")}},
				{Index: 3, Name: "fn-lab", Kind: "bridge", Flags: up, Alias: "flatnet net/lab", Addrs: []netip.Prefix{prefix("10.66.0.1/24"), prefix("fd66::1/64")}},
				{Index: 4, Name: "fv-web", Kind: "veth", Flags: up, Master: "fn-lab", Alias: "flatnet ep/web/eth0"},
			},
			Defaults: []kernel.DefaultRoute{defaultVia("192.0.2.1", "eth0", 0), defaultVia("2001:db8::1", "eth0", 0)},
		},
		Switches: kernel.Switches{Forwards: map[string]bool{"eth0": true, "fn-lab": true}, Ports: map[string]map[model.MAC]string{}},
		Forward:  [2]bool{true, true},
		Workloads: map[string]kernel.Space{
			"web": inside(web, kernel.LinkInfo{Addrs: []netip.Prefix{prefix("10.66.0.2/24"), prefix("fd66::2/64")}}, v4, v6),
			"db":  inside(db, kernel.LinkInfo{Addrs: []netip.Prefix{prefix("10.66.0.3/24"), prefix("fd66::3/64")}}, v4, v6),
		},
	}
}

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// handMade adds a bridge of others with a namespace on it.
func handMade(f *Facts, addrs ...string) {
	f.Host.Links = append(f.Host.Links,
		kernel.LinkInfo{Index: 8, Name: "br0", Kind: "bridge", Flags: up, Addrs: []netip.Prefix{prefix("192.168.88.1/24")}},
		kernel.LinkInfo{Index: 9, Name: "veth1", Kind: "veth", Flags: up, Master: "br0"})
	plug(f, "br0", "veth1", "ns1", addrs...)
}

func plug(f *Facts, bridge, port, ns string, addrs ...string) {
	link := kernel.LinkInfo{Name: "eth0", MAC: "02:00:00:00:00:11"}
	for _, a := range addrs {
		link.Addrs = append(link.Addrs, prefix(a))
	}
	f.Others = append(f.Others, Other{Attachment: kernel.Attachment{Link: port, Netns: "/run/netns/" + ns, Inner: 2}, Bridge: bridge, Space: inside(model.Workload{}, link)})
}

func network(f *Facts, change func(*model.Network)) {
	n := f.View.Networks["lab"]
	change(&n)
	f.View.Networks["lab"] = n
}

func space(f *Facts, workload string, change func(*kernel.Space)) {
	s := f.Workloads[workload]
	change(&s)
	f.Workloads[workload] = s
}

// clustered makes lab a network of a cluster with two hosts.
func clustered(f *Facts) {
	network(f, func(n *model.Network) {
		n.Mode, n.Cluster = model.Cluster, model.Overlay{Backend: model.VXLAN, VNI: 1, Port: 8472, Pools: []model.BlockPool{{Prefix: prefix("10.66.0.0/16"), Bits: 24}}}
	})
	f.View.Node.Links[0].MTU = 1500
	f.View.Self = "n-1"
	f.View.Members = map[string]model.Member{"n-1": {ID: "n-1", Name: "h1", Underlay4: addr("192.0.2.10"), MTU: 1500}, "n-2": {ID: "n-2", Name: "h2", Underlay4: addr("192.0.2.2"), MTU: 1500}}
}

var unplugged = []string{"NO-CARRIER", "BROADCAST", "MULTICAST", "UP"}

// bound binds lab to another link than that of the default routes.
func bound(f *Facts) {
	network(f, func(n *model.Network) { n.Uplink = "eth1" })
	f.Host.Links = append(f.Host.Links, kernel.LinkInfo{Name: "eth1", Flags: up})
}

// bridged makes lab one with a NIC.
func bridged(f *Facts) {
	network(f, func(n *model.Network) { n.Mode, n.Uplink = model.Bridged, "eth1" })
	f.Host.Links[1].Addrs = nil
	f.Host.Links = append(f.Host.Links, kernel.LinkInfo{Name: "eth1", Flags: up, Master: "fn-lab"})
}

var cases = []struct {
	name   string
	change func(*Facts)
}{
	{"healthy", func(*Facts) {}},
	{"no network of ours is routed", func(f *Facts) {
		network(f, func(n *model.Network) { n.Mode = model.HostOnly })
		f.Host.Defaults, f.Forward = nil, [2]bool{}
	}},
	{"forwarding is off for a bridge of others", func(f *Facts) {
		network(f, func(n *model.Network) { n.Active = false })
		handMade(f, "192.168.88.11/24")
		f.Others[0].Space.Defaults = []kernel.DefaultRoute{defaultVia("192.168.88.1", "eth0", 0)}
		f.Forward[0] = false
		f.Sysctls = []Setting{{"/etc/sysctl.d/99-hard.conf", 7, "net.ipv4.ip_forward = 0", "net/ipv4/ip_forward", "0"}, {"/etc/sysctl.conf", 1, "net.ipv4.ip_forward=1", "net/ipv4/ip_forward", "1"}}
	}},
	{"the uplink does not forward", func(f *Facts) { f.Switches.Forwards["eth0"] = false }},
	{"a link with a dot in its name does not forward", func(f *Facts) {
		f.Host.Links = append(f.Host.Links, kernel.LinkInfo{Name: "eth0.7", Flags: up})
		f.Host.Defaults[0] = defaultVia("192.0.2.1", "eth0.7", 0)
		f.Switches.Forwards["eth0.7"] = false
	}},
	{"the bridge does not forward", func(f *Facts) { f.Switches.Forwards["fn-lab"] = false }},
	{"no default route, as far as is known", func(f *Facts) { f.Host.Defaults = nil }},
	{"the default routes are lost", func(f *Facts) {
		f.Before = [2]Past{{Route: f.Host.Defaults[0], Until: noon}, {Route: f.Host.Defaults[1], Until: noon}}
		f.Host.Defaults = nil
	}},
	{"a router's advertisements are not heeded", func(f *Facts) {
		lost := f.Host.Defaults[1]
		lost.Proto = "ra"
		f.Before[1] = Past{Route: lost, Until: noon}
		f.Host.Defaults = f.Host.Defaults[:1]
		f.View.Node.Links[0].AcceptRA = 1
	}},
	{"the router is silent", func(f *Facts) {
		f.Host.Neighbours = []kernel.NeighbourInfo{{Addr: addr("192.0.2.1"), Link: "eth0", State: "FAILED"}, {Addr: addr("192.0.2.9"), Link: "eth0", State: "FAILED"}}
	}},
	{"the router is silent, and was another", func(f *Facts) {
		f.Host.Neighbours = []kernel.NeighbourInfo{{Addr: addr("192.0.2.1"), Link: "eth0", State: "FAILED"}}
		f.Before[0] = Past{Route: defaultVia("192.0.2.7", "eth0", 0), Until: noon}
	}},
	{"the router is silent, and only the link's carrier was missing before", func(f *Facts) {
		f.Host.Neighbours = []kernel.NeighbourInfo{{Addr: addr("192.0.2.1"), Link: "eth0", State: "FAILED"}}
		f.Before[0] = Past{Route: defaultVia("192.0.2.1", "eth0", 100), Until: noon}
	}},
	{"the uplink has no carrier", func(f *Facts) { f.Host.Links[0].Flags = unplugged }},
	{"two default routes", func(f *Facts) { f.Host.Defaults = append(f.Host.Defaults, defaultVia("192.0.2.2", "eth0", 0)) }},
	{"two default routes, the first to nobody", func(f *Facts) {
		f.Host.Defaults = append(f.Host.Defaults, defaultVia("192.0.2.2", "eth0", 0))
		f.Host.Neighbours = []kernel.NeighbourInfo{{Addr: addr("192.0.2.1"), Link: "eth0", State: "FAILED"}}
	}},
	{"a spare default route, and one with two hops", func(f *Facts) {
		f.Host.Defaults[0].Hops = append(f.Host.Defaults[0].Hops, kernel.DefaultHop{Via: addr("192.0.2.2"), Link: "eth0"})
		f.Host.Defaults = append(f.Host.Defaults, defaultVia("192.0.2.3", "eth0", 100))
	}},
	{"the network's uplink is another", bound},
	{"the network's uplink is another, for IPv6 only", func(f *Facts) {
		bound(f)
		f.Host.Defaults[0].Hops[0].Link = "eth1"
	}},
	{"the network's uplink has a worse default route, and somebody the documentation's addresses", func(f *Facts) {
		bound(f)
		f.Host.Links = append(f.Host.Links, kernel.LinkInfo{Name: "br9", Kind: "bridge", Flags: up, Addrs: []netip.Prefix{prefix("198.51.100.1/24")}})
		f.Host.Defaults = append(f.Host.Defaults, defaultVia("198.18.0.1", "eth1", 100))
	}},
	{"the network's uplink is one of two hops", func(f *Facts) {
		bound(f)
		f.Host.Defaults = f.Host.Defaults[:1]
		f.Host.Defaults[0].Hops = append(f.Host.Defaults[0].Hops, kernel.DefaultHop{Via: addr("198.18.0.1"), Link: "eth1"})
	}},
	{"the network's uplink is not there, which is told elsewhere", func(f *Facts) {
		network(f, func(n *model.Network) { n.Uplink = "eth1" })
	}},
	{"the network's uplink is led to by a rule", func(f *Facts) {
		bound(f)
		f.Host.ByRules = []kernel.DefaultRoute{defaultVia("198.18.0.1", "eth1", 0), defaultVia("2001:db8:1::1", "eth1", 0)}
	}},
	{"the network's uplink has no carrier", func(f *Facts) {
		bound(f)
		f.Host.Links[len(f.Host.Links)-1].Flags = unplugged
	}},
	{"the link that led out is down", func(f *Facts) {
		f.Before = [2]Past{{Route: f.Host.Defaults[0], Until: noon, Addrs: []netip.Prefix{prefix("192.0.2.10/24")}}, {Route: f.Host.Defaults[1], Until: noon, Addrs: []netip.Prefix{prefix("2001:db8::10/64")}}}
		f.Host.Defaults = nil
		f.Host.Links[0].Flags, f.Host.Links[0].Addrs = []string{"BROADCAST", "MULTICAST"}, []netip.Prefix{prefix("192.0.2.10/24")}
	}},
	{"a link that may have led out is down", func(f *Facts) {
		f.Host.Defaults = nil
		f.Host.Links[0].Flags = []string{"BROADCAST", "MULTICAST"}
	}},
	{"the link that led out is gone", func(f *Facts) {
		f.Before[0] = Past{Route: f.Host.Defaults[0], Until: noon}
		f.Host.Defaults, f.Host.Links = f.Host.Defaults[1:], f.Host.Links[1:]
	}},
	{"the default route was moved to a link without carrier", func(f *Facts) {
		f.Before[0] = Past{Route: f.Host.Defaults[0], Until: noon}
		f.Host.Links = append(f.Host.Links, kernel.LinkInfo{Name: "eth1", Flags: unplugged})
		f.Host.Defaults[0] = defaultVia("198.18.0.1", "eth1", 0)
	}},
	{"addresses on a bridged NIC", func(f *Facts) {
		bridged(f)
		f.Host.Links[len(f.Host.Links)-1].Addrs = []netip.Prefix{prefix("198.51.100.10/24"), prefix("fe80::1/64"), prefix("2001:db8:1::10/64")}
	}},
	{"an address and the default route on a port of a bridge that a network borrows", func(f *Facts) {
		network(f, func(n *model.Network) { n.Mode, n.Bridge = model.Bridged, "br0" })
		f.Host.Links = append(f.Host.Links, kernel.LinkInfo{Name: "br0", Kind: "bridge", Flags: up}, kernel.LinkInfo{Name: "eth1", Flags: up, Master: "br0", Addrs: []netip.Prefix{prefix("198.51.100.10/24")}})
		f.Host.Defaults[0] = defaultVia("198.51.100.1", "eth1", 100)
	}},
	{"a bridged NIC without addresses", bridged},
	{"a NIC in the bridge of an isolated network", func(f *Facts) {
		network(f, func(n *model.Network) { n.Mode = model.Isolated })
		f.Host.Links = append(f.Host.Links, kernel.LinkInfo{Name: "eth2", Flags: up, Master: "fn-lab"})
	}},
	{"a guest by hand in the bridge of a host-only network", func(f *Facts) {
		network(f, func(n *model.Network) { n.Mode = model.HostOnly })
		f.Host.Links = append(f.Host.Links, kernel.LinkInfo{Name: "tap7", Kind: "tun", Flags: up, Master: "fn-lab"})
	}},
	{"a second NIC in a bridged network", func(f *Facts) {
		bridged(f)
		f.Host.Links = append(f.Host.Links, kernel.LinkInfo{Name: "eth2", Flags: up, Master: "fn-lab"})
	}},
	{"routed", func(f *Facts) { network(f, func(n *model.Network) { n.Mode = model.Routed }) }},
	{"routed, by a link with several addresses", func(f *Facts) {
		network(f, func(n *model.Network) { n.Mode, n.Subnets = model.Routed, n.Subnets[:1] })
		f.View.Node.Links[0].Addrs = []netip.Prefix{prefix("10.1.1.1/32"), prefix("169.254.9.9/16"), prefix("192.0.2.10/24"), prefix("192.0.2.200/24")}
		f.View.Node.Routes = []model.HostRoute{{Dest: prefix("0.0.0.0/0"), Via: addr("192.0.2.1"), Link: "eth0"}}
	}},
	{"routed, masqueraded", func(f *Facts) { network(f, func(n *model.Network) { n.Mode, n.Masquerade = model.Routed, true }) }},
	{"routed, proxied", func(f *Facts) {
		network(f, func(n *model.Network) { n.Mode, n.ProxyARP, n.Uplink = model.Routed, true, "eth0" })
	}},
	{"a workload has no default routes", func(f *Facts) { space(f, "web", func(s *kernel.Space) { s.Defaults = nil }) }},
	{"a workload's default routes lead elsewhere", func(f *Facts) {
		space(f, "web", func(s *kernel.Space) {
			s.Defaults = []kernel.DefaultRoute{defaultVia("10.66.0.3", "eth0", 0), defaultVia("fd66::1", "eth0", 0), defaultVia("fd66::3", "eth0", 7)}
		})
		space(f, "db", func(s *kernel.Space) {
			s.Defaults = []kernel.DefaultRoute{defaultVia("", "eth0", 0), defaultVia("fd66::1", "tun0", 0)}
		})
	}},
	{"a workload's spare default route", func(f *Facts) {
		space(f, "web", func(s *kernel.Space) { s.Defaults = append(s.Defaults, defaultVia("10.66.0.3", "eth0", 9)) })
	}},
	{"a workload has its neighbour's address", func(f *Facts) {
		space(f, "db", func(s *kernel.Space) { s.Links[1].Addrs = append(s.Links[1].Addrs, prefix("10.66.0.2/24")) })
	}},
	{"a workload without a guard has the gateway's address", func(f *Facts) {
		network(f, func(n *model.Network) { n.NoGuard = true })
		space(f, "db", func(s *kernel.Space) { s.Links[1].Addrs = append(s.Links[1].Addrs, prefix("10.66.0.1/24")) })
	}},
	{"the host has a workload's address", func(f *Facts) {
		f.Host.Links[0].Addrs = append(f.Host.Links[0].Addrs, prefix("10.66.0.2/32"))
	}},
	{"somebody plugged in has a workload's address", func(f *Facts) {
		plug(f, "fn-lab", "veth1", "ns1", "10.66.0.2/24")
		f.Others[0].Space.Defaults = []kernel.DefaultRoute{defaultVia("10.66.0.1", "eth0", 0)}
	}},
	{"somebody answers for a workload's address", func(f *Facts) {
		f.Host.Links = append(f.Host.Links, kernel.LinkInfo{Name: "tap7", Kind: "tun", Master: "fn-lab"})
		f.Switches.Ports["fn-lab"] = map[model.MAC]string{{2, 0, 0, 0, 0, 0x11}: "tap7"}
		space(f, "db", func(s *kernel.Space) {
			s.Neighbours = []kernel.NeighbourInfo{{Addr: addr("10.66.0.2"), Link: "eth0", MAC: "02:00:00:00:00:11", State: "REACHABLE"}}
		})
	}},
	{"somebody on the LAN answers for a workload's address", func(f *Facts) {
		network(f, func(n *model.Network) { n.Mode, n.Uplink = model.Bridged, "eth1" })
		f.Host.Links[1].Addrs, f.Host.Links[1].Flags = nil, up
		f.Switches.Ports["fn-lab"] = map[model.MAC]string{{2, 0, 0, 0, 0, 0x11}: "eth1"}
		space(f, "db", func(s *kernel.Space) {
			s.Neighbours = []kernel.NeighbourInfo{{Addr: addr("10.66.0.2"), Link: "eth0", MAC: "02:00:00:00:00:11", State: "DELAY"}}
		})
	}},
	{"somebody answered once, or is gone", func(f *Facts) {
		f.Switches.Ports["fn-lab"] = map[model.MAC]string{{2, 0, 0, 0, 0, 0x11}: "tap7"}
		f.Host.Neighbours = []kernel.NeighbourInfo{{Addr: addr("10.66.0.2"), Link: "fn-lab", MAC: "02:00:00:00:00:11", State: "STALE"},
			{Addr: addr("10.66.0.3"), Link: "fn-lab", MAC: "02:00:00:00:00:12", State: "REACHABLE"}}
	}},
	{"a bridge by hand, as it should be", func(f *Facts) {
		handMade(f, "192.168.88.11/24")
		f.Others[0].Space.Defaults = []kernel.DefaultRoute{defaultVia("192.168.88.1", "eth0", 0)}
	}},
	{"a bridge by hand, closed on purpose", func(f *Facts) {
		handMade(f, "192.168.88.11/24")
		f.Closed = []string{"br0"}
	}},
	{"a bridge by hand, without default routes, and with the host's address", func(f *Facts) {
		handMade(f, "192.168.88.11/24", "192.168.88.1/24")
		plug(f, "br0", "veth2", "ns2", "192.168.88.11/24")
		f.Others[1].Space.Defaults = []kernel.DefaultRoute{defaultVia("192.168.88.9", "eth0", 0)}
		f.Others[1].Space.Neighbours = []kernel.NeighbourInfo{{Addr: addr("192.168.88.9"), Link: "eth0", State: "FAILED"}}
	}},
	{"a cluster without faults", clustered},
	{"a process has the tunnel's port", func(f *Facts) {
		clustered(f)
		f.Cluster.Holders = map[uint16]string{8472: "process flanneld[812]"}
	}},
	{"packets come with spoiled checksums", func(f *Facts) { clustered(f); f.Host.BadChecksums = 17 }},
	{"the underlay checks the way back strictly", func(f *Facts) { clustered(f); f.Cluster.Reverse = map[string]int{"eth0": 1} }},
	{"the underlay checks the way back, which is that of host-gw", func(f *Facts) {
		clustered(f)
		f.Cluster.Reverse = map[string]int{"eth0": 1}
		network(f, func(n *model.Network) { n.Cluster.Backend = model.HostGW })
	}},
	{"the underlay takes smaller packets than others send", func(f *Facts) {
		clustered(f)
		f.View.Node.Links[0].MTU = 1400
		for i := range 6 {
			id := fmt.Sprintf("n-%d", i+3)
			f.View.Members[id] = model.Member{ID: id, Name: fmt.Sprintf("h%d", i+3), MTU: 9000}
		}
	}},
	{"others could send larger packets than the underlay takes, and do not", func(f *Facts) {
		clustered(f)
		f.View.Node.Links[0].MTU = 1400
		network(f, func(n *model.Network) { n.MTU = 1350 })
	}},
	{"another VXLAN link has the tunnel's port and VNI, one the port", func(f *Facts) {
		clustered(f)
		f.Host.Links = append(f.Host.Links, kernel.LinkInfo{Index: 91, Name: "flannel.1", Kind: "vxlan", Flags: up, VNI: 1, Port: 8472}, kernel.LinkInfo{Index: 92, Name: "vxlan7", Kind: "vxlan", Flags: up, VNI: 7, Port: 8472},
			kernel.LinkInfo{Index: 93, Name: "vxlan8", Kind: "vxlan", Flags: up, VNI: 1, Port: 4789}, kernel.LinkInfo{Index: 94, Name: f.View.Networks["lab"].TunnelName(), Kind: "vxlan", Flags: up, VNI: 1, Port: 8472})
	}},
	{"routes of others within the pool", func(f *Facts) {
		clustered(f)
		f.View.Leases = map[model.LeaseKey]model.Lease{{Network: "lab", Block: prefix("10.66.7.0/24")}: {Network: "lab", Block: prefix("10.66.7.0/24"), Node: "n-2"}}
		f.View.Members["n-2"] = model.Member{ID: "n-2", Name: "h2", MTU: 1500}
		for _, r := range []model.HostRoute{{Dest: prefix("10.66.7.0/25"), Via: addr("192.0.2.9"), Link: "eth0", Proto: "static"}, {Dest: prefix("10.66.0.128/25"), Link: "tun0", Proto: "boot"},
			{Dest: prefix("10.66.99.0/24"), Link: "tun0", Proto: "boot"}, {Dest: prefix("10.0.0.0/8"), Link: "tun0", Proto: "boot"}} {
			f.View.Node.Routes = append(f.View.Node.Routes, r)
		}
	}},
	{"one host has taken what another would need", func(f *Facts) {
		clustered(f)
		network(f, func(n *model.Network) { n.Cluster.Pools[0] = model.BlockPool{Prefix: prefix("10.66.0.0/21"), Bits: 24} })
		f.View.Leases = map[model.LeaseKey]model.Lease{}
		for i := range 8 {
			block := f.View.Networks["lab"].Cluster.Pools[0].Block(uint64(i))
			f.View.Leases[model.LeaseKey{Network: "lab", Block: block}] = model.Lease{Network: "lab", Block: block, Node: []string{"n-2", "n-1"}[min(1, i/7)]}
		}
	}},
	{"the store is away", func(f *Facts) { f.Cluster.Away = noon }},
	{"hosts are silent", func(f *Facts) {
		f.Cluster.Silent = []Silent{{Node: "h2", Since: noon}, {Node: "h3"}}
	}},
	{"another machine is this host", func(f *Facts) { f.Cluster.Self, f.Cluster.Twin = "n-1", true }},
	{"this host was taken out of its cluster", func(f *Facts) {
		f.Cluster.Self, f.Cluster.Removed = "n-1", true
		f.Cluster.NotReached = map[string][]NotReached{"pods": {{Node: "h3", Why: "FN1604: this one has no underlay address"}}}
	}},
	{"nodes are not reached", func(f *Facts) {
		f.Cluster.NotReached = map[string][]NotReached{
			"":     {{Node: "n-9", Why: "FN2121: 192.0.2.3 is the underlay address of two nodes"}, {Node: "h1", Self: true, Why: "FN2121: 192.0.2.10 is the underlay address of two nodes"}},
			"pods": {{Node: "h3", Why: "FN1604: 198.51.100.3 is not on a link"}, {Node: "h4", Why: "FN1604: 198.51.100.4 is not on a link"}}}
	}},
	{"a block is fenced", func(f *Facts) {
		f.Cluster.Fenced = map[model.LeaseKey]string{{Network: "pods", Block: prefix("10.244.1.0/24")}: "it could not be renewed for the grace"}
	}},
}

// TestFindings compares what is found of each case with testdata/findings.txtar.
func TestFindings(t *testing.T) {
	const path = "testdata/findings.txtar"
	got := &txtar.Archive{Comment: []byte("What is found in the cases of checkup_test.go.\n")}
	for _, c := range cases {
		f := healthy()
		c.change(&f)
		got.Files = append(got.Files, txtar.File{Name: c.name, Data: []byte(text(f))})
	}
	if *update {
		if err := os.WriteFile(path, txtar.Format(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(want, txtar.Format(got)) {
		t.Errorf("run with -update and look at the difference in %s (%v); got\n%s", path, err, txtar.Format(got))
	}
}

func text(f Facts) string {
	var b strings.Builder
	for _, x := range append(ClusterFindings(f.Cluster), Findings(f)...) {
		fmt.Fprintf(&b, "%s %s: %s\n", x.Level, x.Code, x.What)
		for line := range strings.Lines(x.Owner) {
			fmt.Fprintf(&b, "  %s\n", strings.TrimSpace(line))
		}
		for line := range strings.Lines(x.Fix) {
			fmt.Fprintf(&b, "  fix: %s\n", strings.TrimSpace(line))
		}
	}
	return b.String()
}

// Routes of workloads are put back in place of whatever is there; a better one is taken over first, to be taken away.
func TestInnerPlans(t *testing.T) {
	f := healthy()
	space(&f, "web", func(s *kernel.Space) {
		s.Defaults = []kernel.DefaultRoute{defaultVia("10.66.0.3", "eth0", 0), defaultVia("fd66::1", "eth0", 0), defaultVia("fd66::3", "eth0", 7)}
	})
	var got []string
	for netns, plan := range InnerPlans(f) {
		for _, s := range plan {
			got = append(got, netns+": "+s.String())
		}
	}
	want := `/run/netns/web: replace route default via 10.66.0.1 dev eth0
/run/netns/web: replace route default via fd66::1 dev eth0 metric 7
/run/netns/web: del route default via fd66::1 dev eth0 metric 7
/run/netns/web: replace route default via fd66::1 dev eth0`
	if got := strings.Join(got, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// A bridge that is a LAN, or has nothing behind it, is no concern.
func TestBridgesOfOthers(t *testing.T) {
	f := healthy()
	handMade(&f, "192.168.88.11/24")
	got := fmt.Sprint(OtherBridges(f))
	if want := "[{br0 192.168.88.1/24 192.168.88.11}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for what, change := range map[string]func(*Facts){
		"a NIC in it": func(f *Facts) { f.Host.Links = append(f.Host.Links, kernel.LinkInfo{Name: "eth1", Master: "br0"}) },
		"the way out": func(f *Facts) { f.Host.Defaults = append(f.Host.Defaults, defaultVia("192.168.88.254", "br0", 9)) },
		"a router on it": func(f *Facts) {
			f.View.Node.Routes = []model.HostRoute{{Dest: prefix("10.0.0.0/8"), Via: addr("192.168.88.254"), Link: "br0"}}
		},
		"no ports":               func(f *Facts) { f.Host.Links = f.Host.Links[:len(f.Host.Links)-1] },
		"addresses of the world": func(f *Facts) { f.Host.Links[len(f.Host.Links)-2].Addrs = []netip.Prefix{prefix("198.51.100.1/24")} },
	} {
		f := healthy()
		handMade(&f, "192.168.88.11/24")
		change(&f)
		if list := OtherBridges(f); len(list) != 0 {
			t.Errorf("with %s: %v", what, list)
		}
	}
}
