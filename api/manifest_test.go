package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestReadManifests compares what reading each file of the archives gives, as JSON or as problems, with its .want.
func TestReadManifests(t *testing.T) {
	archives, _ := filepath.Glob("testdata/*.txtar")
	if len(archives) == 0 {
		t.Fatal("no archives")
	}
	for _, name := range archives {
		a, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out := &txtar.Archive{Comment: a.Comment}
		for i := 0; i < len(a.Files); i++ {
			in := a.Files[i]
			if strings.HasSuffix(in.Name, ".want") {
				continue
			}
			got := readText(in.Name, string(in.Data))
			out.Files = append(out.Files, in, txtar.File{Name: in.Name + ".want", Data: []byte(got)})
			want := ""
			if i+1 < len(a.Files) && a.Files[i+1].Name == in.Name+".want" {
				want = string(a.Files[i+1].Data)
			}
			if got != want && !*update {
				t.Errorf("%s: %s: got\n%s\nwant\n%s", name, in.Name, got, want)
			}
		}
		if *update {
			if err := os.WriteFile(name, txtar.Format(out), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func readText(name, text string) string {
	docs, err := ReadManifests(strings.NewReader(text), name)
	if err != nil {
		return err.Error() + "\n"
	}
	var b strings.Builder
	for _, d := range docs {
		j, _ := json.Marshal(d.Manifest)
		fmt.Fprintf(&b, "%s %s\n", d.Locate("spec"), j)
	}
	return b.String()
}

func TestManifestsSurviveWritingAndReading(t *testing.T) {
	no := false
	ms := []Manifest{
		{APIVersion: APIVersion, Kind: KindNetwork, Metadata: Metadata{Name: "lab", Labels: map[string]string{"a": "1", "on": "yes"}}, Network: &NetworkSpec{
			Mode: "nat", Bridge: "br0", Subnets: []SubnetSpec{{Subnet: "10.8.0.0/24", Gateway: "10.8.0.254", IPRange: "10.8.0.0/25", Reserved: []string{"10.8.0.9"}}, {Subnet: "auto6"}},
			HostAdapter: &no, Uplink: "eth0", SNATIPs: []string{"192.0.2.1"}, MTU: 1400, DNS: []string{"9.9.9.9"}, IPv6: &no, Guard: &no, IsolatePorts: true, Autostart: &no, Inactive: true}},
		{APIVersion: APIVersion, Kind: KindForward, Metadata: Metadata{Name: "tcp/8080"}, Forward: &ForwardSpec{Publish: "8080:80", Workload: "web", Network: "lab"}},
	}
	var b bytes.Buffer
	if err := WriteManifests(&b, ms); err != nil {
		t.Fatal(err)
	}
	docs, err := ReadManifests(&b, "x")
	if err != nil {
		t.Fatal(err)
	}
	if got := Manifests(docs); !reflect.DeepEqual(got, ms) {
		t.Errorf("got %+v, want %+v", got, ms)
	}
}

// Every field of the specs must be one that the strict reader can judge.
func TestStrictReaderKnowsEveryKindOfField(t *testing.T) {
	for kind, spec := range specTypes() {
		for name, ft := range jsonFields(spec) {
			for _, p := range check(map[string]any{}, ft, name) {
				if strings.HasPrefix(p.Reason, "no rule") {
					t.Errorf("%s.%s: %s", kind, name, p.Reason)
				}
			}
		}
	}
}

func TestAFileMayBeTooLarge(t *testing.T) {
	_, err := ReadManifests(strings.NewReader(strings.Repeat("#", maxFile+1)), "x")
	if !HasCode(err, CodeTooLarge) {
		t.Errorf("got %v, want %s", err, CodeTooLarge)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"apiVersion":"flatnet/v1","kind":"Network","metadata":{"name":"lab"},"spec":{"subnets":[{"subnet":"auto"}]}}`))
	f.Add([]byte(`{"apiVersion":"flatnet/v1","kind":"Forward","spec":{"publish":"80:80","publish":1}}`))
	f.Add([]byte(strings.Repeat(`[`, 1000)))
	f.Fuzz(func(t *testing.T, data []byte) {
		var m Manifest
		if err := m.UnmarshalJSON(data); err != nil {
			var e *Error
			if !errors.As(err, &e) || len(e.Problems) == 0 {
				t.Fatalf("error %v has no problems", err)
			}
			return
		}
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatalf("marshal of what was read: %v", err)
		}
		var again Manifest
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatalf("%s was written and is not read: %v", text, err)
		}
		if text2, _ := json.Marshal(again); string(text2) != string(text) {
			t.Fatalf("%s became %s", text, text2)
		}
	})
}

func FuzzReadManifests(f *testing.F) {
	archives, _ := filepath.Glob("testdata/*.txtar")
	for _, name := range archives {
		if a, err := txtar.ParseFile(name); err == nil {
			for _, file := range a.Files {
				f.Add(string(file.Data))
			}
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		docs, err := ReadManifests(strings.NewReader(text), "f")
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("error %v has no problems", err)
		}
		for _, d := range docs {
			d.Locate("spec.subnets[0].gateway")
		}
	})
}
