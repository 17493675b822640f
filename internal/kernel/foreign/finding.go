package foreign

import (
	"fmt"
	"slices"
	"strings"
)

// The codes of findings, stable for ever.
const (
	CodeDrops    = "FN5101" // somebody's rule drops packets of ours
	CodeMayDrop  = "FN5102" // somebody's rule may drop packets of ours
	policyDrop   = "policy drop"
	ownerUnknown = "unknown"
)

// Finding is one place where others drop what must pass.
type Finding struct {
	Link    string   // our link
	Probes  []string // what does not pass, or may not
	Certain bool     // it is dropped; else it may be: a condition can't be decided
	Family  string   // ip, ip6, inet, bridge, netdev
	Table   string
	Chain   string // where the rule is
	Rule    string // in nft's or iptables' words; "policy drop"
	Owner   string // Docker, ufw, firewalld, …; else "unknown, table filter chain FORWARD"
	Fix     string // commands, one a line, that let our packets pass at the place that the owner leaves to others
	Legacy  bool   // of ip_tables: iptables-legacy shows it, nft does not
	Frames  bool   // frames between ports of a bridge meet it, by br_netfilter
}

// Code is CodeDrops or CodeMayDrop.
func (f Finding) Code() string {
	if f.Certain {
		return CodeDrops
	}
	return CodeMayDrop
}

// String is the finding in one line, without the fix.
func (f Finding) String() string {
	verb := "may drop"
	if f.Certain {
		verb = "drops"
	}
	tool := ""
	if f.Legacy {
		tool = " (iptables-legacy)"
	}
	return fmt.Sprintf("%s %s: %s; table %s %s%s, chain %s: %s", ownerWord(f.Owner), verb, strings.Join(f.Probes, ", "), f.Family, f.Table, tool, f.Chain, f.Rule)
}

func ownerWord(owner string) string {
	if strings.HasPrefix(owner, ownerUnknown) {
		return "a rule of somebody"
	}
	return owner
}

// Findings sends the probes through the rules. Probes about one link that end at the same place are one finding.
func Findings(r Ruleset, probes []Probe) []Finding {
	w := newWalker(r)
	var found []Finding
	for _, p := range probes {
		for _, h := range w.run(p) {
			found = add(found, w.finding(p, h), p.Name)
		}
	}
	slices.SortStableFunc(found, func(a, b Finding) int {
		if a.Certain != b.Certain {
			return map[bool]int{true: -1, false: 1}[a.Certain]
		}
		return strings.Compare(a.Link, b.Link)
	})
	return found
}

func add(found []Finding, f Finding, probe string) []Finding {
	for i := range found {
		if samePlace(found[i], f) {
			found[i].Frames = found[i].Frames || f.Frames
			if !slices.Contains(found[i].Probes, probe) {
				found[i].Probes = append(found[i].Probes, probe)
			}
			return found
		}
	}
	return append(found, f)
}

func samePlace(a, b Finding) bool {
	return a.Link == b.Link && a.Certain == b.Certain && a.Family == b.Family && a.Table == b.Table &&
		a.Chain == b.Chain && a.Rule == b.Rule && a.Legacy == b.Legacy && a.Fix == b.Fix
}

func (w *walker) finding(p Probe, h hit) Finding {
	o := w.owner(h)
	return Finding{
		Link: p.Link, Probes: []string{p.Name}, Certain: h.sure, Family: h.base.Family, Table: h.base.Table, Chain: h.chain.Name,
		Rule: h.rule, Legacy: h.base.Legacy, Owner: o.name(h), Fix: w.fix(o, p, h),
		Frames: p.Way == Bridged && h.base.Family != "bridge" && h.base.Family != "netdev",
	}
}
