package nft

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// foreign is a ruleset of somebody else, with names like ours in other families.
const foreign = `
table ip flatnet { set uplinks { type ifname; elements = { "eth0" } }; chain forward { type filter hook forward priority 5; ip saddr 192.0.2.1 drop; }; }
table inet filter { chain forward { type filter hook forward priority 0; policy accept; iifname "eth0" tcp dport { 22, 80 } counter accept; }; }
table bridge other { chain x { type filter hook forward priority 0; ether type arp drop; }; }
`

func addForeign(t *testing.T) (dump func() string) {
	t.Helper()
	nftCLI(t, foreign)
	return func() string {
		return nftCLI(t, "-a", "list", "table", "ip", "flatnet") + nftCLI(t, "-a", "list", "table", "inet", "filter") +
			nftCLI(t, "-a", "list", "table", "bridge", "other")
	}
}

func TestTamperingIsSeenAndMended(t *testing.T) {
	newNetns(t)
	c := newConn(t)
	want := state(t, sample(3)...)
	dump := addForeign(t)
	before := dump()
	become(t, c, want)
	for _, tamper := range tampering {
		nftCLI(t, tamper)
		if len(dataplane.Diff(want, observe(t, c))) == 0 {
			t.Errorf("not noticed: nft %s", tamper)
		}
		become(t, c, want)
	}
	if after := dump(); after != before {
		t.Errorf("foreign tables changed:\n%s\nwere:\n%s", after, before)
	}
}

// tampering are changes of our tables by somebody else.
var tampering = []string{
	`delete table inet flatnet`,
	`delete table bridge flatnet`,
	`add rule inet flatnet forward drop`,
	`insert rule inet flatnet forward counter`,
	`insert rule inet flatnet forward ip saddr { 192.0.2.1, 192.0.2.2 } accept`,
	`flush chain inet flatnet input`,
	`flush table inet flatnet`,
	`delete element inet flatnet pair4 { "fn-net1" . 10.0.1.8 }`,
	`delete element inet flatnet ranges4 { 10.0.1.8/31 . udp . 1010-1011 }`,
	`add element inet flatnet uplinks { "evil0" }`,
	`add element inet flatnet link_ports { "evil0" . 10.1.0.0/16 . tcp . 1-65535 }`,
	`flush set bridge flatnet guard4`,
	`delete element inet flatnet snat4 { "fn-net0" }; add element inet flatnet snat4 { "fn-net0" : 192.0.2.66 }`,
	`add chain inet flatnet stray { type filter hook input priority 7; policy drop; }; add rule inet flatnet stray accept`,
	`add chain inet flatnet stray2; add rule inet flatnet stray2 jump forward_ours; add rule inet flatnet forward jump stray2`,
	`add set inet flatnet stray3 { type ipv4_addr; flags timeout; elements = { 192.0.2.1 timeout 1h } }`,
	`add set inet flatnet stray4 { type mark . ipv4_addr; }`,
	`add set inet flatnet stray5 { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 } }; add rule inet flatnet input ip saddr @stray5 drop`,
	`add chain inet flatnet forward { policy drop; }`,
	`add table inet flatnet { flags dormant; }`,
}

// TestReplacedRulesAreSeen replaces every rule of a chain by one that differs in one place, keeping comment and user data as
// far as nft can.
func TestReplacedRulesAreSeen(t *testing.T) {
	newNetns(t)
	c := newConn(t)
	want := state(t, sample(1)...)
	for _, change := range [][3]string{
		{"input", "ip daddr 127.0.0.0/8", `ip daddr 126.0.0.0/8 iifname @uplinks drop comment "nobody but the host itself speaks to 127/8"`},
		{"input", "ct state established", `ct state established,related,new accept comment "answers"`},
		{"forward", "ct status dnat", `ct status snat accept comment "forwards"`},
		{"postrouting", "masquerade", `oifname . ip saddr @pair4 masquerade random comment "leaves with the uplink's address"`},
		{"prerouting", "@dnat4", `fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @dnat4 random comment "forwards of one address"`},
	} {
		become(t, c, want)
		handle := ruleHandle(t, change[0], change[1])
		nftCLI(t, "replace", "rule", "inet", "flatnet", change[0], "handle", handle, change[2])
		if plan := dataplane.Diff(want, observe(t, c)); len(plan) != 1 {
			t.Errorf("replaced %q: want one step, got:\n%s", change[1], plan)
		}
	}
	become(t, c, want)
}

func ruleHandle(t *testing.T, chain, part string) string {
	t.Helper()
	for line := range strings.Lines(nftCLI(t, "-a", "list", "chain", "inet", "flatnet", chain)) {
		if rule, handle, ok := strings.Cut(line, "# handle "); ok && strings.Contains(rule, part) {
			return strings.TrimSpace(handle)
		}
	}
	t.Fatalf("no rule with %q in %s", part, chain)
	return ""
}

// TestStalePlan flushes everything between the plan and its application.
func TestStalePlan(t *testing.T) {
	newNetns(t)
	c := newConn(t)
	want := state(t, sample(2)...)
	become(t, c, want)

	nftCLI(t, `insert rule inet flatnet forward counter comment "foreign"`)
	changed := want.Clone()
	r := sampleRules()[19]
	r.Comment = "changed"
	changed[r.Key()] = r
	apply(t, c, dataplane.Diff(changed, want)) // made before the insertion
	same(t, changed, observe(t, c))

	nftCLI(t, "flush ruleset")
	apply(t, c, dataplane.Diff(dataplane.State{}, want))
	same(t, dataplane.State{}, observe(t, c))

	err := c.Apply(ctx(t), dataplane.Plan{{Op: dataplane.Add, Object: element(dnat4, 1)}})
	if err == nil || !strings.Contains(err.Error(), "element inet flatnet dnat4 { 10.0.1.8 . udp . 1010 : 10.0.8.8 . 1080 }") {
		t.Errorf("an element without its set: %v", err)
	}
}

func TestAnErrorNamesItsObjectAndChangesNothing(t *testing.T) {
	newNetns(t)
	c := newConn(t)
	want := state(t, sample(1)...)
	become(t, c, want)
	for name, o := range map[string]dataplane.Object{
		`jump nowhere`:    rule(dataplane.Inet, "input", dataplane.Match{}, dataplane.Verdict{Do: dataplane.Jump, Target: "nowhere"}, ""),
		`link name`:       uplinks.Element(dataplane.Tuple{Link: "longer-than-fifteen"}),
		`is no ipv4`:      addrs4.Element(dataplane.Tuple{Addr: addr("fd00::1")}),
		`nft keeps 256`:   rule(dataplane.Inet, "input", dataplane.Match{}, dataplane.Verdict{Do: dataplane.Accept}, strings.Repeat("x", 254)),
		`unknown verdict`: rule(dataplane.Inet, "input", dataplane.Match{}, dataplane.Verdict{}, ""),
	} {
		plan := dataplane.Plan{{Op: dataplane.Add, Object: element(ports, 9)}, {Op: dataplane.Add, Object: o}}
		err := c.Apply(ctx(t), plan)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want an error with %q, got %v", name, err)
		}
		same(t, want, observe(t, c))
	}
}

func TestWatch(t *testing.T) {
	newNetns(t)
	c := newConn(t)
	changes, ended := make(chan Change, 100), make(chan error)
	watching, stop := context.WithCancel(ctx(t))
	go func() { ended <- c.Watch(watching, func(ch Change) { changes <- ch }) }()

	become(t, c, state(t, sample(50)...)) // none of it is reported
	for _, step := range []struct {
		nft  string
		want Change
	}{
		{`add table ip other`, Change{Foreign: true}},
		{`add table ip flatnet`, Change{Foreign: true}},
		{`add element inet flatnet uplinks { "evil0" }`, Change{Ours: true}},
		{`add rule bridge flatnet guard accept; add table inet more`, Change{Ours: true, Foreign: true}},
		{`delete table ip flatnet`, Change{Foreign: true}},
		{`flush ruleset`, Change{Ours: true, Foreign: true}},
	} {
		nftCLI(t, step.nft)
		select {
		case got := <-changes:
			if !strings.HasPrefix(got.By, "nft[") {
				t.Errorf("nft %s: by %q", step.nft, got.By)
			}
			if got.By = ""; got != step.want {
				t.Errorf("nft %s: got %+v, want %+v", step.nft, got, step.want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("nft %s: not reported", step.nft)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
