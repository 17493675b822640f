package story_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/test/rig"
)

// ip netns del X; ip netns add X: what was in the first X is never put into the second one, however soon that comes.
func TestTheNextNamespaceAtThePath(t *testing.T) {
	o := newOffice(t)
	h := rig.New(t, o.host)
	path := o.host.Path + "-x" // beside the others that this test made
	t.Cleanup(func() { _ = netns.Delete(path) })
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	stands := kerneltest.At(t, "x", path)
	for round := range 20 {
		do(netns.Create(path))
		spec := api.WorkloadSpec{Name: "w", Netns: path, Endpoints: []api.EndpointSpec{{}}}
		_, err := h.Client().CreateWorkload(context.Background(), spec)
		do(err)
		has(t, stands.Run("ip", "link"), "eth0")
		do(netns.Delete(path))
		time.Sleep(time.Duration(round%7) * time.Millisecond)
		do(netns.Create(path))
		for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if links := stands.Run("ip", "-o", "link"); strings.Contains(links, "eth0") {
				t.Fatalf("round %d: the next namespace has\n%s", round, links)
			}
		}
		h.Flatnet("rm", "w")
		do(netns.Delete(path))
	}
}
