package api

import (
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
