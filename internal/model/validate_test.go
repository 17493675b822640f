package model

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write what the tests got into testdata")

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func subnet(s string) Subnet {
	return Network{Mode: NAT, Subnets: []Subnet{{Prefix: prefix(s)}}}.WithDefaults().Subnets[0]
}

// aView is a laptop with a VPN, Docker and three networks.
func aView() View {
	return View{
		Node: Node{
			Links: []HostLink{
				{Name: "lo", Loopback: true, Addrs: []netip.Prefix{prefix("127.0.0.1/8"), prefix("::1/128")}},
				{Name: "eth0", MTU: 1500, Up: true, Addrs: []netip.Prefix{prefix("192.168.1.20/24"), prefix("2001:db8:1::20/64"), prefix("fe80::20/64")}},
				{Name: "docker0", Addrs: []netip.Prefix{prefix("172.17.0.1/16")}},
				{Name: "lan0", Bridge: true, Up: true}, {Name: "eth1", Up: true, Master: "lan0"}, {Name: "eth2", Up: true, Master: "br7"},
				{Name: "tun0", IPOnly: true, Up: true},
			},
			Routes: []HostRoute{
				{Dest: prefix("0.0.0.0/0"), Via: addr("192.168.1.1"), Link: "eth0", Proto: "dhcp"},
				{Dest: prefix("128.0.0.0/1"), Via: addr("10.8.8.1"), Link: "tun0", Proto: "boot"},
				{Dest: prefix("10.8.8.0/24"), Link: "tun0", Proto: "kernel"},
				{Dest: prefix("192.168.1.0/24"), Link: "eth0", Proto: "kernel"},
				{Dest: prefix("2001:db8:1::/64"), Link: "eth0", Proto: "ra"},
			},
		},
		Networks: map[string]Network{
			"home":   {Name: "home", Mode: NAT, Subnets: []Subnet{subnet("10.66.0.0/24"), subnet("fd00:66::/64")}},
			"inside": {Name: "inside", Mode: HostOnly, Subnets: []Subnet{subnet("10.66.1.0/24")}},
			"switch": {Name: "switch", Mode: Isolated, Bridge: "br7"},
			"wire":   {Name: "wire", Mode: Cable},
		},
		Workloads: map[string]Workload{
			"web": {Name: "web", Endpoints: []Endpoint{{Network: "home", IfName: "eth0", MAC: MAC{2, 0, 0, 0, 0, 1}, Addrs: []netip.Addr{addr("10.66.0.2"), addr("fd00:66::2")}}},
				Forwards: []Forward{{Network: "home", Workload: "web", Proto: TCP, HostPorts: Ports{8080, 8089}, Ports: Ports{80, 89}}}},
			"db":   {Name: "db", Endpoints: []Endpoint{{Network: "inside", IfName: "eth0"}, {Network: "wire", IfName: "eth1"}}},
			"end":  {Name: "end", Endpoints: []Endpoint{{Network: "wire", IfName: "eth0"}}},
			"host": {Name: "host", Sharing: Host},
		},
		Forwards: map[string]Forward{
			"udp/192.168.1.20:53": {Network: "home", Workload: "dns", Proto: UDP, HostIP: addr("192.168.1.20"), HostPorts: Ports{53, 53}, Ports: Ports{53, 53}},
		},
	}
}

// good is the network that each case spoils in one place.
func good() Network {
	return Network{Name: "lab", Mode: NAT, Subnets: []Subnet{subnet("10.66.9.0/24"), subnet("fd00:9::/64")}}
}

func goodCluster() Network {
	return Network{Name: "pods", Mode: Cluster, Cluster: Overlay{Backend: VXLAN, VNI: 1, Port: 8472,
		Pools: []BlockPool{{Prefix: prefix("10.244.0.0/16"), Bits: 24}, {Prefix: prefix("fd00:244::/48"), Bits: 64}}}}
}

func TestNetworkProblemsReadAsWritten(t *testing.T) {
	cases := []struct {
		name  string
		spoil func(*Network)
	}{
		{"ok", func(n *Network) {}},
		{"ok-everything", func(n *Network) {
			n.Subnets[0] = Subnet{Prefix: prefix("10.66.9.0/24"), Gateway: addr("10.66.9.254"), Range: prefix("10.66.9.128/25"), Reserved: []netip.Addr{addr("10.66.9.1")}}
			n.Uplink, n.SNAT, n.MTU = "eth0", []netip.Addr{addr("192.168.1.21"), addr("2001:db8:1::21")}, 1280
			n.DNS, n.Bridge, n.Labels = []netip.Addr{addr("9.9.9.9"), addr("192.168.1.1")}, "br0", map[string]string{"example.com/team": "Grün"}
			n.NoHostAdapter = true
		}},
		{"ok-itself-is-no-overlap", func(n *Network) { *n = aView().Networks["home"] }},
		{"name-empty", func(n *Network) { n.Name = "" }},
		{"name-slash", func(n *Network) { n.Name = "a/b" }},
		{"name-dash-first", func(n *Network) { n.Name = "-x" }},
		{"name-newline", func(n *Network) { n.Name = "a\nb" }},
		{"name-long", func(n *Network) { n.Name = strings.Repeat("x", 200) }},
		{"name-built-in", func(n *Network) { n.Name = "none" }},
		{"mode-unknown", func(n *Network) { n.Mode = "natt" }},
		{"mode-of-libvirt", func(n *Network) { n.Mode = "route" }},
		{"mode-of-docker", func(n *Network) { n.Mode = "bridge" }},
		{"mode-of-vmware", func(n *Network) { n.Mode = "LAN segment" }},
		{"mode-in-capitals", func(n *Network) { n.Mode = "NAT" }},
		{"mode-of-two", func(n *Network) { n.Mode = "internal" }},
		{"mode-coming", func(n *Network) { n.Mode = "bridged" }},
		{"bridge-long", func(n *Network) { n.Bridge = "a-much-too-long-name" }},
		{"bridge-dots", func(n *Network) { n.Bridge = ".." }},
		{"bridge-slash", func(n *Network) { n.Bridge = "a/b" }},
		{"bridge-space", func(n *Network) { n.Bridge = "a b" }},
		{"bridge-of-another", func(n *Network) { n.Bridge = "br7" }},
		{"bridge-derived-of-another", func(n *Network) { n.Bridge = "fn-home" }},
		{"bridge-of-the-host", func(n *Network) { n.Bridge = "docker0" }},
		{"bridge-of-a-workload", func(n *Network) { n.Bridge = "fv-web" }},
		{"bridge-of-a-workload-to-come", func(n *Network) { n.Bridge = "fv-y" }},
		{"bridge-shared-without-a-name", func(n *Network) { n.ShareBridge = true }},
		{"bridge-shared-of-nobody-yet", func(n *Network) { n.ShareBridge, n.Bridge = true, "cni0" }},
		{"bridge-shared-isolated", func(n *Network) { n.ShareBridge, n.Bridge, n.Mode, n.Subnets = true, "lan0", Isolated, nil }},
		{"bridge-shared-without-the-gateway", func(n *Network) { n.ShareBridge, n.Bridge = true, "lan0" }},
		{"bridge-shared-that-is-none", func(n *Network) { n.ShareBridge, n.Bridge = true, "docker0" }},
		{"bridge-of-a-cable", func(n *Network) { n.Mode, n.Subnets, n.Bridge = Cable, nil, "br0" }},
		{"subnet-missing", func(n *Network) { n.Subnets = nil }},
		{"subnet-zero", func(n *Network) { n.Subnets[0] = Subnet{} }},
		{"subnet-unmasked", func(n *Network) { n.Subnets[0].Prefix = prefix("10.66.9.7/24") }},
		{"subnet-too-small", func(n *Network) { n.Subnets[0] = subnet("10.66.9.0/31") }},
		{"subnet-too-large", func(n *Network) { n.Subnets[0] = subnet("10.0.0.0/7") }},
		{"subnet6-too-small", func(n *Network) { n.Subnets[1] = subnet("fd00:9::/127") }},
		{"subnet-loopback", func(n *Network) { n.Subnets[0] = subnet("127.1.0.0/16") }},
		{"subnet-link-local", func(n *Network) { n.Subnets[0] = subnet("169.254.7.0/24") }},
		{"subnet-multicast", func(n *Network) { n.Subnets[0] = subnet("239.0.0.0/8") }},
		{"subnet6-link-local", func(n *Network) { n.Subnets[1] = subnet("fe80::/64") }},
		{"subnet6-mapped", func(n *Network) { n.Subnets[1] = subnet("::ffff:0:0/96") }},
		{"subnet-twice", func(n *Network) { n.Subnets = append(n.Subnets, subnet("10.66.0.0/16")) }},
		{"subnet-of-another", func(n *Network) { n.Subnets[0] = subnet("10.66.0.128/25") }},
		{"subnet-of-the-host", func(n *Network) { n.Name, n.Subnets[0] = "lab2", subnet("10.8.0.0/16") }},
		{"subnet-of-the-host-in-a-change", func(n *Network) { *n = aView().Networks["home"]; n.Subnets = []Subnet{subnet("10.8.0.0/16")} }},
		{"subnet6-of-the-host-in-a-change", func(n *Network) { *n = aView().Networks["home"]; n.Subnets = []Subnet{subnet("2001:db8:1::/64")} }},
		{"subnet-of-another-in-a-change-of-mode", func(n *Network) { *n = Network{Name: "switch", Mode: NAT, Subnets: []Subnet{subnet("10.66.0.128/25")}} }},
		{"bridged-nic-with-addresses", func(n *Network) { *n = Network{Name: "lab", Mode: Bridged, Uplink: "eth0"} }},
		{"bridged-nic-with-addresses-in-a-change", func(n *Network) { *n = Network{Name: "switch", Mode: Bridged, Uplink: "eth0"} }},
		{"bridged-nic-beside-the-way-out-in-a-change", func(n *Network) { *n = Network{Name: "switch", Mode: Bridged, Uplink: "docker0"} }},
		{"subnet-of-docker", func(n *Network) { n.Subnets[0] = subnet("172.17.3.0/24") }},
		{"subnet6-of-the-host", func(n *Network) { n.Subnets[1] = subnet("2001:db8:1::/80") }},
		{"gateway-missing", func(n *Network) { n.Subnets[0].Gateway = netip.Addr{} }},
		{"gateway-outside", func(n *Network) { n.Subnets[0].Gateway = addr("10.66.8.1") }},
		{"gateway-other-family", func(n *Network) { n.Subnets[0].Gateway = addr("fd00:9::1") }},
		{"gateway-network", func(n *Network) { n.Subnets[0].Gateway = addr("10.66.9.0") }},
		{"gateway-broadcast", func(n *Network) { n.Subnets[0].Gateway = addr("10.66.9.255") }},
		{"gateway6-anycast", func(n *Network) { n.Subnets[1].Gateway = addr("fd00:9::") }},
		{"gateway-reserved", func(n *Network) { n.Subnets[0].Reserved = []netip.Addr{addr("10.66.9.1")} }},
		{"gateway-isolated", func(n *Network) { n.Mode = Isolated; n.Subnets = n.Subnets[:1] }},
		{"range-outside", func(n *Network) { n.Subnets[0].Range = prefix("10.66.8.0/25") }},
		{"range-wider", func(n *Network) { n.Subnets[0].Range = prefix("10.66.8.0/23") }},
		{"range-unmasked", func(n *Network) { n.Subnets[0].Range = prefix("10.66.9.129/25") }},
		{"range-empty", func(n *Network) { n.Subnets[0].Range = prefix("10.66.9.255/32") }},
		{"reserved-outside", func(n *Network) { n.Subnets[0].Reserved = []netip.Addr{addr("10.66.9.7"), addr("10.0.0.1"), {}} }},
		{"mtu-small", func(n *Network) { n.MTU = 67 }},
		{"mtu-small-for-6", func(n *Network) { n.MTU = 1279 }},
		{"mtu-large", func(n *Network) { n.MTU = 65536 }},
		{"mtu-negative-4", func(n *Network) { n.MTU, n.Subnets = -1, n.Subnets[:1] }},
		{"snat-multicast", func(n *Network) { n.SNAT = []netip.Addr{addr("224.0.0.1")} }},
		{"snat-zone", func(n *Network) { n.SNAT = []netip.Addr{addr("fe80::1%eth0")} }},
		{"snat-two", func(n *Network) { n.SNAT = []netip.Addr{addr("192.0.2.1"), addr("192.0.2.2")} }},
		{"snat-own", func(n *Network) { n.SNAT = []netip.Addr{addr("10.66.9.9")} }},
		{"snat-host-only", func(n *Network) { n.Mode, n.SNAT = HostOnly, []netip.Addr{addr("192.0.2.1")} }},
		{"uplink-unknown", func(n *Network) { n.Uplink = "eth9" }},
		{"uplink-loopback", func(n *Network) { n.Uplink = "lo" }},
		{"uplink-is-a-port", func(n *Network) { n.Uplink = "eth1" }},
		{"uplink-is-a-port-of-ours", func(n *Network) { n.Uplink = "eth2" }},
		{"uplink-is-a-port-of-ours-that-it-leaves", func(n *Network) { n.Name, n.Bridge, n.Uplink = "switch", "br7", "eth2" }},
		{"bridged-tunnel", func(n *Network) { *n = Network{Name: "lab", Mode: Bridged, Uplink: "tun0"} }},
		{"uplink-host-only", func(n *Network) { n.Mode, n.Uplink = HostOnly, "eth0" }},
		{"adapter-isolated", func(n *Network) { n.Mode, n.Subnets, n.NoHostAdapter = Isolated, nil, true }},
		{"dns-loopback", func(n *Network) { n.DNS = []netip.Addr{addr("127.0.0.53")} }},
		{"dns-zero-and-many", func(n *Network) { n.DNS = make([]netip.Addr, 4) }},
		{"label-key", func(n *Network) { n.Labels = map[string]string{"a b": "c"} }},
		{"label-value", func(n *Network) { n.Labels = map[string]string{"a": "c\x1b[1m"} }},
	}
	for _, c := range []struct {
		name  string
		spoil func(*Network)
	}{
		{"ok", func(n *Network) {}},
		{"pools-missing", func(n *Network) { n.Cluster.Pools = nil }},
		{"pool-of-the-host", func(n *Network) { n.Cluster.Pools[0].Prefix = prefix("10.8.0.0/16") }},
		{"pool-of-another", func(n *Network) { n.Cluster.Pools[0].Prefix = prefix("10.66.0.0/16") }},
		{"pool-twice", func(n *Network) { n.Cluster.Pools = append(n.Cluster.Pools, n.Cluster.Pools[0]) }},
		{"blocks-too-small", func(n *Network) { n.Cluster.Pools[0].Bits = 31 }},
		{"blocks-too-large", func(n *Network) { n.Cluster.Pools[1].Bits = 40 }},
		{"backend-unknown", func(n *Network) { n.Cluster.Backend = "geneve" }},
		{"vni-zero", func(n *Network) { n.Cluster.VNI = 0 }},
		{"vni-large", func(n *Network) { n.Cluster.VNI = 1 << 24 }},
		{"port-zero", func(n *Network) { n.Cluster.Port = 0 }},
		{"tunnel-name", func(n *Network) { n.Cluster.Tunnel = "a b" }},
		{"subnet", func(n *Network) { n.Subnets = []Subnet{subnet("10.99.0.0/24")} }},
		{"uplink", func(n *Network) { n.Uplink = "eth0" }},
		{"reserved-no-block", func(n *Network) { n.Cluster.Reserved = []Reservation{{Block: prefix("10.244.1.0/25")}} }},
		{"reserved-for-nobody", func(n *Network) { n.Cluster.Reserved = []Reservation{{Block: prefix("10.244.1.0/24"), Node: "A B"}} }},
		{"keep", func(n *Network) { n.Cluster.Keep = []netip.Prefix{prefix("192.168.7.1/16")} }},
	} {
		spoil := c.spoil
		c.name, c.spoil = "cluster-"+c.name, func(n *Network) { *n = goodCluster(); spoil(n) }
		cases = append(cases, c)
	}
	got := map[string]string{}
	var names []string
	for _, c := range cases {
		n := good()
		c.spoil(&n)
		got[c.name] = texts(Validate(aView(), n))
		names = append(names, c.name)
	}
	golden(t, "testdata/network.txtar", names, got)
}

func TestWorkloadProblemsReadAsWritten(t *testing.T) {
	cases := []struct {
		name  string
		spoil func(*Workload, *Endpoint)
	}{
		{"ok", func(w *Workload, e *Endpoint) {}},
		{"ok-static", func(w *Workload, e *Endpoint) {
			e.Addrs = []netip.Addr{addr("10.66.0.77"), addr("fd00:66::77")}
			w.Forwards = []Forward{{Network: "home", Workload: "new", Proto: TCP, HostPorts: Ports{80, 80}, Ports: Ports{80, 80}}}
		}},
		{"ok-itself-is-no-clash", func(w *Workload, e *Endpoint) { *w = aView().Workloads["web"]; *e = w.Endpoints[0] }},
		{"name", func(w *Workload, e *Endpoint) { w.Name = "a:b" }},
		{"sharing-unknown", func(w *Workload, e *Endpoint) { w.Sharing = "pod" }},
		{"sharing-host-with-endpoint", func(w *Workload, e *Endpoint) { w.Sharing = Host }},
		{"join-unknown", func(w *Workload, e *Endpoint) { w.Sharing, w.Join, w.Endpoints = Joined, "nobody", nil }},
		{"join-itself", func(w *Workload, e *Endpoint) { w.Sharing, w.Join, w.Endpoints = Joined, "new", nil }},
		{"join-host", func(w *Workload, e *Endpoint) { w.Sharing, w.Join, w.Endpoints = Joined, "host", nil }},
		{"join-own", func(w *Workload, e *Endpoint) { w.Join = "web" }},
		{"netns-relative", func(w *Workload, e *Endpoint) { w.Netns = "run/netns/x" }},
		{"netns-long", func(w *Workload, e *Endpoint) { w.Netns = "/run/" + strings.Repeat("x", 200) }},
		{"netns-space", func(w *Workload, e *Endpoint) { w.Netns = "/run/a b" }},
		{"ifname", func(w *Workload, e *Endpoint) { e.IfName = "lo" }},
		{"ifname-twice", func(w *Workload, e *Endpoint) {
			w.Endpoints = append(w.Endpoints, Endpoint{Network: "inside", IfName: "eth0"})
		}},
		{"network-unknown", func(w *Workload, e *Endpoint) { e.Network = "nowhere" }},
		{"network-default-removed", func(w *Workload, e *Endpoint) { e.Network = DefaultNetwork }},
		{"network-twice", func(w *Workload, e *Endpoint) {
			w.Endpoints = append(w.Endpoints, Endpoint{Network: "home", IfName: "eth1"})
		}},
		{"mac-group", func(w *Workload, e *Endpoint) { e.MAC = MAC{1} }},
		{"mac-host-side", func(w *Workload, e *Endpoint) { e.MAC = MAC{0xfe, 1} }},
		{"mac-taken", func(w *Workload, e *Endpoint) { e.MAC = MAC{2, 0, 0, 0, 0, 1} }},
		{"mac-of-bridge", func(w *Workload, e *Endpoint) { e.MAC = BridgeMAC("home") }},
		{"address-outside", func(w *Workload, e *Endpoint) { e.Addrs = []netip.Addr{addr("10.9.9.9")} }},
		{"address-network", func(w *Workload, e *Endpoint) { e.Addrs = []netip.Addr{addr("10.66.0.0")} }},
		{"address-gateway", func(w *Workload, e *Endpoint) { e.Addrs = []netip.Addr{addr("fd00:66::1")} }},
		{"address-taken", func(w *Workload, e *Endpoint) { e.Addrs = []netip.Addr{addr("10.66.0.2")} }},
		{"address-two", func(w *Workload, e *Endpoint) { e.Addrs = []netip.Addr{addr("10.66.0.8"), addr("10.66.0.9")} }},
		{"address-without-subnet", func(w *Workload, e *Endpoint) { e.Network, e.Addrs = "switch", []netip.Addr{addr("10.66.0.8")} }},
		{"cable-full", func(w *Workload, e *Endpoint) { e.Network = "wire" }},
		{"ok-limits", func(w *Workload, e *Endpoint) { e.Bandwidth = Bandwidth{10_000_000, 1<<32 - 1, 1_000, 0} }},
		{"limit-in-another-unit", func(w *Workload, e *Endpoint) { e.Bandwidth.IngressRate = 10 }},
		{"limits-too-large", func(w *Workload, e *Endpoint) { e.Bandwidth = Bandwidth{1 << 60, 0, 1_000_000, 1 << 40} }},
		{"limit-without-rate", func(w *Workload, e *Endpoint) { e.Bandwidth.EgressBurst = 80_000 }},
		{"limit-on-a-cable", func(w *Workload, e *Endpoint) { e.Network, e.Bandwidth.EgressRate = "wire", 10_000_000 }},
		{"publish-clash", func(w *Workload, e *Endpoint) {
			w.Forwards = []Forward{
				{Network: "home", Workload: "new", Proto: TCP, HostIP: addr("127.0.0.1"), HostPorts: Ports{8085, 8085}, Ports: Ports{80, 80}},
				{Network: "home", Workload: "new", Proto: TCP, HostPorts: Ports{8085, 8090}, Ports: Ports{80, 85}}}
		}},
		{"publish-elsewhere", func(w *Workload, e *Endpoint) {
			w.Forwards = []Forward{{Network: "inside", Workload: "new", Proto: TCP, HostPorts: Ports{80, 80}, Ports: Ports{80, 80}}}
		}},
		{"publish-other-workload", func(w *Workload, e *Endpoint) {
			w.Forwards = []Forward{{Network: "home", Workload: "web", Proto: TCP, HostPorts: Ports{80, 80}, Ports: Ports{80, 80}}}
		}},
		{"label", func(w *Workload, e *Endpoint) { w.Labels = map[string]string{"": ""} }},
	}
	got := map[string]string{}
	var names []string
	for _, c := range cases {
		w := Workload{Name: "new", Netns: "/run/netns/new", Endpoints: []Endpoint{{Network: "home", IfName: "eth0"}}}
		c.spoil(&w, &w.Endpoints[0])
		got[c.name] = texts(ValidateWorkload(aView(), w))
		names = append(names, c.name)
	}
	golden(t, "testdata/workload.txtar", names, got)
}

func TestForwardProblemsReadAsWritten(t *testing.T) {
	cases := []struct {
		name  string
		spoil func(*Forward)
	}{
		{"ok", func(f *Forward) {}},
		{"ok-for-a-workload-to-come", func(f *Forward) { f.Workload = "later" }},
		{"ok-loopback", func(f *Forward) { f.HostIP = addr("127.0.0.1") }},
		{"ok-every-ipv6", func(f *Forward) { f.HostIP = addr("::") }},
		{"ok-itself", func(f *Forward) { *f = aView().Forwards["udp/192.168.1.20:53"] }},
		{"proto", func(f *Forward) { f.Proto = 1 }},
		{"ports-zero", func(f *Forward) { f.HostPorts = Ports{} }},
		{"ports-backwards", func(f *Forward) { f.Ports = Ports{90, 80} }},
		{"length", func(f *Forward) { f.HostPorts = Ports{9000, 9010} }},
		{"network-unknown", func(f *Forward) { f.Network = "nowhere" }},
		{"network-default-removed", func(f *Forward) { f.Network = DefaultNetwork }},
		{"network-host-only", func(f *Forward) { f.Network, f.Workload = "inside", "db" }},
		{"network-isolated", func(f *Forward) { f.Network = "switch" }},
		{"workload-empty", func(f *Forward) { f.Workload = "" }},
		{"workload-elsewhere", func(f *Forward) { f.Workload = "db" }},
		{"host-address-foreign", func(f *Forward) { f.HostIP = addr("192.168.1.99") }},
		{"clash-published", func(f *Forward) { f.HostPorts = Ports{8080, 8080} }},
		{"clash-same-target", func(f *Forward) { *f = aView().Workloads["web"].Forwards[0] }},
		{"clash-standing", func(f *Forward) { f.Proto, f.HostPorts, f.HostIP = UDP, Ports{53, 53}, addr("0.0.0.0") }},
	}
	got := map[string]string{}
	var names []string
	for _, c := range cases {
		f := Forward{Network: "home", Workload: "web", Proto: TCP, HostPorts: Ports{9000, 9000}, Ports: Ports{80, 80}}
		c.spoil(&f)
		got[c.name] = texts(ValidateForward(aView(), f))
		names = append(names, c.name)
	}
	golden(t, "testdata/forward.txtar", names, got)
}

func texts(ps Problems) string {
	if ps.Err() == nil {
		return "ok\n"
	}
	var all []string
	for _, p := range ps {
		all = append(all, inFull(p))
	}
	return strings.Join(all, "\n\n") + "\n"
}

// inFull is all that a problem says, a line each.
func inFull(p Problem) string {
	lines := []string{"error " + p.Code + ": " + p.Reason}
	add := func(label, s string) {
		if s != "" {
			lines = append(lines, "  "+label+s)
		}
	}
	add("", p.Owner)
	add("field: ", p.Path)
	add("", p.Fix)
	if strings.HasPrefix(p.Example, "flatnet ") {
		add("retry: ", p.Example)
	} else {
		add("example: ", p.Example)
	}
	add("more: flatnet help ", p.Code)
	return strings.Join(lines, "\n")
}

func golden(t *testing.T, file string, names []string, got map[string]string) {
	t.Helper()
	ar := &txtar.Archive{Comment: []byte("All that is said of each way to get it wrong. Written by go test -update.\n")}
	for _, name := range names {
		ar.Files = append(ar.Files, txtar.File{Name: name, Data: []byte(got[name])})
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, f := range want.Files {
		texts[f.Name] = string(f.Data)
	}
	for _, name := range names {
		if texts[name] != got[name] {
			t.Errorf("%s: %s:\ngot:\n%swant:\n%s", file, name, got[name], texts[name])
		}
		delete(texts, name)
	}
	for name := range texts {
		t.Errorf("%s: %s: no such case", file, name)
	}
}

func TestEveryCodeHasATitleAndEveryProblemACode(t *testing.T) {
	titles := Titles()
	for _, file := range []string{"testdata/network.txtar", "testdata/workload.txtar", "testdata/forward.txtar"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(text), "\n") {
			if code, ok := strings.CutPrefix(line, "  more: flatnet help "); ok && titles[code] == "" {
				t.Errorf("%s: code %s has no title", file, code)
			}
		}
	}
	for code, title := range titles {
		if len(code) != 6 || !strings.HasPrefix(code, "FN") || title == "" {
			t.Errorf("code %q has the title %q", code, title)
		}
	}
}

func TestOverlapOwners(t *testing.T) {
	cases := []struct{ link, want string }{
		{"tun0", "VPN"}, {"wg0", "VPN"}, {"ppp0", "VPN"}, {"tailscale0", "VPN"}, {"docker0", "Docker"}, {"br-0123456789ab", "Docker"},
		{"virbr0", "libvirt"}, {"eth0", ""}, {"br-lan", ""}, {"br-0123456789xy", ""},
	}
	for _, c := range cases {
		n := Node{Routes: []HostRoute{{Dest: prefix("10.0.0.0/8"), Link: c.link, Proto: "static", Via: addr("10.1.1.1")}}}
		got, ok := Overlaps(n, prefix("10.1.0.0/24"))
		if !ok || !strings.HasPrefix(got, "10.0.0.0/8 via 10.1.1.1 dev "+c.link+"  proto static") || !strings.Contains(got, c.want) || (c.want == "") == strings.Contains(got, "owner") {
			t.Errorf("Overlaps through %s = %q, %v; want an owner %q", c.link, got, ok, c.want)
		}
	}
	if owner, ok := Overlaps(aView().Node, prefix("200.0.0.0/24")); ok {
		t.Errorf("half a default route counts as %q", owner)
	}
}

func TestProblemsAreErrors(t *testing.T) {
	ps := Problems{{Code: CodeMTU, Path: "mtu", Reason: "no"}, {Code: CodeName, Reason: "x", Owner: "y", Fix: "z"}}.Under("spec")
	if got, want := fmt.Sprint(ps.Err()), "FN1301: spec.mtu: no\nFN1101: spec: x (y); z"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if Problems(nil).Err() != nil {
		t.Error("no problems are an error")
	}
}

// What people call a network elsewhere leads to one of the modes here.
func TestModesOfOthers(t *testing.T) {
	for word, want := range map[string]Mode{"route": Routed, "open": Routed, "bridge": Bridged, "vmnet0": Bridged, "vmnet1": HostOnly, "VMnet8": NAT,
		"internal": HostOnly, "LAN segment": Isolated, "Host only": HostOnly, "macvlan": Bridged, "ipvlan": Routed, "overlay": Cluster, "pod network": Cluster, "host-gw": Cluster, "wlan": ""} {
		if got, _ := meantMode(word); got != want {
			t.Errorf("%s means %q, want %q", word, got, want)
		}
	}
}
