package reconcile_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
)

// looked is a kernel that counts how often workloads' namespaces are looked at.
type looked struct {
	*kerneltest.Fake
	inside int
}

func (l *looked) Observe(ctx context.Context, netns string) (dataplane.State, error) {
	if netns != dataplane.HostNetns {
		l.inside++
	}
	return l.Fake.Observe(ctx, netns)
}

// To put all ports into a new bridge takes no look into the workloads, of which there may be a thousand; a veth that is made anew has a
// new end there.
func TestOnlyNewLinksAreFollowedIntoWorkloads(t *testing.T) {
	k := &looked{Fake: kerneltest.NewFake()}
	r := reconcile.New(k, reconcile.Deps{})
	v := view(5)
	if _, err := r.Set(t.Context(), parts(t, v)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		gone string
		want int
	}{{"fn-lab", 0}, {model.HostLinkName("w0", "eth0"), 1}} {
		if err := k.Delete(dataplane.HostNetns, dataplane.Link{Name: c.gone}.Key()); err != nil {
			t.Fatal(err)
		}
		k.inside = 0
		if _, err := r.Repair(t.Context()); err != nil {
			t.Fatal(err)
		}
		if k.inside != c.want {
			t.Errorf("after the deletion of %s %d workloads were looked into, want %d", c.gone, k.inside, c.want)
		}
		converged(t, k.Fake, v)
	}
}

// raced is a kernel in which somebody takes a link away between the look and the change of it.
type raced struct {
	*kerneltest.Fake
	takes string
}

func (r *raced) Apply(ctx context.Context, netns string, p dataplane.Plan) error {
	if key := (dataplane.Link{Name: r.takes}).Key(); r.takes != "" && netns == dataplane.HostNetns {
		r.takes = ""
		if err := r.Delete(dataplane.HostNetns, key); err != nil {
			return err
		}
	}
	return r.Fake.Apply(ctx, netns, p)
}

// A port is set down and taken away while it is set up again, or while its network's MTU changes: the container gets a new end with all that
// was on the old one, and what was refused is not left for the pass in five minutes.
func TestALinkGoesWhileItIsChanged(t *testing.T) {
	k := &raced{Fake: kerneltest.NewFake()}
	repaired := make(chan []reconcile.Change, 1)
	r := reconcile.New(k, reconcile.Deps{Repaired: func(c []reconcile.Change) { repaired <- c }})
	v := view(2)
	if _, err := r.Set(t.Context(), parts(t, v)); err != nil {
		t.Fatal(err)
	}
	port := model.HostLinkName("w0", "eth0")
	have, err := k.Observe(t.Context(), dataplane.HostNetns)
	if err != nil {
		t.Fatal(err)
	}
	down := have[dataplane.Link{Name: port}.Key()].(dataplane.Link)
	down.Up = false
	if err := k.Change(dataplane.HostNetns, down); err != nil {
		t.Fatal(err)
	}
	k.takes = port
	if _, err := r.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-repaired
	converged(t, k.Fake, v)

	small := view(2)
	for name, n := range small.Networks {
		n.MTU = 1400
		small.Networks[name] = n
	}
	refused := func() {
		t.Helper()
		k.takes = port
		if _, err := r.Put(t.Context(), parts(t, small)); err == nil {
			t.Fatal("a port that went while it was changed is no error")
		}
	}
	refused()
	if _, err := r.Put(t.Context(), parts(t, v)); err != nil { // as the agent takes the change back
		t.Fatal(err)
	}
	converged(t, k.Fake, v)
	refused()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	go r.Run(ctx)
	select {
	case <-repaired:
	case <-ctx.Done():
		t.Fatal("nobody repairs what a refused change has found")
	}
	cancel()
	converged(t, k.Fake, small)
}

// blinded is a kernel that cannot be looked at once something was done.
type blinded struct {
	*kerneltest.Fake
	blind bool
}

func (b *blinded) Apply(ctx context.Context, netns string, p dataplane.Plan) error {
	b.blind = netns == dataplane.HostNetns
	return b.Fake.Apply(ctx, netns, p)
}

func (b *blinded) Observe(ctx context.Context, netns string) (dataplane.State, error) {
	if b.blind {
		b.blind = false
		return nil, errors.New("interrupted")
	}
	return b.Fake.Observe(ctx, netns)
}

// A port is made anew, and before the container's end is set up the pass fails: a change of the network does not pass for that.
func TestAChangeMeetsAnIncompleteWorkload(t *testing.T) {
	k := &blinded{Fake: kerneltest.NewFake()}
	r := reconcile.New(k, reconcile.Deps{})
	v := view(2)
	if _, err := r.Set(t.Context(), parts(t, v)); err == nil {
		t.Fatal("a look that fails is no error")
	}
	if _, err := r.Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := k.Delete(dataplane.HostNetns, dataplane.Link{Name: model.HostLinkName("w0", "eth0")}.Key()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Repair(t.Context()); err == nil {
		t.Fatal("a look that fails is no error")
	}
	n := v.Networks["lab"]
	n.MTU = 1400
	v.Networks["lab"] = n
	if _, err := r.Put(t.Context(), parts(t, v)); err != nil {
		t.Fatal(err)
	}
	k.blind = false
	converged(t, k.Fake, v)
}

// A change fails halfway inside a container, and is taken back: nothing of it stays, also of what does not go with a link.
func TestWhatFailedHalfwayIsTakenBack(t *testing.T) {
	const netns = "/run/netns/c"
	k := kerneltest.NewFake()
	k.AddNetns(netns)
	r := reconcile.New(k, reconcile.Deps{})
	if _, err := r.Set(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	end := dataplane.Link{Name: "lo", Kind: dataplane.Loopback, Up: true}
	rule := dataplane.RouteRule{Priority: 15700, From: netip.MustParseAddr("10.0.0.2"), Table: 15700}
	part := dataplane.Host{Netns: map[string]dataplane.State{netns: {end.Key(): end, rule.Key(): rule}}}
	k.BeforeStep = func(_ int, _ string, s dataplane.Step) error {
		if s.Object == dataplane.Object(end) && s.Op != dataplane.Del {
			return errors.New("refused")
		}
		return nil
	}
	if _, err := r.Put(t.Context(), map[string]dataplane.Host{"workload/c": part}); err == nil {
		t.Fatal("what the kernel refuses is no error")
	}
	if _, err := r.Put(t.Context(), map[string]dataplane.Host{"workload/c": {}}); err != nil { // as the agent takes the change back
		t.Fatal(err)
	}
	if left := k.Dump(netns); strings.Contains(left, "15700") {
		t.Errorf("left in the container:\n%s", left)
	}
}
