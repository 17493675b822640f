package agent

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/store"
)

// Of an address that goes from one workload to another the host forgets whose it was, and of no other one: an attachment costs nothing more.
func TestTheHostForgetsWhoHadAnAddress(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	mustNetwork(t, d, "lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}}})
	attach := func(name string, ip string) {
		mustWorkload(t, d, api.WorkloadSpec{Name: name, Endpoints: []api.EndpointSpec{{Network: "lab", IPs: []string{ip}}}})
		if _, err := d.DeleteWorkload(context.Background(), name, false, false); err != nil {
			t.Fatal(err)
		}
	}
	attach("one", "10.8.0.7")
	attach("one", "10.8.0.7")
	attach("two", "10.8.0.7")
	attach("two", "10.8.0.8")
	w.host.mu.Lock()
	defer w.host.mu.Unlock()
	forgotten := slices.DeleteFunc(slices.Clone(w.host.flushed), func(s string) bool { return !strings.HasPrefix(s, "neighbour ") })
	if got := strings.Join(forgotten, "\n"); got != "neighbour 10.8.0.7 of fn-lab in " {
		t.Errorf("forgotten:\n%s", got)
	}
}

// A workload gets its address on a network of the cluster back after a restart, also when it ended just before that, and nobody else does.
func TestAddressesOnClusterNetworksAreRememberedOverARestart(t *testing.T) {
	hub := store.NewHub(time.Hour, time.Minute, store.Boottime)
	w, _ := newNode(t, hub, 1)
	w.cluster = func() store.Cluster { return hub.Client() }
	d := w.start()
	ctx := context.Background()
	if _, err := d.CreateNetwork(ctx, pods(), false); err != nil {
		t.Fatal(err)
	}
	address := func(name string) string {
		x := mustWorkload(t, d, api.WorkloadSpec{Name: name, Endpoints: on("pods")})
		if _, err := d.DeleteWorkload(ctx, name, false, false); err != nil {
			t.Fatal(err)
		}
		return x.Endpoints[0].IPs[0]
	}
	before := address("web")
	for _, cache := range []string{"kept", "lost"} {
		if err := d.end(t); err != nil {
			t.Fatal(err)
		}
		if cache == "lost" {
			if err := os.Remove(d.cache().Path()); err != nil {
				t.Fatal(err)
			}
		}
		d = w.start()
		eventually(t, "the block is back", func() bool { n, err := d.Network("pods"); return err == nil && len(n.Status.Subnets) == 1 })
		if other := address("db"); other == before {
			t.Errorf("cache %s: another workload got %s", cache, other)
		}
		if after := address("web"); after != before {
			t.Errorf("cache %s: it had %s and got %s", cache, before, after)
		}
	}
}
