package dataplane_test

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// TestBurstSurvivesTheKernel: the kernel keeps a burst as a number of ticks, so that only some bursts come back as they were told. Those of
// NewShaper do, and are not below what was asked for as long as the ticks suffice.
func TestBurstSurvivesTheKernel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		rate := 1 + r.Uint64()>>(1+r.IntN(60))
		burst := r.Uint64() >> r.IntN(63)
		s := dataplane.NewShaper("a", rate, burst, 0)
		if back := dataplane.BurstOf(rate, s.Ticks()); back != s.Burst {
			t.Fatalf("rate %d burst %d: told as %d it comes back as %d", rate, burst, s.Burst, back)
		}
		most := min(float64(math.MaxUint32), float64(rate)*64e-9*float64(math.MaxUint32-1))
		if float64(burst) < most && rate < 1<<40 && uint64(s.Burst) < burst {
			t.Fatalf("rate %d burst %d: became %d", rate, burst, s.Burst)
		}
		if step := float64(rate)*64e-9 + 1; float64(s.Burst) > float64(burst)+step {
			t.Fatalf("rate %d burst %d: became %d", rate, burst, s.Burst)
		}
	}
}

// TestShapedPlan: a redirect comes when the link that it leads by holds back what comes, and goes before that one does.
func TestShapedPlan(t *testing.T) {
	want := dataplane.State{}
	if err := want.Put(
		dataplane.Redirect{Link: "fv-web", Via: "fi-web"},
		dataplane.NewShaper("fi-web", 1_250_000, 31_250, 62_500),
		dataplane.NewShaper("fv-web", 125_000_000, 3_125_000, 6_250_000),
		dataplane.Link{Name: "fi-web", Kind: dataplane.IFB, Owner: "ep/web/eth0", MAC: model.MAC{2, 5: 7}, MTU: 1500, NoARP: true, Up: true},
		dataplane.Link{Name: "fv-web", Kind: dataplane.Veth, Owner: "ep/web/eth0", Up: true, Peer: "eth0", PeerNetns: "/run/netns/web"},
	); err != nil {
		t.Fatal(err)
	}
	up, down := dataplane.Diff(want, nil), dataplane.Diff(nil, want)
	const text = `add link fi-web address 02:00:00:00:00:07 mtu 1500 arp off up type ifb
add link fv-web up type veth peer name eth0 netns /run/netns/web
add qdisc dev fi-web root tbf rate 10000000bit burst 31250 limit 62500
add qdisc dev fv-web root tbf rate 1000000000bit burst 3125000 limit 6250000
add filter dev fv-web ingress redirect dev fi-web
`
	if up.String() != text {
		t.Errorf("plan:\n%s\nwant:\n%s", up, text)
	}
	for i, s := range down {
		if mirror := up[len(up)-1-i]; s.Object != mirror.Object {
			t.Errorf("down step %d is %q, want the mirror of %q", i, s, mirror)
		}
	}
	var commands []string
	for _, s := range append(up, down...) {
		commands = append(commands, s.Command(""))
	}
	const typed = `ip link add name fi-web address 02:00:00:00:00:07 type ifb && ip link set dev fi-web mtu 1500 arp off up alias "flatnet ep/web/eth0"
ip link add name fv-web type veth peer name eth0 netns web && ip link set dev fv-web up alias "flatnet ep/web/eth0 peer eth0 netns /run/netns/web"
tc qdisc replace dev fi-web root handle 9d: tbf rate 10000000bit burst 31250 limit 62500
tc qdisc replace dev fv-web root handle 9d: tbf rate 1000000000bit burst 3125000 limit 6250000
tc qdisc add dev fv-web clsact && tc filter add dev fv-web ingress protocol all pref 157 u32 match u32 0 0 action mirred egress redirect dev fi-web
tc filter del dev fv-web ingress protocol all pref 157
tc qdisc del dev fv-web root handle 9d:
tc qdisc del dev fi-web root handle 9d:
ip link del dev fv-web
ip link del dev fi-web`
	if got := strings.Join(commands, "\n"); got != typed {
		t.Errorf("commands:\n%s\nwant:\n%s", got, typed)
	}
}
