package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

func ptr[T any](v T) *T { return &v }

func mustEdit(t *testing.T, d *daemon, name string, e api.NetworkEdit) api.Network {
	t.Helper()
	return must[api.Changed[api.Network]](t)(d.EditNetwork(context.Background(), name, e, consent{}, false)).Object
}

// bridgeable adds a NIC without addresses to the host.
func (w *world) bridgeable() {
	if err := w.kernel.AddForeign(dataplane.HostNetns, dataplane.Link{Name: "eth1", Kind: dataplane.Veth, Up: true}); err != nil {
		w.t.Fatal(err)
	}
	w.host.set(func(h *fakeHost) {
		h.node.Links = append(h.node.Links, model.HostLink{Name: "eth1", MTU: 1500, Up: true})
	})
}

var liveModes = []string{"nat", "routed", "bridged", "host-only", "isolated"}

// toMode is the edit that makes a network of a mode, with what only that needs.
func toMode(mode string) api.NetworkEdit {
	e := api.NetworkEdit{Mode: &mode}
	if mode == "bridged" {
		e.Uplink = ptr("eth1")
	}
	return e
}

func TestModesAreEditedUnderWorkloads(t *testing.T) {
	w := newWorld(t)
	w.bridgeable()
	d := w.start()
	mustNetwork(t, d, "lab", api.NetworkSpec{SNATIPs: []string{"192.0.2.10"}, HostAdapter: new(bool), Uplink: "eth0",
		Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24", Gateway: "10.8.0.254"}, {Subnet: "fd08::/64"}}})
	web := mustWorkload(t, d, api.WorkloadSpec{Name: "web", Endpoints: on("lab")})
	for _, from := range liveModes {
		for _, to := range liveModes {
			mustEdit(t, d, "lab", toMode(from))
			n := mustEdit(t, d, "lab", toMode(to))
			w.checkConverged(d)
			if n.Spec.Mode != to {
				t.Errorf("%s to %s: is %s", from, to, n.Spec.Mode)
			}
			if x := must[api.Workload](t)(d.Workload("web")); !slices.Equal(x.Endpoints[0].IPs, web.Endpoints[0].IPs) || x.Endpoints[0].MAC != web.Endpoints[0].MAC {
				t.Errorf("%s to %s: the endpoint changed: %+v", from, to, x.Endpoints[0])
			}
			if again := must[api.Changed[api.Network]](t)(d.EditNetwork(context.Background(), "lab", toMode(to), consent{}, false)); len(again.Steps) > 0 {
				t.Errorf("%s twice: %v", to, again.Steps)
			}
			if ms := d.Manifests(); len(must[api.Changed[[]api.Manifest]](t)(d.Apply(context.Background(), ms, consent{}, false)).Steps) > 0 {
				t.Errorf("%s to %s: what get prints is not what there is", from, to)
			}
		}
	}
	_, err := d.EditNetwork(context.Background(), "lab", api.NetworkEdit{Mode: ptr("cable")}, consent{}, false)
	refused(t, err, model.CodeInUse, "web")
}

func TestWhatAModeCannotHaveGoesUnlessAskedFor(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	mustNetwork(t, d, "lab", api.NetworkSpec{SNATIPs: []string{"192.0.2.10"}, Uplink: "eth0", HostAdapter: new(bool), Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24", Gateway: "10.8.0.254"}}})
	n := mustEdit(t, d, "lab", api.NetworkEdit{Mode: ptr("host-only")})
	if n.Spec.SNATIPs != nil || n.Spec.Uplink != "" || n.Spec.HostAdapter == nil || n.Spec.Subnets[0].Gateway != "10.8.0.254" {
		t.Errorf("host-only: %+v", n.Spec)
	}
	n = mustEdit(t, d, "lab", api.NetworkEdit{Mode: ptr("isolated")})
	if n.Spec.HostAdapter != nil || n.Spec.Subnets[0].Gateway != "" {
		t.Errorf("isolated: %+v", n.Spec)
	}
	mustWorkload(t, d, api.WorkloadSpec{Name: "first", Endpoints: []api.EndpointSpec{{Network: "lab", IPs: []string{"10.8.0.1"}}}})
	n = mustEdit(t, d, "lab", api.NetworkEdit{Mode: ptr("routed"), Masquerade: ptr(true), SNATIPs: []string{"192.0.2.10"}})
	if n.Spec.Subnets[0].Gateway != "10.8.0.2" || !n.Spec.Masquerade || len(n.Spec.SNATIPs) != 1 {
		t.Errorf("routed, with the first address taken: %+v", n.Spec)
	}
	n = mustEdit(t, d, "lab", api.NetworkEdit{NAT: ptr(false)})
	if n.Spec.Masquerade || n.Spec.SNATIPs != nil || n.Spec.Mode != "routed" {
		t.Errorf("nat off on a routed network: %+v", n.Spec)
	}
	for mode, on := range map[string]string{"host-only": "nat", "isolated": "nat"} {
		mustEdit(t, d, "lab", api.NetworkEdit{Mode: &mode})
		if n = mustEdit(t, d, "lab", api.NetworkEdit{NAT: ptr(true)}); n.Spec.Mode != on {
			t.Errorf("nat on for %s: %s", mode, n.Spec.Mode)
		}
		if n = mustEdit(t, d, "lab", api.NetworkEdit{NAT: ptr(false)}); n.Spec.Mode != "host-only" {
			t.Errorf("nat off: %s", n.Spec.Mode)
		}
	}
	for _, c := range []struct {
		code string
		edit api.NetworkEdit
	}{
		{model.CodeSNAT, api.NetworkEdit{Mode: ptr("host-only"), SNATIPs: []string{"192.0.2.10"}}},
		{model.CodeUplink, api.NetworkEdit{Mode: ptr("host-only"), Uplink: ptr("eth0")}},
		{model.CodeHostAdapter, api.NetworkEdit{Mode: ptr("isolated"), HostAdapter: new(bool)}},
		{model.CodeMasquerade, api.NetworkEdit{Masquerade: ptr(true)}},
		{model.CodeGateway, api.NetworkEdit{Mode: ptr("isolated"), Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24", Gateway: "10.8.0.77"}}}},
		{model.CodeMode, api.NetworkEdit{Mode: ptr("nat"), NAT: ptr(true)}},
		{model.CodeMode, api.NetworkEdit{Mode: ptr("bogus")}},
		{model.CodeBridgedUplink, api.NetworkEdit{Mode: ptr("bridged")}},
		{model.CodeMTU, api.NetworkEdit{MTU: ptr(1)}},
	} {
		_, err := d.EditNetwork(context.Background(), "lab", c.edit, consent{renumber: true, force: true}, false)
		refused(t, err, c.code)
	}
	_, err := d.EditNetwork(context.Background(), "nowhere", api.NetworkEdit{}, consent{}, false)
	refused(t, err, model.CodeNotFound)
	w.checkConverged(d)
}

func TestTheUplinkGoesForABridgeOfTheHostAndTheBridgeForAnUplink(t *testing.T) {
	w := newWorld(t)
	w.bridgeable()
	w.host.set(func(h *fakeHost) {
		h.node.Links = append(slices.Clone(h.node.Links), model.HostLink{Name: "br0", Bridge: true, MTU: 1500, Up: true})
	})
	d := w.start()
	mustNetwork(t, d, "lab", api.NetworkSpec{Mode: "bridged", Uplink: "eth1"})
	if n := mustEdit(t, d, "lab", api.NetworkEdit{Bridge: ptr("br0")}); n.Spec.Uplink != "" || n.Spec.Bridge != "br0" {
		t.Errorf("on a bridge of the host: %+v", n.Spec)
	}
	if n := mustEdit(t, d, "lab", api.NetworkEdit{Uplink: ptr("eth1")}); n.Spec.Uplink != "eth1" || n.Spec.Bridge != "" {
		t.Errorf("on a NIC again: %+v", n.Spec)
	}
	if n := mustEdit(t, d, "lab", api.NetworkEdit{Bridge: ptr("fn-lan")}); n.Spec.Uplink != "eth1" || n.Spec.Bridge != "fn-lan" {
		t.Errorf("another name for its own bridge: %+v", n.Spec)
	}
	_, err := d.EditNetwork(context.Background(), "lab", api.NetworkEdit{Bridge: ptr("br0"), Uplink: ptr("eth1")}, consent{}, false)
	refused(t, err, model.CodeLinkTaken)
	w.checkConverged(d)
}

func TestANetworkGetsASubnetWhenItNeedsOne(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	mustNetwork(t, d, "lab", api.NetworkSpec{Mode: "isolated"})
	if x := mustWorkload(t, d, api.WorkloadSpec{Name: "web", Endpoints: on("lab")}); len(x.Endpoints[0].IPs) != 0 {
		t.Errorf("got %+v", x.Endpoints)
	}
	n := mustEdit(t, d, "lab", api.NetworkEdit{Mode: ptr("nat")})
	x := must[api.Workload](t)(d.Workload("web"))
	if len(n.Spec.Subnets) != 2 || len(x.Endpoints[0].IPs) != 2 || len(x.Endpoints[0].Gateways) != 2 {
		t.Errorf("got %+v\n%+v", n.Spec.Subnets, x.Endpoints)
	}
	if hosts := must[[]byte](t)(os.ReadFile(x.Files.Hosts)); !strings.Contains(string(hosts), strings.Split(x.Endpoints[0].IPs[0], "/")[0]+" web\n") {
		t.Errorf("hosts: %s", hosts)
	}
	w.checkConverged(d)
}

func TestRenumber(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	ctx := context.Background()
	mustNetwork(t, d, "lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24", Gateway: "10.8.0.254"}, {Subnet: "fd08::/64"}}})
	mustWorkload(t, d, api.WorkloadSpec{Name: "gone", Endpoints: []api.EndpointSpec{{Network: "lab", IPs: []string{"10.8.0.77"}}}})
	mustDelete(t, d, "gone")
	mustWorkload(t, d, api.WorkloadSpec{Name: "web", Endpoints: []api.EndpointSpec{{Network: "lab", IPs: []string{"10.8.0.9"}}}, Publish: []string{"8080:80", "5353:53/udp"}})
	mustWorkload(t, d, api.WorkloadSpec{Name: "far", Endpoints: []api.EndpointSpec{{Network: "lab", IPs: []string{"10.8.0.200", "fd08::c8"}}}})
	to := func(v4 string) api.NetworkEdit {
		return api.NetworkEdit{Subnets: []api.SubnetSpec{{Subnet: v4}, {Subnet: "fd08::/64"}}}
	}
	before := w.dump()
	_, err := d.EditNetwork(ctx, "lab", to("10.9.0.0/24"), consent{}, false)
	refused(t, err, model.CodeInUse, "web 10.8.0.9 → 10.9.0.9", "far 10.8.0.200 → 10.9.0.200", "--renumber")
	if c := must[api.Changed[api.Network]](t)(d.EditNetwork(ctx, "lab", to("10.9.0.0/24"), consent{renumber: true}, true)); len(c.Steps) == 0 || w.dump() != before {
		t.Error("a dry run changed something, or nothing would be done")
	}
	n := must[api.Changed[api.Network]](t)(d.EditNetwork(ctx, "lab", to("10.9.0.0/24"), consent{renumber: true}, false)).Object
	w.checkConverged(d)
	ips := func(workload string) string {
		return fmt.Sprint(must[api.Workload](t)(d.Workload(workload)).Endpoints[0].IPs)
	}
	if n.Spec.Subnets[0].Gateway != "10.9.0.254" || !strings.Contains(ips("web"), "10.9.0.9/24") || ips("far") != "[fd08::c8/64 10.9.0.200/24]" {
		t.Errorf("got gateway %s, web %s, far %s", n.Spec.Subnets[0].Gateway, ips("web"), ips("far"))
	}
	if text := w.kernel.Dump(""); !strings.Contains(text, "10.9.0.9 . 80") && !strings.Contains(text, "10.9.0.9:80") && strings.Contains(text, "10.8.0.9") {
		t.Errorf("the forward did not follow:\n%s", text)
	}
	for _, want := range []string{"tcp  8080", "udp  5353", "from 10.8.0.9/32 unreplied false"} {
		if !slices.Contains(w.host.flushed, want) {
			t.Errorf("not flushed: %s, but %v", want, w.host.flushed)
		}
	}
	hosts := must[[]byte](t)(os.ReadFile(must[api.Workload](t)(d.Workload("web")).Files.Hosts))
	if !strings.Contains(string(hosts), "10.9.0.9 web\n") || strings.Contains(string(hosts), "10.8.0") {
		t.Errorf("hosts: %s", hosts)
	}
	if x := mustWorkload(t, d, api.WorkloadSpec{Name: "gone", Endpoints: on("lab")}); x.Endpoints[0].IPs[0] != "10.9.0.77/24" {
		t.Errorf("what an absent one had did not follow: %v", x.Endpoints[0].IPs)
	}

	// Smaller: who does not fit gets a free one; larger: nobody moves; a gateway in somebody's place moves that one only.
	must[api.Changed[api.Network]](t)(d.EditNetwork(ctx, "lab", to("10.9.0.0/27"), consent{renumber: true}, false))
	if far := ips("far"); !strings.Contains(ips("web"), "10.9.0.9/27") || !strings.Contains(far, "/27") || strings.Contains(far, "10.9.0.200") {
		t.Errorf("smaller: web %s, far %s", ips("web"), far)
	}
	w.checkConverged(d)
	mustEdit(t, d, "lab", to("10.9.0.0/16"))
	if !strings.Contains(ips("web"), "10.9.0.9/16") {
		t.Errorf("larger: web %s", ips("web"))
	}
	onto := api.NetworkEdit{Subnets: []api.SubnetSpec{{Subnet: "10.9.0.0/16", Gateway: "10.9.0.9"}, {Subnet: "fd08::/64"}}}
	_, err = d.EditNetwork(ctx, "lab", onto, consent{}, false)
	refused(t, err, model.CodeInUse, "web 10.9.0.9")
	must[api.Changed[api.Network]](t)(d.EditNetwork(ctx, "lab", onto, consent{renumber: true}, false))
	if strings.Contains(ips("web"), "10.9.0.9/") {
		t.Errorf("the gateway took web's address, and web has %s", ips("web"))
	}
	w.checkConverged(d)

	_, err = d.EditNetwork(ctx, "lab", to("10.9.0.0/30"), consent{renumber: true}, false)
	refused(t, err, model.CodeExhausted)
	fresh := must[api.Changed[api.Network]](t)(d.EditNetwork(ctx, "lab", to("auto"), consent{renumber: true}, false)).Object
	if !strings.HasPrefix(fresh.Spec.Subnets[0].Subnet, "10.66.") {
		t.Errorf("auto: %+v", fresh.Spec.Subnets)
	}
	w.checkConverged(d)
}

func TestForwardsThatAModeCannotHave(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	ctx := context.Background()
	mustNetwork(t, d, "lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}, {Subnet: "fd08::/64"}}})
	mustWorkload(t, d, api.WorkloadSpec{Name: "web", Endpoints: on("lab"), Publish: []string{"8080:80"}})
	must[api.Changed[[]api.Forward]](t)(d.AddForwards(ctx, []api.ForwardSpec{{Publish: "[::1]:81:81", Workload: "web"}}, false))
	_, err := d.EditNetwork(ctx, "lab", api.NetworkEdit{NAT: ptr(false)}, consent{}, false)
	refused(t, err, model.CodeForwardMode, "tcp/8080", "tcp/[::1]:81", "--force")
	_, err = d.EditNetwork(ctx, "lab", api.NetworkEdit{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}}}, consent{renumber: true}, false)
	refused(t, err, model.CodeForwardMode, "tcp/[::1]:81")
	mustEdit(t, d, "lab", api.NetworkEdit{Mode: ptr("routed")})
	if len(d.Forwards()) != 2 {
		t.Errorf("routed networks publish: %+v", d.Forwards())
	}
	must[api.Changed[api.Network]](t)(d.EditNetwork(ctx, "lab", api.NetworkEdit{Mode: ptr("host-only")}, consent{force: true}, false))
	if len(d.Forwards()) != 0 {
		t.Errorf("left: %+v", d.Forwards())
	}
	w.checkConverged(d)
}

// Connections that nobody has answered are forgotten when the source of what leaves changes, and only then.
func TestUnansweredConnectionsFollowAnEdit(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	mustNetwork(t, d, "lab", api.NetworkSpec{Mode: "routed", Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}}})
	const want = "from 10.8.0.0/24 unreplied true"
	for _, c := range []struct {
		edit  api.NetworkEdit
		flush bool
	}{
		{api.NetworkEdit{Masquerade: ptr(true)}, true}, {api.NetworkEdit{SNATIPs: []string{"192.0.2.10"}}, true}, {api.NetworkEdit{MTU: ptr(1400)}, false},
		{api.NetworkEdit{Mode: ptr("nat")}, true}, {api.NetworkEdit{DNS: []string{"9.9.9.9"}}, false}, {api.NetworkEdit{Labels: map[string]string{"a": "b"}}, false},
		{api.NetworkEdit{NAT: ptr(false)}, true}, {api.NetworkEdit{DropLabels: []string{"a"}}, false},
	} {
		w.host.set(func(h *fakeHost) { h.flushed = nil })
		n := mustEdit(t, d, "lab", c.edit)
		if got := slices.Contains(w.host.flushed, want); got != c.flush {
			t.Errorf("%+v: flushed %v", n.Spec, w.host.flushed)
		}
	}
	if n := must[api.Network](t)(d.Network("lab")); n.Labels != nil && len(n.Labels) > 0 {
		t.Errorf("labels are left: %v", n.Labels)
	}
}

func TestHostPart(t *testing.T) {
	for _, c := range []struct{ addr, from, to, want string }{
		{"10.8.0.9", "10.8.0.0/24", "10.9.0.0/24", "10.9.0.9"},
		{"10.8.3.9", "10.8.0.0/16", "10.9.7.0/24", ""},
		{"10.8.0.9", "10.8.0.0/16", "10.9.7.0/24", "10.9.7.9"},
		{"10.8.3.9", "10.8.3.0/24", "10.9.0.0/16", "10.9.0.9"},
		{"10.8.0.200", "10.8.0.0/24", "10.9.0.0/25", ""},
		{"10.8.0.9", "10.8.0.0/24", "10.8.0.0/28", "10.8.0.9"},
		{"fd08::1:2", "fd08::/64", "fd09:0:0:5::/64", "fd09::5:0:0:1:2"},
		{"fd08::1:0:0:2", "fd08::/64", "fd09::/112", ""},
	} {
		got, ok := hostPart(netip.MustParseAddr(c.addr), netip.MustParsePrefix(c.from), netip.MustParsePrefix(c.to))
		if text(got) != c.want && ok || ok != (c.want != "") {
			t.Errorf("%s of %s in %s: got %s %v, want %q", c.addr, c.from, c.to, got, ok, c.want)
		}
	}
}
