package kernel_test

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
)

func rule(priority int, from string, table int) dataplane.RouteRule {
	return dataplane.RouteRule{Priority: priority, From: netip.MustParseAddr(from), Table: table}
}

func proxied(link, a string) dataplane.ProxyNeighbour {
	return dataplane.ProxyNeighbour{Link: link, Addr: netip.MustParseAddr(a)}
}

func uplinked(name, nic string) dataplane.Link {
	l := bridge(name)
	l.Uplink = nic
	return l
}

// nic makes a link that is not ours. The machine has no NIC to give away.
func nic(t *testing.T, name string) {
	t.Helper()
	run(t, "ip link add "+name+" type veth peer name far-"+name)
}

func TestRouteRules(t *testing.T) {
	k := host(t)
	ns := workload(t, "a")
	reach(t, k, "", state(bridge("fn-a"), veth("fv-a", "fn-a", ns)))
	inside := []dataplane.Object{lo(true), farVeth("fv-a"), addr("eth0", "10.1.0.2/24"), addr("eth0", "fd01::2/64")}
	tables := []dataplane.Object{
		rule(15700, "10.1.0.2", 15700), rule(15700, "fd01::2", 15700), rule(15701, "10.1.0.2", 15701), rule(100, "10.1.0.3", 7),
		dataplane.Route{Dest: netip.MustParsePrefix("10.1.0.0/24"), Link: "eth0", Table: 15700},
		dataplane.Route{Dest: netip.MustParsePrefix("0.0.0.0/0"), Link: "eth0", Table: 15700, Via: netip.MustParseAddr("10.1.0.1")},
		dataplane.Route{Dest: netip.MustParsePrefix("fd01::/64"), Link: "eth0", Table: 15700},
		dataplane.Route{Dest: netip.MustParsePrefix("::/0"), Link: "eth0", Table: 15700, Via: netip.MustParseAddr("fd01::1")},
	}
	all := append(inside, tables...)
	reach(t, k, ns, state(all...))
	for _, other := range []dataplane.RouteRule{rule(15700, "10.1.0.2", 15705), rule(15700, "fd01::2", 300)} {
		reach(t, k, ns, with(state(all...), other))
		reach(t, k, ns, state(all...))
	}
	apply(t, k, ns, dataplane.Diff(state(all...), dataplane.State{})) // twice is once
	if rules := run(t, "nsenter --net="+ns+" ip rule"); strings.Count(rules, "proto 157") != 3 {
		t.Errorf("rules:\n%s", rules)
	}
	reach(t, k, ns, state(inside...))
}

// A rule that replaces another is asked from the moment on when that one is not.
func TestRouteRuleIsReplacedWithoutAGap(t *testing.T) {
	k := host(t)
	reach(t, k, "", state(rule(100, "10.0.0.7", 7)))
	apply(t, k, "", dataplane.Plan{{Op: dataplane.Add, Object: rule(100, "10.0.0.7", 8)}}) // not knowing of the old one
	if got := observe(t, k, ""); text(got) != text(state(rule(100, "10.0.0.7", 8))) {
		t.Errorf("got\n%s", text(got))
	}
	run(t, "ip rule add priority 100 from 10.0.0.7 lookup 8")
	run(t, "ip rule add priority 101 from 10.0.0.7 lookup 8")
	reach(t, k, "", dataplane.State{})
	if rules := run(t, "ip rule"); strings.Count(rules, "lookup 8") != 2 {
		t.Errorf("others' rules were touched:\n%s", rules)
	}
}

func TestProxyNeighbours(t *testing.T) {
	k := host(t)
	nic(t, "nic0")
	run(t, "ip neigh add proxy 192.0.2.99 dev nic0")
	both := state(proxied("nic0", "192.0.2.7"), proxied("nic0", "2001:db8::7"))
	reach(t, k, "", both)
	reach(t, k, "", state(proxied("nic0", "192.0.2.7")))
	reach(t, k, "", both)
	apply(t, k, "", dataplane.Diff(both, dataplane.State{}))
	for _, step := range []dataplane.Step{{Op: dataplane.Add, Object: proxied("nic0", "192.0.2.99")}, {Op: dataplane.Add, Object: proxied("absent", "192.0.2.98")}} {
		if err := k.Apply(context.Background(), "", dataplane.Plan{step}); err == nil {
			t.Errorf("%s: no error", step)
		}
	}
	apply(t, k, "", dataplane.Plan{{Op: dataplane.Del, Object: proxied("nic0", "192.0.2.99")}, {Op: dataplane.Del, Object: proxied("absent", "192.0.2.98")}})
	reach(t, k, "", dataplane.State{})
	if left := run(t, "ip neigh show proxy"); strings.TrimSpace(left) != "192.0.2.99 dev nic0 proxy" {
		t.Errorf("left: %q", left)
	}
}

func TestPorts(t *testing.T) {
	k := host(t)
	nic(t, "nic0")
	nic(t, "nic1")
	nic(t, "byhand")
	run(t, "ip link set nic1 up")
	port := func(link, master string) dataplane.Port { return dataplane.Port{Link: link, Master: master} }
	with0 := state(uplinked("fn-a", "nic0"), port("nic0", "fn-a"))
	reach(t, k, "", with0)
	run(t, "ip link set byhand master fn-a")
	reach(t, k, "", with0)
	for _, drift := range []string{"ip link set nic0 nomaster", "ip link set nic0 down"} {
		run(t, drift)
		if len(dataplane.Diff(with0, observe(t, k, ""))) == 0 {
			t.Errorf("%s is not seen", drift)
		}
		reach(t, k, "", with0)
	}
	reach(t, k, "", state(uplinked("fn-a", "nic1"), port("nic1", "fn-a"))) // another uplink
	upAre(t, map[string]bool{"nic0": false, "nic1": true})
	reach(t, k, "", state(uplinked("fn-b", "nic1"), port("nic1", "fn-b"), bridge("fn-a"))) // and to another bridge
	reach(t, k, "", with0)
	reach(t, k, "", state(bridge("fn-a")))
	upAre(t, map[string]bool{"nic0": false, "nic1": true})
	if got := run(t, "ip -o link show master fn-a"); !strings.Contains(got, "byhand") || strings.Contains(got, "nic") {
		t.Errorf("ports that are left: %s", got)
	}
}

func upAre(t *testing.T, want map[string]bool) {
	t.Helper()
	for name, up := range want {
		if got := strings.Contains(run(t, "ip -o link show "+name), ",UP"); got != up {
			t.Errorf("%s is up: %v", name, got)
		}
	}
}

func TestPortsOfOthersAreNotTaken(t *testing.T) {
	k := host(t)
	nic(t, "nic0")
	run(t, "ip link add br0 type bridge")
	run(t, "ip link set nic0 master br0")
	reach(t, k, "", state(uplinked("fn-a", "nic0")))
	add := dataplane.Plan{{Op: dataplane.Add, Object: dataplane.Port{Link: "nic0", Master: "fn-a"}}}
	if err := k.Apply(context.Background(), "", add); !errors.Is(err, kernel.ErrNotOurs) || !strings.Contains(err.Error(), `"br0"`) {
		t.Errorf("a port of another bridge: %v", err)
	}
	apply(t, k, "", dataplane.Plan{{Op: dataplane.Del, Object: add[0].Object}})
	if got := run(t, "ip -o link show nic0"); !strings.Contains(got, "master br0") || strings.Contains(got, ",UP") {
		t.Errorf("it was changed: %s", got)
	}
	ours := dataplane.Plan{{Op: dataplane.Add, Object: dataplane.Port{Link: "fn-b", Master: "fn-a"}}}
	reach(t, k, "", state(uplinked("fn-a", "nic0"), bridge("fn-b")))
	if err := k.Apply(context.Background(), "", ours); err == nil {
		t.Error("a link of ours was made a port")
	}
}

// A link that is renamed is still known to be one to give back.
func TestRenamedPortIsGivenBack(t *testing.T) {
	k := host(t)
	nic(t, "nic0")
	reach(t, k, "", state(uplinked("fn-a", "nic0"), dataplane.Port{Link: "nic0", Master: "fn-a"}))
	run(t, "ip link set nic0 down")
	run(t, "ip link set nic0 name nic9")
	reach(t, k, "", state(uplinked("fn-a", "nic0")))
	upAre(t, map[string]bool{"nic9": false})
	if got := run(t, "ip -o link show nic9"); strings.Contains(got, "master") {
		t.Errorf("it is still a port: %s", got)
	}
}

// What a link was before survives the daemon, and so does what was begun and not finished.
func TestPortsSurviveTheDaemon(t *testing.T) {
	unshare(t)
	dir := filepath.Join(t.TempDir(), "run")
	k := open(t, dir)
	nic(t, "nic0")
	want := state(uplinked("fn-a", "nic0"), dataplane.Port{Link: "nic0", Master: "fn-a"})
	reach(t, k, "", want)
	k = open(t, dir)
	apply(t, k, "", dataplane.Plan{{Op: dataplane.Replace, Object: uplinked("fn-a", "nic1")}}) // and killed before the port went
	k = open(t, dir)
	if got := text(observe(t, k, "")); !strings.Contains(got, "port nic0 master fn-a") {
		t.Errorf("after a crash there is\n%s", got)
	}
	reach(t, k, "", state(uplinked("fn-a", "nic1")))
	upAre(t, map[string]bool{"nic0": false})
	reach(t, k, "", dataplane.State{})
}

// A workload's link may be a port of a bridge that others made.
func TestForeignBridgeAsMaster(t *testing.T) {
	k := host(t)
	ns := workload(t, "a")
	run(t, "ip link add br0 type bridge")
	want := state(veth("fv-a", "br0", ns))
	reach(t, k, "", want)
	run(t, "ip link set fv-a nomaster")
	reach(t, k, "", want)
	run(t, "ip link del br0")
	if err := k.Apply(context.Background(), "", dataplane.Diff(want, observe(t, k, ""))); err == nil {
		t.Error("a port of an absent bridge was made")
	}
	run(t, "ip link add br0 type bridge")
	reach(t, k, "", want)
}
