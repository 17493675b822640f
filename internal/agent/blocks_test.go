package agent

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// ipsOf are the addresses that workloads have, by workload.
func ipsOf(t *testing.T, d *daemon) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, w := range d.Workloads() {
		for _, e := range w.Endpoints {
			all[w.Name] = strings.TrimSpace(all[w.Name] + " " + strings.Join(e.IPs, " "))
		}
	}
	return all
}

// However workloads come and go and flatnetd restarts, while the host grows to several blocks and gives some back: each workload has one address,
// nobody else has that, and it stays as long as the workload does.
func TestWorkloadsOfSeveralBlocksKeepOneAddressEach(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			hub := store.NewHub(time.Hour, time.Minute, store.Boottime)
			w, _ := newNode(t, hub, 1)
			w.cluster = func() store.Cluster { return hub.Client() }
			d, ctx, dice := w.start(), context.Background(), rand.New(rand.NewPCG(seed, 0))
			m := pods()
			m.Network.Cluster.Pools = []api.PoolSpec{{Subnet: "10.90.0.0/25", Block: 29}}
			must[api.Changed[api.Network]](t)(d.CreateNetwork(ctx, m, false))
			given, most := map[string]string{}, 0
			for step := range 60 {
				switch n := dice.IntN(10); {
				case n < 6:
					name := fmt.Sprintf("w%d", step)
					must[api.Changed[api.Workload]](t)(d.CreateWorkload(ctx, api.WorkloadSpec{Name: name, Endpoints: on("pods")}, false))
					given[name] = ipsOf(t, d)[name]
				case n < 8 && len(given) > 0:
					names := slices.Sorted(maps.Keys(given))
					name := names[dice.IntN(len(names))]
					must[api.Changed[api.Workload]](t)(d.DeleteWorkload(ctx, name, false, false))
					delete(given, name)
				default:
					if err := d.end(t); err != nil {
						t.Fatal(err)
					}
					d = w.start()
				}
				most = max(most, len(must[api.Network](t)(d.Network("pods")).Status.Subnets))
				if now := ipsOf(t, d); !maps.Equal(now, given) {
					t.Fatalf("step %d: workloads have\n%v\nnot what they were given:\n%v", step, now, given)
				}
				taken := map[netip.Prefix]string{}
				for name, ip := range given {
					p, err := netip.ParsePrefix(ip)
					if other, twice := taken[p]; err != nil || twice {
						t.Fatalf("step %d: %s has %q (%v), and so has %s", step, name, ip, err, other)
					}
					taken[p] = name
				}
			}
			if most < 2 {
				t.Error("the host never had two blocks, so nothing was tried")
			}
		})
	}
}

// An address of a block is asked for on the host that holds it; who asks elsewhere is told where that is.
func TestAnAddressOfAnothersBlock(t *testing.T) {
	hub := store.NewHub(time.Hour, time.Minute, store.Boottime)
	w1, _ := newNode(t, hub, 1)
	w2, _ := newNode(t, hub, 2)
	d1, ctx := w1.start(), context.Background()
	must[api.Changed[api.Network]](t)(d1.CreateNetwork(ctx, pods(), false))
	eventually(t, "h1 has the first block", func() bool { return len(must[api.Network](t)(d1.Network("pods")).Status.Subnets) == 1 })
	d2 := w2.start()
	eventually(t, "h2 has the second block", func() bool {
		n, err := d2.Network("pods")
		return err == nil && len(n.Status.Subnets) == 1
	})
	asks := func(ips ...string) error {
		_, err := d2.CreateWorkload(ctx, api.WorkloadSpec{Name: "web", Endpoints: []api.EndpointSpec{{Network: "pods", IPs: ips}}}, true)
		return err
	}
	first := must[api.Network](t)(d1.Network("pods")).Status.Subnets[0].Subnet
	inFirst := netip.MustParsePrefix(first).Addr().Next().Next().Next().String()
	refused(t, asks(inFirst), model.CodeAddress, "block "+first+" is of host h1")
	refused(t, asks("10.244.200.9"), model.CodeAddress, "block 10.244.200.0/24 is nobody's")
	refused(t, asks("10.7.0.9"), model.CodeAddress, "in no pool")
}
