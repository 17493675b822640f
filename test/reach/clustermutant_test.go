package reach

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// clusterSets are the sets that only networks of a cluster have something in: the rules that look into them are missed by nobody else.
var clusterSets = regexp.MustCompile(`@(cluster|tunnels|between|tunnel_ports|members[46]|keep[46]|foreign[46])\b`)

// ofCluster reports whether a rule is there for networks of a cluster.
func (r rule) ofCluster() bool {
	return clusterSets.MatchString(r.text) || r.chain == "into_tunnel" || r.chain == "between"
}

// TestEveryClusterRuleIsNeeded is TestEveryRuleIsNeeded for the rules of networks of a cluster, which are taken out on all nodes at
// once. It takes some minutes:
//
//	REACH_MUTANTS=. go test -run EveryClusterRule -timeout 1h -v ./test/reach
func TestEveryClusterRuleIsNeeded(t *testing.T) {
	if os.Getenv("REACH_MUTANTS") == "" {
		t.Skip("takes some minutes: set REACH_MUTANTS=.")
	}
	chosen, err := regexp.Compile(os.Getenv("REACH_MUTANTS"))
	if err != nil {
		t.Fatal(err)
	}
	f := newFabric(t)
	f.guest()
	f.offer()
	checks := f.clusterChecks(readTable(t, "in a cluster"), readTable(t, "forward in a cluster, from"))
	all := f.rulesOf(f.nodes[0])
	if broken := f.firstBrokenOf(checks); broken != "" {
		t.Fatalf("with all rules: %s", broken)
	}
	f.patience = 5 * time.Second
	for i, r := range all {
		if !r.ofCluster() || !chosen.MatchString(r.chain+": "+r.text) {
			continue
		}
		t.Run(fmt.Sprintf("%s,%d", r.chain, i), func(t *testing.T) {
			broken := f.without(i, func() string { return f.firstBrokenOf(checks) })
			switch {
			case broken != "":
				t.Logf("%s\nis missed by %s", r.text, broken)
			case spare[r.chain+": "+r.text] != "":
				t.Logf("%s\nis missed by nobody: %s", r.text, spare[r.chain+": "+r.text])
			default:
				t.Errorf("nobody misses: %s", r.text)
			}
		})
	}
}

// without takes a rule out on all nodes, while their daemons, which would repair it, are held.
func (f *fabric) without(i int, run func() string) string {
	f.Helper()
	for _, n := range f.nodes {
		n.rig.Signal(syscall.SIGSTOP)
		r := f.rulesOf(n)[i] // a repaired chain has new handles
		n.Run("nft", "delete", "rule", r.family, "flatnet", r.chain, "handle", r.handle)
	}
	broken := run()
	for _, n := range f.nodes {
		n.rig.Signal(syscall.SIGCONT)
	}
	for _, n := range f.nodes {
		n.rig.Eventually("the repair on "+n.Name, func() bool {
			_, err := n.rig.Try("plan")
			return err == nil
		})
	}
	return broken
}

func (f *fabric) rulesOf(n *node) []rule {
	return (&lab{T: f.T, host: n.actor}).rules()
}

// clusterChecks are the checks that the rules are for, each returning one failure or nothing.
func (f *fabric) clusterChecks(cells, offers table) []func() string {
	first := func(what string, wrong []string) string {
		if len(wrong) == 0 {
			return ""
		}
		return fmt.Sprintf("%d %s, such as %s", len(wrong), what, wrong[0])
	}
	probes := func(trials []trial) func() string {
		return func() string {
			var wrong []string
			for _, w := range f.failures(trials) {
				wrong = append(wrong, w.why)
			}
			return first("probes", wrong)
		}
	}
	return []func() string{
		func() string { return first("packets", f.shoot(f.tunnelShots())) },
		probes(f.clusterCells(cells)),
		probes(f.offerTrials(offers)),
		func() string { return first("nodes", f.untracked()) },
		func() string { return first("segments", f.invalidPackets()) },
	}
}

func (f *fabric) firstBrokenOf(checks []func() string) string {
	for _, on := range []string{"0", "1"} {
		f.bridgeNFCall(on)
		for _, n := range f.nodes {
			_, _ = n.Machine.Try("conntrack", "-F") // it says how many were there
		}
		for _, check := range checks {
			if broken := check(); broken != "" {
				return "bridge-nf-call-iptables=" + on + ": " + strings.TrimSpace(broken)
			}
		}
	}
	return ""
}
