package kernel_test

import (
	"context"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
)

func TestWatchTellsOfPorts(t *testing.T) {
	k := host(t)
	nic(t, "nic0")
	want := state(uplinked("fn-a", "nic0"), dataplane.Port{Link: "nic0", Master: "fn-a"})
	reach(t, k, "", want)
	w := watch(t, k)
	for _, one := range []struct{ line, event string }{
		{"ip link set nic0 nomaster", "gone port nic0 master fn-a"},
		{"ip link set nic0 master fn-a", "port nic0 master fn-a"},
		{"ip link set nic0 down", "port nic0 master "},
		{"ip link set nic0 up", "port nic0 master fn-a"},
		{"ip link set nic0 down", "port nic0 master "},
		{"ip link set nic0 name nic9", "gone port nic0 master "},
		{"ip link set nic9 name nic0", "port nic0 master "},
		{"ip link set nic0 up", "port nic0 master fn-a"},
	} {
		run(t, one.line)
		w.wait(t, one.event)
		w.wait(t, "foreign")
	}
	run(t, "ip link del nic0")
	w.wait(t, "gone port nic0 master ") // it went down first
	w.wait(t, "foreign")
	nic(t, "nic0")
	w.wait(t, "foreign")
	reach(t, k, "", want)
	w.wait(t, "port nic0 master fn-a")
	reach(t, k, "", state(uplinked("fn-a", "nic0")))
	w.wait(t, "gone port nic0 master ") // and went down first, as it was before
}

func TestWatchTellsOfProxies(t *testing.T) {
	k := host(t)
	nic(t, "nic0")
	run(t, "ip link set nic0 up")
	run(t, "ip link set far-nic0 up")
	w := watch(t, k)
	want := state(proxied("nic0", "192.0.2.7"), proxied("nic0", "2001:db8::7"))
	for _, line := range []string{"ip link set nic0 down", "ip link del nic0"} {
		reach(t, k, "", want)
		run(t, line)
		w.wait(t, "gone proxy 192.0.2.7 dev nic0")
		w.wait(t, "gone proxy 2001:db8::7 dev nic0")
	}
	nic(t, "nic0")
	reach(t, k, "", want)
	run(t, "ip neigh del proxy 192.0.2.7 dev nic0")
	w.wait(t, "gone proxy 192.0.2.7 dev nic0")
	reach(t, k, "", want)
	apply(t, k, "", dataplane.Diff(dataplane.State{}, want))
	if got := observe(t, k, ""); len(got) != 0 {
		t.Errorf("left:\n%s", text(got))
	}
}

func TestWatchTellsOfRouteRules(t *testing.T) {
	k := host(t)
	w := watch(t, k)
	reach(t, k, "", state(rule(100, "10.0.0.7", 7)))
	w.wait(t, "rule priority 100 from 10.0.0.7 lookup 7")
	reach(t, k, "", state(rule(100, "10.0.0.7", 8)))
	w.wait(t, "rule priority 100 from 10.0.0.7 lookup 8")
	run(t, "ip rule add priority 99 from 10.0.0.7 lookup 8")
	run(t, "ip rule del priority 100")
	w.wait(t, "gone rule priority 100 from 10.0.0.7 lookup 8")
}

func TestNodeTellsOfPortsAndBridges(t *testing.T) {
	k := host(t)
	nic(t, "nic0")
	nic(t, "nic1")
	run(t, "ip link add br0 type bridge")
	run(t, "ip link set nic0 master br0")
	run(t, "ip tuntap add tun0 mode tun")
	reach(t, k, "", state(uplinked("fn-a", "nic1"), dataplane.Port{Link: "nic1", Master: "fn-a"}))
	n, err := k.Node(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for name, master := range map[string]string{"nic0": "br0", "nic1": "fn-a", "br0": "", "far-nic0": "", "tun0": "", "lo": ""} {
		if l, ok := n.Link(name); !ok || l.Master != master || l.Bridge != (name == "br0") || l.Wireless || l.IPOnly != (name == "tun0") {
			t.Errorf("%s: %+v", name, l)
		}
	}
}
