package cni

import (
	"maps"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/test/rig"
)

const page = "../../../docs/reference/cni.md"

// section is a part of the page: from its heading to the next.
func section(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(text), "\n"+heading+"\n")
	if !ok {
		t.Fatalf("%s has no heading %q", page, heading)
	}
	part, _, _ := strings.Cut(after, "\n#")
	return part
}

// documented are the words in the first column of a section's table.
func documented(t *testing.T, heading string) []string {
	t.Helper()
	var words []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(section(t, heading), -1) {
		words = append(words, m[1])
	}
	return slices.Sorted(slices.Values(words))
}

// keys are the names that a struct has in JSON.
func keys(of reflect.Type) []string {
	var names []string
	for i := range of.NumField() {
		if name := of.Field(i).Tag.Get("json"); name != "" {
			names = append(names, strings.TrimSuffix(name, ",omitempty"))
		}
	}
	return slices.Sorted(slices.Values(names))
}

func TestThePageHasEachKey(t *testing.T) {
	for heading, want := range map[string][]string{
		"## Keys":               keys(reflect.TypeFor[conf]()),
		"### Keys of a network": keys(reflect.TypeFor[network]()),
		"## Capabilities":       keys(reflect.TypeFor[runtimeConfig]()),
		"## CNI_ARGS":           {"IP", "IgnoreUnknown", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_NAME", "K8S_POD_NAMESPACE", "K8S_POD_UID", "MAC"},
	} {
		if got := documented(t, heading); !slices.Equal(got, want) {
			t.Errorf("%s has %q, the code %q", heading, got, want)
		}
	}
	if got := keys(reflect.TypeFor[runtimeConfig]()); !slices.Equal(got, capabilities) {
		t.Errorf("runtimeConfig has %q, capabilities are %q", got, capabilities)
	}
	text := section(t, "## Keys") + section(t, "## Capabilities")
	for _, of := range []reflect.Type{reflect.TypeFor[dns](), reflect.TypeFor[runtimeDNS](), reflect.TypeFor[api.Bandwidth](), reflect.TypeFor[portMapping](), reflect.TypeFor[ipRange]()} {
		for _, key := range keys(of) {
			if !strings.Contains(text, "`"+key+"`") {
				t.Errorf("%s does not tell of %q of %s", page, key, of)
			}
		}
	}
}

func TestEachKeyOfARuntimeMayHaveOtherCapitals(t *testing.T) {
	var want []string
	for _, of := range []reflect.Type{reflect.TypeFor[runtimeDNS](), reflect.TypeFor[api.Bandwidth](), reflect.TypeFor[portMapping](), reflect.TypeFor[ipRange]()} {
		want = append(want, keys(of)...)
	}
	slices.Sort(want)
	if got := slices.Sorted(slices.Values(runtimeKeys)); !slices.Equal(got, want) {
		t.Errorf("runtimeKeys are %q, the structs have %q", got, want)
	}
}

// A field of CNI_ARGS that the page has is known, and none else.
func TestThePageHasEachArgument(t *testing.T) {
	for _, field := range documented(t, "## CNI_ARGS") {
		if _, err := readArgs(field + "=1"); err != nil {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := readArgs("ELSE=1"); err == nil {
		t.Error("any field is taken")
	}
}

// What the page says of a code of ours is what becomes of it.
func TestThePageHasEachError(t *testing.T) {
	told := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \| (.*) \|$`).FindAllStringSubmatch(section(t, "## Errors"), -1) {
		for _, code := range regexp.MustCompile(`FN\d{4}`).FindAllString(m[2], -1) {
			told[code] = m[1]
		}
	}
	want := map[string]string{"FN3001": "11"} // the plugin's own
	for code, cni := range ours {
		want[code] = strings.TrimSpace(string(rune('0' + cni)))
	}
	for _, code := range passing {
		want[code] = "11"
	}
	for _, code := range limiting {
		want[code] = "51"
	}
	if !maps.Equal(told, want) {
		t.Errorf("%s has %v, the code %v", page, told, want)
	}
	for code := range want {
		if _, ok := api.HelpPage(code); !ok && model.Titles()[code] == "" {
			t.Errorf("%s has no page of help", code)
		}
	}
}

// Examples of configurations are ones that work, and the plugin itself speaks the versions that the page names.
func TestThePageIsTrue(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile(`(?m)^  (\{"type": "flatnet"(?s:.*?)\})\n\]`).FindAllStringSubmatch(string(text), -1)
	if len(examples) != 2 {
		t.Fatalf("found %d configurations, want 2", len(examples))
	}
	for _, e := range examples {
		if _, err := readConf([]byte(`{"cniVersion":"1.0.0","name":"pods",` + e[1][1:])); err != nil {
			t.Errorf("%s: %v", e[1], err)
		}
	}
	cmd := exec.Command(rig.Program(t, "flatnet-cni"))
	cmd.Env = []string{"CNI_COMMAND=VERSION"}
	out, err := cmd.Output()
	if want := `"supportedVersions":["` + strings.Join(versions, `","`) + `"]`; err != nil || !strings.Contains(string(out), want) {
		t.Errorf("the plugin says %s, %v; want %s", out, err, want)
	}
	for _, v := range versions {
		if !strings.Contains(string(text), v) {
			t.Errorf("%s does not tell of CNI %s", page, v)
		}
	}
}
