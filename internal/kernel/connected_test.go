package kernel_test

import (
	"strings"
	"testing"
)

// TestAConnectedRouteComesBack: a gateway whose way to its subnet somebody deletes is told of, counts as missing, and is whole again when it was
// put; one whose link is down has none, rightly.
func TestAConnectedRouteComesBack(t *testing.T) {
	k := host(t)
	gateway, second := addr("fn-a", "10.1.0.1/24"), addr("fn-a", "10.1.7.1/32")
	want := state(bridge("fn-a"), gateway, second, addr("fn-a", "fd01::1/64"))
	reach(t, k, "", want)
	r := watch(t, k)
	run(t, "ip route del 10.1.0.0/24 dev fn-a")
	r.wait(t, "gone "+gateway.String())
	seen := observe(t, k, "")
	if _, there := seen[gateway.Key()]; there || len(seen) != len(want)-1 {
		t.Errorf("without its way the host has\n%s", text(seen))
	}
	reach(t, k, "", want)
	if way := run(t, "ip route get 10.1.0.9"); !strings.Contains(way, "dev fn-a src 10.1.0.1") {
		t.Error(way)
	}
	run(t, "ip link set fn-a down")
	if _, there := observe(t, k, "")[gateway.Key()]; !there {
		t.Error("an address of a link that is down is taken for missing")
	}
}
