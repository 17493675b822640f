package agent

import (
	"testing"

	"github.com/flatnet/flatnet/internal/kernel/foreign"
)

func TestOneRuleIsOneFinding(t *testing.T) {
	drop := foreign.Finding{Link: "fn-a", Probes: []string{"out"}, Certain: true, Family: "ip", Table: "filter", Chain: "FORWARD", Rule: "policy drop", Owner: "Docker", Fix: "first\nallow fn-a"}
	other := drop
	other.Link, other.Fix = "fn-b", "first\nallow fn-b"
	elsewhere := drop
	elsewhere.Chain = "OTHER"
	list := ruleFindings([]foreign.Finding{drop, elsewhere, other})
	if len(list) != 2 {
		t.Fatalf("%d findings: %+v", len(list), list)
	}
	if f := list[0]; f.What != "fn-a, fn-b: Docker drops: out; table ip filter, chain FORWARD: policy drop" || f.Fix != "first\nallow fn-a\nallow fn-b" || f.Level != levelError {
		t.Errorf("%+v", f)
	}
}
