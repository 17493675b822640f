package main

import (
	"net/http"

	"github.com/flatnet/flatnet/api"
)

// fixedShow is what the fake daemon's host has: a network with two workloads, a bridge of others with a VM, and a LAN.
func fixedShow(r *http.Request) any {
	workload := r.URL.Query().Get("workload")
	if workload != "" && workload != "web" {
		return notFound("workload", workload)
	}
	switch kind := r.PathValue("kind"); {
	case kind == api.ShowBridges:
		return fixedBridges()
	case kind == api.ShowLinks && workload == "":
		return fixedLinks()
	case kind == api.ShowLinks:
		return []api.Link{
			{Index: 1, Name: "lo", Flags: []string{"LOOPBACK", "UP", "LOWER_UP"}, State: "UNKNOWN", MTU: 65536, MAC: "00:00:00:00:00:00", Qdisc: "noqueue"},
			{Index: 2, Name: "eth0", Kind: "veth", Flags: []string{"BROADCAST", "UP", "LOWER_UP"}, State: "UP", MTU: 1500, MAC: "02:11:22:33:44:55", Peer: "fv-web on the host",
				Addresses: []string{"10.66.0.2/24"}, Network: "default", Workload: "web"},
		}
	case kind == api.ShowRoutes && workload == "":
		return fixedRoutes()
	case kind == api.ShowRoutes:
		return []api.Route{
			{Dest: "0.0.0.0/0", Type: "unicast", Via: "10.66.0.1", Link: "eth0", Proto: "157", Scope: "global", Table: "15700", Network: "default"},
			{Dest: "fe80::/64", Type: "unicast", Link: "eth0", Proto: "kernel", Metric: 256, Table: "main", Network: "default"},
			{Dest: "0.0.0.0/0", Type: "unicast", Via: "10.66.0.1", Link: "eth0", Proto: "157", Scope: "global", Table: "main", Network: "default"},
			{Dest: "10.66.0.0/24", Type: "unicast", Link: "eth0", Source: "10.66.0.2", Proto: "kernel", Scope: "link", Table: "main", Network: "default"},
		}
	case kind == api.ShowNeigh && workload == "":
		return []api.Neighbour{
			{Address: "192.0.2.1", Link: "eth0", MAC: "9a:05:82:be:58:02", State: "REACHABLE", Router: true},
			{Address: "10.66.0.2", Link: "fn-default", MAC: "02:11:22:33:44:55", State: "STALE", Network: "default", Workload: "web"},
			{Address: "10.66.0.3", Link: "fn-default", MAC: "02:11:22:33:44:55", State: "REACHABLE", Network: "default", Workload: "db", Conflict: "this is the MAC of web"},
			{Address: "10.66.0.9", Link: "fn-default", State: "FAILED", Network: "default"},
			{Address: "192.0.2.77", Link: "eth0", State: "PROXY", Network: "lan", Workload: "cam"},
		}
	case kind == api.ShowNeigh:
		return []api.Neighbour{{Address: "10.66.0.1", Link: "eth0", MAC: "02:bd:79:05:d0:e3", State: "REACHABLE", Network: "default", Host: true}}
	case kind == api.ShowNFT:
		return fixedNFT()
	}
	return notFound("list", r.PathValue("kind"))
}

func fixedBridges() []api.HostBridge {
	return []api.HostBridge{
		{Name: "empty", ID: "8000.000000000000", STP: true, Ports: []api.BridgePort{}},
		{Name: "fn-default", ID: "8000.02bd7905d0e3", Network: "default", Ports: []api.BridgePort{{Link: "fv-db", Workload: "db"}, {Link: "fv-web", Workload: "web"}}},
		{Name: "virbr0", ID: "8000.525400112233", STP: true, Ports: []api.BridgePort{{Link: "vnet0"}}},
	}
}

func fixedLinks() []api.Link {
	up := []string{"BROADCAST", "MULTICAST", "UP", "LOWER_UP"}
	return []api.Link{
		{Index: 2, Name: "eth0", Flags: up, State: "UP", MTU: 1500, MAC: "22:68:0c:e7:90:bc", Qdisc: "fq_codel", Addresses: []string{"192.0.2.10/24"}},
		{Index: 3, Name: "virbr0", Kind: "bridge", Flags: []string{"NO-CARRIER", "BROADCAST", "UP"}, State: "DOWN", MTU: 1500, MAC: "52:54:00:11:22:33", Qdisc: "noqueue"},
		{Index: 16777216, Name: "fn-default", Kind: "bridge", Flags: up, State: "UP", MTU: 1500, MAC: "02:bd:79:05:d0:e3", Qdisc: "noqueue", Addresses: []string{"10.66.0.1/24"}, Network: "default"},
		{Index: 16777217, Name: "fv-web", Kind: "veth", Flags: up, State: "UP", MTU: 1500, MAC: "fe:11:22:33:44:55", Master: "fn-default", Peer: "eth0 in web", Qdisc: "noqueue", Network: "default", Workload: "web"},
	}
}

func fixedRoutes() []api.Route {
	return []api.Route{
		{Dest: "0.0.0.0/0", Type: "unicast", Via: "192.0.2.1", Link: "eth0", Proto: "dhcp", Scope: "global", Metric: 100, Table: "main"},
		{Dest: "10.66.0.0/24", Type: "unicast", Link: "fn-default", Source: "10.66.0.1", Proto: "kernel", Scope: "link", Table: "main", Network: "default"},
		{Dest: "198.51.100.7/32", Type: "blackhole", Proto: "boot", Scope: "global", Table: "main"},
		{Dest: "203.0.113.0/24", Type: "unicast", Via: "10.66.0.2", Link: "fn-default", Proto: "boot", Scope: "global", Table: "100", MTU: 1400, State: []string{"linkdown"}, Network: "default"},
		{Dest: "10.66.0.1/32", Type: "local", Link: "fn-default", Source: "10.66.0.1", Proto: "kernel", Scope: "host", Table: "local", Network: "default"},
		{Dest: "fd66::/64", Type: "unicast", Link: "fn-default", Proto: "kernel", Metric: 256, Table: "main", Network: "default"},
		{Dest: "::/0", Type: "unicast", Via: "fe80::1", Link: "eth0", Proto: "ra", Metric: 1024, Table: "main"},
	}
}

func fixedNFT() []api.NFTObject {
	return []api.NFTObject{
		{Kind: "table", Family: "inet", Name: "flatnet", Text: "table inet flatnet"},
		{Kind: "map", Family: "inet", Name: "forward_any4", Text: "type inet_proto . inet_service : ipv4_addr . inet_service;", Networks: []string{"default"}},
		{Kind: "element", Family: "inet", Name: "forward_any4", Text: "tcp . 8080 : 10.66.0.2 . 80", Networks: []string{"default"}, Workloads: []string{"web"}, Forwards: []string{"tcp/8080"}},
		{Kind: "element", Family: "inet", Name: "forward_any4", Text: "tcp . 22 : 10.66.0.99 . 22", Stray: true},
		{Kind: "set", Family: "inet", Name: "nat", Text: "type ifname;", Networks: []string{"a", "b", "c", "d", "default"}},
		{Kind: "element", Family: "inet", Name: "nat", Text: `"fn-default"`, Networks: []string{"default"}},
		{Kind: "set", Family: "inet", Name: "pinned", Text: "type ifname;"},
		{Kind: "chain", Family: "inet", Name: "postrouting", Text: "type nat hook postrouting priority 100; policy accept;"},
		{Kind: "rule", Family: "inet", Name: "postrouting", Text: "ip saddr 127.0.0.0/8 oifname @nat masquerade", Comment: "loopback appears as the gateway", Networks: []string{"a", "b", "c", "d", "default"}},
		{Kind: "rule", Family: "inet", Name: "postrouting", Text: "iifname @pinned drop", Comment: "another uplink", Idle: true},
		{Kind: "chain", Family: "inet", Name: "published"},
		{Kind: "rule", Family: "inet", Name: "published", Text: "meta nfproto ipv4 dnat ip to meta l4proto . th dport map @forward_any4", Networks: []string{"default"}},
		{Kind: "table", Family: "bridge", Name: "flatnet", Text: "table bridge flatnet"},
		{Kind: "set", Family: "bridge", Name: "guarded", Text: "type ifname;", Networks: []string{"default"}},
		{Kind: "element", Family: "bridge", Name: "guarded", Text: `"fv-web"`, Networks: []string{"default"}, Workloads: []string{"web"}},
	}
}
