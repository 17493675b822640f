package flatnet

import (
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write the documents that are made from the programs")

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var linkPattern = regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)

// Documents link only to what is there.
func TestDocumentsLinkToWhatExists(t *testing.T) {
	documents, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir("docs", func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".md" {
			documents = append(documents, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, document := range documents {
		for _, link := range linkPattern.FindAllStringSubmatch(readText(t, document), -1) {
			if strings.Contains(link[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(document), link[1])); err != nil {
				t.Errorf("%s links to %s: %v", document, link[1], err)
			}
		}
	}
}

// The page that explains the rules shows those that there are, in their order; -update writes them, not their explanation.
func TestDocumentedRulesAreTheRules(t *testing.T) {
	const page = "docs/reference/nft-rules.md"
	golden, err := txtar.ParseFile("internal/render/testdata/rules.txtar")
	if err != nil {
		t.Fatal(err)
	}
	want := renderedRules(golden)
	if *update {
		if err := os.WriteFile(page, []byte(withRules(readText(t, page), want)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got := documentedRules(readText(t, page))
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

// nftLines calls each with every line of the page and, inside of its nft blocks, the "family chain" it is about; header is
// the line that names the chain.
func nftLines(page string, each func(line, chain string, header bool)) {
	chain, inside := "", false
	for line := range strings.Lines(page) {
		words := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "```"):
			inside = strings.TrimSpace(line) == "```nft"
			each(line, "", false)
		case !inside:
			each(line, "", false)
		case len(words) > 2 && words[0] == "chain":
			chain = words[1] + " " + words[2]
			each(line, chain, true)
		default:
			each(line, chain, false)
		}
	}
}

func documentedRules(page string) map[string][]string {
	rules := map[string][]string{}
	nftLines(page, func(line, chain string, header bool) {
		if chain != "" && !header {
			rules[chain] = append(rules[chain], strings.TrimSpace(line))
		}
	})
	return rules
}

// withRules is the page with these rules in its nft blocks.
func withRules(page string, rules map[string][]string) string {
	var b strings.Builder
	nftLines(page, func(line, chain string, header bool) {
		if chain == "" || header {
			b.WriteString(line)
		}
		if header {
			b.WriteString(strings.Join(rules[chain], "\n") + "\n")
		}
	})
	return b.String()
}

// found are the first groups of all matches, as a set.
func found(pattern, text string) map[string]bool {
	all := map[string]bool{}
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		all[m[1]] = true
	}
	return all
}

func same(t *testing.T, what string, documented, there map[string]bool) {
	t.Helper()
	if len(there) == 0 {
		t.Errorf("no %s were found at all", what)
	}
	for name := range there {
		if !documented[name] {
			t.Errorf("%s %s is not documented", what, name)
		}
	}
	for name := range documented {
		if !there[name] {
			t.Errorf("%s %s is documented, but there is none", what, name)
		}
	}
}

func TestMetricsAreDocumented(t *testing.T) {
	there := map[string]bool{}
	for _, f := range sourceFiles(t) {
		if strings.HasPrefix(f.path, "internal/agent/") && !strings.HasPrefix(f.path, "internal/agent/metrics/") && !f.isTest() {
			for name := range found(`"(flatnet_[a-z0-9_]+)"`, string(f.text)) {
				there[name] = true
			}
		}
	}
	same(t, "metric", found("`(flatnet_[a-z0-9_]+)`", readText(t, "docs/reference/metrics.md")), there)
}

func TestCallsAreDocumented(t *testing.T) {
	there := map[string]bool{}
	for _, f := range sourceFiles(t) {
		if strings.HasPrefix(f.path, "internal/agent/") && !f.isTest() {
			for call := range found(`"((?:GET|POST|DELETE|PUT) /[^"]*)"`, string(f.text)) {
				there[call] = true
			}
		}
	}
	same(t, "call", found("(?m)^\\| `((?:GET|POST|DELETE|PUT) /[^`]*)`", readText(t, "docs/reference/api.md")), there)
}

func TestManifestFieldsAreDocumented(t *testing.T) {
	there := map[string]bool{}
	for _, spec := range []reflect.Type{reflect.TypeFor[api.NetworkSpec](), reflect.TypeFor[api.SubnetSpec](), reflect.TypeFor[api.ForwardSpec](),
		reflect.TypeFor[api.ClusterSpec](), reflect.TypeFor[api.PoolSpec](), reflect.TypeFor[api.ReservationSpec]()} {
		for i := range spec.NumField() {
			name, _, _ := strings.Cut(spec.Field(i).Tag.Get("json"), ",")
			there[name] = true
		}
	}
	same(t, "field", found("(?m)^\\| `([A-Za-z0-9]+)` \\|", readText(t, "docs/reference/manifest.md")), there)
}

// The page of commands is what the program says of itself; -update writes it.
func TestCommandReferenceIsCurrent(t *testing.T) {
	const page = "docs/reference/cli.md"
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir, "./cmd/...").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	program := filepath.Join(dir, "flatnet")
	var b strings.Builder
	b.WriteString("# Commands\n\nMade from the programs by `go test . -update`.\n")
	writeHelp(t, &b, program, nil)
	for _, topic := range []string{"exit-codes", "settings"} {
		b.WriteString("\n## flatnet help " + topic + "\n\n```\n" + help(t, program, []string{topic}) + "```\n")
	}
	out, err := exec.Command(filepath.Join(dir, "flatnetd"), "-h").CombinedOutput()
	if err != nil {
		t.Fatalf("flatnetd -h: %v\n%s", err, out)
	}
	b.WriteString("\n## flatnetd\n\n```\n" + string(out) + "```\n")
	if *update {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if readText(t, page) != b.String() {
		t.Errorf("%s is not what the program says: go test . -update", page)
	}
}

// writeHelp writes the help of a command and, one after the other, of those below it.
func writeHelp(t *testing.T, b *strings.Builder, program string, command []string) {
	text := help(t, program, command)
	b.WriteString("\n## " + strings.Join(append([]string{"flatnet"}, command...), " ") + "\n\n```\n" + text + "```\n")
	for _, name := range subcommands(text) {
		writeHelp(t, b, program, append(append([]string{}, command...), name))
	}
}

func help(t *testing.T, program string, command []string) string {
	t.Helper()
	out, err := exec.Command(program, append([]string{"help"}, command...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("flatnet help %s: %v\n%s", strings.Join(command, " "), err, out)
	}
	return string(out)
}

// subcommands are the words that begin the lines of a help text's command groups.
func subcommands(text string) []string {
	var names []string
	group := false
	for line := range strings.Lines(text) {
		title := strings.TrimSuffix(strings.TrimSpace(line), ":")
		switch {
		case !strings.HasPrefix(line, " "):
			group = strings.HasSuffix(strings.TrimSpace(line), ":") && title != "usage" && title != "example" && title != "flags"
		case group:
			names = append(names, strings.Fields(line)[0])
		}
	}
	return names
}
