package agent

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// TestRefusedChangesAreTakenBack lets every single step of changes under workloads fail, with a daemon that lives on: everything is
// as before then, in the workloads too.
func TestRefusedChangesAreTakenBack(t *testing.T) {
	for _, s := range liveStories() {
		if strings.HasPrefix(s.name, "from ") && s.name != "from nat to isolated" && s.name != "from isolated to routed" && s.name != "from nat to bridged" {
			continue
		}
		t.Run(strings.ReplaceAll(s.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			for fail := 1; s.refusedAt(t, fail); fail++ {
				if t.Failed() {
					t.Fatalf("at step %d", fail)
				}
			}
		})
	}
}

// refusedAt plays a story in which the kernel refuses one step; it reports whether it came to that.
func (s crashStory) refusedAt(t *testing.T, fail int) bool {
	w := newWorld(t)
	w.kernel.AddNetns("/run/netns/theirs")
	w.bridgeable()
	var mu sync.Mutex // what was refused is tried again beside this
	armed, left, refused := false, fail, ""
	arm := func(on bool) {
		mu.Lock()
		defer mu.Unlock()
		armed = on
	}
	w.kernel.BeforeStep = func(_ int, netns string, step dataplane.Step) error {
		mu.Lock()
		defer mu.Unlock()
		if !armed || step.Op == dataplane.Del {
			return nil
		}
		if left--; left == 0 {
			refused = netns + " " + step.String()
			return errors.New("no buffer space available")
		}
		return nil
	}
	d := w.start()
	s.before(t, w, d)
	networks, workloads, forwards := d.Networks(), d.Workloads(), d.Forwards()
	arm(true)
	err := s.change(d)
	arm(false)
	if refused == "" {
		if err != nil {
			t.Fatal(err)
		}
		return false
	}
	var p model.Problem
	if !errors.As(err, &p) || p.Code != model.CodeKernelRefused {
		t.Errorf("%s: got %v, want FN3005", refused, err)
	}
	must[[]api.Step](t)(d.Repair(context.Background(), false)) // the host's namespace is repaired anyway
	w.checkConverged(d)
	same(t, refused, networks, d.Networks())
	same(t, refused, workloads, d.Workloads())
	same(t, refused, forwards, d.Forwards())
	d.end(t)
	if t.Failed() {
		t.Logf("refused: %s", refused)
	}
	return true
}

func same[T any](t *testing.T, after string, was, is []T) {
	t.Helper()
	if a, b := jsonText(t, was), jsonText(t, is); a != b {
		t.Errorf("after %s was refused:\n%s\nbefore:\n%s", after, b, a)
	}
}

func jsonText(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
