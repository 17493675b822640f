package main

import (
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
)

// Small words in lines that are read often.
func TestLinesReadWell(t *testing.T) {
	routed := api.Network{Name: "lan", Spec: api.NetworkSpec{Mode: "routed", ProxyARP: true}}
	var facts strings.Builder
	writeFacts(&facts, networkFacts(routed))
	gone := goneLinks([]api.Step{{Text: "del link fn-lab type bridge"}})
	for _, c := range []struct{ got, want string }{
		{stepText(api.Step{Text: "del sysctl net/ipv6/conf/fn-lab/forwarding=1"}, gone), "sysctl net/ipv6/conf/fn-lab/forwarding goes with its link"},
		{stepText(api.Step{Text: "del sysctl net/ipv4/ip_forward=1"}, gone), "put sysctl net/ipv4/ip_forward back to what it was"},
		{stepText(api.Step{Text: "add sysctl net/ipv4/ip_forward=1"}, gone), "add sysctl net/ipv4/ip_forward=1"},
		{createdLine(api.Network{Spec: api.NetworkSpec{Mode: "isolated"}, Status: api.NetworkStatus{State: "active", Subnets: []api.SubnetStatus{{Subnet: "10.8.0.0/24"}}}}, 1),
			"  isolated  active  10.8.0.0/24  (1 step; --explain prints them)"},
		{endpointLine(api.Endpoint{Workload: "a", IfName: "eth0", MAC: "02:00:00:00:00:01"}), "a/eth0  02:00:00:00:00:01"},
		{endpointLine(api.Endpoint{Workload: "a", IfName: "eth0", MAC: "02:00:00:00:00:01", IPs: []string{"10.8.0.2/24"}, HostLink: "fv-a"}), "a/eth0  10.8.0.2/24  02:00:00:00:00:01  on the host fv-a"},
		{freeText(1.845e19), "many"},
		{freeText(65534), "65534"},
		{counted(0, "step"), "0 steps"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
	for _, want := range []string{"masquerade:     no\n", "proxy ARP:      yes\n"} {
		if !strings.Contains(facts.String(), want) {
			t.Errorf("no %q in\n%s", want, facts.String())
		}
	}
}
