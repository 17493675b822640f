package kernel_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/netns"
)

// endpoints makes a host with a bridge of n ports, their far ends all in one namespace, each with two sysctls.
func endpoints(b testing.TB, k *kernel.Kernel, n int) dataplane.State {
	quiet(b)
	ns := workload(b, "all")
	want := state(bridge("fn-a"), addr("fn-a", "10.1.0.1/16"))
	for i := range n {
		v := veth(fmt.Sprintf("fv-%d", i), "fn-a", ns)
		v.Peer = fmt.Sprintf("eth%d", i)
		want.Put(v, sysctl("net/ipv4/conf/"+v.Name+"/arp_ignore", v.Name, "1"),
			sysctl("net/ipv6/conf/"+v.Name+"/disable_ipv6", v.Name, "1"))
	}
	apply(b, k, "", dataplane.Diff(want, dataplane.State{}))
	return want
}

func BenchmarkObserve(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			k := host(b)
			want := endpoints(b, k, n)
			before := cpu()
			b.ReportAllocs()
			for b.Loop() {
				if got := observe(b, k, ""); len(got) != len(want) {
					b.Fatalf("%d objects, want %d", len(got), len(want))
				}
			}
			b.ReportMetric((cpu()-before)*1e3/float64(b.N), "ms-cpu/op")
			b.StopTimer()
			drop(b, k, want)
		})
	}
}

// drop deletes all, so that benchmarks do not slow each other down.
func drop(b *testing.B, k *kernel.Kernel, have dataplane.State) {
	apply(b, k, "", dataplane.Diff(dataplane.State{}, have))
}

// BenchmarkAttach attaches a workload whose namespace exists, and detaches it.
func BenchmarkAttach(b *testing.B) {
	for _, n := range []int{1, 100, 500} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			k := host(b)
			have := endpoints(b, k, n)
			ns := workload(b, "w")
			v := veth("fv-w", "fn-a", ns)
			outside := dataplane.Diff(state(v, sysctl("net/ipv4/conf/fv-w/arp_ignore", "fv-w", "1")), dataplane.State{})
			inside := dataplane.Diff(state(lo(true), farVeth("fv-w"), addr("eth0", "10.1.200.1/16"), addr("eth0", "fd01::2/64"),
				dest("0.0.0.0/0", "10.1.0.1", "eth0"), dest("::/0", "fd01::1", "eth0")), dataplane.State{})
			gone := dataplane.Diff(dataplane.State{}, state(v, sysctl("net/ipv4/conf/fv-w/arp_ignore", "fv-w", "1")))
			before := cpu()
			b.ReportAllocs()
			for b.Loop() {
				apply(b, k, "", outside)
				apply(b, k, ns, inside)
				apply(b, k, "", gone)
			}
			b.ReportMetric((cpu()-before)*1e3/float64(b.N), "ms-cpu/op")
			b.StopTimer()
			drop(b, k, have)
		})
	}
}

func BenchmarkNetns(b *testing.B) {
	k := host(b)
	path := nsDir(b) + "/w"
	b.Cleanup(func() { netns.Delete(path) })
	n := dataplane.Netns{Path: path}
	for b.Loop() {
		apply(b, k, "", dataplane.Plan{{Op: dataplane.Add, Object: n}, {Op: dataplane.Del, Object: n}})
	}
}

func BenchmarkNode(b *testing.B) {
	k := host(b)
	have := endpoints(b, k, 1000)
	for b.Loop() {
		if _, err := k.Node(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	drop(b, k, have)
}

// cpu is the time that this process has spent so far, in the kernel too, in seconds.
func cpu() float64 {
	var u unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// TestAThousandEndpoints is the law for many, in batches.
func TestAThousandEndpoints(t *testing.T) {
	k := host(t)
	want := endpoints(t, k, 1000)
	if left := dataplane.Diff(want, observe(t, k, "")); len(left) != 0 {
		t.Fatalf("left %d steps, first %s", len(left), left[0])
	}
	want = state(bridge("fn-a"), dataplane.Address{Link: "fn-a", Prefix: netip.MustParsePrefix("10.1.0.1/16")})
	reach(t, k, "", want)
}
