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

const benchNodes = 5000

func benchMember(i, at int) model.Member {
	return model.Member{ID: fmt.Sprintf("b-%d", i), Name: fmt.Sprintf("b-%d", i), Underlay4: netip.AddrFrom4([4]byte{198, 18, byte(at / 250), byte(1 + at%250)}), MTU: 1500, Version: "b", Schema: 1}
}

// benchCluster has a network by VXLAN and so many nodes, each with a block.
func benchCluster(b *testing.B) (*store.Hub, store.Cluster) {
	hub := store.NewHub(time.Hour, time.Minute, store.Boottime)
	client := hub.Client()
	pool := model.BlockPool{Prefix: netip.MustParsePrefix("10.128.0.0/9"), Bits: 24}
	network := model.Network{Name: "pods", Mode: model.Cluster, Active: true, Cluster: model.Overlay{Pools: []model.BlockPool{pool}, Backend: model.VXLAN, VNI: 1, Port: 8472}}
	changes := []store.Change{store.PutNetwork(network, store.Any)}
	for i := range benchNodes {
		changes = append(changes, store.PutMember(benchMember(i, i), store.Any))
	}
	if _, err := client.Write(b.Context(), changes...); err != nil {
		b.Fatal(err)
	}
	for i := range benchNodes {
		if _, err := client.Claim(b.Context(), model.Lease{Network: "pods", Block: pool.Block(uint64(i)), Node: fmt.Sprintf("b-%d", i)}); err != nil {
			b.Fatal(err)
		}
	}
	return hub, client
}

// benchNode is an agent that knows of the cluster what its store says and has no kernel; it ends with the test, or by stop.
func benchNode(b *testing.B, hub *store.Hub) (a *Agent, stop func()) {
	dir := b.TempDir()
	a = New(Config{RunDir: dir, NetnsDir: "/run/netns", BootID: "b", ClusterDir: dir}, Deps{Store: store.NewMemory(), Journal: dyingJournal{&world{journal: &memoryJournal{all: map[string]model.Workload{}}}},
		Kernel: noKernel{}, Host: &fakeHost{node: model.Node{Name: "h", Links: []model.HostLink{{Name: "eth0", MTU: 1500, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("198.19.0.1/15")}}},
			Routes: []model.HostRoute{{Dest: netip.MustParsePrefix("198.18.0.0/15"), Link: "eth0"}}}, events: make(chan Event)}, Namespaces: fakeNamespaces{}, Processes: &fakeProcesses{}})
	a.enter(hub.Client(), "b-self", func(model.Node) (model.Member, error) {
		return model.Member{ID: "b-self", Name: "self", Underlay4: netip.MustParseAddr("198.19.0.1"), MTU: 1500, Version: "b", Schema: 1}, nil
	})
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = a.Run(ctx) }()
	for !leads(a, 0, benchMember(0, 0).Underlay4) {
		time.Sleep(time.Millisecond)
	}
	return a, func() { cancel(); <-ended; _ = a.exit(context.Background(), false) }
}

// leads reports whether the node has all the others, one of them at an address.
func leads(a *Agent, i int, to netip.Addr) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.state.view.Members[fmt.Sprintf("b-%d", i)].Underlay4 == to && len(a.state.view.Leases) == benchNodes+1
}

// BenchmarkManyAtOnce is what a node does itself when it comes to a cluster of 5,000 others.
func BenchmarkManyAtOnce(b *testing.B) {
	hub, _ := benchCluster(b)
	b.ReportAllocs()
	for b.Loop() {
		a, stop := benchNode(b, hub)
		a.rec.Stats() // until the plan is made
		stop()
	}
}

// BenchmarkChangeAmongMany is what a node does itself when one of 5,000 others moves: from the store's change to the plan.
func BenchmarkChangeAmongMany(b *testing.B) {
	hub, client := benchCluster(b)
	a, stop := benchNode(b, hub)
	defer stop()
	time.Sleep(100 * time.Millisecond)
	i := 0
	for b.Loop() {
		i++
		m := benchMember(i%benchNodes, benchNodes+i)
		if _, err := client.Write(b.Context(), store.PutMember(m, store.Any)); err != nil {
			b.Fatal(err)
		}
		for !leads(a, i%benchNodes, m.Underlay4) {
			time.Sleep(50 * time.Microsecond)
		}
	}
}
