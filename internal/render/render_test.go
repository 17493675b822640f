package render_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/render"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Each file in testdata tells one story: views in YAML, and after each the plan that leads to it from the one before.
// Namespaces other than the host's are headed by their path; the constant rules are left out but in rules.txtar.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { golden(t, file) })
	}
}

func golden(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var have dataplane.Host
	for i := 0; i < len(archive.Files); i++ {
		f := archive.Files[i]
		if !strings.HasSuffix(f.Name, ".yaml") {
			continue
		}
		want := host(t, f.Data)
		got := plan(want, have, strings.Contains(file, "rules"))
		have = want
		name := strings.TrimSuffix(f.Name, ".yaml") + ".plan"
		if i+1 == len(archive.Files) || archive.Files[i+1].Name != name {
			archive.Files = slices.Insert(archive.Files, i+1, txtar.File{Name: name})
		}
		if string(archive.Files[i+1].Data) != got && !*update {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, archive.Files[i+1].Data)
		}
		archive.Files[i+1].Data = []byte(got)
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func host(t *testing.T, text []byte) dataplane.Host {
	t.Helper()
	var written struct {
		model.View
		Held []model.Lease // Leases
	}
	if err := yaml.UnmarshalStrict(text, &written); err != nil {
		t.Fatal(err)
	}
	v := written.View
	v.Leases = map[model.LeaseKey]model.Lease{}
	for _, l := range written.Held {
		v.Leases[l.Key()] = l
	}
	complete(v)
	h, err := render.Host(v)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// complete fills in what the maps' keys say and what the agent derives.
func complete(v model.View) {
	for name, n := range v.Networks {
		n.Name = name
		if n.Mode == model.Cluster {
			n = n.At(v.BlocksOf(name, v.Self))
		}
		v.Networks[name] = n
	}
	for name, w := range v.Workloads {
		w.Name = name
		w.Endpoints = slices.Clone(w.Endpoints)
		for i, e := range w.Endpoints {
			if e.MAC == (model.MAC{}) {
				w.Endpoints[i].MAC = model.EndpointMAC(name, e.Network)
			}
		}
		v.Workloads[name] = w
	}
}

func plan(want, have dataplane.Host, constant bool) string {
	var b strings.Builder
	names := map[string]bool{}
	for n := range want.Netns {
		names[n] = true
	}
	for n := range have.Netns {
		names[n] = true
	}
	var sorted []string
	for n := range names {
		sorted = append(sorted, n)
	}
	slices.Sort(sorted)
	for _, n := range sorted {
		if n != dataplane.HostNetns {
			fmt.Fprintf(&b, "# %s\n", n)
		}
		for _, s := range dataplane.Diff(want.Netns[n], have.Netns[n]) {
			if isConstant(s.Object) == constant {
				b.WriteString(s.String() + "\n")
			}
		}
	}
	return b.String()
}

func isConstant(o dataplane.Object) bool {
	switch o.(type) {
	case dataplane.Table, dataplane.Chain, dataplane.Rule, dataplane.Set:
		return true
	}
	return false
}

// A set that rules look into must have exactly the types of the fields looked up, and must be there.
func TestRulesFitTheirSets(t *testing.T) {
	h := host(t, []byte("networks: {lab: {mode: nat, active: true}}"))
	sets := map[string]dataplane.Set{}
	for _, o := range h.Netns[dataplane.HostNetns] {
		if s, ok := o.(dataplane.Set); ok {
			sets[string(s.Family)+s.Name] = s
		}
	}
	used := map[string]bool{}
	check := func(r dataplane.Rule, name string, fields dataplane.Fields) {
		s, ok := sets[string(r.Family)+name]
		if !ok || s.Type != fields.Types() {
			t.Errorf("%s: set %q is %v", r, name, s)
		}
		if s.Interval && s.Type[1] == dataplane.NoType {
			t.Errorf("%s: an interval set of one part", s)
		}
		used[string(r.Family)+name] = true
	}
	for _, o := range h.Netns[dataplane.HostNetns] {
		r, ok := o.(dataplane.Rule)
		if !ok {
			continue
		}
		for _, l := range []dataplane.Lookup{r.Match.Lookup, r.Match.Lookup2} {
			if l.Set != "" {
				check(r, l.Set, l.Fields)
			}
		}
		if r.Map != "" {
			check(r, r.Map, r.Fields)
		}
	}
	for name := range sets {
		if !used[name] {
			t.Errorf("set %q is never looked into", name)
		}
	}
}
