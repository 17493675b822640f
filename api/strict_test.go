package api

import (
	"encoding/json"
	"math"
	"runtime"
	"strings"
	"testing"
)

// A few megabytes with long names must not become gigabytes of paths, nor an answer of a hundred thousand problems.
func TestHostileManifestsAreRefusedCheaply(t *testing.T) {
	fields := "{" + strings.TrimSuffix(strings.Repeat(`"a":1,`, 20_000), ",") + "}"
	for name, spec := range map[string]string{
		"deep":          strings.Repeat(`{"`+strings.Repeat("k", 380)+`":`, 9000) + "1" + strings.Repeat("}", 9000),
		"long name":     `{"` + strings.Repeat("k", 200_000) + `":` + fields + `}`,
		"list":          `{"` + strings.Repeat("k", 200_000) + `":[` + strings.TrimSuffix(strings.Repeat("1,", 20_000), ",") + `]}`,
		"unknown":       strings.ReplaceAll(fields, `"a"`, `"abc"`),
		"unknown names": manyNames(20_000),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var m Manifest
		err := m.UnmarshalJSON([]byte(`{"apiVersion":"flatnet/v1","kind":"Network","metadata":{"name":"x"},"spec":` + spec + `}`))
		runtime.ReadMemStats(&after)
		if err == nil || len(err.Error()) > 64<<10 {
			t.Errorf("%s: error %.200v", name, err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 128<<20 {
			t.Errorf("%s: it took %d MB", name, used>>20)
		}
	}
}

func manyNames(n int) string {
	var b strings.Builder
	b.WriteString("{")
	for i := range n {
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString(`"k` + strings.Repeat("z", i%7) + string(rune('a'+i%26)) + strings.Repeat("y", i%977) + `":1`)
	}
	return b.String() + "}"
}

// Strict says everything that is wrong at once, with its path, and leaves alone what is somebody else's.
func TestStrict(t *testing.T) {
	type inner struct {
		Rate uint64 `json:"rate"`
	}
	var v struct {
		Name   string          `json:"name"`
		Inner  *inner          `json:"inner"`
		Theirs json.RawMessage `json:"theirs"`
	}
	if problems := Strict([]byte(`{"name":"a","inner":{"rate":18446744073709551615},"theirs":{"b":[1]}}`), &v); len(problems) > 0 {
		t.Errorf("got %v", problems)
	}
	if v.Name != "a" || v.Inner.Rate != math.MaxUint64 || string(v.Theirs) != `{"b":[1]}` {
		t.Errorf("read as %+v", v)
	}
	var lines []string
	for _, p := range Strict([]byte(`{"Name":"a","inner":{"rate":-1,"rate":1.5},"theirs":null}`), &v) {
		lines = append(lines, p.Code+" "+p.Path)
	}
	if got, want := strings.Join(lines, ", "), "FN1001 inner.rate, FN1002 Name, FN1001 inner.rate"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if problems := Strict([]byte(`{"name":`), &v); len(problems) != 1 || problems[0].Code != CodeMalformed {
		t.Errorf("half a value: got %v", problems)
	}
}
