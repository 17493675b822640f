package agent

import (
	"context"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel/foreign"
)

func TestOneRuleIsOneFinding(t *testing.T) {
	drop := foreign.Finding{Link: "fn-a", Probes: []string{"out"}, Certain: true, Family: "ip", Table: "filter", Chain: "FORWARD", Rule: "policy drop", Owner: "Docker", Fix: "first\nallow fn-a"}
	other := drop
	other.Link, other.Fix = "fn-b", "first\nallow fn-b"
	elsewhere := drop
	elsewhere.Chain = "OTHER"
	list := ruleFindings([]foreign.Finding{drop, elsewhere, other})
	if len(list) != 2 {
		t.Fatalf("%d findings: %+v", len(list), list)
	}
	if f := list[0]; f.What != "fn-a, fn-b: Docker drops: out; table ip filter, chain FORWARD: policy drop" || f.Fix != "first\nallow fn-a\nallow fn-b" || f.Level != levelError {
		t.Errorf("%+v", f)
	}
}

// What docs/reference/manifest.md says may change while a network is in use, and what not.
func TestWhatChangesInPlace(t *testing.T) {
	_, d := furnished(t)
	off := new(bool)
	subnets := []api.SubnetSpec{{Subnet: "10.8.0.0/24"}, {Subnet: "fd08::/64"}}
	for name, c := range map[string]struct {
		change func(*api.Manifest)
		may    bool
	}{
		"labels":       {func(m *api.Manifest) { m.Metadata.Labels = map[string]string{"a": "b"} }, true},
		"dns":          {func(m *api.Manifest) { m.Network.DNS = []string{"192.0.2.53"} }, true},
		"mtu":          {func(m *api.Manifest) { m.Network.MTU = 1400 }, true},
		"uplink":       {func(m *api.Manifest) { m.Network.Uplink = "eth0" }, true},
		"snatIPs":      {func(m *api.Manifest) { m.Network.SNATIPs = []string{"192.0.2.10"} }, true},
		"guard":        {func(m *api.Manifest) { m.Network.Guard = off }, true},
		"isolatePorts": {func(m *api.Manifest) { m.Network.IsolatePorts = true }, true},
		"hostAdapter":  {func(m *api.Manifest) { m.Network.HostAdapter = off }, true},
		"autostart":    {func(m *api.Manifest) { m.Network.Autostart = off }, true},
		"inactive":     {func(m *api.Manifest) { m.Network.Inactive = true }, true},
		"reserved":     {func(m *api.Manifest) { m.Network.Subnets[0].Reserved = []string{"10.8.0.200"} }, true},
		"ipRange":      {func(m *api.Manifest) { m.Network.Subnets[0].IPRange = "10.8.0.0/25" }, true},
		"a subnet more": {func(m *api.Manifest) {
			m.Network.Subnets = append(m.Network.Subnets, api.SubnetSpec{Subnet: "10.88.0.0/24"})
		}, true},
		"mode":                  {func(m *api.Manifest) { m.Network.Mode = "routed" }, true},
		"bridge":                {func(m *api.Manifest) { m.Network.Bridge = "br7" }, true},
		"gateway":               {func(m *api.Manifest) { m.Network.Subnets[0].Gateway = "10.8.0.254" }, true},
		"mode without a way in": {func(m *api.Manifest) { m.Network.Mode = "host-only" }, false}, // it publishes ports
		"cable":                 {func(m *api.Manifest) { m.Network.Mode, m.Network.Subnets = "cable", nil }, false},
		"subnet":                {func(m *api.Manifest) { m.Network.Subnets[0].Subnet = "10.89.0.0/24" }, false},
	} {
		m := network("lab", api.NetworkSpec{Subnets: append([]api.SubnetSpec{}, subnets...)})
		c.change(&m)
		_, err := d.Apply(context.Background(), []api.Manifest{m}, consent{}, true)
		if (err == nil) != c.may {
			t.Errorf("%s: may change %v: %v", name, c.may, err)
		}
	}
}
