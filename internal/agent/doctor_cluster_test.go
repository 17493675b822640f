package agent

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/checkup"
	"github.com/flatnet/flatnet/internal/kernel/foreign"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// Doctor knows of a store that went away and came back, and of two hosts that say they have one address.
func TestDoctorOfACluster(t *testing.T) {
	hub := store.NewHub(time.Hour, time.Minute, store.Boottime)
	w1, c1 := newNode(t, hub, 1)
	d1, ctx := w1.start(), context.Background()
	if _, err := d1.CreateNetwork(ctx, pods(), false); err != nil {
		t.Fatal(err)
	}
	has := func(code, text string) func() bool {
		return func() bool {
			return slices.ContainsFunc(must[[]api.Finding](t)(d1.Doctor(ctx)), func(f api.Finding) bool { return f.Code == code && strings.Contains(f.What+f.Owner, text) })
		}
	}
	lacks := func(code string) func() bool { return func() bool { return !has(code, "")() } }
	for _, code := range []string{checkup.CodeStoreAway, checkup.CodeNotReached, checkup.CodeFenced} {
		if !lacks(code)() {
			t.Errorf("all is well, and %s is found", code)
		}
	}
	c1.Cut(true)
	eventually(t, "the store is away", has(checkup.CodeStoreAway, "since 20"))
	c1.Cut(false)
	eventually(t, "the store is back", lacks(checkup.CodeStoreAway))

	w2, _ := newNode(t, hub, 2)
	w2.host.node.Links[0].Addrs = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}
	w2.start()
	eventually(t, "one of two with one address is refused", has(checkup.CodeNotReached, model.CodeUnderlayTaken))
}

// A host that gives no sign of life any more is told of on the others, in all the places that somebody looks at.
func TestASilentHostIsToldOf(t *testing.T) {
	hub := store.NewHub(time.Hour, time.Second, store.Boottime) // less than between two heartbeats: the first one is soon over
	w1, c1 := newNode(t, hub, 1)
	d1, ctx := w1.start(), context.Background()
	w2, _ := newNode(t, hub, 2)
	d2 := w2.start()
	eventually(t, "it is silent", func() bool {
		return slices.ContainsFunc(must[[]api.Finding](t)(d1.Doctor(ctx)), func(f api.Finding) bool {
			return f.Code == checkup.CodeSilent && strings.HasPrefix(f.Owner, "h2: no sign of life since 20")
		})
	})
	if err := d2.end(t); err != nil {
		t.Fatal(err)
	}
	list, _, _ := d1.events.after(0)
	if !slices.ContainsFunc(list, func(ev api.Event) bool { return ev.Type == "silent" && ev.Object == "host/h2" }) {
		t.Errorf("no event of it: %v", list)
	}
	if c := must[api.Status](t)(d1.Status(ctx)).Cluster; c == nil || c.Hosts != 2 || !c.Live || c.Away != nil {
		t.Errorf("the status: %+v", c)
	}
	c1.Cut(true)
	eventually(t, "the store is away", func() bool { c := must[api.Status](t)(d1.Status(ctx)).Cluster; return !c.Live && c.Away != nil })
}

// What lets a tunnel's packets through others' rules lets nothing else through.
func TestTunnelsPassOthersRules(t *testing.T) {
	v := model.View{Self: "n-1", Members: map[string]model.Member{"n-1": {ID: "n-1", Underlay4: netip.MustParseAddr("192.0.2.1")}, "n-2": {ID: "n-2", Underlay4: netip.MustParseAddr("192.0.2.2")}},
		Node: model.Node{Links: []model.HostLink{{Name: "eth0", MTU: 1500, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}}}},
		Networks: map[string]model.Network{"pods": {Name: "pods", Mode: model.Cluster, Active: true, Cluster: model.Overlay{Backend: model.VXLAN, Port: 8472}},
			"more": {Name: "more", Mode: model.Cluster, Active: true, Cluster: model.Overlay{Backend: model.VXLAN, Port: 8472}},
			"near": {Name: "near", Mode: model.Cluster, Active: true, Cluster: model.Overlay{Backend: model.HostGW, Port: 8473}}}}
	drops := func(family, table, chain, hook string) foreign.Ruleset {
		return foreign.Ruleset{Chains: []foreign.Chain{{Family: family, Table: table, Name: chain, Hook: hook, Drops: true}}}
	}
	for _, c := range []struct{ family, table, chain, hook, want string }{
		{"inet", "strict", "in", "input", "nft insert rule inet strict in iifname eth0 udp dport 8472 accept"},
		{"ip", "filter", "INPUT", "input", "iptables -t filter -I INPUT -i eth0 -p udp --dport 8472 -j ACCEPT"},
		{"ip", "filter", "OUTPUT", "output", "iptables -t filter -I OUTPUT -o eth0 -p udp --dport 8472 -j ACCEPT"},
		{"ip6", "filter", "INPUT", "input", ""},
		{"ip", "filter", "FORWARD", "forward", ""},
	} {
		var got []string
		for _, f := range tunnelFindings(drops(c.family, c.table, c.chain, c.hook), v) {
			got = append(got, f.Fix)
		}
		if strings.Join(got, "|") != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
	}
}

// What is mended while this host leaves or enters a cluster is the kernel's doing after ours, and nobody is blamed for it.
func TestNobodyIsBlamedForOurOwnLeaving(t *testing.T) {
	hub := store.NewHub(time.Hour, time.Minute, store.Boottime)
	w, _ := newNode(t, hub, 1)
	d, ctx := w.start(), context.Background()
	step := func(text string) { d.event(eventRepaired, "node", "1 steps", api.Step{Text: text}) }
	if err := d.exit(ctx, true); err != nil {
		t.Fatal(err)
	}
	step("+ link fx-pods")
	if list := d.putBacks(nil); len(list) != 0 {
		t.Errorf("blamed for %s", list[0].step)
	}
	d.past.mu.Lock()
	clear(d.past.moved)
	d.past.mu.Unlock()
	step("+ link fn-lab")
	if list := d.putBacks(nil); len(list) != 2 {
		t.Errorf("not told of what others did: %v", list)
	}
}

// Somebody takes a tunnel's way away, then the rules, then the way once more within a second of that: three steps at two moments.
func TestHowOftenOthersChangedWhatIsOurs(t *testing.T) {
	d := newWorld(t).start()
	began := d.deps.Now()
	for _, x := range []struct {
		after time.Duration
		steps []string
	}{{-3 * time.Minute, []string{"add fdb b", "add fdb a"}}, {-time.Minute, []string{"add route"}}, {-time.Minute + 200*time.Millisecond, []string{"add rule", "add fdb a"}}} {
		ev := api.Event{Time: began.Add(x.after), Type: eventRepaired, Object: "node"}
		for _, s := range x.steps {
			ev.Steps = append(ev.Steps, api.Step{Text: s})
		}
		d.events.add(ev)
	}
	found := d.putBackFindings(nil)
	want := "somebody changed what is flatnet's 2 times in the last 15 minutes, last at 03:03:05 UTC, 1 min ago, and it was put back at once: add rule; add fdb a; add route; and 1 more, see flatnet events"
	if len(found) != 1 || found[0].What != want {
		t.Errorf("got %+v\nwant %s", found, want)
	}
}
