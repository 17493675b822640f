package reach

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
)

// TestEveryRuleIsNeeded takes one rule after the other out of the host's ruleset and expects that a cell of the
// specification breaks: a rule that none misses is either superfluous or not tested. It takes a quarter of an hour:
//
//	REACH_MUTANTS=. go test -run EveryRule -timeout 1h -v ./test/reach
//
// The value is a regular expression for the rules to try, as "chain: rule".
func TestEveryRuleIsNeeded(t *testing.T) {
	if os.Getenv("REACH_MUTANTS") == "" {
		t.Skip("takes a quarter of an hour: set REACH_MUTANTS=.")
	}
	chosen, err := regexp.Compile(os.Getenv("REACH_MUTANTS"))
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t)
	l.flat = newFlatnet(l)
	l.addNetworks()
	l.publish()
	checks := l.allChecks(l.readTables())
	all := l.rules()
	if broken := l.firstBroken(checks); broken != "" {
		t.Fatalf("with all rules: %s", broken)
	}
	l.patience = 12 * time.Second  // from here on most of what is missing is missing for ever
	l.flat.signal(syscall.SIGSTOP) // or it would repair the ruleset
	defer l.flat.signal(syscall.SIGCONT)
	for i, r := range all {
		if r.ofCluster() || !chosen.MatchString(r.chain+": "+r.text) {
			continue
		}
		t.Run(fmt.Sprintf("%s,%d", r.chain, i), func(t *testing.T) {
			r := l.rules()[i] // a repaired chain has new handles
			l.host.Run("nft", "delete", "rule", r.family, "flatnet", r.chain, "handle", r.handle)
			broken := l.firstBroken(checks)
			l.flat.repair()
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

// spare are the rules that no cell needs, and why they are there.
var spare = map[string]string{
	`forward: iifname != @nets oifname != @nets accept comment "not ours"`:                  "the short way for what is not ours; the rules behind it let that pass too",
	`forward: oifname . ip saddr @foreign4 drop comment "another network, of the cluster"`:  "for links that are not the underlay: nobody here comes by one in the name of another network; by the underlay, chain between has it",
	`forward: oifname . ip6 saddr @foreign6 drop comment "another network, of the cluster"`: "the same",
	`forward: iifname . oifname @between jump between`:                                      "the short way; the rules behind it decide alike",
	`between: accept comment "between nodes"`:                                               "the end of the short way; the rules behind it let pass too what comes so far",
	`forward: oifname @closed drop comment "closed network: nothing comes in"`:              "others drop it too, but for answers to connections older than the mode of a network that was made anew",
}

// allChecks are the checks that the rules are for, each returning one failure or nothing.
func (l *lab) allChecks(tabs tables) []func() string {
	tries := func(trials []trial) func() string {
		return func() string {
			if wrong := l.failures(trials); len(wrong) > 0 {
				return fmt.Sprintf("%d of %d probes, such as %s", len(wrong), len(trials), wrong[0].why)
			}
			return ""
		}
	}
	tells := func(check func() []string) func() string {
		return func() string {
			if wrong := check(); len(wrong) > 0 {
				return fmt.Sprintf("%d frames, such as %s", len(wrong), wrong[0])
			}
			return ""
		}
	}
	cells, isolation, uplinks, onLink := l.cells(tabs.networks), l.isolationTrials(), l.uplinkTrials(), l.onLinkTrials()
	return []func() string{
		tells(func() []string { return l.guards(tabs.frames) }),
		tells(l.provoked),
		tells(l.loopbackIsClosed),
		tells(l.invalidPackets),
		tells(l.spokenFor),
		tries([]trial{l.sctpOnLoopback6()}),
		tries(append(append(isolation, uplinks...), onLink...)),
		tries(cells),
		func() string { // not the same trials with bridge-nf-call-iptables
			return tries(slices.Concat(l.forwardCells(tabs.forwards), l.rangeTrials(), l.oneAddressTrials()))()
		},
	}
}

func (l *lab) firstBroken(checks []func() string) string {
	for _, bridgeNF := range []string{"0", "1"} {
		l.bridgeNF(bridgeNF)
		l.host.Try("conntrack", "-F")
		for _, check := range checks {
			if broken := check(); broken != "" {
				return "bridge-nf-call-iptables=" + bridgeNF + ": " + broken
			}
		}
	}
	return ""
}

// rule is a rule as nft lists it.
type rule struct{ family, chain, handle, text string }

var handle = regexp.MustCompile(`^\t\t(.*) # handle (\d+)$`)

func (l *lab) rules() []rule {
	var all []rule
	for _, family := range []string{"inet", "bridge"} {
		chain := ""
		for line := range strings.Lines(l.host.Run("nft", "-a", "list", "table", family, "flatnet")) {
			line = strings.TrimRight(line, "\n")
			if rest, ok := strings.CutPrefix(line, "\tchain "); ok {
				chain, _, _ = strings.Cut(rest, " ")
			} else if strings.HasPrefix(line, "\tset ") || strings.HasPrefix(line, "\tmap ") {
				chain = ""
			}
			if m := handle.FindStringSubmatch(line); m != nil && chain != "" && !strings.HasPrefix(m[1], "type ") {
				all = append(all, rule{family, chain, m[2], m[1]})
			}
		}
	}
	return all
}

// repair lets the daemon put back what was taken out, and stops it again.
func (f *flatnet) repair() {
	f.l.Helper()
	f.signal(syscall.SIGCONT)
	kerneltest.Eventually(f.l.T, "the repair", func() bool {
		_, err := f.try("plan")
		return err == nil
	})
	f.signal(syscall.SIGSTOP)
}

// signal sends the daemon a signal.
func (f *flatnet) signal(s syscall.Signal) {
	f.l.Helper()
	if err := f.cmd.Process.Signal(s); err != nil {
		f.l.Error(err)
	}
}
