package flatnet

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// The page that explains the rules shows those that there are, in their order.
func TestDocumentedRulesAreTheRules(t *testing.T) {
	golden, err := txtar.ParseFile("internal/render/testdata/rules.txtar")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("docs/reference/nft-rules.md")
	if err != nil {
		t.Fatal(err)
	}
	want, got := renderedRules(golden), documentedRules(string(page))
	for chain, rules := range want {
		if text := strings.Join(got[chain], "\n"); text != strings.Join(rules, "\n") {
			t.Errorf("chain %s is documented as\n%s\nbut is\n%s", chain, text, strings.Join(rules, "\n"))
		}
	}
	for chain := range got {
		if want[chain] == nil {
			t.Errorf("chain %s is documented, but there is none", chain)
		}
	}
}

// renderedRules are the rules of the golden case, without comments, by "family chain".
func renderedRules(golden *txtar.Archive) map[string][]string {
	rules := map[string][]string{}
	for _, f := range golden.Files {
		for line := range strings.Lines(string(f.Data)) {
			words := strings.SplitN(strings.TrimSpace(line), " ", 6) // add rule inet flatnet raw …
			if len(words) == 6 && words[0] == "add" && words[1] == "rule" {
				text, _, _ := strings.Cut(words[5], " comment ")
				chain := words[2] + " " + words[4]
				rules[chain] = append(rules[chain], text)
			}
		}
	}
	return rules
}

// documentedRules are the lines of the page's nft blocks, by "family chain".
func documentedRules(page string) map[string][]string {
	rules := map[string][]string{}
	chain, inside := "", false
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```nft"
		case inside && len(words) > 2 && words[0] == "chain":
			chain = words[1] + " " + words[2]
		case inside:
			rules[chain] = append(rules[chain], line)
		}
	}
	return rules
}
