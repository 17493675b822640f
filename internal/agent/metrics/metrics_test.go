package metrics

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestValuesAreReadAnew(t *testing.T) {
	n := 0.0
	h := Handler(func() []Value {
		n++
		return []Value{{Name: "flatnet_test_networks", Help: "Networks.", Value: n}, {Name: "flatnet_test_changes_total", Help: "Changes.", Value: 7, Counter: true}}
	})
	for _, want := range []string{"flatnet_test_networks 1", "flatnet_test_networks 2"} {
		out := httptest.NewRecorder()
		h.ServeHTTP(out, httptest.NewRequest("GET", "/metrics", nil))
		text := out.Body.String()
		for _, line := range []string{want, "# TYPE flatnet_test_networks gauge", "# TYPE flatnet_test_changes_total counter", "process_cpu_seconds_total"} {
			if !strings.Contains(text, line) {
				t.Errorf("no %q in:\n%s", line, text)
			}
		}
	}
}
