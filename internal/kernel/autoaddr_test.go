package kernel_test

import (
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// TestNoAddressUnasked makes a bridge that has a carrier before its sysctls are set, and one that had its address for long.
func TestNoAddressUnasked(t *testing.T) {
	k := host(t)
	run(t, "ip link add p type veth peer name q")
	run(t, "ip link set p up")
	run(t, "ip link set q up")
	br := dataplane.Link{Name: "fn-a", Kind: dataplane.Bridge, Owner: "net/a", MAC: model.BridgeMAC("a"), Up: true}
	none := sysctl("net/ipv6/conf/fn-a/addr_gen_mode", "fn-a", "1")
	port := dataplane.Port{Link: "p", Master: "fn-a"}

	has := func() bool { return strings.Contains(run(t, "ip -6 address show dev fn-a"), "fe80::") }

	reach(t, k, "", state(br, port, none))
	if has() {
		t.Error("a new bridge has a link-local address")
	}
	reach(t, k, "", state(br, port, sysctl(none.Name, "fn-a", "0")))
	if !has() {
		t.Fatal("it gets none with mode 0")
	}
	reach(t, k, "", state(br, port, none))
	if has() {
		t.Error("it keeps its link-local address")
	}
}

// TestPortsAreSilent: the host is spoken to by its bridges, not by their ports; a link that is no port may have to be spoken to.
func TestPortsAreSilent(t *testing.T) {
	k := host(t)
	ns := workload(t, "web")
	for _, master := range []string{"fn-a", ""} {
		port := veth("fv-a", master, ns)
		reach(t, k, "", state(bridge("fn-a"), port))
		reach(t, k, ns, state(lo(true), farVeth("fv-a")))
		if has := strings.Contains(run(t, "ip -6 address show dev fv-a"), "fe80::"); has == (master != "") {
			t.Errorf("with master %q: has a link-local address: %v", master, has)
		}
		reach(t, k, "", state(bridge("fn-a")))
	}
}

// TestQuietEnds: the end of a veth that stands in a workload has no link-local address from its beginning while it is to be quiet, and has one
// as soon as it need not be. One that has it, as from an older flatnetd, keeps it.
func TestQuietEnds(t *testing.T) {
	k := host(t)
	ns := workload(t, "web")
	has := func() bool {
		return strings.Contains(run(t, "nsenter --net="+ns+" ip -6 address show dev eth0"), "fe80::")
	}
	reach(t, k, "", state(bridge("fn-a"), veth("fv-a", "fn-a", ns)))
	far := farVeth("fv-a")
	for _, c := range []struct{ quiet, has bool }{{true, false}, {false, true}} {
		far.Quiet = c.quiet
		reach(t, k, ns, state(lo(true), far))
		if has() != c.has {
			t.Errorf("quiet %t: has a link-local address: %t", c.quiet, has())
		}
	}
	far.Quiet = true
	if plan := dataplane.Diff(state(lo(true), far), observe(t, k, ns)); len(plan) > 0 {
		t.Errorf("to do with one that was not quiet: %v", plan)
	}
}
