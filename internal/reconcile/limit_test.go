package reconcile_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
)

// limited is view(1) with limits in both directions.
func limited(netns string) model.View {
	v := view(1)
	w := v.Workloads["w0"]
	w.Netns, w.Managed = netns, false
	w.Endpoints[0].Bandwidth = model.Bandwidth{IngressRate: 10_000_000, EgressRate: 1_000_000}
	v.Workloads["w0"] = w
	return v
}

// TestLimitsOutliveTheirLink: a container that comes back in another namespace has its veth made anew, with the limits on it.
func TestLimitsOutliveTheirLink(t *testing.T) {
	k := kerneltest.NewFake()
	k.AddNetns("/run/netns/a")
	k.AddNetns("/run/netns/b")
	r := reconcile.New(k, reconcile.Deps{})
	for _, netns := range []string{"/run/netns/a", "/run/netns/b", "/run/netns/a"} {
		v := limited(netns)
		all := parts(t, v)
		if _, err := r.Set(t.Context(), all); err != nil {
			t.Fatal(err)
		}
		converged(t, k, v)
	}
	changes, err := r.Set(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(changes); strings.Contains(text, "del qdisc") || strings.Contains(text, "del filter") || !strings.Contains(text, "del link fi-w0") {
		t.Errorf("limits go with their links, yet were deleted, or the link that they need stayed: %s", text)
	}
	if left := k.Dump(dataplane.HostNetns); strings.Contains(left, "w0") {
		t.Errorf("left is\n%s", left)
	}
}

// TestLimitsComeAndGo while the workload runs: nothing else is touched.
func TestLimitsComeAndGo(t *testing.T) {
	k := kerneltest.NewFake()
	r := reconcile.New(k, reconcile.Deps{})
	free := view(1)
	if _, err := r.Set(t.Context(), parts(t, free)); err != nil {
		t.Fatal(err)
	}
	slow := limited("/run/netns/w0")
	w := slow.Workloads["w0"]
	w.Managed = true
	slow.Workloads["w0"] = w
	for _, c := range []struct {
		to    model.View
		steps int
	}{{slow, 4}, {slow, 0}, {free, 3}} { // what is on the link for what is sent goes with it
		before := k.Steps()
		if _, err := r.Set(t.Context(), parts(t, c.to)); err != nil {
			t.Fatal(err)
		}
		if n := k.Steps() - before; n != c.steps {
			t.Errorf("%d steps, want %d", n, c.steps)
		}
		converged(t, k, c.to)
	}
}
