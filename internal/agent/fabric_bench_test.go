package agent

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// noKernel takes everything.
type noKernel struct{}

func (noKernel) Observe(context.Context, string) (dataplane.State, error) {
	return dataplane.State{}, nil
}
func (noKernel) Apply(context.Context, string, dataplane.Plan) error { return nil }

// BenchmarkChangeAmongMany is what a node does itself when one of 5,000 others moves: from the store's change to the plan.
func BenchmarkChangeAmongMany(b *testing.B) {
	const n = 5000
	hub := store.NewHub(time.Hour, time.Minute, store.Boottime)
	client := hub.Client()
	ctx := context.Background()
	member := func(i, at int) model.Member {
		return model.Member{ID: fmt.Sprintf("b-%d", i), Name: fmt.Sprintf("b-%d", i), Underlay4: netip.AddrFrom4([4]byte{198, 18, byte(at / 250), byte(1 + at%250)}), MTU: 1500, Version: "b", Schema: 1}
	}
	pool := model.BlockPool{Prefix: netip.MustParsePrefix("10.128.0.0/9"), Bits: 24}
	network := model.Network{Name: "pods", Mode: model.Cluster, Active: true, Cluster: model.Overlay{Pools: []model.BlockPool{pool}, Backend: model.VXLAN, VNI: 1, Port: 8472}}
	changes := []store.Change{store.PutNetwork(network, store.Any)}
	for i := range n {
		changes = append(changes, store.PutMember(member(i, i), store.Any))
	}
	if _, err := client.Write(ctx, changes...); err != nil {
		b.Fatal(err)
	}
	for i := range n {
		if _, err := client.Claim(ctx, model.Lease{Network: "pods", Block: pool.Block(uint64(i)), Node: fmt.Sprintf("b-%d", i)}); err != nil {
			b.Fatal(err)
		}
	}
	a := New(Config{RunDir: b.TempDir(), NetnsDir: "/run/netns", BootID: "b"}, Deps{Store: store.NewMemory(), Journal: dyingJournal{&world{journal: &memoryJournal{all: map[string]model.Workload{}}}},
		Kernel: noKernel{}, Host: &fakeHost{node: model.Node{Name: "h", Links: []model.HostLink{{Name: "eth0", MTU: 1500, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("198.19.0.1/15")}}},
			Routes: []model.HostRoute{{Dest: netip.MustParsePrefix("198.18.0.0/15"), Link: "eth0"}}}, events: make(chan Event)}, Namespaces: fakeNamespaces{}, Processes: &fakeProcesses{}})
	a.enter(hub.Client(), "b-self", func(model.Node) (model.Member, error) {
		return model.Member{ID: "b-self", Name: "self", Underlay4: netip.MustParseAddr("198.19.0.1"), MTU: 1500, Version: "b", Schema: 1}, nil
	})
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { _ = a.Run(ctx) }()
	leads := func(i int, to netip.Addr) bool {
		a.mu.RLock()
		defer a.mu.RUnlock()
		return a.state.view.Members[fmt.Sprintf("b-%d", i)].Underlay4 == to && len(a.state.view.Leases) == n+1
	}
	for !leads(0, member(0, 0).Underlay4) {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond)
	i := 0
	for b.Loop() {
		i++
		m := member(i%n, n+i)
		if _, err := client.Write(ctx, store.PutMember(m, store.Any)); err != nil {
			b.Fatal(err)
		}
		for !leads(i%n, m.Underlay4) {
			time.Sleep(50 * time.Microsecond)
		}
	}
}
