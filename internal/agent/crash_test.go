package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/model"
)

// crashStory is one change that the daemon may die in.
type crashStory struct {
	name   string
	before func(t *testing.T, w *world, d *daemon) // what is there already
	change func(d *daemon) error
}

func crashStories() []crashStory {
	ctx := context.Background()
	create := func(name string, spec api.WorkloadSpec) func(*daemon) error {
		return func(d *daemon) error {
			spec.Name = name
			_, err := d.CreateWorkload(ctx, spec, false)
			return err
		}
	}
	publish := func(what ...string) func(*daemon) error {
		return func(d *daemon) error {
			var specs []api.ForwardSpec
			for _, p := range what {
				specs = append(specs, api.ForwardSpec{Publish: p, Workload: "web"})
			}
			_, err := d.AddForwards(ctx, specs, false)
			return err
		}
	}
	do := func(steps ...func(*daemon) error) func(*testing.T, *world, *daemon) {
		return func(t *testing.T, w *world, d *daemon) {
			t.Helper()
			for _, s := range steps {
				if err := s(d); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	lab := func(d *daemon) error {
		_, err := d.CreateNetwork(ctx, network("lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}, {Subnet: "fd08::/64"}}}), false)
		return err
	}
	cable := func(d *daemon) error {
		_, err := d.CreateNetwork(ctx, network("wire", api.NetworkSpec{Mode: "cable"}), false)
		return err
	}
	run := func(d *daemon) error {
		if err := create("web", api.WorkloadSpec{Endpoints: on("lab"), Publish: []string{"8080:80"}})(d); err != nil {
			return err
		}
		_, err := d.SetProcess(ctx, "web", api.Process{PID: 4711, Command: "httpd"})
		return err
	}
	deleteNetwork := func(force bool) func(*daemon) error {
		return func(d *daemon) error {
			_, err := d.DeleteNetwork(ctx, "lab", force, false)
			return err
		}
	}
	remove := func(name string) func(*daemon) error {
		return func(d *daemon) error {
			_, err := d.DeleteWorkload(ctx, name, false, false)
			return err
		}
	}
	web, foreign := api.WorkloadSpec{Endpoints: on("lab")}, api.WorkloadSpec{Endpoints: on("lab"), Netns: "/run/netns/theirs"}
	slow := api.WorkloadSpec{Endpoints: []api.EndpointSpec{{Network: "lab", Bandwidth: &api.Bandwidth{IngressRate: 10_000_000, EgressRate: 1_000_000}}}}
	return []crashStory{
		{"create a network", do(), lab},
		{"create a workload", do(lab), create("web", web)},
		{"create a workload that publishes", do(lab), create("web", api.WorkloadSpec{Endpoints: on("lab"), Publish: []string{"8080:80", "5000-5010:5000-5010/udp"}})},
		{"create a workload on two networks", do(lab), create("web", api.WorkloadSpec{Endpoints: append(on("lab"), on("default")...)})},
		{"attach", do(lab), create("web", foreign)},
		{"create a workload with limits", do(lab), create("slow", slow)},
		{"delete a workload with limits", do(lab, create("slow", slow)), remove("slow")},
		{"attach the second end of a cable", do(cable, create("a", api.WorkloadSpec{Endpoints: on("wire")})), create("b", api.WorkloadSpec{Endpoints: on("wire")})},
		{"detach", do(lab, create("web", foreign)), remove("web")},
		{"delete a workload", do(lab, create("web", web), create("other", web)), remove("web")},
		{"detach one end of a cable", do(cable, create("a", api.WorkloadSpec{Endpoints: on("wire")}), create("b", api.WorkloadSpec{Endpoints: on("wire")})), remove("a")},
		{"add forwards", do(lab, create("web", web)), publish("8080:80", "8081:81/udp", "9000-9005:7000-7005")},
		{"remove forwards", do(lab, create("web", web), publish("8080:80", "8081:81/udp")), func(d *daemon) error {
			_, err := d.RemoveForwards(ctx, []string{"tcp/8080", "udp/8081"}, false)
			return err
		}},
		{"remove a workload's forward", do(lab, create("web", api.WorkloadSpec{Endpoints: on("lab"), Publish: []string{"8080:80"}})), func(d *daemon) error {
			_, err := d.RemoveForwards(ctx, []string{"tcp/8080"}, false)
			return err
		}},
		{"delete a network", do(lab), deleteNetwork(false)},
		{"delete a network by force", do(lab, create("web", web), publish("8080:80")), deleteNetwork(true)},
		{"stop a network", do(lab, create("web", web)), func(d *daemon) error { _, err := d.StopNetwork(ctx, "lab", false); return err }},
		{"start a network", func(t *testing.T, w *world, d *daemon) {
			do(lab, create("web", web), func(d *daemon) error { _, err := d.StopNetwork(ctx, "lab", false); return err })(t, w, d)
		}, func(d *daemon) error { _, err := d.StartNetwork(ctx, "lab", false); return err }},
		{"begin a process", do(lab, create("web", web)), func(d *daemon) error {
			_, err := d.SetProcess(ctx, "web", api.Process{PID: 4711, Command: "httpd"})
			return err
		}},
		{"end a process", do(lab, run), func(d *daemon) error {
			_, err := d.SetProcess(ctx, "web", api.Process{PID: 4711, Exited: true, Code: 3})
			return err
		}},
		{"apply", do(lab, create("web", web)), func(d *daemon) error {
			_, err := d.Apply(ctx, []api.Manifest{
				network("lab", api.NetworkSpec{IsolatePorts: true, MTU: 1400, Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}, {Subnet: "fd08::/64"}, {Subnet: "10.9.0.0/24"}}}),
				network("more", api.NetworkSpec{Mode: "host-only"}),
				{APIVersion: api.APIVersion, Kind: api.KindForward, Forward: &api.ForwardSpec{Publish: "8080:80", Workload: "web", Network: "lab"}},
			}, consent{}, false)
			return err
		}},
		{"uninstall", do(lab, create("web", web), publish("8080:80")), func(d *daemon) error { _, err := d.Uninstall(ctx, false, false); return err }},
	}
}

// TestTheNextStartConverges lets the daemon die before every single effect of every kind of change.
func TestTheNextStartConverges(t *testing.T) {
	for _, s := range append(crashStories(), liveStories()...) {
		t.Run(strings.ReplaceAll(s.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			for n := 0; ; n++ {
				if !s.dieAfter(t, n) {
					if n < 1 {
						t.Errorf("%d effects: the story shows nothing", n)
					}
					return
				}
				if t.Failed() {
					t.Fatalf("died after %d effects", n)
				}
			}
		})
	}
}

// dieAfter plays a story in which the daemon dies after n effects; it reports whether it came to that.
func (s crashStory) dieAfter(t *testing.T, n int) (died bool) {
	w := newWorld(t)
	w.kernel.AddNetns("/run/netns/theirs")
	w.bridgeable()
	w.procs.alive[4711] = 99
	w.procs.watched = map[string]int{}
	d := w.start()
	s.before(t, w, d)
	was := w.names(d)

	w.fuse.arm(n)
	err := s.change(d)
	died, steps := w.fuse.disarm()
	if !died && err != nil {
		t.Fatalf("after all its effects:\n%s\ngot error %v", strings.Join(steps, "\n"), err)
	}
	d.end(t)
	w.kernel.Revive()

	d = w.launch()
	select {
	case <-d.Ready():
		w.checkConverged(d)
		w.checkWhole(d, was, steps)
	case err := <-d.done:
		d.done <- err
		if !errors.Is(err, ErrUninstalled) {
			t.Fatalf("after %q the daemon does not start: %v", steps, err)
		}
		w.checkNothingLeft()
	}
	d.end(t)
	if t.Failed() {
		t.Logf("it had done:\n%s", strings.Join(steps, "\n"))
	}
	return died
}

// names are the workloads and networks that are asked for.
func (w *world) names(d *daemon) string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return fmt.Sprint(len(d.state.view.Workloads), len(d.state.view.Networks), len(d.state.view.Forwards))
}

// checkWhole proves that what was asked for still can be: everything is removed, and nothing is left but what was foreign.
func (w *world) checkWhole(d *daemon, _ string, _ []string) {
	w.t.Helper()
	ctx := context.Background()
	for _, x := range d.Workloads() {
		if x.State == workloadRunning {
			must[api.Workload](w.t)(d.SetProcess(ctx, x.Name, api.Process{PID: 4711, Exited: true}))
		}
		must[api.Changed[api.Workload]](w.t)(d.DeleteWorkload(ctx, x.Name, false, false))
	}
	for _, n := range d.Networks() {
		must[api.Changed[api.Network]](w.t)(d.DeleteNetwork(ctx, n.Name, true, false))
	}
	d.mu.RLock()
	left := len(d.state.used) + len(d.state.macs) + len(d.state.netns) + len(d.state.joined)
	d.mu.RUnlock()
	if left != 0 {
		w.t.Errorf("%d things are leaked in the indexes", left)
	}
	w.checkNothingLeft()
}

// checkNothingLeft fails when the kernel still has anything of ours.
func (w *world) checkNothingLeft() {
	w.t.Helper()
	for _, netns := range w.kernel.Namespaces() {
		have := must[dataplane.State](w.t)(w.kernel.Observe(context.Background(), netns))
		delete(have, dataplane.Link{Name: "lo"})
		if len(have) > 0 {
			w.t.Errorf("left in namespace %q:\n%s", netns, kerneltest.Text(have))
		}
	}
	if len(w.journal.all) > 0 {
		w.t.Errorf("left in the journal: %v", w.journal.all)
	}
}

// TestTheKernelRefuses lets every single step of a creation fail, with a daemon that lives on: it takes the change back.
func TestTheKernelRefuses(t *testing.T) {
	ctx := context.Background()
	for fail := 1; ; fail++ {
		w := newWorld(t)
		d := w.start()
		must[api.Changed[api.Network]](t)(d.CreateNetwork(ctx, network("lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}}}), false))
		first, refused := w.kernel.Steps(), false
		d.end(t)
		w.kernel.BeforeStep = func(n int, netns string, s dataplane.Step) error {
			if n == first+fail && s.Op == dataplane.Add {
				refused = true
				return errors.New("no buffer space available")
			}
			return nil
		}
		d = w.start()
		before := len(d.Workloads())
		_, err := d.CreateWorkload(ctx, api.WorkloadSpec{Name: "web", Endpoints: on("lab")}, false)
		switch {
		case !refused && err != nil:
			t.Fatal(err)
		case !refused:
			return
		case err == nil:
			t.Fatalf("step %d was refused, and nobody was told", fail)
		}
		var p model.Problem
		if !errors.As(err, &p) || p.Code != model.CodeKernelRefused || !strings.Contains(p.Reason, "no buffer space") {
			t.Errorf("got %v, want FN3005 with the kernel's words", err)
		}
		if len(d.Workloads()) != before || len(w.journal.all) != 0 {
			t.Errorf("step %d was refused, and the workload is still listed", fail)
		}
		w.checkConverged(d)
		d.end(t)
	}
}
