package main

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/flatnet/flatnet/api"
)

// clusterCalls answers what is about clusters: as a server, in an order that a story has.
func clusterCalls(on func(pattern string, f func(r *http.Request, body []byte) any)) {
	on("POST /v1/cluster/init", func(r *http.Request, body []byte) any {
		var i api.Init
		_ = json.Unmarshal(body, &i)
		if len(i.Underlay) > 0 && i.Underlay[0] == "eth9" {
			return api.Fail(api.ExitUsage, api.Problem{Code: "FN1606", Path: "underlay", Reason: `no underlay address can be used: "eth9" is neither a link of this host nor an address`,
				Owner: "this host has eth0 192.0.2.1", Fix: "name one with --underlay"})
		}
		return entered(r, fixedMember("h1"))
	})
	on("POST /v1/cluster/join", func(r *http.Request, body []byte) any {
		var j api.Join
		_ = json.Unmarshal(body, &j)
		m := fixedMember("h2")
		if j.Address != "192.0.2.66" {
			return entered(r, m)
		}
		m.Checks[1] = api.Check{What: "tcp/2379", Result: "the cluster's etcd at https://192.0.2.66:2379 cannot be reached: i/o timeout"}
		if r.URL.Query().Has("dryRun") {
			return m
		}
		return api.Fail(api.ExitNegative, api.Problem{Code: "FN3010", Reason: m.Checks[1].Result, Fix: "open tcp 2379 towards the server"})
	})
	on("POST /v1/cluster/leave", func(r *http.Request, _ []byte) any {
		m := fixedMember("h2")
		m.Networks = []string{"lab"} // so that a workload is on it
		if r.URL.Query().Has("force") && !r.URL.Query().Has("dryRun") {
			m.Remains = "no server could be told that this host has left; on one of 192.0.2.1:7700 run: flatnet host rm n-8f3a63b99a"
		}
		return m
	})
	on("GET /v1/cluster", func(*http.Request, []byte) any { return fixedMember("h2") })
	on("GET /v1/hosts", func(*http.Request, []byte) any { return fixedHosts() })
	on("DELETE /v1/hosts/{name}", func(r *http.Request, _ []byte) any {
		if r.PathValue("name") != "h3" {
			return notFound("host", r.PathValue("name"))
		}
		return fixedHosts()[2]
	})
	on("GET /v1/tokens", func(*http.Request, []byte) any { return fixedTokens() })
	on("POST /v1/tokens", func(*http.Request, []byte) any { return madeToken() })
	on("DELETE /v1/tokens/{name}", func(r *http.Request, _ []byte) any { return api.Token{Name: r.PathValue("name")} })
}

func entered(r *http.Request, m api.Membership) any {
	if r.URL.Query().Has("dryRun") {
		m.State, m.Token, m.Blocks = "free", nil, []string{"10.244.0.0/16"}
	}
	return m
}

func fixedMember(name string) api.Membership {
	m := api.Membership{Cluster: "c-0b08bc09f9", ID: "n-8f3a63b99a", Name: name, State: "in", Underlay: []string{"192.0.2.2"}, Link: "eth1", Why: "192.0.2.1 is reached by eth1", MTU: 1500,
		Servers: []string{"192.0.2.1:7700"}, Etcd: []string{"https://192.0.2.1:2379"}, Blocks: []string{"10.244.1.0/24"}, Networks: []string{"cluster"}, Live: true,
		Checks: []api.Check{{What: "tcp/7700", Result: "ok", OK: true}, {What: "tcp/2379", Result: "ok", OK: true}, {What: "udp/8472", Result: "free here", OK: true}, {What: "subnet", Result: "free", OK: true}},
		Ways: []api.Way{{Host: "h1", Network: "cluster", Backend: "vxlan", Underlay: "192.0.2.1", RTT: 512 * time.Microsecond}, {Host: "h3", Network: "cluster", Backend: "vxlan", Underlay: "192.0.2.3",
			Problem: "FN5420: network cluster: packets to and from h3 (192.0.2.3) get lost, while the host itself answers", Fix: "let udp 8472 pass between all hosts, both ways"}}}
	if name == "h1" {
		m.Ways = nil
		t := madeToken()
		m.Server, m.Token, m.Underlay, m.Link, m.Why, m.Blocks = true, &t, []string{"192.0.2.1"}, "eth0", "the default route is by eth0", []string{"10.244.0.0/24"}
	}
	return m
}

func madeToken() api.Token {
	return api.Token{Name: "6313ad0aefb0", Token: "fn1.Q7", Created: epoch, Expires: epoch.Add(15 * time.Minute), Uses: 10, Join: "flatnet join 192.0.2.1 --token fn1.Q7"}
}

func fixedTokens() []api.Token {
	used, old := madeToken(), madeToken()
	used.Token, used.Join, used.Used = "", "", []string{"n-8f3a63b99a"}
	old.Name, old.Token, old.Join, old.Expires = "00000000beef", "", "", epoch
	return []api.Token{old, used}
}

func fixedHosts() []api.Host {
	return []api.Host{
		{ID: "n-bc9915c0fb", Name: "h1", Server: true, State: "alive", Underlay: []string{"192.0.2.1", "2001:db8::1"}, MTU: 1500, Version: "1.0", Schema: 1, Blocks: []string{"10.244.0.0/24", "10.244.5.0/24"}},
		{ID: "n-8f3a63b99a", Name: "h2", Self: true, State: "alive", Underlay: []string{"192.0.2.2"}, MTU: 1500, Version: "1.0", Schema: 1, Blocks: []string{"10.244.1.0/24"}},
		{ID: "n-86d6b7abde", Name: "h3", State: "silent", Underlay: []string{"192.0.2.2"}, MTU: 1500, Version: "1.0", Schema: 1, Problem: `FN2121: underlay4: 192.0.2.2 is the underlay address of two nodes (node "h2" n-8f3a63b99a)`},
	}
}

// fixedPods is a network of the cluster, in the middle of a change of its backend.
func fixedPods() api.Network {
	return api.Network{Name: "pods", ID: hexID("pods"), Spec: api.NetworkSpec{Mode: "cluster", Cluster: &api.ClusterSpec{Pools: []api.PoolSpec{{Subnet: "10.244.0.0/16", Block: 24}}, Backend: "host-gw",
		VNI: 1, Port: 8472, NoMasquerade: []string{"192.168.0.0/16"}, Reserved: []api.ReservationSpec{{Block: "10.244.9.0/24", Node: "n-86d6b7abde"}, {Block: "10.244.8.0/24"}}}},
		Status: api.NetworkStatus{State: "active", Scope: "cluster", Created: epoch, Bridge: "fn-pods", MTU: 1450, MTUNote: "1500 of eth1 less 50: IPv4 20, UDP 8, VXLAN 8, Ethernet 14, until vxlan is gone", Also: "vxlan",
			Subnets: []api.SubnetStatus{{Subnet: "10.244.1.0/24", Gateway: "10.244.1.1", Available: 253}}, Uplinks: []string{"eth1"}, NAT: []string{"10.244.1.0/24 leaves as the address of eth1"},
			Nodes: []api.NodeBlocks{
				{ID: "n-bc9915c0fb", Name: "h1", Underlay: []string{"192.0.2.1", "2001:db8::1"}, Blocks: []string{"10.244.0.0/24", "10.244.5.0/24"}, Alive: true},
				{ID: "n-8f3a63b99a", Name: "h2", Underlay: []string{"192.0.2.2"}, Blocks: []string{"10.244.1.0/24"}, Alive: true, Self: true},
				{ID: "n-86d6b7abde", Name: "h3", Underlay: []string{"198.51.100.3"}, Problem: "FN1604: 198.51.100.3 is not on a link of this host"},
				{ID: "n-0000000004", Name: "h4", Underlay: []string{"192.0.2.4"}, Blocks: []string{"10.244.3.0/24"}},
			},
			Return: &api.ReturnRoutes{Note: "the LAN comes in only with these routes; any node will do, not only the workload's own", Routes: []api.ReturnRoute{{Subnet: "10.244.0.0/16", Via: "192.0.2.2",
				Linux: "ip route add 10.244.0.0/16 via 192.0.2.2", Windows: "route -p add 10.244.0.0 mask 255.255.0.0 192.0.2.2", Router: "ip route 10.244.0.0 255.255.0.0 192.0.2.2"}}}}}
}
