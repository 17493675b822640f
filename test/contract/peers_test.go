package contract

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
)

func part(objects ...dataplane.Object) dataplane.Host {
	var h dataplane.Host
	if err := h.State(dataplane.HostNetns).Put(objects...); err != nil {
		panic(err)
	}
	return h
}

// network is the part of a cluster network that is the host's own: bridge, gateway and tunnel.
func network() dataplane.Host {
	return part(
		dataplane.Link{Name: "fn-lab", Kind: dataplane.Bridge, Owner: "net/lab", MAC: model.BridgeMAC("lab"), MTU: 1450, Up: true},
		dataplane.Address{Link: "fn-lab", Prefix: netip.MustParsePrefix("10.99.0.1/24")},
		dataplane.Link{Name: "fx-lab", Kind: dataplane.VXLAN, Owner: "net/lab", MAC: model.BridgeMAC("fx"), MTU: 1450, Up: true,
			Tunnel: dataplane.Tunnel{VNI: 7, Port: 8472, Local: netip.MustParseAddr("192.0.2.1")}})
}

// peers are parts, one for each peer from first on.
func peers(first, n int) map[string]dataplane.Host {
	parts := map[string]dataplane.Host{}
	for i := first; i < first+n; i++ {
		block, mac := netip.AddrFrom4([4]byte{10, byte(100 + i>>8), byte(i), 0}), model.MAC{2, 0xf1, 0, 0, byte(i >> 8), byte(i)}
		parts[fmt.Sprintf("peer/lab/%d", i)] = part(
			dataplane.Neighbour{Link: "fx-lab", Addr: block, MAC: mac},
			dataplane.FDB{Link: "fx-lab", MAC: mac, Dst: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})},
			dataplane.Route{Dest: netip.PrefixFrom(block, 24), Via: block, OnLink: true, Link: "fx-lab", Source: netip.MustParseAddr("10.99.0.1")})
	}
	return parts
}

func cluster(n int) map[string]dataplane.Host {
	parts := peers(0, n)
	parts["net/lab"] = network()
	return parts
}

// node is a host with what keeps it as it is wanted.
type node struct {
	host     *kerneltest.Machine
	kernel   *kernel.Kernel
	rec      *reconcile.Reconciler
	repaired chan []reconcile.Change
}

func newNode(t testing.TB) *node { return nodeIn(t, kerneltest.NewTopology(t), "host") }

func nodeIn(t testing.TB, topo *kerneltest.Topology, name string) *node {
	t.Helper()
	n := &node{host: topo.Machine(name), repaired: make(chan []reconcile.Change, 100)}
	n.kernel = openKernel(t, n.host)
	n.rec = reconcile.New(n.kernel, reconcile.Deps{Repaired: func(c []reconcile.Change) { n.repaired <- c }})
	return n
}

// follow repairs until the test ends.
func (n *node) follow(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() {
		done <- n.kernel.Watch(ctx, func(e kernel.Event) {
			if e.Resync || e.Object != nil {
				n.rec.Hint(reconcile.Hint{Object: e.Object, Gone: e.Gone, Resync: e.Resync, Applied: e.Applied})
			}
		})
	}()
	go func() { done <- n.rec.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})
}

func (n *node) set(t testing.TB, parts map[string]dataplane.Host) {
	t.Helper()
	if _, err := n.rec.Set(context.Background(), parts); err != nil {
		t.Fatal(err)
	}
}

// TestWhatLeadsToPeersIsRepaired takes it away by hand, of one peer and of all.
func TestWhatLeadsToPeersIsRepaired(t *testing.T) {
	n := newNode(t)
	n.set(t, cluster(1000))
	n.follow(t)
	for _, line := range []string{
		"ip neigh del 10.100.1.0 dev fx-lab",
		"ip neigh flush dev fx-lab nud permanent",
		"bridge fdb del 02:f1:00:00:00:01 dev fx-lab self",
		"bridge fdb replace 02:f1:00:00:00:01 dev fx-lab dst 198.18.0.66 self permanent",
		"ip route del 10.100.1.0/24",
		"ip route flush dev fx-lab",
		"ip link set fx-lab down",
		"ip link set fx-lab type vxlan learning",
		"ip link del fx-lab",
	} {
		before := time.Now()
		n.host.Run("sh", "-c", line)
		typed := time.Since(before)
		kerneltest.Eventually(t, "the repair of "+line, func() bool {
			drift, err := n.rec.Drift(context.Background())
			return err == nil && len(drift) == 0
		})
		t.Logf("%s: typed in %v, seen whole %v later", line, typed, time.Since(before)-typed)
	}
}

// TestOwnPeersAreNoReasonToLook: what we wrote ourselves is told too, thousands at a time.
func TestOwnPeersAreNoReasonToLook(t *testing.T) {
	n := newNode(t)
	n.set(t, cluster(1))
	n.follow(t)
	kerneltest.Eventually(t, "the first look of the watch", func() bool { return n.rec.Stats().Passes > 2 })
	before := n.rec.Stats().Passes
	for range 3 {
		if _, err := n.rec.Put(context.Background(), peers(1, 3000)); err != nil {
			t.Fatal(err)
		}
		gone := peers(1, 3000)
		for name := range gone {
			gone[name] = dataplane.Host{}
		}
		if _, err := n.rec.Put(context.Background(), gone); err != nil {
			t.Fatal(err)
		}
	}
	n.host.Run("ip", "neigh", "del", "10.100.0.0", "dev", "fx-lab") // told after all that
	<-n.repaired
	// Two looks are to repair and to see that it is repaired, and each plan may have one for what is heard of it late; but 36,000 objects were told.
	if looks := n.rec.Stats().Passes - before; looks > 8 {
		t.Errorf("%d looks at the kernel, want 2 to 8", looks)
	}
}

// BenchmarkStart is a node that starts with n peers on an empty host: ms-cpu-set until all is written and seen to be there, ms-cpu in all until it
// watches, has looked once more for that, has heard of all it wrote, and has repaired what somebody did then.
func BenchmarkStart(b *testing.B) {
	for _, peers := range []int{100, 1000, 5000, 10000} {
		b.Run(fmt.Sprint(peers), func(b *testing.B) {
			parts := cluster(peers)
			set, all := 0.0, 0.0
			topo := kerneltest.NewTopology(b)
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				n := nodeIn(b, topo, fmt.Sprintf("host%d", i))
				b.StartTimer()
				before := cpu()
				n.set(b, parts)
				set += cpu() - before
				n.follow(b)
				n.host.Run("ip", "neigh", "del", "10.100.0.0", "dev", "fx-lab")
				<-n.repaired
				all += cpu() - before
			}
			b.ReportMetric(set*1e3/float64(b.N), "ms-cpu-set/op")
			b.ReportMetric(all*1e3/float64(b.N), "ms-cpu/op")
		})
	}
}

// BenchmarkOnePeer changes the outer address of one of n peers, or takes it away and gives it back; without a pause, so that the past that reconcile
// remembers does not always reach: looks says how often it had to look.
func BenchmarkOnePeer(b *testing.B) {
	for _, many := range []int{100, 5000, 10000} {
		b.Run(fmt.Sprint("moved/", many), func(b *testing.B) {
			moved := peers(0, 1)["peer/lab/0"]
			f := dataplane.FDB{Link: "fx-lab", MAC: model.MAC{2, 0xf1}, Dst: netip.MustParseAddr("198.19.0.1")}
			moved.Netns[dataplane.HostNetns][f.Key()] = f
			benchOnePeer(b, many, moved)
		})
		b.Run(fmt.Sprint("gone/", many), func(b *testing.B) { benchOnePeer(b, many, dataplane.Host{}) })
	}
}

func benchOnePeer(b *testing.B, many int, other dataplane.Host) {
	n := newNode(b)
	n.set(b, cluster(many))
	n.follow(b)
	kerneltest.Eventually(b, "the first look of the watch", func() bool { return n.rec.Stats().Passes > 2 })
	there := peers(0, 1)["peer/lab/0"]
	passes := n.rec.Stats().Passes
	for i := 0; b.Loop(); i++ {
		if _, err := n.rec.Put(context.Background(), map[string]dataplane.Host{"peer/lab/0": []dataplane.Host{other, there}[i%2]}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n.rec.Stats().Passes-passes), "looks")
}

// cpu is the time that this process has spent so far, in the kernel too, in seconds.
func cpu() float64 {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
