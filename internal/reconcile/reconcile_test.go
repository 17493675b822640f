package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
	"github.com/flatnet/flatnet/internal/render"
)

// view is a nat network with n workloads w0, w1, ….
func view(n int) model.View {
	v := model.View{
		Networks: map[string]model.Network{"lab": {Name: "lab", Mode: model.NAT, Active: true, Subnets: []model.Subnet{
			{Prefix: netip.MustParsePrefix("10.66.0.0/24"), Gateway: netip.MustParseAddr("10.66.0.1")}}}},
		Workloads: map[string]model.Workload{},
	}
	for i := range n {
		w := workload(i)
		v.Workloads[w.Name] = w
	}
	return v
}

func workload(i int) model.Workload {
	name := fmt.Sprintf("w%d", i)
	return model.Workload{Name: name, Netns: "/run/netns/" + name, Managed: true, Endpoints: []model.Endpoint{{
		Network: "lab", IfName: "eth0", MAC: model.EndpointMAC(name, "lab"),
		Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 66, 0, byte(2 + i)})}}}}
}

func parts(t *testing.T, v model.View) map[string]dataplane.Host {
	t.Helper()
	p, err := render.Parts(v)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// converged fails unless the kernel has exactly what the view renders to.
func converged(t *testing.T, k *kerneltest.Fake, v model.View) {
	t.Helper()
	host, err := render.Host(v)
	if err != nil {
		t.Fatal(err)
	}
	for netns, want := range host.Netns {
		have, err := k.Observe(t.Context(), netns)
		if err != nil {
			t.Fatal(err)
		}
		if p := dataplane.Diff(want, have); len(p) > 0 {
			t.Errorf("netns %q lacks:\n%s", netns, p)
		}
	}
	if len(host.Netns) == 0 {
		have, err := k.Observe(t.Context(), dataplane.HostNetns)
		if err != nil || len(have) > 0 {
			t.Errorf("left behind: %s (%v)", kerneltest.Text(have), err)
		}
	}
}

func TestSetThenPutOnePart(t *testing.T) {
	k := kerneltest.NewFake()
	r := reconcile.New(k, reconcile.Deps{})
	if _, err := r.Set(t.Context(), parts(t, view(2))); err != nil {
		t.Fatal(err)
	}
	converged(t, k, view(2))

	before := k.Steps()
	three := view(3)
	if _, err := r.Put(t.Context(), map[string]dataplane.Host{"workload/w2": parts(t, three)["workload/w2"]}); err != nil {
		t.Fatal(err)
	}
	converged(t, k, three)
	if n := k.Steps() - before; n > 20 {
		t.Errorf("one workload cost %d steps", n)
	}

	changes, err := r.Put(t.Context(), map[string]dataplane.Host{"workload/w2": {}})
	if err != nil {
		t.Fatal(err)
	}
	converged(t, k, view(2))
	if len(changes) != 1 {
		t.Errorf("the kernel takes the far end along, yet it was sent: %v", changes)
	}

	if _, err := r.Set(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	converged(t, k, model.View{})
}

func TestNothingToDoSendsNothing(t *testing.T) {
	k := kerneltest.NewFake()
	r := reconcile.New(k, reconcile.Deps{})
	if _, err := r.Set(t.Context(), parts(t, view(3))); err != nil {
		t.Fatal(err)
	}
	before := k.Steps()
	for range 3 {
		if changes, err := r.Set(t.Context(), parts(t, view(3))); err != nil || len(changes) > 0 {
			t.Errorf("changes %v, error %v", changes, err)
		}
		if changes, err := r.Repair(t.Context()); err != nil || len(changes) > 0 {
			t.Errorf("repaired %v, error %v", changes, err)
		}
	}
	if k.Steps() != before {
		t.Errorf("%d steps were sent", k.Steps()-before)
	}
}

func TestPreviewTouchesNothing(t *testing.T) {
	k := kerneltest.NewFake()
	r := reconcile.New(k, reconcile.Deps{})
	if _, err := r.Set(t.Context(), parts(t, view(1))); err != nil {
		t.Fatal(err)
	}
	before := k.Steps()
	preview, err := r.Preview(parts(t, view(2)), true)
	if err != nil || k.Steps() != before {
		t.Fatalf("preview: %v, %d steps", err, k.Steps()-before)
	}
	done, err := r.Set(t.Context(), parts(t, view(2)))
	if err != nil || fmt.Sprint(done) != fmt.Sprint(preview) {
		t.Errorf("done\n%v\nforetold\n%v (%v)", done, preview, err)
	}
}

func TestTwoPartsCantClaimOneObject(t *testing.T) {
	r := reconcile.New(kerneltest.NewFake(), reconcile.Deps{})
	claim := func(mtu int) dataplane.Host {
		var h dataplane.Host
		_ = h.State("").Put(dataplane.Link{Name: "br0", Kind: dataplane.Bridge, Owner: "net/a", MTU: mtu})
		return h
	}
	if _, err := r.Put(t.Context(), map[string]dataplane.Host{"a": claim(1500)}); err != nil {
		t.Fatal(err)
	}
	_, err := r.Put(t.Context(), map[string]dataplane.Host{"b": claim(1400)})
	if err == nil || !strings.Contains(err.Error(), "another part wants") {
		t.Errorf("error %v", err)
	}
	if _, err := r.Put(t.Context(), map[string]dataplane.Host{"a": {}, "b": claim(1400)}); err != nil {
		t.Errorf("moving an object from part to part: %v", err)
	}
}

// Whatever is taken away in the host's namespace comes back; a workload's own doings stay and are reported.
func TestDriftIsRepairedOnTheHostAndReportedInWorkloads(t *testing.T) {
	k := kerneltest.NewFake()
	var repaired int
	r := reconcile.New(k, reconcile.Deps{Repaired: func(c []reconcile.Change) { repaired++ }})
	v := view(2)
	if _, err := r.Set(t.Context(), parts(t, v)); err != nil {
		t.Fatal(err)
	}
	have, err := k.Observe(t.Context(), dataplane.HostNetns)
	if err != nil {
		t.Fatal(err)
	}
	for key := range have {
		if _, netns := key.(dataplane.Netns); netns {
			continue
		}
		if err := k.Delete(dataplane.HostNetns, key); err != nil && !errors.Is(err, syscall.EBUSY) {
			t.Fatalf("delete %s: %v", key, err)
		}
		if _, err := r.Repair(t.Context()); err != nil {
			t.Fatalf("after %s was deleted: %v", key, err)
		}
		converged(t, k, v)
	}
	k.FlushNFT(dataplane.HostNetns)
	if _, err := r.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	converged(t, k, v)

	was := repaired
	inner := dataplane.Address{Link: "eth0", Prefix: netip.MustParsePrefix("10.66.0.2/24")}
	if err := k.Delete("/run/netns/w0", inner.Key()); err != nil {
		t.Fatal(err)
	}
	if changes, err := r.Repair(t.Context()); err != nil || len(changes) > 0 || repaired != was {
		t.Errorf("repaired in a workload: %v (%v)", changes, err)
	}
	drift, err := r.Drift(t.Context())
	if err != nil || len(drift) != 1 || drift[0].Netns != "/run/netns/w0" {
		t.Errorf("drift %v (%v)", drift, err)
	}
}

// Killed between any two steps of building up or taking down, the next start converges.
func TestCrashBetweenAnySteps(t *testing.T) {
	stories := map[string][2]model.View{
		"build up":  {model.View{}, view(2)},
		"attach":    {view(1), view(2)},
		"detach":    {view(2), view(1)},
		"take down": {view(2), model.View{}},
	}
	for name, story := range stories {
		t.Run(name, func(t *testing.T) {
			for n := 1; ; n++ {
				if crashed := crashAt(t, n, story[0], story[1]); !crashed {
					if n < 5 {
						t.Errorf("only %d steps", n)
					}
					return
				}
			}
		})
	}
}

func crashAt(t *testing.T, n int, from, to model.View) bool {
	k := kerneltest.NewFake()
	start, steps := 0, 0
	crashed := false
	k.BeforeStep = func(int, string, dataplane.Step) error {
		steps++
		if start > 0 && steps == start+n {
			crashed = true
			return kerneltest.ErrCrash
		}
		return nil
	}
	r := reconcile.New(k, reconcile.Deps{})
	if _, err := r.Set(t.Context(), parts(t, from)); err != nil {
		t.Fatal(err)
	}
	start = max(steps, 1)
	if steps == 0 {
		steps = 1
	}
	_, _ = r.Set(t.Context(), parts(t, to))
	k.Revive()
	k.BeforeStep = nil
	again := reconcile.New(k, reconcile.Deps{})
	if _, err := again.Set(t.Context(), parts(t, to)); err != nil {
		t.Fatalf("start after a crash at step %d: %v", n, err)
	}
	for name := range to.Workloads {
		if _, before := from.Workloads[name]; !before {
			if err := again.Complete(t.Context(), to.Workloads[name].Netns); err != nil {
				t.Fatalf("complete after a crash at step %d: %v", n, err)
			}
		}
	}
	converged(t, k, to)
	return crashed
}

// Any sequence of views, with drift in between, ends where the last view says.
func TestRandomViewsConverge(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	k := kerneltest.NewFake()
	r := reconcile.New(k, reconcile.Deps{})
	for range 200 {
		v := view(rnd.IntN(4))
		n := v.Networks["lab"]
		n.NoHostAdapter = rnd.IntN(2) == 0
		n.Mode = []model.Mode{model.NAT, model.HostOnly, model.Isolated}[rnd.IntN(3)]
		n.Active = rnd.IntN(5) > 0
		v.Networks["lab"] = n
		if _, err := r.Set(t.Context(), parts(t, v)); err != nil {
			t.Fatal(err)
		}
		converged(t, k, v)
		have, _ := k.Observe(t.Context(), dataplane.HostNetns)
		for key := range maps.Keys(have) {
			if _, netns := key.(dataplane.Netns); !netns && rnd.IntN(10) == 0 {
				_ = k.Delete(dataplane.HostNetns, key)
			}
		}
		if _, err := r.Repair(t.Context()); err != nil {
			t.Fatal(err)
		}
		converged(t, k, v)
	}
}

// A hint about something that others changed leads to a pass at once; one about our own change to none.
func TestHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := kerneltest.NewFake()
		r := reconcile.New(k, reconcile.Deps{})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		v := view(1)
		if _, err := r.Set(ctx, parts(t, v)); err != nil {
			t.Fatal(err)
		}
		have, _ := k.Observe(ctx, dataplane.HostNetns)
		passes := r.Stats().Passes
		for _, o := range have {
			r.Hint(reconcile.Hint{Object: o})
		}
		time.Sleep(time.Second)
		if r.Stats().Passes != passes {
			t.Error("our own changes led to a pass")
		}
		addr := dataplane.Address{Link: "fn-lab", Prefix: netip.MustParsePrefix("10.66.0.1/24")}
		_ = k.Delete(dataplane.HostNetns, addr.Key())
		r.Hint(reconcile.Hint{Object: addr, Gone: true})
		time.Sleep(50 * time.Millisecond)
		converged(t, k, v)
		k.FlushNFT(dataplane.HostNetns)
		r.Hint(reconcile.Hint{Resync: true})
		time.Sleep(50 * time.Millisecond)
		converged(t, k, v)
		stop()
		<-done
	})
}

// counted is a kernel that counts plans, as the real one.
type counted struct {
	*kerneltest.Fake
	plans uint64
}

func (c *counted) Applied() uint64 { return c.plans }

func (c *counted) Apply(ctx context.Context, netns string, p dataplane.Plan) error {
	if netns == dataplane.HostNetns {
		c.plans++
	}
	return c.Fake.Apply(ctx, netns, p)
}

// A hint about our own change that comes when we have changed more leads to no pass; one about others' changes does, even if
// they make again what we had made before.
func TestLateHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &counted{Fake: kerneltest.NewFake()}
		r := reconcile.New(k, reconcile.Deps{})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		if _, err := r.Set(ctx, parts(t, view(0))); err != nil {
			t.Fatal(err)
		}
		all := parts(t, view(1))
		var name string
		var port dataplane.Object
		for part, host := range all {
			for _, o := range host.Netns[dataplane.HostNetns] {
				if l, ok := o.(dataplane.Link); ok && l.Kind == dataplane.Veth {
					name, port = part, o
				}
			}
		}
		put := func(host dataplane.Host) {
			t.Helper()
			if _, err := r.Put(ctx, map[string]dataplane.Host{name: host}); err != nil {
				t.Fatal(err)
			}
		}
		hint := func(h reconcile.Hint, want uint64) {
			t.Helper()
			before := r.Stats().Passes
			r.Hint(h)
			time.Sleep(time.Second)
			if got := r.Stats().Passes - before; got != want {
				t.Errorf("%+v: %d passes, want %d", h, got, want)
			}
		}
		put(all[name])
		attached := k.Applied()
		put(dataplane.Host{})
		detached := k.Applied()
		put(all[name])
		now := k.Applied()
		is := func(plans uint64) reconcile.Hint { return reconcile.Hint{Object: port, Applied: plans} }
		gone := func(plans uint64) reconcile.Hint { return reconcile.Hint{Object: port, Applied: plans, Gone: true} }
		for _, own := range []reconcile.Hint{gone(attached - 1), is(attached), gone(detached), is(now), is(0)} {
			hint(own, 0)
		}
		for _, others := range []reconcile.Hint{gone(attached), is(detached), gone(now), gone(0)} {
			hint(others, 1)
		}
		stop()
		<-done
	})
}
