package kernel_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
)

// record collects the events of a watch, as text.
type record struct {
	mu     sync.Mutex
	events []string
	more   chan struct{}
}

func watch(t *testing.T, k *kernel.Kernel) *record {
	r := &record{more: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- k.Watch(ctx, r.add) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r.wait(t, "resync foreign")
	return r
}

func (r *record) add(e kernel.Event) {
	var words []string
	for _, w := range []struct {
		is   bool
		word string
	}{{e.Gone, "gone"}, {e.Resync, "resync"}, {e.Foreign, "foreign"}} {
		if w.is {
			words = append(words, w.word)
		}
	}
	switch o, isLink := e.Object.(dataplane.Link); {
	case isLink && e.Gone:
		words = append(words, o.Key().String()) // how it was is of no interest
	case e.Gone && isNeighbour(e.Object):
		words = append(words, e.Object.Key().String()) // the kernel does not tell how it was
	case e.Object != nil:
		words = append(words, e.Object.String())
	}
	r.mu.Lock()
	r.events = append(r.events, strings.Join(words, " "))
	r.mu.Unlock()
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// wait returns when an event was told.
func (r *record) wait(t *testing.T, want string) {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		r.mu.Lock()
		i := slices.Index(r.events, want)
		if i >= 0 {
			r.events = slices.Delete(r.events, i, i+1)
		}
		seen := strings.Join(r.events, "\n")
		r.mu.Unlock()
		if i >= 0 {
			return
		}
		select {
		case <-r.more:
		case <-late:
			t.Fatalf("no event %q; there are\n%s", want, seen)
		}
	}
}

// upTo is all events before one that a mark of the test's own makes.
func (r *record) upTo(t *testing.T, mark int) []string {
	t.Helper()
	name := fmt.Sprintf("net/ipv4/conf/all/rp_filter=%d", mark)
	run(t, fmt.Sprintf("sysctl -qw net.ipv4.conf.all.rp_filter=%d", mark))
	late := time.After(10 * time.Second)
	for {
		r.mu.Lock()
		i := slices.Index(r.events, "sysctl "+name)
		var before []string
		if i >= 0 {
			before = r.events[:i]
			r.events = r.events[i+1:]
		}
		r.mu.Unlock()
		if i >= 0 {
			return before
		}
		select {
		case <-r.more:
		case <-late:
			t.Fatalf("no event %s", name)
		}
	}
}

func TestWatchTellsWhatOthersDoToOurs(t *testing.T) {
	k := host(t)
	ns := workload(t, "a")
	route := dest("10.2.0.0/16", "10.1.0.2", "fn-a")
	objects := []dataplane.Object{bridge("fn-a"), veth("fv-a", "fn-a", ns), addr("fn-a", "10.1.0.1/24"), addr("fn-a", "fd01::1/64"),
		route, dest("fd02::/16", "fd01::2", "fn-a"), sysctl("net/ipv4/ip_forward", "", "1")}
	want := state(objects...)
	reach(t, k, "", want)
	k.Track("", sysctl("net/ipv4/conf/all/rp_filter", "", ""))
	r := watch(t, k)
	isolated, free, small, down := veth("fv-a", "fn-a", ns), veth("fv-a", "", ns), bridge("fn-a"), bridge("fn-a")
	isolated.Isolated = true
	small.MTU = 1400
	down.Up = false
	for i, test := range []struct {
		does   string
		events []string
	}{
		{"ip route del 10.2.0.0/16", []string{"gone " + route.String()}},
		{"ip -6 route del fd02::/16", []string{"gone " + dest("fd02::/16", "fd01::2", "fn-a").String()}},
		{"ip route replace 10.2.0.0/16 via 10.1.0.9", []string{"gone " + route.String()}},
		{"ip addr del 10.1.0.1/24 dev fn-a", []string{"gone " + addr("fn-a", "10.1.0.1/24").String(), "gone " + route.String()}},
		{"ip addr del fd01::1/64 dev fn-a", []string{"gone " + addr("fn-a", "fd01::1/64").String()}},
		{"ip link set fn-a mtu 1400", []string{small.String()}},
		{"ip link set fn-a down", []string{down.String(), "gone " + route.String()}},
		{"bridge link set dev fv-a isolated on", []string{isolated.String()}},
		{"ip link set fv-a nomaster", []string{free.String()}},
		{"ip link set fv-a alias mine", []string{"gone link fv-a"}},
		{"ip link del fv-a", []string{"foreign"}},
		{"ip link del fn-a", []string{"gone link fn-a", "gone " + route.String()}},
		{"sysctl -qw net.ipv4.ip_forward=0", []string{"sysctl net/ipv4/ip_forward=0"}},
	} {
		r.upTo(t, i%2+1)
		run(t, test.does)
		for _, e := range test.events {
			r.wait(t, e)
		}
		if strings.HasPrefix(test.does, "ip route replace") {
			run(t, "ip route del 10.2.0.0/16")
		}
		if !strings.Contains(test.does, "alias") {
			reach(t, k, "", with(want, sysctl("net/ipv4/conf/all/rp_filter", "", fmt.Sprint(i%2+1))))
		}
	}
}

// TestWatchTellsOfRoutesThatGoWithLinksOfOthers: a route to another host by the NIC goes without a word, with the NIC's address or when it
// is down.
func TestWatchTellsOfRoutesThatGoWithLinksOfOthers(t *testing.T) {
	k := host(t)
	do := func(lines string) {
		for line := range strings.SplitSeq(lines, "; ") {
			run(t, line)
		}
	}
	const made = "ip link add wan type veth peer name far; ip link set far up; ip addr add 192.0.2.1/24 dev wan; ip link set wan up"
	do(made)
	route := dest("10.2.0.0/16", "192.0.2.2", "wan")
	want := state(route)
	reach(t, k, "", want)
	r := watch(t, k)
	for range 20 { // the kernel tells of the cause before the route is gone: who looks too early misses it once in a while
		for _, test := range []struct{ does, undo string }{
			{"ip addr del 192.0.2.1/24 dev wan", "ip addr add 192.0.2.1/24 dev wan"},
			{"ip addr del 192.0.2.1/24 dev wan; ip addr add 192.0.2.1/24 dev wan", "true"},
			{"ip link set wan down", "ip link set wan up"},
			{"ip link del wan", made},
		} {
			do(test.does)
			r.wait(t, "gone "+route.String())
			do(test.undo)
			reach(t, k, "", want)
		}
	}
}

// TestWatchTellsOurOwnChangesAsApplied: none of them looks foreign, and none differs from what was applied. Routes are not told of at all.
func TestWatchTellsOurOwnChangesAsApplied(t *testing.T) {
	k := host(t)
	ns := workload(t, "a")
	quiet(t)
	k.Track("", sysctl("net/ipv4/conf/all/rp_filter", "", ""))
	r := watch(t, k)
	kernels := dataplane.Link{Name: "fn-k", Kind: dataplane.Bridge, Owner: "net/k", Up: true}
	isolated := veth("fv-a", "fn-a", ns)
	isolated.Isolated = true
	want := state(bridge("fn-a"), kernels, isolated, addr("fn-a", "10.1.0.1/24"), addr("fn-a", "fd01::1/64"),
		dest("10.2.0.0/16", "10.1.0.2", "fn-a"), dest("fd02::/16", "fd01::2", "fn-a"))
	apply(t, k, "", dataplane.Diff(want, dataplane.State{}))
	last := map[string]bool{}
	for _, e := range r.upTo(t, 1) {
		if e == "foreign" || strings.HasPrefix(e, "gone") || strings.HasPrefix(e, "resync") {
			t.Errorf("our own additions are told as %q", e)
		}
		last[e] = true
	}
	for _, o := range want {
		switch _, isRoute := o.(dataplane.Route); {
		case isRoute && last[o.String()]:
			t.Errorf("our own addition of a route is told: %s", o)
		case !isRoute && !last[o.String()]:
			r.wait(t, o.String()) // IPv6 addresses are told a little later
		}
	}
	apply(t, k, "", dataplane.Diff(dataplane.State{}, want))
	gone := r.upTo(t, 2)
	if slices.Contains(gone, "foreign") {
		t.Errorf("our own deletions are told as foreign: %q", gone)
	}
	for _, o := range want {
		name := o.String()
		if l, isLink := o.(dataplane.Link); isLink {
			name = "link " + l.Name
		}
		if _, isRoute := o.(dataplane.Route); isRoute == slices.Contains(gone, "gone "+name) {
			t.Errorf("told to be gone, if it is not a route: %s; events:\n%s", o, strings.Join(gone, "\n"))
		}
	}
}

func TestWatchTellsForeignChanges(t *testing.T) {
	k := host(t)
	k.Track("", sysctl("net/ipv4/conf/all/rp_filter", "", ""))
	r := watch(t, k)
	mark := 0
	for _, does := range []string{
		"ip link add wan type veth peer name far", "ip link set wan up", "ip link set far up", "ip addr add 192.0.2.1/24 dev wan",
		"ip route add default via 192.0.2.2", "ip -6 route add 2001:db8::/32 dev wan", "ip link set wan mtu 1400", "sysctl -qw net.ipv4.conf.wan.rp_filter=1",
		"ip route del default", "ip addr del 192.0.2.1/24 dev wan", "ip link del wan",
	} {
		run(t, does)
		mark++
		if told := r.upTo(t, mark%2+1); !slices.Contains(told, "foreign") {
			t.Errorf("%s: told %q, want foreign", does, told)
		}
	}
}

// TestWatchSurvivesAFlood fills the socket's buffer while nobody reads it.
func TestWatchSurvivesAFlood(t *testing.T) {
	k := host(t)
	var first sync.Once
	hold, held := make(chan struct{}), make(chan struct{})
	resyncs := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- k.Watch(ctx, func(e kernel.Event) {
			if e.Resync {
				resyncs <- struct{}{}
			}
			first.Do(func() { close(held); <-hold })
		})
	}()
	<-held
	<-resyncs
	apply(t, k, "", dataplane.Plan{{Op: dataplane.Add, Object: bridge("fn-a")}})
	var p dataplane.Plan
	for range 4 {
		for i := range 4000 {
			br := bridge("fn-a")
			br.Owner = fmt.Sprint("net/", i)
			p = append(p, dataplane.Step{Op: dataplane.Replace, Object: br})
		}
	}
	apply(t, k, "", p)
	close(hold)
	select {
	case <-resyncs:
	case <-time.After(20 * time.Second):
		t.Error("no resync after a flood")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
