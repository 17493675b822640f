package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/internal/model"
)

func vxlan(name string, vni uint32) dataplane.Link {
	return dataplane.Link{Name: name, Kind: dataplane.VXLAN, Owner: "net/" + name, MAC: model.BridgeMAC(name), MTU: 1450, Up: true,
		Tunnel: dataplane.Tunnel{VNI: vni, Port: 8472, Local: netip.MustParseAddr("192.0.2.1")}}
}

func vxlan6(name string, vni uint32) dataplane.Link {
	l := vxlan(name, vni)
	l.MTU, l.Tunnel.Local = 1430, netip.MustParseAddr("2001:db8::1")
	return l
}

func neigh(link, ip, mac string) dataplane.Neighbour {
	return dataplane.Neighbour{Link: link, Addr: netip.MustParseAddr(ip), MAC: mustMAC(mac)}
}

func fdb(link, mac, dst string) dataplane.FDB {
	return dataplane.FDB{Link: link, MAC: mustMAC(mac), Dst: netip.MustParseAddr(dst)}
}

func mustMAC(s string) model.MAC {
	m, err := model.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

func onLink(prefix, via, link, source string) dataplane.Route {
	r := dest(prefix, via, link)
	r.OnLink, r.Source = true, netip.MustParseAddr(source)
	return r
}

// peer is what a network has for each of its other members.
func peer(link string, i int) []dataplane.Object {
	block := netip.AddrFrom4([4]byte{10, byte(100 + i>>8), byte(i), 0})
	mac := model.MAC{2, 0xf1, 0, 0, byte(i >> 8), byte(i)}
	return []dataplane.Object{
		dataplane.Neighbour{Link: link, Addr: block, MAC: mac},
		dataplane.FDB{Link: link, MAC: mac, Dst: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})},
		dataplane.Route{Dest: netip.PrefixFrom(block, 24), Via: block, OnLink: true, Link: link, Source: netip.MustParseAddr("10.99.0.1")},
	}
}

// tunnelled is a network of n peers: its bridge with the gateway's address, its tunnel, and what leads to each.
func tunnelled(n int) dataplane.State {
	s := state(bridge("fn-a"), addr("fn-a", "10.99.0.1/24"), vxlan("fx-a", 7))
	for i := range n {
		s.Put(peer("fx-a", i)...)
	}
	return s
}

// TestEveryTunnelFieldIsReached changes each field by itself, there and back; what must be made anew takes what is on it along.
func TestEveryTunnelFieldIsReached(t *testing.T) {
	k := host(t)
	four, six := vxlan("fx-a", 7), vxlan6("fx-b", 7)
	base := []dataplane.Object{bridge("fn-a"), addr("fn-a", "10.99.0.1/24"), addr("fn-a", "fd99::1/64"), four, six,
		neigh("fx-a", "10.1.0.0", "02:00:00:00:00:01"), fdb("fx-a", "02:00:00:00:00:01", "198.18.0.1"),
		neigh("fx-b", "fd01::", "02:00:00:00:00:02"), fdb("fx-b", "02:00:00:00:00:02", "2001:db8::2"),
		onLink("10.1.0.0/24", "10.1.0.0", "fx-a", "10.99.0.1"), onLink("fd01::/64", "fd01::", "fx-b", "fd99::1"),
		sysctl("net/ipv4/conf/fx-a/rp_filter", "fx-a", "2")}
	with4 := func(change func(*dataplane.Link)) []dataplane.Object { l := four; change(&l); return one(l) }
	with6 := func(change func(*dataplane.Link)) []dataplane.Object { l := six; change(&l); return one(l) }
	for name, change := range map[string][]dataplane.Object{
		"vni":            with4(func(l *dataplane.Link) { l.Tunnel.VNI = 1<<24 - 1 }),
		"port":           with4(func(l *dataplane.Link) { l.Tunnel.Port = 4789 }),
		"local":          with4(func(l *dataplane.Link) { l.Tunnel.Local = netip.MustParseAddr("192.0.2.9") }),
		"no checksum":    with4(func(l *dataplane.Link) { l.Tunnel.NoTxCsum = true }),
		"other family":   append(with4(func(l *dataplane.Link) { l.Tunnel = six.Tunnel; l.Tunnel.VNI = 8 }), fdb("fx-a", "02:00:00:00:00:01", "2001:db8::3")),
		"local 6":        with6(func(l *dataplane.Link) { l.Tunnel.Local = netip.MustParseAddr("2001:db8::9") }),
		"no checksum 6":  with6(func(l *dataplane.Link) { l.Tunnel.NoTxCsum = true; l.Tunnel.Port = 4789 }),
		"mac":            with4(func(l *dataplane.Link) { l.MAC = model.MAC{2, 1, 2, 3, 4, 5} }),
		"mtu":            with4(func(l *dataplane.Link) { l.MTU = 1400 }),
		"owner":          with4(func(l *dataplane.Link) { l.Owner = "net/other" }),
		"noarp":          with4(func(l *dataplane.Link) { l.NoARP = true }),
		"second":         one(vxlan("fx-c", 8)),
		"neighbour":      one(neigh("fx-a", "10.1.0.0", "02:00:00:00:00:09")),
		"neighbour new":  one(neigh("fx-a", "10.2.0.0", "02:00:00:00:00:01")),
		"neighbour 6":    one(neigh("fx-b", "fd01::", "02:00:00:00:00:09")),
		"neighbour 6 4":  one(neigh("fx-b", "10.1.0.0", "02:00:00:00:00:09")),
		"fdb":            one(fdb("fx-a", "02:00:00:00:00:01", "198.18.0.9")),
		"fdb new":        one(fdb("fx-a", "02:00:00:00:00:07", "198.18.0.1")),
		"fdb 6":          one(fdb("fx-b", "02:00:00:00:00:02", "2001:db8::9")),
		"route":          one(dest("10.1.0.0/24", "", "fx-a")),
		"route 6":        one(dest("fd01::/64", "", "fx-b")),
		"route same via": one(onLink("10.3.0.0/24", "10.1.0.0", "fx-a", "10.99.0.1")),
	} {
		t.Run(name, func(t *testing.T) {
			converge(t, k, state(base...))
			want := state(base...)
			for _, o := range change {
				want[o.Key()] = o
			}
			converge(t, k, want)
			converge(t, k, state(base...))
			converge(t, k, dataplane.State{})
		})
	}
}

// converge is reach for what may take several passes.
func converge(t testing.TB, k *kernel.Kernel, want dataplane.State) {
	t.Helper()
	var plans strings.Builder
	for range 3 {
		plan := dataplane.Diff(want, observe(t, k, ""))
		fmt.Fprintf(&plans, "%s--\n", plan)
		apply(t, k, "", plan)
		if left := dataplane.Diff(want, observe(t, k, "")); len(left) == 0 {
			return
		}
	}
	t.Fatalf("not converged after\n%s\nthere is left\n%s", &plans, dataplane.Diff(want, observe(t, k, "")))
}

// putTunnel adds a random tunnel link to a state, and random peers.
func putTunnel(s dataplane.State, r *rand.Rand, i int) {
	if r.IntN(3) == 0 {
		return
	}
	l, outer := vxlan(fmt.Sprintf("fx-%d", i), uint32(10*i+r.IntN(2))), "198.18.0.%d"
	if i == 2 {
		l, outer = vxlan6(l.Name, l.Tunnel.VNI), "2001:db8::%d"
	}
	l.Tunnel.Port = uint16(8472 + i) // those of one port must agree on checksums
	l.Tunnel.NoTxCsum, l.Up, l.MTU, l.MAC[5] = r.IntN(4) == 0, r.IntN(4) > 0, 1300+r.IntN(2)*100, byte(r.IntN(2))
	if r.IntN(3) == 0 {
		l.Tunnel.Local = l.Tunnel.Local.Next()
	}
	s.Put(l)
	for p := range r.IntN(6) {
		block := fmt.Sprintf("10.%d.%d.0", 210+i, p)
		mac := fmt.Sprintf("02:00:00:00:00:0%d", 1+r.IntN(9))
		s.Put(neigh(l.Name, block, mac))
		s.Put(fdb(l.Name, mac, fmt.Sprintf(outer, 1+r.IntN(3))))
		if l.Up {
			route := dest(block+"/24", block, l.Name)
			route.OnLink = true
			s.Put(route)
		}
	}
}

// TestTenThousandPeers: ten times as many neighbours as the kernel's table is said to hold, and ordinary ones still are learned beside them.
func TestTenThousandPeers(t *testing.T) {
	k := host(t)
	reach(t, k, "", tunnelled(10000))
	run(t, "ip neigh add 10.99.0.7 dev fn-a lladdr 02:00:00:00:00:77 nud reachable")
	if line := run(t, "ip neigh show 10.99.0.7 dev fn-a"); !strings.Contains(line, "02:00:00:00:00:77") {
		t.Errorf("an ordinary neighbour is %q", line)
	}
	reach(t, k, "", tunnelled(0))
}

// TestTunnelsAreMended changes by hand what is on and of a tunnel link: all that is there is ours, whoever put it there.
func TestTunnelsAreMended(t *testing.T) {
	k := host(t)
	want := tunnelled(3)
	want.Put(vxlan6("fx-b", 7))
	reach(t, k, "", want)
	run(t, "ip link add e0 type veth peer name e1")
	run(t, "ip link set e0 up")
	run(t, "ip neigh add 192.0.2.7 dev e0 lladdr 02:00:00:00:00:77 nud permanent protocol 157")
	for _, line := range []string{
		"ip neigh del 10.100.1.0 dev fx-a",
		"ip neigh replace 10.100.1.0 dev fx-a lladdr 02:00:00:00:00:66 nud permanent",
		"ip neigh change 10.100.1.0 dev fx-a lladdr 02:f1:00:00:00:01 nud reachable",
		"ip neigh add 10.200.1.0 dev fx-a lladdr 02:00:00:00:00:66 nud permanent",
		"ip neigh add fd66::1 dev fx-a lladdr 02:00:00:00:00:66 nud permanent",
		"ip neigh flush dev fx-a nud permanent",
		"bridge fdb del 02:f1:00:00:00:01 dev fx-a dst 198.18.0.1 self",
		"bridge fdb replace 02:f1:00:00:00:01 dev fx-a dst 198.18.0.66 self permanent",
		"bridge fdb replace 02:f1:00:00:00:01 dev fx-a dst 198.18.0.1 port 4790 self permanent",
		"bridge fdb replace 02:f1:00:00:00:01 dev fx-a dst 198.18.0.1 vni 66 self permanent",
		"bridge fdb replace 02:f1:00:00:00:01 dev fx-a dst 198.18.0.1 self dynamic",
		"bridge fdb add 02:66:00:00:00:01 dev fx-a dst 198.18.0.66 self permanent",
		"bridge fdb add 02:66:00:00:00:01 dev fx-a dst 198.18.0.66 self dynamic",
		"bridge fdb append 00:00:00:00:00:00 dev fx-a dst 198.18.0.66 self permanent",
		"bridge fdb append 00:00:00:00:00:00 dev fx-a dst 198.18.0.67 self permanent",
		"ip link set fx-a type vxlan remote 198.18.0.66",
		"ip link set fx-a type vxlan learning",
		"ip link set fx-a type vxlan local 192.0.2.66",
		"ip link set fx-a address 02:66:00:00:00:01",
		"ip link set fx-a mtu 1300",
		"ip link set fx-a down",
		"ip link del fx-a",
		"ip route del 10.100.1.0/24",
		"ip route replace 10.100.1.0/24 via 10.100.2.0 dev fx-a onlink proto 157",
		"ip route change 10.100.1.0/24 dev fx-a proto 157",
		"ip route flush dev fx-a",
		"ip link set fx-a master fn-a",
		"ip link set fx-b type vxlan local 2001:db8::66",
	} {
		run(t, line)
		if len(dataplane.Diff(want, observe(t, k, ""))) == 0 {
			t.Errorf("%s: not seen", line)
		}
		converge(t, k, want)
	}
	converge(t, k, state(want[bridge("fn-a").Key()]))
	if left := run(t, "ip neigh show nud permanent"); strings.Count(left, "\n") != 1 || !strings.Contains(left, "192.0.2.7 dev e0") {
		t.Errorf("the neighbour of a link of others is not as it was: %q", left)
	}
}

// TestTunnelIsAsMade looks at what a dataplane.Link has no words for.
func TestTunnelIsAsMade(t *testing.T) {
	k := host(t)
	six := vxlan6("fx-b", 7)
	six.Tunnel.NoTxCsum = true
	reach(t, k, "", state(vxlan("fx-a", 7), six))
	for link, words := range map[string][]string{
		"fx-a": {"vxlan id 7 local 192.0.2.1 ", "dstport 8472 nolearning", " udpcsum ", "addrgenmode none", "alias flatnet net/fx-a"},
		"fx-b": {"vxlan id 7 local 2001:db8::1 ", "dstport 8472 nolearning", " udp6zerocsumtx udp6zerocsumrx ", "addrgenmode none"},
	} {
		is := run(t, "ip -d link show dev "+link)
		for _, w := range words {
			if !strings.Contains(is, w) {
				t.Errorf("%s: no %q in\n%s", link, w, is)
			}
		}
	}
	if own := run(t, "ip -6 addr show dev fx-a") + run(t, "ip -6 addr show dev fx-b"); own != "" {
		t.Errorf("a tunnel link has given itself an address:\n%s", own)
	}
	if n, err := k.Node(context.Background()); err != nil || len(n.Links) != 1 {
		t.Errorf("the host's links are %v, %v; want only lo", n.Links, err)
	}
}

// TestTakenTunnelsAreNamed: the kernel only says that there is another.
func TestTakenTunnelsAreNamed(t *testing.T) {
	k := host(t)
	run(t, "ip link add flannel.1 type vxlan id 7 local 192.0.2.1 dstport 8472 nolearning")
	refused := func(l dataplane.Link, words string) {
		t.Helper()
		before := run(t, "ip -br link")
		have := observe(t, k, "")
		err := k.Apply(context.Background(), "", dataplane.Diff(with(have, l), have))
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("got %v, want an error with %q", err, words)
		}
		if after := run(t, "ip -br link"); after != before {
			t.Errorf("links were %s, now %s", before, after)
		}
	}
	refused(vxlan("fx-a", 7), `VNI 7 at UDP port 8472 has link "flannel.1", which exists and is not ours`)
	if err := k.Apply(context.Background(), "", dataplane.Diff(state(vxlan("fx-a", 7)), dataplane.State{})); !errors.Is(err, kernel.ErrNotOurs) {
		t.Errorf("got %v, want it to be %v", err, kernel.ErrNotOurs)
	}
	refused(vxlan("flannel.1", 7), "exists and is not ours")
	reach(t, k, "", state(vxlan("fx-a", 8)))
	refused(vxlan("fx-a", 7), `has link "flannel.1"`) // and the one with the other VNI stays
	for _, o := range []dataplane.Object{neigh("flannel.1", "10.1.0.0", "02:00:00:00:00:01"), fdb("flannel.1", "02:00:00:00:00:01", "198.18.0.1")} {
		if err := k.Apply(context.Background(), "", dataplane.Plan{{Op: dataplane.Add, Object: o}}); err == nil || !strings.Contains(err.Error(), `link "flannel.1" is no tunnel of ours`) {
			t.Errorf("%s: got %v", o, err)
		}
		if err := k.Apply(context.Background(), "", dataplane.Plan{{Op: dataplane.Del, Object: o}}); err != nil {
			t.Errorf("a deletion there: %v", err)
		}
	}
	taken := vxlan("fx-b", 8)
	err := k.Apply(context.Background(), "", dataplane.Diff(state(taken), dataplane.State{}))
	if err == nil || !strings.Contains(err.Error(), `has link "fx-a" of net/fx-a`) {
		t.Errorf("got %v, want the network that has it", err)
	}
	reach(t, k, "", state(taken)) // the one in its place goes first
	run(t, "ip link add other6 type vxlan id 9 local 2001:db8::1 dstport 4789 nolearning udp6zerocsumrx")
	run(t, "ip link set other6 up")
	six := vxlan6("fx-6", 10)
	six.Tunnel.Port = 4789
	refused(six, `UDP port 4789, which link "other6" has too: address already in use`)
}

// TestOuterSourceFollowsLocal: packets to known peers leave with the new address at once.
func TestOuterSourceFollowsLocal(t *testing.T) {
	k := host(t)
	far := workload(t, "far")
	quiet(t)
	nsenter := "nsenter --net=" + far + " "
	run(t, "ip link add e0 type veth peer name e0 netns "+far)
	for _, test := range []struct {
		before, after, peer, inner, innerPeer string
		bits                                  int
	}{
		{"192.0.2.1", "192.0.2.9", "192.0.2.2", "10.1.0.1", "10.2.0.1", 24},
		{"2001:db8::1", "2001:db8::9", "2001:db8::2", "10.1.0.1", "10.2.0.1", 64},
	} {
		run(t, fmt.Sprintf("ip addr add %s/%d dev e0 nodad", test.before, test.bits))
		run(t, fmt.Sprintf("ip addr add %s/%d dev e0 nodad", test.after, test.bits))
		run(t, "ip link set e0 up")
		run(t, nsenter+fmt.Sprintf("ip addr add %s/%d dev e0 nodad", test.peer, test.bits))
		run(t, nsenter+"ip link set e0 up")
		l := vxlan("fx-a", 7)
		l.Tunnel.Local = netip.MustParseAddr(test.before)
		want := state(l, addr("fx-a", test.inner+"/32"), neigh("fx-a", test.innerPeer, "02:00:00:00:00:02"), fdb("fx-a", "02:00:00:00:00:02", test.peer))
		want.Put(onLink("10.2.0.0/24", test.innerPeer, "fx-a", test.inner))
		reach(t, k, "", want)
		sources := outerSources(t, far, test.peer, test.innerPeer)
		if sources[test.before] == 0 {
			t.Fatalf("no packet from %s: %v", test.before, sources)
		}
		l.Tunnel.Local = netip.MustParseAddr(test.after)
		want[l.Key()] = l
		reach(t, k, "", want)
		sources = outerSources(t, far, test.peer, test.innerPeer)
		if sources[test.after] == 0 || sources[test.before] > 0 {
			t.Errorf("outer sources are %v, want only %s", sources, test.after)
		}
		if left := run(t, "ip -6 addr show dev fx-a"); left != "" {
			t.Errorf("left on the link:\n%s", left)
		}
		reach(t, k, "", dataplane.State{})
	}
}

// outerSources sends an inner packet from each of two CPUs, as each keeps a path of its own, and returns how many outer ones came to
// the peer from which address.
func outerSources(t *testing.T, far, peer, inner string) map[string]int {
	t.Helper()
	ns, err := netns.Open(far)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var c *net.UDPConn
	err = netns.DoFile(ns, func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(peer), 8472)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	from := map[string]int{}
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	for cpu := range min(2, runtime.NumCPU()) {
		exec.Command("taskset", "-c", fmt.Sprint(cpu), "ping", "-c1", "-W0.01", inner).Run() // nobody answers
		_, source, err := c.ReadFromUDPAddrPort(make([]byte, 2000))
		if err != nil {
			t.Fatal(err)
		}
		from[source.Addr().Unmap().String()]++
	}
	return from
}
