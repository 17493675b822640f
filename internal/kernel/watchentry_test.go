package kernel_test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
)

func TestWatchTellsWhatOthersDoToTunnels(t *testing.T) {
	k := host(t)
	want := tunnelled(3)
	reach(t, k, "", want)
	k.Track("", sysctl("net/ipv4/conf/all/rp_filter", "", ""))
	r := watch(t, k)
	one := peer("fx-a", 1)
	n, f, route := one[0].Key().String(), one[1].String(), one[2].String()
	down, learning, source := vxlan("fx-a", 7), vxlan("fx-a", 7), vxlan("fx-a", 7)
	down.Up, learning.Tunnel.Port = false, 0
	source.Tunnel.Local = source.Tunnel.Local.Next()
	for i, test := range []struct {
		does   string
		events []string
	}{
		{"ip neigh del 10.100.1.0 dev fx-a", []string{"gone " + n}},
		{"ip neigh replace 10.100.1.0 dev fx-a lladdr 02:00:00:00:00:66 nud permanent", []string{neigh("fx-a", "10.100.1.0", "02:00:00:00:00:66").String()}},
		{"ip neigh change 10.100.1.0 dev fx-a lladdr 02:f1:00:00:00:01 nud reachable", []string{"gone " + n}},
		{"ip neigh add 10.200.1.0 dev fx-a lladdr 02:00:00:00:00:66 nud permanent", []string{neigh("fx-a", "10.200.1.0", "02:00:00:00:00:66").String()}},
		{"bridge fdb del 02:f1:00:00:00:01 dev fx-a self", []string{"gone " + f}},
		{"bridge fdb replace 02:f1:00:00:00:01 dev fx-a dst 198.18.0.66 self permanent", []string{fdb("fx-a", "02:f1:00:00:00:01", "198.18.0.66").String()}},
		{"bridge fdb add 02:66:00:00:00:01 dev fx-a dst 198.18.0.66 self permanent", []string{fdb("fx-a", "02:66:00:00:00:01", "198.18.0.66").String()}},
		{"ip route del 10.100.1.0/24", []string{"gone " + route}},
		{"ip route flush dev fx-a", []string{"gone " + route}},
		{"ip link set fx-a type vxlan learning", []string{learning.String()}},
		{"ip link set fx-a type vxlan local 192.0.2.2", []string{source.String()}},
		{"ip link set fx-a down", []string{down.String(), "gone " + n, "gone " + route}},
		{"ip link del fx-a", []string{"gone link fx-a", "gone " + n, "gone " + f, "gone " + route}},
	} {
		r.upTo(t, i%2+1)
		run(t, test.does)
		for _, e := range test.events {
			r.wait(t, e)
		}
		converge(t, k, with(want, sysctl("net/ipv4/conf/all/rp_filter", "", fmt.Sprint(i%2+1))))
	}
}

// TestWatchHearsNothingOfOrdinaryNeighbours: of them and of what bridges learn there is much.
func TestWatchHearsNothingOfOrdinaryNeighbours(t *testing.T) {
	k := host(t)
	ns := workload(t, "a")
	quiet(t)
	run(t, "ip link add flannel.1 type vxlan id 9 local 192.0.2.1 dstport 8472")
	run(t, "ip link set flannel.1 up")
	k.Track("", sysctl("net/ipv4/conf/all/rp_filter", "", ""))
	r := watch(t, k)
	apply(t, k, "", dataplane.Diff(with(tunnelled(1), veth("fv-a", "fn-a", ns)), dataplane.State{}))
	r.upTo(t, 1)
	for _, line := range []string{
		"ip neigh add 10.99.0.7 dev fn-a lladdr 02:00:00:00:00:77 nud reachable",
		"ip neigh replace 10.99.0.7 dev fn-a lladdr 02:00:00:00:00:77 nud stale",
		"ip neigh replace 10.99.0.8 dev fn-a lladdr 02:00:00:00:00:78 nud permanent protocol 157",
		"ip neigh del 10.99.0.7 dev fn-a",
		"bridge fdb add 02:00:00:00:00:77 dev fv-a master static",
		"bridge fdb add 02:00:00:00:00:78 dev flannel.1 dst 198.18.0.7 self permanent",
		"ip neigh add 10.101.0.8 dev flannel.1 lladdr 02:00:00:00:00:78 nud permanent",
	} {
		run(t, line)
	}
	for _, e := range r.upTo(t, 2) {
		if !strings.HasPrefix(e, "link ") { // of links the kernel tells a little later
			t.Errorf("told of %s", e)
		}
	}
}

// TestWatchTellsOurOwnPeersAsApplied: of thousands that we write and delete, none looks like somebody else's doing, and none is lost, for which
// everything would have to be looked at again.
func TestWatchTellsOurOwnPeersAsApplied(t *testing.T) {
	k := host(t)
	quiet(t)
	bare, full := tunnelled(0), tunnelled(15000)
	reach(t, k, "", bare)
	k.Track("", sysctl("net/ipv4/conf/all/rp_filter", "", ""))
	events := make(chan kernel.Event, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- k.Watch(ctx, func(e kernel.Event) { events <- e }) }()
	<-events
	have := bare
	for mark, want := range []dataplane.State{full, bare} {
		apply(t, k, "", dataplane.Diff(want, have))
		have = want
		run(t, fmt.Sprintf("sysctl -qw net.ipv4.conf.all.rp_filter=%d", mark+1))
		for e := range events {
			if s, isMark := e.Object.(dataplane.Sysctl); isMark && s.Value == fmt.Sprint(mark+1) {
				break
			}
			if e.Object == nil || e.Gone != (want[e.Object.Key()] == nil) || !e.Gone && want[e.Object.Key()] != e.Object {
				t.Fatalf("told %+v", e)
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestWatchHearsAtOnce of what is done to a tunnel link that was just made.
func TestWatchHearsAtOnce(t *testing.T) {
	k := host(t)
	r := watch(t, k)
	for range 30 {
		apply(t, k, "", dataplane.Diff(tunnelled(1), observe(t, k, "")))
		cmd := exec.Command("bridge", "fdb", "del", "02:f1:00:00:00:00", "dev", "fx-a", "self")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		r.wait(t, "gone "+peer("fx-a", 0)[1].String())
		apply(t, k, "", dataplane.Diff(dataplane.State{}, observe(t, k, "")))
	}
}

func isNeighbour(o dataplane.Object) bool {
	_, is := o.(dataplane.Neighbour)
	return is
}
