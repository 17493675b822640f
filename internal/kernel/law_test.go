package kernel_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/internal/model"
)

// TestEveryFieldIsReached changes each field of each kind by itself, there and back.
func TestEveryFieldIsReached(t *testing.T) {
	k := host(t)
	ns, other := workload(t, "a"), workload(t, "b")
	nic(t, "nic0")
	br, br2, ve := bridge("fn-a"), bridge("fn-b"), veth("fv-a", "fn-a", ns)
	base := []dataplane.Object{br, br2, ve, addr("fn-a", "10.1.0.1/24"), addr("fn-a", "fd01::1/64")}
	changes := map[string]func() []dataplane.Object{
		"bridge mac":   func() []dataplane.Object { br := br; br.MAC = model.MAC{2, 1, 2, 3, 4, 5}; return one(br) },
		"bridge mtu":   func() []dataplane.Object { br := br; br.MTU = 1400; return one(br) },
		"bridge down":  func() []dataplane.Object { br := br2; br.Up = false; return one(br) },
		"bridge noarp": func() []dataplane.Object { br := br2; br.NoARP = true; return one(br) },
		"bridge owner": func() []dataplane.Object { br := br2; br.Owner = "net/other"; return one(br) },
		"veth mac":     func() []dataplane.Object { ve := ve; ve.MAC = model.MAC{0xfe, 1, 2, 3, 4, 5}; return one(ve) },
		"veth mtu":     func() []dataplane.Object { ve := ve; ve.MTU = 1300; return one(ve) },
		"veth down":    func() []dataplane.Object { ve := ve; ve.Up = false; return one(ve) },
		"veth noarp":   func() []dataplane.Object { ve := ve; ve.NoARP = true; return one(ve) },
		"veth owner":   func() []dataplane.Object { ve := ve; ve.Owner = "ep/x/y"; return one(ve) },
		"master":       func() []dataplane.Object { ve := ve; ve.Master = "fn-b"; return one(ve) },
		"no master":    func() []dataplane.Object { ve := ve; ve.Master = ""; return one(ve) },
		"isolated":     func() []dataplane.Object { ve := ve; ve.Isolated = true; return one(ve) },
		"hairpin":      func() []dataplane.Object { ve := ve; ve.Hairpin = true; return one(ve) },
		"master and flags": func() []dataplane.Object {
			ve := ve
			ve.Master, ve.Isolated, ve.Hairpin = "fn-b", true, true
			return one(ve)
		},
		"peer":           func() []dataplane.Object { ve := ve; ve.Peer = "eth7"; return one(ve) },
		"peer netns":     func() []dataplane.Object { ve := ve; ve.PeerNetns = other; return one(ve) },
		"kind":           func() []dataplane.Object { b := bridge("fv-a"); return one(b) },
		"route":          func() []dataplane.Object { return one(dest("10.9.0.0/16", "", "fn-a")) },
		"route via":      func() []dataplane.Object { return one(dest("10.9.0.0/16", "10.1.0.7", "fn-a")) },
		"route6":         func() []dataplane.Object { return one(dest("fd09::/16", "fd01::7", "fn-a")) },
		"route6 dev":     func() []dataplane.Object { return one(dest("fd09::/16", "", "fn-a")) },
		"default":        func() []dataplane.Object { return one(dest("0.0.0.0/0", "10.1.0.7", "fn-a")) },
		"default6":       func() []dataplane.Object { return one(dest("::/0", "fd01::7", "fn-a")) },
		"via 6":          func() []dataplane.Object { return one(dest("10.9.0.0/16", "fd01::7", "fn-a")) },
		"address":        func() []dataplane.Object { return one(addr("fn-b", "10.2.0.1/24")) },
		"host address":   func() []dataplane.Object { return one(addr("fn-b", "10.2.0.1/32")) },
		"address6":       func() []dataplane.Object { return one(addr("fn-b", "fd02::1/128")) },
		"second address": func() []dataplane.Object { return one(addr("fn-a", "10.1.1.1/24")) },
		"route fields": func() []dataplane.Object {
			r := dest("10.9.0.0/16", "10.1.0.7", "fn-a")
			r.Metric, r.Table, r.Source, r.MTU = 50, 700, netip.MustParseAddr("10.1.0.1"), 1280
			return one(r)
		},
		"route6 fields": func() []dataplane.Object {
			r := dest("fd09::/16", "fd01::7", "fn-a")
			r.Metric, r.Table, r.Source, r.MTU = 50, 700, netip.MustParseAddr("fd01::1"), 1280
			return one(r)
		},
		"link sysctl":   func() []dataplane.Object { return one(sysctl("net/ipv4/conf/fn-a/arp_ignore", "fn-a", "2")) },
		"link sysctl 6": func() []dataplane.Object { return one(sysctl("net/ipv6/conf/fn-b/disable_ipv6", "fn-b", "1")) },
		"gen mode":      func() []dataplane.Object { return one(sysctl("net/ipv6/conf/fn-b/addr_gen_mode", "fn-b", "1")) },
		"file sysctl":   func() []dataplane.Object { return one(sysctl("net/ipv6/neigh/fn-b/gc_stale_time", "fn-b", "7")) },
		"host sysctl":   func() []dataplane.Object { return one(sysctl("net/ipv4/ip_forward", "", "1")) },
		"wide sysctl":   func() []dataplane.Object { return one(sysctl("net/ipv4/ping_group_range", "", "0 7")) },
		"uplink":        func() []dataplane.Object { br := br; br.Uplink = "nic1"; return one(br) },
		"shaper":        func() []dataplane.Object { return one(dataplane.NewShaper("fv-a", 125_000, 16_000, 19_125)) },
		"redirect": func() []dataplane.Object {
			return []dataplane.Object{ifb("fi-a", "fv-a"), dataplane.NewShaper("fi-a", 125_000, 16_000, 19_125), dataplane.Redirect{Link: "fv-a", Via: "fi-a"}}
		},
		"port": func() []dataplane.Object {
			br := br
			br.Uplink = "nic0"
			return []dataplane.Object{br, dataplane.Port{Link: "nic0", Master: "fn-a"}}
		},
		"rule":          func() []dataplane.Object { return one(rule(15700, "10.1.0.2", 15700)) },
		"rule6":         func() []dataplane.Object { return one(rule(15700, "fd01::2", 7)) },
		"proxy":         func() []dataplane.Object { return one(proxied("nic0", "192.0.2.7")) },
		"proxy6":        func() []dataplane.Object { return one(proxied("nic0", "2001:db8::7")) },
		"proxy on ours": func() []dataplane.Object { return one(proxied("fn-a", "192.0.2.7")) },
		"foreign link":  func() []dataplane.Object { return one(sysctl("net/ipv4/conf/lo/rp_filter", "", "2")) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			reach(t, k, "", state(base...)) // before and after every change: both ways
			want := state(base...)
			for _, o := range change() {
				want[o.Key()] = o
			}
			reach(t, k, "", want)
			reach(t, k, "", state(base...))
			reach(t, k, "", dataplane.State{})
		})
	}
}

func one(o dataplane.Object) []dataplane.Object { return []dataplane.Object{o} }

func sysctl(name, link, value string) dataplane.Sysctl {
	return dataplane.Sysctl{Name: name, Link: link, Value: value}
}

// TestZeroFieldsAreTheKernels holds the law for links that leave MAC and MTU open.
func TestZeroFieldsAreTheKernels(t *testing.T) {
	k := host(t)
	br := dataplane.Link{Name: "fn-a", Kind: dataplane.Bridge, Owner: "net/a"}
	reach(t, k, "", state(br))
	full := bridge("fn-a")
	reach(t, k, "", state(full))
	reach(t, k, "", state(br))
}

func TestWorkloadIsReached(t *testing.T) {
	k := host(t)
	ns := workload(t, "a")
	far := farVeth("fv-a")
	inside := []dataplane.Object{lo(true), far, addr("eth0", "10.1.0.2/24"), addr("eth0", "fd01::2/64"),
		dest("0.0.0.0/0", "10.1.0.1", "eth0"), dest("::/0", "fd01::1", "eth0"),
		sysctl("net/ipv6/conf/eth0/accept_ra", "eth0", "0"), sysctl("net/ipv4/ping_group_range", "", "0 100")}
	outside := []dataplane.Object{bridge("fn-a"), veth("fv-a", "fn-a", ns)}
	reach(t, k, "", state(outside...))
	reach(t, k, ns, state(inside...))
	far.MTU, far.MAC = 1400, model.MAC{2, 9, 9, 9, 9, 9}
	inside[1] = far
	reach(t, k, ns, state(inside...))
	inside[0] = lo(false)
	reach(t, k, ns, state(inside[:3]...))
	reach(t, k, "", state(outside[0]))
	if left := text(observe(t, k, ns)); left != text(state(lo(false))) {
		t.Errorf("after the detach the workload has\n%s", left)
	}
}

// TestCable joins two workloads: nothing of it is on the host.
func TestCable(t *testing.T) {
	k := host(t)
	a, b := workload(t, "a"), workload(t, "b")
	near, far := veth("eth0", "", b), farVeth("eth0")
	reach(t, k, a, state(lo(true), near, addr("eth0", "10.1.0.1/24")))
	reach(t, k, b, state(lo(true), far, addr("eth0", "10.1.0.2/24")))
	if got := observe(t, k, ""); len(got) != 0 {
		t.Errorf("the host has\n%s", text(got))
	}
	reach(t, k, a, state(lo(true)))
}

func TestManagedNamespaces(t *testing.T) {
	k := host(t)
	dir := nsDir(t)
	path := dir + "/w"
	want := state(dataplane.Netns{Path: path}, bridge("fn-a"), veth("fv-w", "fn-a", path))
	t.Cleanup(func() { netns.Delete(path) })
	reach(t, k, "", want)
	if err := netns.Delete(path); err != nil { // as `ip netns del` does
		t.Fatal(err)
	}
	seen := observe(t, k, "")
	if _, there := seen[dataplane.Netns{Path: path}]; there {
		t.Error("a namespace that the user deleted is still observed")
	}
	reach(t, k, "", state(bridge("fn-a")))
	reach(t, k, "", want)
	reach(t, k, "", dataplane.State{})
	if netns.Exists(path) {
		t.Error("the namespace is still there")
	}
	if err := k.Apply(context.Background(), path, dataplane.Plan{{Op: dataplane.Del, Object: farVeth("w")}}); err != nil {
		t.Errorf("deletion inside what is gone: %v", err)
	}
}

// TestRandomStatesAreReached walks a host from one random state to another.
func TestRandomStatesAreReached(t *testing.T) {
	k := host(t)
	spaces := []string{workload(t, "a"), workload(t, "b"), workload(t, "c")}
	nic(t, "nic0")
	nic(t, "nic1")
	run(t, "ip link set lo up") // the kernel takes no gateway before the first local address
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range 40 {
		want := randomState(r, spaces)
		plan := dataplane.Diff(want, observe(t, k, ""))
		// What hangs on a link that was made anew comes with the next pass.
		var err error
		for range 3 {
			err = k.Apply(context.Background(), "", dataplane.Diff(want, observe(t, k, "")))
		}
		if left := dataplane.Diff(want, observe(t, k, "")); len(left) > 0 || err != nil {
			t.Fatalf("seed %d, state %d: after\n%sthere is left\n%serror: %v", seed, i, plan, left, err)
		}
	}
}

func randomState(r *rand.Rand, spaces []string) dataplane.State {
	s := dataplane.State{}
	var bridges []string
	for i := range 4 {
		if r.IntN(3) == 0 {
			continue
		}
		br := bridge(fmt.Sprintf("fn-%d", i))
		br.MTU, br.Up, br.NoARP = 1300+r.IntN(3)*100, r.IntN(4) > 0, r.IntN(4) == 0
		bridges = append(bridges, br.Name)
		if nic := fmt.Sprintf("nic%d", r.IntN(6)); nic <= "nic1" {
			br.Uplink = nic
			s[dataplane.Port{Link: nic}] = dataplane.Port{Link: nic, Master: br.Name}
		}
		s.Put(br)
		if r.IntN(2) == 0 {
			s.Put(addr(br.Name, fmt.Sprintf("10.%d.0.%d/24", i, 1+r.IntN(3))), addr(br.Name, fmt.Sprintf("fd0%d::1/64", i)))
			if br.Up {
				route := dest(fmt.Sprintf("10.200.%d.0/24", r.IntN(4)), "", br.Name)
				route.Metric = r.IntN(2)
				s[route.Key()] = route
			}
		}
		if r.IntN(2) == 0 {
			s.Put(sysctl("net/ipv4/conf/"+br.Name+"/arp_ignore", br.Name, fmt.Sprint(r.IntN(3))))
		}
	}
	for i := range 4 {
		if r.IntN(2) == 0 {
			s.Put(rule(100+i, fmt.Sprintf("10.%d.0.2", i), 1000+r.IntN(3)), rule(100, fmt.Sprintf("fd0%d::2", i), 1000+r.IntN(3)))
			s.Put(proxied("nic0", fmt.Sprintf("192.0.2.%d", i)), proxied("nic1", fmt.Sprintf("fd0%d::3", i)))
		}
	}
	for i := range 3 {
		putTunnel(s, r, i)
	}
	for i, space := range spaces {
		for j := range 3 {
			if r.IntN(3) == 0 {
				continue
			}
			ve := veth(fmt.Sprintf("fv-%d-%d", i, j), "", space)
			ve.Peer = fmt.Sprintf("eth%d", j)
			ve.MTU, ve.Up = 1300+r.IntN(3)*100, r.IntN(4) > 0
			if len(bridges) > 0 && r.IntN(5) > 0 {
				ve.Master, ve.Isolated, ve.Hairpin = bridges[r.IntN(len(bridges))], r.IntN(2) == 0, r.IntN(2) == 0
			}
			s.Put(ve)
			putLimits(s, r, ve)
		}
	}
	return s
}

func putLimits(s dataplane.State, r *rand.Rand, ve dataplane.Link) {
	rate := func() uint64 { return 1 + r.Uint64N(1<<40)>>r.IntN(30) }
	if r.IntN(3) == 0 {
		s.Put(dataplane.NewShaper(ve.Name, rate(), 1600+r.Uint64N(1<<20), 10_000))
	}
	if r.IntN(3) == 0 {
		out := ifb("fi"+ve.Name[2:], ve.Name)
		out.Up = r.IntN(4) > 0
		s.Put(out, dataplane.NewShaper(out.Name, rate(), 1600+r.Uint64N(1<<20), 10_000), dataplane.Redirect{Link: ve.Name, Via: out.Name})
	}
}

// TestConcurrentAttaches attaches and detaches from many goroutines while the host is observed and watched.
func TestConcurrentAttaches(t *testing.T) {
	k := host(t)
	reach(t, k, "", state(bridge("fn-a")))
	watch(t, k)
	var g errgroup.Group
	for w := range 8 {
		ns := workload(t, fmt.Sprint(w))
		name := fmt.Sprintf("fv-%d", w)
		out := state(veth(name, "fn-a", ns), sysctl("net/ipv4/conf/"+name+"/arp_ignore", name, "1"))
		in := state(lo(true), farVeth(name), addr("eth0", fmt.Sprintf("10.1.0.%d/24", w+2)), dest("0.0.0.0/0", "10.1.0.1", "eth0"))
		g.Go(func() error {
			for range 5 {
				for _, one := range []struct {
					netns string
					plan  dataplane.Plan
				}{
					{"", dataplane.Diff(out, dataplane.State{})},
					{ns, dataplane.Diff(in, dataplane.State{})},
					{"", dataplane.Diff(dataplane.State{}, out)},
				} {
					if err := k.Apply(context.Background(), one.netns, one.plan); err != nil {
						return err
					}
				}
			}
			return nil
		})
		g.Go(func() error {
			for range 5 {
				if _, err := k.Observe(context.Background(), ""); err != nil {
					return err
				}
				if _, err := k.Node(context.Background()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if got := text(observe(t, k, "")); got != text(state(bridge("fn-a"))) {
		t.Errorf("left:\n%s", got)
	}
}

// Turning ip_forward on or off sets forwarding of every link; a closed network must not be open until the next repair.
func TestForwardingOfALinkOutlivesTheHosts(t *testing.T) {
	k := host(t)
	closed := []dataplane.Object{bridge("fn-a"), dataplane.Sysctl{Name: "net/ipv4/conf/fn-a/forwarding", Link: "fn-a", Value: "0"}}
	forwarding := dataplane.Sysctl{Name: "net/ipv4/ip_forward", Value: "1"}
	for _, want := range []dataplane.State{state(closed...), state(append(closed, forwarding)...), state(closed...)} {
		have := observe(t, k, dataplane.HostNetns)
		apply(t, k, dataplane.HostNetns, dataplane.Diff(want, have))
		if got := observe(t, k, dataplane.HostNetns); text(got) != text(want) {
			t.Errorf("got\n%s\nwant\n%s", text(got), text(want))
		}
	}
}
