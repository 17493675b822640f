package backend_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/flatnet/flatnet/internal/backend"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

var update = flag.Bool("update", false, "write the golden files anew")

// situation is what a node sees.
type situation struct {
	backend.Place
	Peers []backend.Peer
}

// Each file tells of one situation, and what each backend makes of it: all are held to the same cases.
func TestGolden(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txtar")
	if len(files) == 0 {
		t.Fatal("no golden files")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var s situation
			if err := yaml.UnmarshalStrict(archive.Files[0].Data, &s); err != nil {
				t.Fatal(err)
			}
			got := []txtar.File{archive.Files[0]}
			for _, name := range []model.Backend{model.VXLAN, model.HostGW} {
				got = append(got, txtar.File{Name: string(name), Data: []byte(objects(t, name, s))})
			}
			if want := txtar.Format(archive); *update {
				archive.Files = got
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if archive.Files = got; string(txtar.Format(archive)) != string(want) {
				t.Errorf("got\n%s\nwant\n%s", txtar.Format(archive), want)
			}
		})
	}
}

func objects(t *testing.T, name model.Backend, s situation) string {
	t.Helper()
	b, ok := backend.Of(name)
	if !ok {
		t.Fatalf("no backend %q", name)
	}
	s.Network.Cluster.Backend = name
	state, refused := dataplane.State{}, ""
	if err := state.Put(b.Device(s.Place)...); err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Peers {
		made, err := b.Peer(s.Place, p)
		if err := state.Put(made...); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			refused += "refused " + strings.ReplaceAll(err.Error(), "\n", "\nrefused ") + "\n"
		}
	}
	return dataplane.Diff(state, nil).String() + refused
}

// A peer costs the same whatever the number of its kind: three objects in a tunnel, one without.
func TestObjectsAPeer(t *testing.T) {
	p := backend.Place{
		Network: model.Network{Name: "pods", Mode: model.Cluster, Cluster: model.Overlay{VNI: 1, Port: 8472}},
		Self:    model.Member{ID: "n-a"},
	}
	p.Host.Links = []model.HostLink{{Name: "eth0", MTU: 1500}}
	yamlAddr(t, &p)
	for name, want := range map[model.Backend]int{model.VXLAN: 3, model.HostGW: 1} {
		b, _ := backend.Of(name)
		peer := backend.Peer{Member: model.Member{ID: "n-b", Name: "b", Underlay4: p.Self.Underlay4.Next()},
			Leases: []model.Lease{{Network: "pods", Block: p.Host.Routes[1].Dest, Node: "n-b"}}}
		made, err := b.Peer(p, peer)
		if err != nil || len(made) != want {
			t.Errorf("%s: %v, %v", name, made, err)
		}
	}
}

func yamlAddr(t *testing.T, p *backend.Place) {
	t.Helper()
	err := yaml.Unmarshal([]byte(`
self: {id: n-a, underlay4: 192.0.2.1}
host: {routes: [{dest: 192.0.2.0/24, link: eth0}, {dest: 10.244.2.0/24, link: x, via: 192.0.2.9}]}`), p)
	if err != nil {
		t.Fatal(err)
	}
}
