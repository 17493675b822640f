package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write the golden files anew")

// furnished is a daemon in a world with something of every kind in it.
func furnished(t *testing.T) (*world, *daemon) {
	w := newWorld(t)
	w.kernel.AddNetns("/run/netns/theirs")
	w.kernel.AddNetns("/run/netns/other")
	w.procs.alive, w.procs.watched = map[int]uint64{4711: 99}, map[string]int{}
	w.host.listeners = []Listener{{Proto: model.TCP, Addr: netip.MustParseAddr("0.0.0.0"), Port: 9999}, {Proto: model.UDP, Addr: netip.MustParseAddr("127.0.0.53"), Port: 53}}
	d := w.start()
	ctx := context.Background()
	net := func(name string, spec api.NetworkSpec) {
		must[api.Changed[api.Network]](t)(d.CreateNetwork(ctx, network(name, spec), false))
	}
	run := func(spec api.WorkloadSpec) {
		must[api.Changed[api.Workload]](t)(d.CreateWorkload(ctx, spec, false))
	}
	must[api.Changed[api.Network]](t)(d.DeleteNetwork(ctx, DefaultNetwork, false, false))
	net("default", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.66.0.0/24"}}})
	net("lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}, {Subnet: "fd08::/64"}}})
	net("tiny", api.NetworkSpec{Mode: "host-only", Subnets: []api.SubnetSpec{{Subnet: "10.9.0.0/30"}}})
	net("iso", api.NetworkSpec{Mode: "isolated"})
	net("wire", api.NetworkSpec{Mode: "cable"})
	net("off", api.NetworkSpec{Inactive: true, Subnets: []api.SubnetSpec{{Subnet: "10.10.0.0/24"}}})
	run(api.WorkloadSpec{Name: "web", Endpoints: []api.EndpointSpec{{Network: "lab", IPs: []string{"10.8.0.80"}, MAC: "02:00:5e:10:00:01"}}, Publish: []string{"8080:80"}})
	run(api.WorkloadSpec{Name: "beside", Sharing: "container:web"})
	run(api.WorkloadSpec{Name: "theirs", Netns: "/run/netns/theirs", Endpoints: on("lab")})
	run(api.WorkloadSpec{Name: "only", Endpoints: on("tiny")})
	run(api.WorkloadSpec{Name: "a", Endpoints: on("wire")})
	run(api.WorkloadSpec{Name: "b", Endpoints: on("wire")})
	run(api.WorkloadSpec{Name: "busy", Endpoints: on("lab")})
	must[api.Workload](t)(d.SetProcess(ctx, "busy", api.Process{PID: 4711, Command: "sleep 600"}))
	return w, d
}

// ask sends a request as the socket would.
func ask(h http.Handler, call, body string) *httptest.ResponseRecorder {
	method, target, _ := strings.Cut(call, " ")
	out := httptest.NewRecorder()
	h.ServeHTTP(out, httptest.NewRequest(method, target, strings.NewReader(body)))
	return out
}

// TestEveryProblemIsSpelledOut asks for what cannot be. testdata/problems.txtar has the requests, "METHOD PATH # why", each
// followed by what it is answered.
func TestEveryProblemIsSpelledOut(t *testing.T) {
	const golden = "testdata/problems.txtar"
	archive, err := txtar.ParseFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	_, d := furnished(t)
	before := d.Workloads()
	h := d.Handler()
	var fresh txtar.Archive
	fresh.Comment = archive.Comment
	for _, f := range archive.Files {
		if f.Name == "answer" {
			continue
		}
		call, _, _ := strings.Cut(f.Name, " # ")
		out := ask(h, call, string(f.Data))
		fresh.Files = append(fresh.Files, f, txtar.File{Name: "answer", Data: answerText(t, f.Name, out)})
	}
	if got := len(d.Workloads()); got != len(before) {
		t.Errorf("a request that was refused changed something: %d workloads, there were %d", got, len(before))
	}
	got := txtar.Format(&fresh)
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want, _ := os.ReadFile(golden); !bytes.Equal(got, want) {
		t.Errorf("run with -update and look at the difference in %s; got:\n%s", golden, firstDifference(string(got), string(want)))
	}
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			return fmt.Sprintf("line %d:\n%s", i+1, strings.Join(g[i:min(i+6, len(g))], "\n"))
		}
	}
	return "it ends earlier"
}

func answerText(t *testing.T, name string, out *httptest.ResponseRecorder) []byte {
	t.Helper()
	var e api.Error
	if err := json.Unmarshal(out.Body.Bytes(), &e); err != nil || out.Code < 400 || len(e.Problems) == 0 {
		t.Errorf("%s: got %d %s, want problems", name, out.Code, out.Body)
		return nil
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "status %d exit %d\n", out.Code, e.Exit)
	for _, p := range e.Problems {
		if model.Titles()[p.Code] == "" {
			t.Errorf("%s: code %q has no title", name, p.Code)
		}
		p.Write(&b, "error")
	}
	return b.Bytes()
}

// FuzzRequests sends anything to everything: there is always an answer, it is JSON, and the daemon lives.
func FuzzRequests(f *testing.F) {
	archive, err := txtar.ParseFile("testdata/problems.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range archive.Files {
		if call, _, _ := strings.Cut(file.Name, " # "); file.Name != "answer" {
			method, target, _ := strings.Cut(call, " ")
			f.Add(method, target, file.Data)
		}
	}
	var h http.Handler
	f.Fuzz(func(t *testing.T, method, target string, body []byte) {
		if h == nil {
			_, d := furnished(t)
			h = d.Handler()
		}
		r, err := http.NewRequest(method, "http://flatnet"+target, bytes.NewReader(body))
		if err != nil || strings.HasPrefix(r.URL.Path, "/v1/events") || strings.HasPrefix(r.URL.Path, "/readyz") {
			return
		}
		if q := r.URL.Query(); r.Method != http.MethodGet {
			q.Set(dryRun, "true")
			r.URL.RawQuery = q.Encode()
		}
		out := httptest.NewRecorder()
		h.ServeHTTP(out, r)
		var e api.Error
		if out.Code >= 400 && (json.Unmarshal(out.Body.Bytes(), &e) != nil || len(e.Problems) == 0) {
			t.Errorf("%s %s %q: %d %s", method, target, body, out.Code, out.Body)
		}
		if out.Code >= 500 {
			t.Errorf("%s %s %q: %d %s", method, target, body, out.Code, out.Body)
		}
	})
}
