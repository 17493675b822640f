package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/journal"
	"github.com/flatnet/flatnet/internal/store"
)

// obeying is a kernel that costs nothing.
type obeying struct{}

func (obeying) Observe(context.Context, string) (dataplane.State, error) {
	return dataplane.State{}, nil
}
func (obeying) Apply(context.Context, string, dataplane.Plan) error { return nil }

// What an attachment costs besides the kernel: the request, checks, addresses, journal, rendering and the answer, with 500
// endpoints there.
func BenchmarkAttachDetach(b *testing.B) {
	w := newWorld(&testing.T{})
	log, _, err := journal.Open(b.TempDir(), "boot")
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	a := New(Config{RunDir: b.TempDir(), NetnsDir: "/run/netns", BootID: "boot"}, Deps{
		Store: store.NewMemory(), Journal: log, Kernel: obeying{}, Host: w.host, Namespaces: fakeNamespaces{w}, Processes: w.procs,
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go a.Run(ctx)
	<-a.Ready()
	handler := a.Handler()
	call := func(method, path string, body any) {
		text, _ := json.Marshal(body)
		r := httptest.NewRequest(method, path, bytes.NewReader(text))
		out := httptest.NewRecorder()
		handler.ServeHTTP(out, r)
		if out.Code >= http.StatusBadRequest {
			b.Fatalf("%s %s: %d %s", method, path, out.Code, out.Body)
		}
	}
	spec := func(i int) api.WorkloadSpec {
		name := fmt.Sprintf("w%d", i)
		w.kernel.AddNetns("/run/netns/" + name)
		return api.WorkloadSpec{Name: name, Netns: "/run/netns/" + name, Endpoints: []api.EndpointSpec{{Network: "default"}}}
	}
	for i := range 200 {
		call("POST", "/v1/workloads", spec(i))
	}
	b.ReportAllocs()
	for b.Loop() {
		call("POST", "/v1/workloads", spec(200))
		call("DELETE", "/v1/workloads/w200", nil)
	}
}
