package agent

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
)

func TestALookIsGoodForAWhile(t *testing.T) {
	var l looks
	now := time.Unix(1e9, 0)
	looked := 0
	ask := func() look {
		return l.recent(now, func() look { looked++; return look{at: now} })
	}
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{0, 1}, {0, 1}, {lookAge, 1}, {time.Second, 2}, {time.Second, 2}} {
		now = now.Add(step.after)
		if ask(); looked != step.want {
			t.Fatalf("after %s looked %d times, want %d", step.after, looked, step.want)
		}
	}
	l.note(look{})
	if ask(); looked != 3 {
		t.Errorf("after a repair looked %d times", looked)
	}
}

// Status tells at once what the daemon knows, and of what needs a look what the last one found, also that of doctor.
func TestStatusTellsWhatTheLastLookFound(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	ctx := context.Background()
	mustWorkload(t, d, api.WorkloadSpec{Name: "web"})
	status := func() int {
		t.Helper()
		s := must[api.Status](t)(d.Status(ctx))
		if s.Looked.IsZero() {
			t.Error("it does not say when it looked")
		}
		return len(s.Findings)
	}
	if n := status(); n != 0 {
		t.Errorf("%d findings while all is well", n)
	}
	if err := w.kernel.Delete("/run/netns/web", dataplane.Route{Dest: netip.MustParsePrefix("0.0.0.0/0")}); err != nil {
		t.Fatal(err)
	}
	if n := status(); n != 0 {
		t.Errorf("%d findings: it looked again at once", n)
	}
	must[[]api.Finding](t)(d.Doctor(ctx))
	if n := status(); n != 1 {
		t.Errorf("%d findings after doctor found one", n)
	}
	must[[]api.Step](t)(d.Fix(ctx, FindingInnerDrift, false))
	if n := status(); n != 0 {
		t.Errorf("%d findings after it was mended", n)
	}
}
