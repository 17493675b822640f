package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/internal/model"
)

// dumps is all that iproute2 tells of a namespace, apart from what changes by itself.
func dumps(t testing.TB) string {
	all := run(t, "ip -d link") + run(t, "ip addr") + run(t, "ip -4 route show table all") + run(t, "ip -6 route show table all")
	return regexp.MustCompile(`timer +[0-9.]+| state [A-Z]+| linkdown|,LOWER_UP|NO-CARRIER,|.*ff00::/8.*\n`).ReplaceAllString(all, "")
}

// quiet keeps the kernel from making link-local addresses and from changing them while dumps are compared.
func quiet(t testing.TB) { run(t, "sysctl -qw net.ipv6.conf.default.addr_gen_mode=1") }

// TestForeignObjectsSurvive makes foreign objects, runs states up and down beside them, and compares iproute2's dumps.
func TestForeignObjectsSurvive(t *testing.T) {
	k := host(t)
	ns := workload(t, "a")
	quiet(t)
	for _, line := range []string{
		"ip link set lo up",
		"ip link add br0 address 02:00:00:00:00:01 type bridge",
		"ip link add v0 address 02:00:00:00:00:02 type veth peer name v1 address 02:00:00:00:00:03",
		"ip link set v0 master br0 up", "ip link set v1 up", "ip link set br0 up",
		"ip link set br0 alias flatnetwork", "ip addr add 192.0.2.1/24 dev br0",
		"ip addr add 2001:db8::1/64 dev br0 nodad", "ip route add 198.51.100.0/24 via 192.0.2.2",
		"ip route add 198.51.100.0/24 via 192.0.2.3 metric 7 proto bird", "ip -6 route add 2001:db8:1::/48 dev br0 metric 7",
	} {
		run(t, line)
	}
	if got := observe(t, k, ""); len(got) != 0 {
		t.Errorf("foreign objects are observed:\n%s", text(got))
	}
	before := dumps(t)
	reach(t, k, "", state(bridge("fn-a"), veth("fv-a", "fn-a", ns), addr("fn-a", "10.1.0.1/24"), dest("10.2.0.0/16", "10.1.0.2", "fn-a")))
	reach(t, k, "", dataplane.State{})
	if after := dumps(t); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}

// TestTakenNamesAreLeftAlone asks for objects whose names others have, in every way a plan can.
func TestTakenNamesAreLeftAlone(t *testing.T) {
	k := host(t)
	ns := workload(t, "a")
	quiet(t)
	for _, line := range []string{
		"ip link set lo up", "ip link add fn-a type bridge", "ip link add fv-a type veth peer name eth9",
		"ip link set fn-a up alias other", "ip link add fn-r type bridge", "ip link set fn-r up", "ip addr add 192.0.2.1/24 dev fn-r",
		"ip route add 10.2.0.0/16 dev fn-r", "ip -6 route add fd02::/16 dev fn-r metric 1024",
	} {
		run(t, line)
	}
	err := netns.Do(ns, func() error {
		quiet(t)
		run(t, "ip link add eth0 type veth peer name x0")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	inside := func() (s string) {
		netns.Do(ns, func() error { s = dumps(t); return nil })
		return s
	}
	before, insideBefore := dumps(t), inside()
	asVeth := veth("fn-a", "", "")
	asVeth.Peer = "p0"
	for _, step := range []dataplane.Step{
		{Op: dataplane.Add, Object: bridge("fn-a")},
		{Op: dataplane.Replace, Object: bridge("fn-a")},
		{Op: dataplane.Add, Object: asVeth},
		{Op: dataplane.Replace, Object: asVeth},
		{Op: dataplane.Add, Object: veth("fv-a", "", ns)},
		{Op: dataplane.Replace, Object: veth("fv-a", "fn-a", ns)},
		{Op: dataplane.Add, Object: veth("fv-new", "", ns)}, // its peer's name is taken
		{Op: dataplane.Add, Object: dest("10.2.0.0/16", "", "fn-r")},
		{Op: dataplane.Add, Object: dest("fd02::/16", "", "fn-r")},
	} {
		err := k.Apply(context.Background(), "", dataplane.Plan{step})
		var stepErr *kernel.StepError
		if !errors.As(err, &stepErr) || stepErr.Step != step || !errors.Is(err, kernel.ErrNotOurs) {
			t.Errorf("%s: %v, want ErrNotOurs of that step", step, err)
		}
	}
	far := farVeth("fv-a")
	for _, op := range []dataplane.Op{dataplane.Add, dataplane.Replace} {
		if err := k.Apply(context.Background(), ns, dataplane.Plan{{Op: op, Object: far}}); !errors.Is(err, kernel.ErrNotOurs) {
			t.Errorf("%s of a foreign eth0 in a workload: %v, want ErrNotOurs", op, err)
		}
	}
	for _, o := range []dataplane.Object{bridge("fn-a"), asVeth, veth("fv-a", "", ns), dest("10.2.0.0/16", "", "fn-r"),
		dest("fd02::/16", "", "fn-r"), bridge("fn-nowhere"), addr("fn-nowhere", "10.0.0.1/24"), dest("10.9.0.0/16", "", "fn-nowhere")} {
		apply(t, k, "", dataplane.Plan{{Op: dataplane.Del, Object: o}})
	}
	apply(t, k, ns, dataplane.Plan{{Op: dataplane.Del, Object: far}})
	if after := dumps(t); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	if after := inside(); after != insideBefore {
		t.Errorf("in the workload, before\n%s\nafter\n%s", insideBefore, after)
	}
}

// TestAddingWhatIsThereSettles covers a plan made from a stale observation.
func TestAddingWhatIsThereSettles(t *testing.T) {
	k := host(t)
	ns := workload(t, "a")
	want := state(bridge("fn-a"), veth("fv-a", "fn-a", ns), addr("fn-a", "10.1.0.1/24"), addr("fn-a", "fd01::1/64"),
		dest("10.2.0.0/16", "10.1.0.2", "fn-a"), dest("fd02::/16", "fd01::2", "fn-a"))
	reach(t, k, "", want)
	changed := veth("fv-a", "fn-a", ns)
	changed.MTU, changed.Isolated = 1400, true
	want[changed.Key()] = changed
	moved := dest("10.2.0.0/16", "10.1.0.3", "fn-a")
	want[moved.Key()] = moved
	apply(t, k, "", dataplane.Diff(want, dataplane.State{}))
	if left := dataplane.Diff(want, observe(t, k, "")); len(left) > 0 {
		t.Errorf("left:\n%s", left)
	}
}

// TestUnmarkedAddressIsTaken covers an address of ours that somebody removed and put back by hand.
func TestUnmarkedAddressIsTaken(t *testing.T) {
	k := host(t)
	want := state(bridge("fn-a"), addr("fn-a", "10.1.0.1/24"), addr("fn-a", "fd01::1/64"))
	reach(t, k, "", want)
	for _, line := range []string{
		"ip addr del 10.1.0.1/24 dev fn-a", "ip addr add 10.1.0.1/24 dev fn-a",
		"ip addr del fd01::1/64 dev fn-a", "ip addr add fd01::1/64 dev fn-a nodad",
	} {
		run(t, line)
	}
	reach(t, k, "", want)
}

// TestFailingStepIsNamedAndTheRestDone has failing steps of every kind between good ones.
func TestFailingStepIsNamedAndTheRestDone(t *testing.T) {
	k := host(t)
	run(t, "ip link add fn-taken type bridge")
	badVeth := veth("fv-bad", "fn-nowhere", "")
	badMTU := bridge("fn-mtu")
	badMTU.MTU = 20
	ownerless := bridge("fn-x")
	ownerless.Owner = ""
	plan := dataplane.Plan{
		{Op: dataplane.Add, Object: sysctl("net/ipv4/nonsense", "", "1")},
		{Op: dataplane.Add, Object: sysctl("../../etc/passwd", "", "1")},
		{Op: dataplane.Add, Object: sysctl("net/ipv4/ip_forward", "", "1")},
		{Op: dataplane.Add, Object: bridge("fn-1")},
		{Op: dataplane.Add, Object: bridge("fn-taken")},
		{Op: dataplane.Add, Object: bridge("fn-2")},
		{Op: dataplane.Add, Object: badMTU},
		{Op: dataplane.Add, Object: ownerless},
		{Op: dataplane.Add, Object: bridge("a-name-too-long-for-a-link")},
		{Op: dataplane.Add, Object: badVeth},
		{Op: dataplane.Add, Object: addr("fn-1", "10.1.0.1/24")},
		{Op: dataplane.Add, Object: addr("fn-nowhere", "10.3.0.1/24")},
		{Op: dataplane.Add, Object: dest("10.9.0.0/16", "10.77.0.1", "fn-1")}, // unreachable gateway
		{Op: dataplane.Add, Object: dest("10.2.0.0/16", "10.1.0.2", "fn-1")},
		{Op: dataplane.Add, Object: dataplane.Table{Family: dataplane.Inet}},
		{Op: dataplane.Add, Object: addr("fn-2", "10.4.0.1/24")},
	}
	err := k.Apply(context.Background(), "", plan)
	bad := []string{"nonsense", "passwd", "link fn-taken", "fn-mtu", "fn-x", "too-long", "fv-bad", "fn-nowhere", "10.77.0.1", "add table"}
	lines := strings.Split(err.Error(), "\n")
	t.Log(err)
	if len(lines) != len(bad) {
		t.Fatalf("%d errors, want %d:\n%v", len(lines), len(bad), err)
	}
	for i, word := range bad {
		if !strings.Contains(lines[i], word) {
			t.Errorf("error %d is %q, want one about %s", i, lines[i], word)
		}
	}
	want := state(bridge("fn-1"), bridge("fn-2"), addr("fn-1", "10.1.0.1/24"), addr("fn-2", "10.4.0.1/24"),
		dest("10.2.0.0/16", "10.1.0.2", "fn-1"), sysctl("net/ipv4/ip_forward", "", "1"))
	if got := text(observe(t, k, "")); got != text(want) {
		t.Errorf("got\n%swant\n%s", got, text(want))
	}
}

// TestLinkIsUndoneWhenItsMarkIsRefused: a link must never stay without its mark.
func TestLinkIsUndoneWhenItsMarkIsRefused(t *testing.T) {
	k := host(t)
	br := bridge("fn-a")
	br.Owner = strings.Repeat("x", 300) // longer than an alias may be
	before := dumps(t)
	if err := k.Apply(context.Background(), "", dataplane.Plan{{Op: dataplane.Add, Object: br}}); err == nil {
		t.Error("an alias of 300 bytes was taken")
	}
	if after := dumps(t); after != before {
		t.Errorf("left:\n%s", after)
	}
}

// TestTakenIndexIsNoError has another program take the indexes that we would choose.
func TestTakenIndexIsNoError(t *testing.T) {
	k := host(t)
	reach(t, k, "", state(bridge("fn-a")))
	for range 3 {
		run(t, "ip link add type veth")
	}
	reach(t, k, "", state(bridge("fn-a"), bridge("fn-b"), addr("fn-b", "10.1.0.1/24")))
}

// Our indexes are far above those that the kernel gives, so that it never gives one of them to somebody else's link between our
// look and our making: the mark would then be set on that link.
func TestIndexesAreOutOfTheKernelsWay(t *testing.T) {
	k := host(t)
	reach(t, k, "", state(bridge("fn-a")))
	run(t, "ip link add type veth")
	reach(t, k, "", state(bridge("fn-a"), bridge("fn-b")))
	for _, name := range []string{"fn-a", "fn-b"} {
		if l, err := net.InterfaceByName(name); err != nil || l.Index < 1<<24 {
			t.Errorf("%s: %+v (%v)", name, l, err)
		}
	}
	if l, err := net.InterfaceByName("veth0"); err != nil || l.Index >= 1<<24 {
		t.Errorf("the kernel's own went up too: %+v (%v)", l, err)
	}
}

// TestHostSysctlsAreRestored goes through a restart, and spares what somebody changed meanwhile.
func TestHostSysctlsAreRestored(t *testing.T) {
	unshare(t)
	dir := t.TempDir()
	get := func(name string) string { return strings.TrimSpace(run(t, "sysctl -n "+name)) }
	run(t, "sysctl -qw net.ipv4.conf.all.arp_ignore=3 net.ipv4.conf.all.rp_filter=2 net.ipv4.ip_forward=0")
	apply(t, open(t, dir), "", dataplane.Plan{
		{Op: dataplane.Add, Object: sysctl("net/ipv4/ip_forward", "", "1")},
		{Op: dataplane.Add, Object: sysctl("net/ipv4/conf/all/arp_ignore", "", "1")},
		{Op: dataplane.Replace, Object: sysctl("net/ipv4/conf/all/arp_ignore", "", "2")},
		{Op: dataplane.Add, Object: sysctl("net/ipv4/conf/all/rp_filter", "", "2")}, // so already: not ours to restore
		{Op: dataplane.Add, Object: sysctl("net/ipv4/conf/all/log_martians", "", "1")},
	})
	run(t, "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.all.log_martians=7")
	k := open(t, dir)
	want := state(sysctl("net/ipv4/ip_forward", "", "1"), sysctl("net/ipv4/conf/all/arp_ignore", "", "2"),
		sysctl("net/ipv4/conf/all/log_martians", "", "7"))
	if got := text(observe(t, k, "")); got != text(want) {
		t.Errorf("after a restart\n%swant\n%s", got, text(want))
	}
	reach(t, k, "", dataplane.State{})
	for name, want := range map[string]string{
		"net.ipv4.ip_forward": "0", "net.ipv4.conf.all.arp_ignore": "3", "net.ipv4.conf.all.rp_filter": "1",
		"net.ipv4.conf.all.log_martians": "7",
	} {
		if got := get(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// TestTrackedSysctlsAreObservedAfterARestart: nothing is written again by a daemon that has just started.
func TestTrackedSysctlsAreObservedAfterARestart(t *testing.T) {
	unshare(t)
	dir := t.TempDir()
	s := sysctl("net/ipv4/conf/fn-a/arp_ignore", "fn-a", "1")
	want := state(bridge("fn-a"), s)
	reach(t, open(t, dir), "", want)
	k := open(t, dir)
	k.Track("", s)
	if left := dataplane.Diff(want, observe(t, k, "")); len(left) != 0 {
		t.Errorf("left:\n%s", left)
	}
}

// TestFarEndIsFoundAfterARestart covers a crash between the two ends of a veth.
func TestFarEndIsFoundAfterARestart(t *testing.T) {
	unshare(t)
	dir := t.TempDir()
	ns := workload(t, "a")
	reach(t, open(t, dir), "", state(veth("fv-a", "", ns)))
	k := open(t, dir)
	observe(t, k, "")
	reach(t, k, ns, state(lo(true), farVeth("fv-a")))
}

func TestNode(t *testing.T) {
	k := host(t)
	for _, line := range []string{
		"ip link set lo up", "ip link add wan mtu 1450 type veth peer name far", "ip link set wan up", "ip link set far up",
		"ip addr add 192.0.2.1/24 dev wan", "ip addr add 2001:db8::1/64 dev wan nodad",
		"ip route add default via 192.0.2.254 proto dhcp metric 100", "ip route add 198.51.100.0/24 proto bird metric 9 nexthop via 192.0.2.2 nexthop via 192.0.2.3",
		"ip -6 route add default via 2001:db8::ff metric 5", "ip route add blackhole 203.0.113.0/24", "ip route add 10.7.0.0/16 dev wan table 99",
		"sysctl -qw net.ipv6.conf.wan.accept_ra=2", "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.wan.rp_filter=2",
	} {
		run(t, line)
	}
	reach(t, k, "", state(bridge("fn-a"), addr("fn-a", "10.1.0.1/24"), dest("10.2.0.0/16", "10.1.0.2", "fn-a")))
	n, err := k.Node(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	wan, ok := n.Link("wan")
	if !ok || wan.MTU != 1450 || !wan.Up || wan.AcceptRA != 2 || wan.RPFilter != 2 || len(wan.Addrs) < 2 || wan.Addrs[0].String() != "192.0.2.1/24" {
		t.Errorf("wan is %+v", wan)
	}
	if l, ok := n.Link("lo"); !ok || !l.Loopback || !l.Up || l.RPFilter != 1 {
		t.Errorf("lo is %+v", l)
	}
	if l, ok := n.Link("fn-a"); ok {
		t.Errorf("a link of ours is told: %+v", l)
	}
	if up := n.Uplinks(); len(up) != 1 || up[0].Name != "wan" {
		t.Errorf("uplinks: %+v", up)
	}
	var lines []string
	for _, r := range n.Routes {
		if !r.Dest.Addr().IsLinkLocalUnicast() {
			words := strings.Fields(fmt.Sprint(r.Dest, " ", addrText(r), " ", r.Link, " ", r.Proto))
			lines = append(lines, strings.Join(words, " "))
		}
	}
	want := `0.0.0.0/0 via 192.0.2.254 wan dhcp
10.7.0.0/16 wan boot
192.0.2.0/24 wan kernel
198.51.100.0/24 via 192.0.2.2 wan bird
198.51.100.0/24 via 192.0.2.3 wan bird
203.0.113.0/24 boot
::/0 via 2001:db8::ff wan boot
2001:db8::/64 wan kernel`
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("routes\n%s\nwant\n%s", got, want)
	}
}

func addrText(r model.HostRoute) string {
	if r.Via.IsValid() {
		return "via " + r.Via.String()
	}
	return ""
}

// A workload that flushes its addresses and types one again, as the plan's command says, has it: the mark of ours can't be
// typed. An address of its own is its own.
func TestAddressesTypedAgainCount(t *testing.T) {
	k := host(t)
	far := workload(t, "a")
	port := dataplane.Link{Name: "fv-a", Kind: dataplane.Veth, Owner: "ep/a/eth0", Up: true, MTU: 1500, MAC: model.MAC{0xfe, 1}, Peer: "eth0", PeerNetns: far}
	end := dataplane.Link{Name: "eth0", Kind: dataplane.Veth, Owner: "ep/a/eth0", Up: true, MTU: 1500, MAC: model.MAC{2, 1}}
	want := state(end, dataplane.Address{Link: "eth0", Prefix: netip.MustParsePrefix("10.0.0.2/24")})
	apply(t, k, dataplane.HostNetns, dataplane.Diff(state(port), nil))
	apply(t, k, far, dataplane.Diff(want, observe(t, k, far)))
	for _, line := range []string{"flush", "address add 10.0.0.2/24", "address add 10.9.9.9/24"} {
		run(t, "nsenter --net="+far+" ip "+strings.Replace(line, "flush", "address flush", 1)+" dev eth0")
		if line == "flush" {
			continue
		}
		have := observe(t, k, far)
		delete(have, dataplane.Link{Name: "lo"})
		if p := dataplane.Diff(want, have); len(p) > 0 {
			t.Errorf("after %q:\n%s", line, p)
		}
	}
}
