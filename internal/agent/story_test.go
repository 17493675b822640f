package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

func mustNetwork(t *testing.T, d *daemon, name string, spec api.NetworkSpec) api.Network {
	t.Helper()
	return must[api.Changed[api.Network]](t)(d.CreateNetwork(context.Background(), network(name, spec), false)).Object
}

func mustWorkload(t *testing.T, d *daemon, spec api.WorkloadSpec) api.Workload {
	t.Helper()
	return must[api.Changed[api.Workload]](t)(d.CreateWorkload(context.Background(), spec, false)).Object
}

func mustDelete(t *testing.T, d *daemon, name string) {
	t.Helper()
	must[api.Changed[api.Workload]](t)(d.DeleteWorkload(context.Background(), name, false, false))
}

// eventually waits for what another goroutine does.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func (d *daemon) eventTypes() string {
	list, _, _ := d.events.after(0)
	var types []string
	for _, ev := range list {
		types = append(types, ev.Type+" "+ev.Object)
	}
	return strings.Join(types, "\n")
}

func TestAFreshInstallHasADefaultNetworkOnce(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	n := must[api.Network](t)(d.Network(DefaultNetwork))
	if n.Spec.Mode != "nat" || n.Status.State != stateActive || len(n.Status.Subnets) != 2 {
		t.Errorf("got %+v, want an active nat network with two subnets", n)
	}
	must[api.Changed[api.Network]](t)(d.DeleteNetwork(context.Background(), DefaultNetwork, false, false))
	d.end(t)
	if left := w.start().Networks(); len(left) != 0 {
		t.Errorf("a network that was removed is back: %v", left)
	}
}

func TestAutomaticSubnetsAreFreeAndKept(t *testing.T) {
	w := newWorld(t)
	w.host.node.Routes = append(w.host.node.Routes, model.HostRoute{Dest: netip.MustParsePrefix("10.66.0.0/22"), Link: "tun0"})
	d := w.start()
	n := must[api.Network](t)(d.Network(DefaultNetwork))
	if got := n.Status.Subnets[0].Subnet; got != "10.66.4.0/24" {
		t.Errorf("got %s, want the first one that the route does not overlap", got)
	}
	two := mustNetwork(t, d, "two", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "auto"}, {Subnet: "auto4"}, {Subnet: "auto6"}}})
	if s := two.Status.Subnets; s[0].Subnet != "10.66.5.0/24" || s[1].Subnet != "10.66.6.0/24" || !strings.HasPrefix(s[2].Subnet, "fd") {
		t.Errorf("got %+v", s)
	}
	if one := mustNetwork(t, d, "v4", api.NetworkSpec{IPv6: new(bool)}); len(one.Status.Subnets) != 1 {
		t.Errorf("without IPv6: got %+v", one.Status.Subnets)
	}
	if iso := mustNetwork(t, d, "iso", api.NetworkSpec{Mode: "isolated"}); len(iso.Status.Subnets) != 0 {
		t.Errorf("isolated: got %+v", iso.Status.Subnets)
	}
}

func TestAWorkloadComesAndGoes(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	mustNetwork(t, d, "lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24", Gateway: "10.8.0.254"}}, DNS: []string{"9.9.9.9"}})
	x := mustWorkload(t, d, api.WorkloadSpec{Name: "web", Endpoints: on("lab"), Publish: []string{"8080:80"}})
	e := x.Endpoints[0]
	if x.Netns != "/run/netns/web" || e.IPs[0] != "10.8.0.1/24" || e.IfName != "eth0" || e.HostLink != "fv-web" || e.Gateways[0] != "10.8.0.254" || !e.Guard {
		t.Errorf("got %+v", x)
	}
	hosts := must[[]byte](t)(os.ReadFile(x.Files.Hosts))
	if !strings.Contains(string(hosts), "10.8.0.1 web\n") || !strings.Contains(string(hosts), "10.8.0.254 host.flatnet\n") {
		t.Errorf("hosts: %s", hosts)
	}
	if resolv := must[[]byte](t)(os.ReadFile(x.Files.ResolvConf)); !strings.Contains(string(resolv), "nameserver 9.9.9.9\n") {
		t.Errorf("resolv.conf: %s", resolv)
	}
	n := must[api.Network](t)(d.Network("lab"))
	if len(n.Status.Endpoints) != 1 || len(n.Status.Forwards) != 1 || !n.Status.Forwards[0].Active || n.Status.Subnets[0].InUse != 1 || n.Status.Subnets[0].Available != 252 {
		t.Errorf("inspect: %+v", n.Status)
	}
	w.checkConverged(d)
	mustDelete(t, d, "web")
	if _, err := os.Stat(filepath.Dir(x.Files.Hosts)); !os.IsNotExist(err) {
		t.Errorf("the workload's files are left: %v", err)
	}
	w.checkConverged(d)
	if again := mustWorkload(t, d, api.WorkloadSpec{Name: "other", Endpoints: on("lab")}); again.Endpoints[0].IPs[0] == "10.8.0.1/24" {
		t.Error("another workload got the address that web will want back")
	}
	if back := mustWorkload(t, d, api.WorkloadSpec{Name: "web", Endpoints: on("lab")}); back.Endpoints[0].IPs[0] != "10.8.0.1/24" || back.Endpoints[0].MAC != e.MAC {
		t.Errorf("web came back as %+v, was %+v", back.Endpoints[0], e)
	}
}

func TestAddressesAreRememberedAcrossRestartsAndGivenWhenNothingElseIsFree(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	mustNetwork(t, d, "small", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/29"}}}) // .2 to .6
	for i := range 4 {
		mustWorkload(t, d, api.WorkloadSpec{Name: fmt.Sprint("w", i), Endpoints: on("small")})
	}
	for i := range 4 {
		mustDelete(t, d, fmt.Sprint("w", i))
	}
	d.end(t)
	d = w.start()
	if x := mustWorkload(t, d, api.WorkloadSpec{Name: "w2", Endpoints: on("small")}); x.Endpoints[0].IPs[0] != "10.8.0.4/29" {
		t.Errorf("w2 is back as %v", x.Endpoints[0].IPs)
	}
	got := map[string]bool{}
	for i := range 4 {
		got[mustWorkload(t, d, api.WorkloadSpec{Name: fmt.Sprint("n", i), Endpoints: on("small")}).Endpoints[0].IPs[0]] = true
	}
	if len(got) != 4 || got["10.8.0.4/29"] {
		t.Errorf("got %v", got)
	}
}

func TestNamesAreMadeUp(t *testing.T) {
	d := newWorld(t).start()
	a, b := mustWorkload(t, d, api.WorkloadSpec{}), mustWorkload(t, d, api.WorkloadSpec{})
	if a.Name == b.Name || !strings.Contains(a.Name, "-") {
		t.Errorf("got %q and %q", a.Name, b.Name)
	}
	if a.Endpoints[0].Network != DefaultNetwork {
		t.Errorf("got network %q, want the default one", a.Endpoints[0].Network)
	}
}

func TestSharedNamespaces(t *testing.T) {
	w := newWorld(t)
	w.procs.alive, w.procs.watched = map[int]uint64{1: 1, 2: 2}, map[string]int{}
	d := w.start()
	ctx := context.Background()
	web := mustWorkload(t, d, api.WorkloadSpec{Name: "web"})
	side := mustWorkload(t, d, api.WorkloadSpec{Name: "side", Sharing: "container:web"})
	host := mustWorkload(t, d, api.WorkloadSpec{Name: "host", Sharing: "host"})
	none := mustWorkload(t, d, api.WorkloadSpec{Name: "none", Sharing: "none"})
	if side.Netns != web.Netns || side.Files.Hosts != web.Files.Hosts || side.Sharing != "container:web" {
		t.Errorf("side: %+v", side)
	}
	if host.Netns != "/proc/1/ns/net" || none.Netns != "/run/netns/none" || none.Sharing != "none" || len(none.Endpoints) != 0 {
		t.Errorf("host: %+v\nnone: %+v", host, none)
	}
	must[api.Workload](t)(d.SetProcess(ctx, "web", api.Process{PID: 1, Command: "httpd"}))
	must[api.Workload](t)(d.SetProcess(ctx, "side", api.Process{PID: 2, Command: "tail"}))
	if _, err := d.StopWorkload(ctx, "web", time.Second, false); err == nil || !strings.Contains(err.Error(), model.CodeInUse) || !strings.Contains(err.Error(), "side") {
		t.Errorf("stop of a workload whose namespace side shares: %v", err)
	}
	if _, err := d.DeleteWorkload(ctx, "web", true, false); err == nil || !strings.Contains(err.Error(), "side") {
		t.Errorf("rm --force of it: %v", err)
	}
	if x := must[api.Workload](t)(d.Workload("web")); x.State != workloadRunning {
		t.Errorf("what was not removed was stopped: %+v", x)
	}
	must[api.Workload](t)(d.StopWorkload(ctx, "web", time.Second, true))
	if x := must[api.Workload](t)(d.Workload("web")); x.Netns != "" || x.Endpoints[0].Netns != "" {
		t.Errorf("web has ended, and has a namespace to enter: %+v", x)
	}
	if !slices.Contains(w.kernel.Namespaces(), web.Netns) {
		t.Error("web has ended, and the namespace is gone that side still runs in")
	}
	if x := must[api.Workload](t)(d.Workload("side")); x.Netns != web.Netns {
		t.Errorf("side runs, and its namespace is %q", x.Netns)
	}
	if x := must[api.Workload](t)(d.Workload("web")); x.State != workloadExited || len(x.Endpoints) != 1 {
		t.Errorf("web ended while side still uses its namespace: %+v", x)
	}
	w.procs.kill(2, 5)
	if x := must[api.Workload](t)(d.Workload("web")); len(x.Endpoints) != 0 || x.Netns != "" {
		t.Errorf("side has ended, and web still has: %+v", x)
	}
	if x := must[api.Workload](t)(d.Workload("side")); x.State != workloadExited || x.Process.Code != 5 || x.Netns != "" {
		t.Errorf("side: %+v", x)
	}
	w.checkConverged(d)
	for _, name := range []string{"web", "side", "host", "none"} {
		mustDelete(t, d, name)
	}
	w.checkConverged(d)
}

func TestAProcessThatEndsGivesItsEndpointsBack(t *testing.T) {
	for _, remove := range []bool{false, true} {
		w := newWorld(t)
		w.procs.alive, w.procs.watched = map[int]uint64{7: 70}, map[string]int{}
		d := w.start()
		ctx := context.Background()
		mustWorkload(t, d, api.WorkloadSpec{Name: "web", Publish: []string{"8080:80"}, Remove: remove})
		if x := must[api.Workload](t)(d.SetProcess(ctx, "web", api.Process{PID: 7, Command: "httpd"})); x.State != workloadRunning || x.Endpoints[0].PID != 7 {
			t.Errorf("got %+v", x)
		}
		x := must[api.Workload](t)(d.StopWorkload(ctx, "web", time.Second, false))
		if x.State != workloadExited || x.Process.Code != 143 && !remove || len(x.Endpoints)+len(x.Forwards) != 0 {
			t.Errorf("got %+v", x)
		}
		if listed := len(d.Workloads()) == 1; listed == remove {
			t.Errorf("remove %v: listed %v", remove, listed)
		}
		w.checkConverged(d)
		if len(d.Forwards()) != 0 {
			t.Errorf("forwards are left: %v", d.Forwards())
		}
	}
}

func TestRunningProcessesAreFoundAgain(t *testing.T) {
	w := newWorld(t)
	w.procs.alive, w.procs.watched = map[int]uint64{7: 70, 8: 80, 9: 90}, map[string]int{}
	d := w.start()
	ctx := context.Background()
	for pid, name := range map[int]string{7: "lives", 8: "ends", 9: "reused"} {
		mustWorkload(t, d, api.WorkloadSpec{Name: name})
		must[api.Workload](t)(d.SetProcess(ctx, name, api.Process{PID: pid}))
	}
	d.end(t)
	delete(w.procs.alive, 8)
	w.procs.alive[9] = 91
	w.procs.watched = map[string]int{}
	d = w.start()
	states := map[string]string{}
	for _, x := range d.Workloads() {
		states[x.Name] = fmt.Sprint(x.State, " ", x.Process.Code, " ", len(x.Endpoints))
	}
	if states["lives"] != "running 0 1" || states["ends"] != "exited -1 0" || states["reused"] != "exited -1 0" {
		t.Errorf("got %v", states)
	}
	must[api.Workload](t)(d.SetProcess(ctx, "ends", api.Process{PID: 8, Exited: true, Code: 4}))
	if x := must[api.Workload](t)(d.Workload("ends")); x.Process.Code != 4 {
		t.Errorf("its starter knew the status; got %+v", x.Process)
	}
	w.checkConverged(d)
}

func TestApplyIsIdempotentAndAllOrNothing(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	ctx := context.Background()
	manifests := []api.Manifest{
		{APIVersion: api.APIVersion, Kind: api.KindForward, Forward: &api.ForwardSpec{Publish: "8080:80", Workload: "web", Network: "lab"}},
		network("lab", api.NetworkSpec{DNS: []string{"9.9.9.9"}}), // after the forward that needs it
		network("iso", api.NetworkSpec{Mode: "isolated"}),
	}
	first := must[api.Changed[[]api.Manifest]](t)(d.Apply(ctx, manifests, consent{}, false))
	if len(first.Steps) == 0 || len(first.Object) != 3 {
		t.Errorf("first: %d steps, objects %+v", len(first.Steps), first.Object)
	}
	for _, ms := range [][]api.Manifest{manifests, first.Object, d.Manifests()} {
		if again := must[api.Changed[[]api.Manifest]](t)(d.Apply(ctx, ms, consent{}, false)); len(again.Steps) != 0 {
			t.Errorf("the same again: %+v", again.Steps)
		}
	}
	mustWorkload(t, d, api.WorkloadSpec{Name: "web", Endpoints: on("lab")})
	changed := network("lab", api.NetworkSpec{DNS: []string{"1.1.1.1"}, IsolatePorts: true, MTU: 1400, Guard: new(bool)})
	must[api.Changed[[]api.Manifest]](t)(d.Apply(ctx, []api.Manifest{changed}, consent{}, false))
	w.checkConverged(d)
	x := must[api.Workload](t)(d.Workload("web"))
	if !x.Endpoints[0].Isolated || x.Endpoints[0].Guard {
		t.Errorf("the endpoint did not follow: %+v", x.Endpoints[0])
	}
	if resolv := must[[]byte](t)(os.ReadFile(x.Files.ResolvConf)); !strings.Contains(string(resolv), "nameserver 1.1.1.1\n") {
		t.Errorf("resolv.conf did not follow: %s", resolv)
	}
	_, err := d.Apply(ctx, []api.Manifest{network("fine", api.NetworkSpec{}), network("lab", api.NetworkSpec{Mode: "host-only"})}, consent{}, false)
	if err == nil || len(d.Networks()) != 3 {
		t.Errorf("half of a list was applied: %v", err)
	}
}

func TestDryRunsChangeNothingAndTellWhatWouldBeDone(t *testing.T) {
	w, d := furnished(t)
	ctx := context.Background()
	before, networks, workloads := w.dump(), len(d.Networks()), len(d.Workloads())
	type asked struct {
		steps []api.Step
		err   error
	}
	for name, a := range map[string]asked{
		"create network": func() asked {
			c, err := d.CreateNetwork(ctx, network("new", api.NetworkSpec{}), true)
			return asked{c.Steps, err}
		}(),
		"create workload": func() asked {
			c, err := d.CreateWorkload(ctx, api.WorkloadSpec{Name: "new"}, true)
			return asked{c.Steps, err}
		}(),
		"delete workload": func() asked { c, err := d.DeleteWorkload(ctx, "theirs", false, true); return asked{c.Steps, err} }(),
		"delete running":  func() asked { c, err := d.DeleteWorkload(ctx, "busy", true, true); return asked{c.Steps, err} }(),
		"delete network":  func() asked { c, err := d.DeleteNetwork(ctx, "lab", true, true); return asked{c.Steps, err} }(),
		"stop network":    func() asked { c, err := d.StopNetwork(ctx, "lab", true); return asked{c.Steps, err} }(),
		"start network":   func() asked { c, err := d.StartNetwork(ctx, "off", true); return asked{c.Steps, err} }(),
		"forward": func() asked {
			c, err := d.AddForwards(ctx, []api.ForwardSpec{{Publish: "81:81", Workload: "web"}}, true)
			return asked{c.Steps, err}
		}(),
		"apply": func() asked {
			c, err := d.Apply(ctx, []api.Manifest{network("new", api.NetworkSpec{})}, consent{}, true)
			return asked{c.Steps, err}
		}(),
		"uninstall": func() asked { s, err := d.Uninstall(ctx, true, false); return asked{s, err} }(),
	} {
		if a.err != nil || len(a.steps) == 0 {
			t.Errorf("%s: %d steps, error %v", name, len(a.steps), a.err)
		}
		for _, s := range a.steps {
			if s.Text == "" || s.Command == "" {
				t.Errorf("%s: step without words: %+v", name, s)
			}
		}
	}
	if w.dump() != before || len(d.Networks()) != networks || len(d.Workloads()) != workloads {
		t.Error("a dry run changed something")
	}
}

// dump is all that lasts: the kernel, the store, the journal.
func (w *world) dump() string {
	var b strings.Builder
	for _, n := range w.kernel.Namespaces() {
		b.WriteString(w.kernel.Dump(n))
	}
	snap, _ := w.store.Load(context.Background())
	for _, kind := range slices.Sorted(maps.Keys(snap.Objects)) {
		for _, name := range slices.Sorted(maps.Keys(snap.Objects[kind])) {
			fmt.Fprintf(&b, "%s %s\n", name, snap.Objects[kind][name].Data)
		}
	}
	text, _ := json.Marshal(w.journal.all)
	b.Write(text)
	return b.String()
}

func TestNetworksStopStartAndAutostart(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	ctx := context.Background()
	mustWorkload(t, d, api.WorkloadSpec{Name: "web"})
	defined := mustNetwork(t, d, "defined", api.NetworkSpec{Inactive: true})
	if defined.Status.State != stateInactive {
		t.Errorf("got %+v", defined.Status)
	}
	must[api.Changed[api.Network]](t)(d.StopNetwork(ctx, DefaultNetwork, false))
	w.checkConverged(d)
	again := must[api.Changed[api.Network]](t)(d.StopNetwork(ctx, DefaultNetwork, false))
	if len(again.Steps) != 0 || again.Object.Status.State != stateInactive {
		t.Errorf("stopped twice: %+v", again)
	}
	must[api.Changed[api.Network]](t)(d.StartNetwork(ctx, DefaultNetwork, false))
	must[api.Changed[api.Network]](t)(d.AutostartNetwork(ctx, DefaultNetwork, false, false))
	w.checkConverged(d)
	d.end(t)
	d = w.start()
	if n := must[api.Network](t)(d.Network(DefaultNetwork)); n.Status.State != stateActive {
		t.Errorf("a restart of the daemon stopped a network: %+v", n.Status)
	}
	d.end(t)
	w.boot, w.journal.all = "boot 2", map[string]model.Workload{}
	d = w.start()
	states := map[string]string{}
	for _, n := range d.Networks() {
		states[n.Name] = n.Status.State
	}
	if states[DefaultNetwork] != stateInactive || states["defined"] != stateActive {
		t.Errorf("after a reboot: %v", states)
	}
	w.checkConverged(d)
}

func TestTenAttachAtOnce(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	var all sync.WaitGroup
	for i := range 10 {
		w.kernel.AddNetns(fmt.Sprint("/run/netns/n", i))
		all.Go(func() {
			for range 10 {
				if _, err := d.CreateWorkload(context.Background(), api.WorkloadSpec{Name: fmt.Sprint("w", i), Netns: fmt.Sprint("/run/netns/n", i), Endpoints: on(DefaultNetwork)}, false); err != nil {
					t.Error(err)
				}
				d.Workloads()
				d.Networks()
				if _, err := d.DeleteWorkload(context.Background(), fmt.Sprint("w", i), false, false); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	w.checkConverged(d)
}

func TestStaticAddressesAndManyNetworks(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	mustNetwork(t, d, "lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24", Reserved: []string{"10.8.0.2"}, IPRange: "10.8.0.0/28"}, {Subnet: "fd08::/64"}}})
	x := mustWorkload(t, d, api.WorkloadSpec{Name: "web", Endpoints: []api.EndpointSpec{
		{Network: DefaultNetwork, Priority: 1},
		{Network: "lab", IPs: []string{"fd08::99"}, MAC: "02-00-5E-10-00-01", IfName: "lab0"},
	}})
	lab := x.Endpoints[1]
	if lab.IfName != "lab0" || lab.MAC != "02:00:5e:10:00:01" || !slices.Equal(lab.IPs, []string{"fd08::99/64", "10.8.0.3/24"}) {
		t.Errorf("got %+v", lab)
	}
	w.checkConverged(d)
}

func TestEventsAreRememberedAndFollowed(t *testing.T) {
	d := newWorld(t).start()
	out := ask(d.Handler(), "GET /v1/events?follow=false", "")
	var ev api.Event
	if err := json.Unmarshal(out.Body.Bytes(), &ev); err != nil || ev.Type != "ready" {
		t.Errorf("got %s, %v", out.Body, err)
	}
	for range 3 * keptEvents {
		d.event("created", "network/x", "")
	}
	d.event("created", "forward/x", "", make([]api.Step, 100_000)...)
	list, next, _ := d.events.after(0)
	if last := list[len(list)-1]; len(last.Steps) != mostSteps || !strings.Contains(last.Text, "of 100000 steps") {
		t.Errorf("an event keeps %d steps: %s", len(last.Steps), last.Text)
	}
	if len(list) != keptEvents || next < 3*keptEvents {
		t.Errorf("kept %d of %d", len(list), next)
	}
}
