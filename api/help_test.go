package api

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// codeConstant is how the tree declares a code: a constant, in whichever package.
var codeConstant = regexp.MustCompile(`=\s*"(FN\d{4})"`)

// declaredCodes are the codes of every constant in the tree.
func declaredCodes(t *testing.T) []string {
	t.Helper()
	var codes []string
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "testdata") {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range codeConstant.FindAllStringSubmatch(string(text), -1) {
			codes = append(codes, m[1])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(codes)
	return slices.Compact(codes)
}

func TestEveryCodeHasAPageAndEveryPageACode(t *testing.T) {
	declared, pages := declaredCodes(t), HelpCodes()
	for _, code := range declared {
		if !slices.Contains(pages, code) {
			t.Errorf("%s has no page api/help/%s.md", code, code)
		}
	}
	for _, code := range pages {
		if !slices.Contains(declared, code) {
			t.Errorf("api/help/%s.md explains a code that nobody gives", code)
		}
	}
}

func TestPagesSayWhatToDo(t *testing.T) {
	for _, code := range HelpCodes() {
		page, _ := HelpPage(code)
		for _, part := range []string{"# " + code + ": ", "\n## See it yourself\n", "\n## Repair it\n"} {
			if !strings.Contains(page, part) {
				t.Errorf("%s.md lacks %q", code, part)
			}
		}
		if HelpTitle(code) == "" {
			t.Errorf("%s.md has no title", code)
		}
	}
}
