package kernel_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/model"
)

func ifb(name, of string) dataplane.Link {
	return dataplane.Link{Name: name, Kind: dataplane.IFB, Owner: "ep/" + of + "/eth0", MAC: model.BridgeMAC(name), MTU: 1500, NoARP: true, Up: true}
}

// limited is a workload's port with a limit in both directions.
func limited(t *testing.T) []dataplane.Object {
	return []dataplane.Object{bridge("fn-a"), veth("fv-a", "fn-a", workload(t, "a")), ifb("fi-a", "fv-a"),
		dataplane.NewShaper("fv-a", 12_500_000, 312_500, 625_000), dataplane.NewShaper("fi-a", 1_250_000, 31_250, 62_500),
		dataplane.Redirect{Link: "fv-a", Via: "fi-a"}}
}

// TestEveryRateIsReached: slow and fast, with bursts that the kernel keeps, also those that take it more than 32 bits of time or rate.
func TestEveryRateIsReached(t *testing.T) {
	k := host(t)
	r := rand.New(rand.NewPCG(rand.Uint64(), 0))
	base := []dataplane.Object{bridge("fn-a"), veth("fv-a", "fn-a", workload(t, "a"))}
	rates := []uint64{1, 125, 1 << 32, 1<<32 - 1, 12_500_000_000, 125_000_000_000_000}
	for range 20 {
		rates = append(rates, 1+r.Uint64()>>(18+r.IntN(40)))
	}
	for _, rate := range rates {
		for _, burst := range []uint64{1600, 1<<29 - 1, 1<<32 - 1, r.Uint64() >> 40} {
			s := dataplane.NewShaper("fv-a", rate, max(burst, 1600), r.Uint64()>>33)
			reach(t, k, "", state(append(base, s)...))
		}
	}
	reach(t, k, "", state(base...))
	if left := run(t, "tc qdisc show dev fv-a"); !strings.HasPrefix(left, "qdisc noqueue 0: root") || strings.Count(left, "\n") > 1 {
		t.Errorf("left is %q", left)
	}
}

// TestLimitsAreMended: whatever others do to them, the next look finds it and the next plan mends it, also of a process that knows nothing yet.
func TestLimitsAreMended(t *testing.T) {
	k := host(t)
	dir := t.TempDir()
	nic(t, "nic0")
	want := state(limited(t)...)
	reach(t, k, "", want)
	if left := dataplane.Diff(want, observe(t, open(t, dir), "")); len(left) > 0 {
		t.Errorf("a process that has just started would change\n%s", left)
	}
	for _, harm := range []string{
		"tc qdisc del dev fv-a root",
		"tc qdisc replace dev fv-a root handle 7: pfifo",
		"tc qdisc del dev fv-a root;tc qdisc add dev fv-a root handle 9d: pfifo",
		"tc qdisc change dev fv-a root handle 9d: tbf rate 1gbit burst 312500 limit 625000",
		"tc qdisc change dev fv-a root handle 9d: tbf rate 100mbit burst 312500 limit 625000 overhead 40",
		"tc qdisc change dev fv-a root handle 9d: tbf rate 100mbit burst 312500 limit 625000 peakrate 200mbit mtu 3000",
		"tc qdisc del dev fi-a root",
		"tc qdisc del dev fv-a clsact",
		"tc qdisc del dev fv-a clsact;tc qdisc add dev fv-a ingress",
		"tc filter del dev fv-a ingress",
		"tc filter del dev fv-a ingress protocol all pref 157",
		"tc filter replace dev fv-a ingress protocol all pref 157 handle 800::800 u32 match u32 0 0 action mirred egress redirect dev nic0",
		"tc filter add dev fv-a ingress protocol all pref 157 u32 match u32 0 0 action mirred egress mirror dev nic0",
		"tc filter del dev fv-a ingress;tc filter add dev fv-a ingress protocol ip pref 157 u32 match u32 0 0 action mirred egress redirect dev fi-a",
		"ip link del fi-a",
		"ip link set fi-a down",
	} {
		for line := range strings.SplitSeq(harm, ";") {
			run(t, line)
		}
		for _, who := range []*kernel.Kernel{k, open(t, dir)} {
			if plan := dataplane.Diff(want, observe(t, who, "")); len(plan) == 0 {
				t.Errorf("after %q nothing differs", harm)
			}
		}
		reach(t, k, "", want)
	}
}

// TestOthersFiltersStay: a tool that looks at a workload's packets by a filter of its own is not disturbed.
func TestOthersFiltersStay(t *testing.T) {
	k := host(t)
	objects := limited(t)
	bare := state(objects[:3]...)
	reach(t, k, "", bare)
	run(t, "tc qdisc add dev fv-a clsact")
	run(t, "tc filter add dev fv-a ingress protocol ip pref 3 u32 match u32 0 0 action mirred egress mirror dev fn-a")
	run(t, "tc filter add dev fv-a egress protocol ip pref 3 u32 match u32 0 0 action mirred egress mirror dev fn-a")
	before := run(t, "tc filter show dev fv-a ingress") + run(t, "tc filter show dev fv-a egress")
	for range 2 {
		reach(t, k, "", state(objects...))
		reach(t, k, "", bare)
		if after := run(t, "tc filter show dev fv-a ingress") + run(t, "tc filter show dev fv-a egress"); after != before {
			t.Errorf("before\n%s\nafter\n%s", before, after)
		}
	}
}

// TestOthersQdiscsStay: what somebody tries out on the link of a workload that has no limit is none of our business.
func TestOthersQdiscsStay(t *testing.T) {
	k := host(t)
	objects := limited(t)
	reach(t, k, "", state(objects[:2]...))
	for _, theirs := range []string{"tc qdisc add dev fv-a root handle 7: tbf rate 1mbit burst 10000 limit 10000", "tc qdisc add dev fv-a clsact"} {
		run(t, theirs)
	}
	if left := dataplane.Diff(state(objects[:2]...), observe(t, k, "")); len(left) > 0 {
		t.Errorf("theirs is taken for ours: %s", left)
	}
	gone := dataplane.Plan{{Op: dataplane.Del, Object: objects[3]}, {Op: dataplane.Del, Object: dataplane.Redirect{Link: "fv-a", Via: "fi-a"}}}
	apply(t, k, "", gone[:1])
	if left := run(t, "tc qdisc show dev fv-a"); !strings.Contains(left, "qdisc tbf 7: root") || !strings.Contains(left, "clsact") {
		t.Errorf("left is\n%s", left)
	}
}

func TestWatchTellsOfLimits(t *testing.T) {
	k := host(t)
	want := state(limited(t)...)
	reach(t, k, "", want)
	r := watch(t, k)
	in, via := "qdisc dev fv-a root tbf rate 100000000bit burst 312500 limit 625000", "filter dev fv-a ingress redirect dev fi-a"
	for _, c := range []struct{ harm, event string }{
		{"tc qdisc change dev fv-a root handle 9d: tbf rate 8mbit burst 10000 limit 20000", "qdisc dev fv-a root tbf rate 8000000bit burst 10000 limit 20000"},
		{"tc qdisc replace dev fv-a root handle 7: pfifo", "gone " + in},
		{"tc qdisc del dev fv-a root", "gone " + in},
		{"tc filter del dev fv-a ingress protocol all pref 157", "gone filter dev fv-a ingress redirect dev "},
		{"tc filter del dev fv-a ingress", "gone filter dev fv-a ingress redirect dev "},
		{"tc qdisc del dev fv-a clsact", "gone filter dev fv-a ingress redirect dev "},
		{"ip link del fi-a", "gone link fi-a"},
	} {
		run(t, c.harm)
		r.wait(t, c.event)
		reach(t, k, "", want)
		if strings.Contains(c.event, "filter") {
			r.wait(t, via)
		}
		if strings.Contains(c.event, in) {
			r.wait(t, in)
		}
	}
}

// TestLimitsAreTheHosts: in a workload's namespace they would be the workload's to remove.
func TestLimitsAreTheHosts(t *testing.T) {
	k := host(t)
	ns := workload(t, "a")
	reach(t, k, "", state(bridge("fn-a"), veth("fv-a", "fn-a", ns)))
	s := dataplane.NewShaper("eth0", 1000, 2000, 2000)
	if err := k.Apply(context.Background(), ns, dataplane.Plan{{Op: dataplane.Add, Object: s}}); err == nil {
		t.Error("a shaper was made in a workload")
	}
	err := k.Apply(context.Background(), "", dataplane.Plan{{Op: dataplane.Add, Object: dataplane.NewShaper("lo", 1000, 2000, 2000)}})
	if !errors.Is(err, kernel.ErrNotOurs) {
		t.Errorf("a shaper for lo: got %v", err)
	}
}
