// Package flatnet has no code: it holds the tests of the tree itself. They keep the house as
// docs/explanation/house.md draws it.
package flatnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/flatnet/flatnet"

// layer says what the packages of one floor of the house may import beside the standard library and third parties. A
// name in packages or mayImport stands for that directory and all below it; the packages of one entry are strangers to
// each other unless mayImport names them, but a package and those below it know each other.
type layer struct {
	name      string
	packages  []string
	mayImport []string
	std       []string // all that may be used of the standard library; nil: everything
}

// valueStd is what values and pure functions need of the standard library: nothing that has an effect, asks the time,
// waits or is random.
var valueStd = []string{"bytes", "cmp", "crypto/sha256", "encoding", "encoding/base32", "encoding/binary", "encoding/hex", "errors",
	"fmt", "hash/fnv", "iter", "maps", "math", "math/bits", "net/netip", "path", "slices", "sort", "strconv", "strings",
	"time", "unicode", "unicode/utf8", "unique"}

var effects = []string{"internal/kernel", "internal/store", "internal/journal", "internal/join"}

// layers is "who may import whom", from the ground up.
var layers = []layer{
	{name: "values: what people ask for", packages: []string{"internal/model"}, std: valueStd},
	{name: "values: what a node must have", packages: []string{"internal/dataplane"}, mayImport: []string{"internal/model"}, std: valueStd},

	{name: "pure", packages: []string{"internal/ipam"}, mayImport: []string{"internal/model", "internal/dataplane"}, std: valueStd},
	{name: "pure: backend", packages: []string{"internal/backend"}, mayImport: []string{"internal/model", "internal/dataplane"}, std: valueStd},
	{name: "pure: render", packages: []string{"internal/render"}, mayImport: []string{"internal/model", "internal/dataplane", "internal/ipam", "internal/backend"}, std: valueStd},

	{name: "effects", packages: effects, mayImport: []string{"internal/model", "internal/dataplane"}},

	{name: "loop", packages: []string{"internal/reconcile"}, mayImport: []string{"internal/model", "internal/dataplane", "internal/ipam", "internal/render"}},

	{name: "wire", packages: []string{"api"}},

	{name: "root", packages: []string{"internal/agent"}, mayImport: append([]string{"api", "internal/model", "internal/dataplane",
		"internal/ipam", "internal/render", "internal/reconcile"}, effects...)},

	{name: "root: other systems' languages", packages: []string{"internal/compat"}, mayImport: append([]string{"api", "internal/model", "internal/dataplane",
		"internal/ipam", "internal/render", "internal/reconcile"}, effects...)},

	{name: "root: several machines on one", packages: []string{"internal/lab"}, mayImport: append([]string{"api", "internal/model"}, effects...)},

	{name: "daemon", packages: []string{"cmd/flatnetd"}, mayImport: []string{"internal/agent", "internal/compat", "internal/lab"}},
	{name: "etcd's own daemon", packages: []string{"cmd/flatnet-etcd"}, mayImport: []string{"internal/store/etcd/server"}},
	{name: "client", packages: []string{"cmd/flatnet"}, mayImport: []string{"api"}},
	{name: "CNI plugin", packages: []string{"cmd/flatnet-cni"}, mayImport: []string{"api/attach"}},

	{name: "proofs, measures and scenery, which no package imports", packages: []string{"test", "bench", "demo"}, mayImport: []string{"api", "internal"}},
}

// owners are the third-party modules and the packages that use them: one each. A second one needs its reason here.
var owners = map[string][]string{
	"github.com/cilium/ebpf":              {"internal/kernel/bpf"},
	"github.com/containernetworking/cni":  {"internal/compat/cni", "bench"}, // bench: as the runtimes call plugins
	"go.etcd.io/bbolt":                    {"internal/store/local"},
	"go.etcd.io/etcd":                     {"internal/store/etcd", "internal/store/etcd/server"},
	"go.uber.org/zap":                     {"internal/store/etcd", "internal/store/etcd/server"}, // to keep etcd's own log quiet
	"google.golang.org/grpc":              {"internal/store/etcd"},                               // to make etcd's connections ourselves
	"github.com/prometheus/client_golang": {"internal/agent/metrics"},
	"github.com/spf13/cobra":              {"cmd/flatnet"},
	"github.com/spf13/pflag":              {"cmd/flatnet"},                        // the types of cobra's flags
	"sigs.k8s.io/yaml":                    {"api", "cmd/flatnet", "cmd/flatnetd"}, // manifests; -o yaml with the CLI's own settings; the settings file
}

// everyones are the modules that extend the standard library.
var everyones = []string{"golang.org/x/sys", "golang.org/x/sync", "golang.org/x/net", "golang.org/x/term"}

// goPackage is what `go list -json` tells of a package.
type goPackage struct {
	ImportPath string
	Dir        string
	Doc        string
	GoFiles    []string
	Imports    []string
	Standard   bool
}

// dir is the package's place in the tree.
func (p goPackage) dir() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

// layer is the floor that the package stands on.
func (p goPackage) layer() (layer, bool) {
	for _, l := range layers {
		if within(p.dir(), l.packages) {
			return l, true
		}
	}
	return layer{}, false
}

// goPackages lists the module's packages that have code of their own, tests aside.
func goPackages(t *testing.T) []goPackage {
	t.Helper()
	list := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,GoFiles,Imports,Standard", "./...")
	var stderr strings.Builder
	list.Stderr = &stderr
	out, err := list.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := list.Start(); err != nil {
		t.Fatal(err)
	}
	var packages []goPackage
	for decoder := json.NewDecoder(out); ; {
		var p goPackage
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v\n%s", err, &stderr)
		}
		if len(p.GoFiles) > 0 {
			packages = append(packages, p)
		}
	}
	if err := list.Wait(); err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	return packages
}

func TestPackagesImportOnlyWhatIsBelow(t *testing.T) {
	for _, p := range goPackages(t) {
		l, ok := p.layer()
		if !ok {
			t.Errorf("%s stands in no layer: give it a line in layers", p.dir())
			continue
		}
		for _, imported := range p.Imports {
			if err := l.allows(p, imported); err != nil {
				t.Errorf("%s (%s) imports %s: %v", p.dir(), l.name, imported, err)
			}
		}
	}
}

// allows says why a package of the layer may not import another, or nil.
func (l layer) allows(p goPackage, imported string) error {
	switch ours, isOurs := strings.CutPrefix(imported, module+"/"); {
	case isOurs:
		if !kin(p.dir(), ours, l.packages) && !within(ours, l.mayImport) {
			return fmt.Errorf("it may import %s", strings.Join(l.mayImport, ", "))
		}
	case isStd(imported):
		if l.std != nil && !slices.Contains(l.std, imported) {
			return errors.New("it has an effect, or a need that valueStd does not list")
		}
	case l.std != nil:
		return errors.New("values and pure functions use the standard library only")
	default:
		return ownedBy(imported, p.dir())
	}
	return nil
}

// kin reports whether two packages belong to one entry's directory.
func kin(a, b string, packages []string) bool {
	for _, dir := range packages {
		if within(a, []string{dir}) && within(b, []string{dir}) {
			return true
		}
	}
	return false
}

// within reports whether dir is one of dirs or below one.
func within(dir string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return dir == d || strings.HasPrefix(dir, d+"/") })
}

func isStd(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return !strings.Contains(first, ".")
}

func ownedBy(importPath, dir string) error {
	if within(importPath, everyones) {
		return nil
	}
	for module, by := range owners {
		if !within(importPath, []string{module}) {
			continue
		}
		if slices.Contains(by, dir) {
			return nil
		}
		return fmt.Errorf("only %s uses %s", strings.Join(by, " and "), module)
	}
	return errors.New("a module that owners does not know")
}

func TestEveryModuleHasItsUser(t *testing.T) {
	packages := goPackages(t)
	for module, by := range owners {
		for _, dir := range by {
			uses := slices.ContainsFunc(packages, func(p goPackage) bool {
				return p.dir() == dir && slices.ContainsFunc(p.Imports, func(i string) bool { return within(i, []string{module}) })
			})
			if !uses {
				t.Errorf("%s does not import %s: owners is out of date", dir, module)
			}
		}
	}
}

func TestLayersNameWhatExists(t *testing.T) {
	packages := goPackages(t)
	for _, l := range layers {
		for _, dir := range l.packages {
			if !slices.ContainsFunc(packages, func(p goPackage) bool { return within(p.dir(), []string{dir}) }) {
				t.Errorf("layer %q names %s, where no package is", l.name, path.Join(module, dir))
			}
		}
	}
}

// The rules themselves, on packages that do not exist: a table that allows everything would pass the tests above.
func TestLayersRefuse(t *testing.T) {
	for _, c := range []struct{ from, to string }{
		{"internal/model", module + "/internal/dataplane"},
		{"internal/model", "os"},
		{"internal/render", "context"},
		{"internal/render", "math/rand/v2"},
		{"internal/ipam", "golang.org/x/sys/unix"},
		{"internal/kernel", module + "/internal/store"},
		{"internal/kernel/nft", module + "/internal/render"},
		{"internal/store/local", module + "/internal/kernel/netns"},
		{"internal/reconcile", module + "/internal/kernel"},
		{"internal/agent", "github.com/cilium/ebpf"},
		{"internal/agent", "go.etcd.io/etcd/client/v3"},
		{"internal/store", "go.etcd.io/etcd/client/v3"},
		{"cmd/flatnet", module + "/internal/model"},
		{"cmd/flatnet-cni", module + "/api"},
		{"cmd/flatnetd", module + "/internal/kernel"},
		{"api", module + "/internal/model"},
	} {
		p := goPackage{ImportPath: module + "/" + c.from}
		l, ok := p.layer()
		if !ok {
			t.Errorf("%s stands in no layer", c.from)
		} else if l.allows(p, c.to) == nil {
			t.Errorf("%s may import %s, and should not", c.from, c.to)
		}
	}
}
