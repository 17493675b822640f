package flatnet

import (
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const mostLines = 500 // of one Go file

// longFiles are files above mostLines, each with the reason why it is still one thing.
var longFiles = map[string]string{}

// clocks are what values and pure functions may not call of package time.
var clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTicker", "NewTimer"}

// sourceFile is one Go file of the tree.
type sourceFile struct {
	path      string // from the root
	text      []byte
	tree      *ast.File
	generated bool
}

func (f sourceFile) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

// sourceFiles are all Go files of the tree.
func sourceFiles(t *testing.T) []sourceFile {
	t.Helper()
	var files []sourceFile
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "bin") {
			return fs.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".go" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		tree, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files = append(files, sourceFile{path, text, tree, ast.IsGenerated(tree)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestPackagesAreDocumented(t *testing.T) {
	for _, p := range goPackages(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment: say what it is, what it is not, with a small example", p.dir())
		}
	}
}

func TestNoInitFunctions(t *testing.T) {
	for _, f := range sourceFiles(t) {
		for _, d := range f.tree.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" && !f.generated {
				t.Errorf("%s has an init function: wire things up where one can see it", f.path)
			}
		}
	}
}

func TestFilesAreShort(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range sourceFiles(t) {
		lines := strings.Count(string(f.text), "\n")
		if lines <= mostLines || f.generated {
			continue
		}
		seen[f.path] = true
		if longFiles[f.path] == "" {
			t.Errorf("%s has %d lines, more than %d: is it one thing?", f.path, lines, mostLines)
		}
	}
	for path := range longFiles {
		if !seen[path] {
			t.Errorf("longFiles excuses %s, which needs no excuse", path)
		}
	}
}

func TestFilesAreFormatted(t *testing.T) {
	for _, f := range sourceFiles(t) {
		want, err := format.Source(f.text)
		if err != nil {
			t.Errorf("%s: %v", f.path, err)
		} else if string(want) != string(f.text) {
			t.Errorf("%s is not as gofmt writes it", f.path)
		}
	}
}

func TestValuesDoNotAskTheTime(t *testing.T) {
	for _, f := range sourceFiles(t) {
		p := goPackage{ImportPath: module + "/" + filepath.Dir(f.path)}
		if l, ok := p.layer(); !ok || l.std == nil || f.isTest() {
			continue
		}
		ast.Inspect(f.tree, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clocks, s.Sel.Name) {
					t.Errorf("%s calls time.%s: the time is a value that comes in", f.path, s.Sel.Name)
				}
			}
			return true
		})
	}
}

// starters are packages that start a process, each with what that is.
var starters = map[string]string{"internal/lab": "plays the people in front of several machines",
	"internal/agent/etcdserver": "a cluster's etcd, on its servers: docs/decisions/0010"}

// Network set-up never starts a process: what `ip` or `nft` would do goes straight to the kernel. Only the commands that
// people asked to run are started, by the CLI.
func TestNetworkSetUpStartsNoProcess(t *testing.T) {
	for _, p := range goPackages(t) {
		if !strings.HasPrefix(p.dir(), "internal/") && p.dir() != "cmd/flatnetd" || strings.HasSuffix(p.dir(), "test") {
			continue
		}
		if slices.Contains(p.Imports, "os/exec") && starters[p.dir()] == "" {
			t.Errorf("%s imports os/exec", p.dir())
		}
	}
	starts := []string{"ForkExec", "StartProcess", "SYS_FORK", "SYS_CLONE", "SYS_EXECVE"}
	for _, f := range sourceFiles(t) {
		if !strings.HasPrefix(f.path, "internal/") || f.isTest() || strings.HasSuffix(filepath.Dir(f.path), "test") {
			continue
		}
		ast.Inspect(f.tree, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && slices.Contains(starts, s.Sel.Name) {
				t.Errorf("%s uses %s", f.path, s.Sel.Name)
			}
			return true
		})
	}
}

var codePattern = regexp.MustCompile(`\bFN[0-9]{4}\b`)

// Every code that a person can meet has a help page, and every page a code that can be met.
func TestCodesAndHelpPagesAgree(t *testing.T) {
	used := map[string]string{} // code → a file that gives it
	for _, f := range sourceFiles(t) {
		if f.isTest() {
			continue
		}
		ast.Inspect(f.tree, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				for _, code := range codePattern.FindAllString(l.Value, -1) {
					used[code] = f.path
				}
			}
			return true
		})
	}
	pages, err := filepath.Glob("api/help/FN*.md")
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	for _, page := range pages {
		code := strings.TrimSuffix(filepath.Base(page), ".md")
		has[code] = true
		if used[code] == "" {
			t.Errorf("%s: no code gives %s", page, code)
		}
	}
	for _, code := range slices.Sorted(maps.Keys(used)) {
		if !has[code] {
			t.Errorf("%s gives %s, which has no page in api/help", used[code], code)
		}
	}
}
