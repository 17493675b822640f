package reconcile_test

import (
	"context"
	"testing"

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
