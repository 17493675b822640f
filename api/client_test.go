package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serve answers on a new unix socket.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	srv.Start()
	t.Cleanup(srv.Close)
	c := New(socket)
	t.Cleanup(c.Close)
	return c
}

// TestCallsAreThoseOfTheDocument compares method, path and body of every method.
func TestCallsAreThoseOfTheDocument(t *testing.T) {
	asked := ""
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var body json.RawMessage
		_ = json.NewDecoder(r.Body).Decode(&body)
		asked = strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, r.RequestURI, body))
		fmt.Fprint(w, "null")
	})
	ctx := context.Background()
	for want, call := range map[string]func() error{
		"GET /v1/version":                                             func() error { _, err := c.Version(ctx); return err },
		"GET /v1/status":                                              func() error { _, err := c.Status(ctx); return err },
		"GET /v1/networks":                                            func() error { _, err := c.Networks(ctx); return err },
		"GET /v1/networks/a%2Fb%3Fc":                                  func() error { _, err := c.Network(ctx, "a/b?c"); return err },
		"DELETE /v1/networks/a?force=true":                            func() error { _, err := c.DeleteNetwork(ctx, "a", Force); return err },
		"POST /v1/networks/a/start":                                   func() error { _, err := c.StartNetwork(ctx, "a"); return err },
		"POST /v1/networks/a/stop?dryRun=true":                        func() error { _, err := c.StopNetwork(ctx, "a", DryRun); return err },
		`POST /v1/networks/a/autostart {"on":true}`:                   func() error { _, err := c.SetAutostart(ctx, "a", true); return err },
		`POST /v1/networks {"apiVersion":"","kind":"","metadata":{}}`: func() error { _, err := c.CreateNetwork(ctx, Manifest{}); return err },
		"GET /v1/workloads":                                           func() error { _, err := c.Workloads(ctx); return err },
		"GET /v1/workloads/w":                                         func() error { _, err := c.Workload(ctx, "w"); return err },
		`POST /v1/workloads {"name":"w"}`:                             func() error { _, err := c.CreateWorkload(ctx, WorkloadSpec{Name: "w"}); return err },
		"DELETE /v1/workloads/w?dryRun=true&force=true":               func() error { _, err := c.DeleteWorkload(ctx, "w", Force, DryRun); return err },
		`POST /v1/workloads/w/process {"pid":1}`:                      func() error { _, err := c.ReportProcess(ctx, "w", Process{PID: 1}); return err },
		`POST /v1/workloads/w/stop {"timeoutSeconds":3}`:              func() error { _, err := c.StopWorkload(ctx, "w", Stop{3}); return err },
		"GET /v1/forwards":                                            func() error { _, err := c.Forwards(ctx); return err },
		`POST /v1/forwards [{"publish":"1:1","workload":"w"}]`: func() error {
			_, err := c.CreateForwards(ctx, []ForwardSpec{{Publish: "1:1", Workload: "w"}})
			return err
		},
		`DELETE /v1/forwards ["tcp/1"]`:         func() error { _, err := c.DeleteForwards(ctx, []string{"tcp/1"}); return err },
		`POST /v1/apply?dryRun=true []`:         func() error { _, err := c.Apply(ctx, []Manifest{}, DryRun); return err },
		"GET /v1/manifests":                     func() error { _, err := c.Manifests(ctx); return err },
		"GET /v1/plan":                          func() error { _, err := c.Plan(ctx); return err },
		"GET /v1/show/bridges":                  func() error { _, err := c.HostBridges(ctx); return err },
		"GET /v1/show/links?workload=a%26b":     func() error { _, err := c.Links(ctx, "a&b"); return err },
		"GET /v1/show/routes":                   func() error { _, err := c.Routes(ctx, ""); return err },
		"GET /v1/show/neigh?workload=w":         func() error { _, err := c.Neighbours(ctx, "w"); return err },
		"GET /v1/show/nft":                      func() error { _, err := c.NFT(ctx); return err },
		"POST /v1/repair":                       func() error { _, err := c.Repair(ctx); return err },
		"GET /v1/doctor":                        func() error { _, err := c.Doctor(ctx); return err },
		`POST /v1/doctor/fix {"code":"FN5001"}`: func() error { _, err := c.Fix(ctx, "FN5001"); return err },
		"POST /v1/uninstall?dryRun=true":        func() error { _, err := c.Uninstall(ctx, DryRun); return err },
	} {
		if err := call(); err != nil || asked != want {
			t.Errorf("asked %q, want %q; error %v", asked, want, err)
		}
	}
}

func TestErrorsOfTheDaemonAreTyped(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/plain"):
			http.Error(w, "what?", http.StatusTeapot)
		case strings.HasSuffix(r.URL.Path, "/noexit"):
			w.WriteHeader(http.StatusConflict)
			_ = json.NewEncoder(w).Encode(Error{Problems: []Problem{{Code: "FN2101", Reason: "exists"}}})
		case strings.HasSuffix(r.URL.Path, "/broken"):
			fmt.Fprint(w, `{"name": "a`)
		default:
			w.WriteHeader(http.StatusNotFound)
			_ = json.NewEncoder(w).Encode(Error{Problems: []Problem{{Code: CodeNotFound, Path: "name", Reason: "no", Owner: "o", Fix: "f"}}, Exit: ExitNegative})
		}
	})
	for name, want := range map[string]struct {
		exit int
		text string
	}{
		"x":      {ExitNegative, "FN1004: name: no (o); f"},
		"noexit": {ExitConflict, "FN2101: exists"},
		"plain":  {ExitUsage, "FN3002: GET /v1/networks/plain: the daemon answered 418 I'm a teapot: what?; flatnet and flatnetd are of different versions: see `flatnet version`"},
	} {
		_, err := c.Network(context.Background(), name)
		var e *Error
		if !errors.As(err, &e) || e.Exit != want.exit || e.Error() != want.text {
			t.Errorf("%s: %+v, want %+v", name, err, want)
		}
	}
	if _, err := c.Network(context.Background(), "broken"); !IsUnreachable(err) {
		t.Errorf("cut answer: %v, want %s", err, CodeUnreachable)
	}
	if _, err := c.Network(context.Background(), "x"); !IsNotFound(err) {
		t.Errorf("%v is not taken for not found", err)
	}
}

func TestUnreachableDaemon(t *testing.T) {
	dir := t.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/dead"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for socket, want := range map[string]string{"/none": "there is no such socket", "/dead": "nobody listens"} {
		_, err := New(dir + socket).Status(context.Background())
		var e *Error
		if !errors.As(err, &e) || e.Exit != ExitUnreachable || !IsUnreachable(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want exit %d and %q", socket, err, ExitUnreachable, want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := New(dir + "/dead").Status(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled call: %v", err)
	}
}

func TestEvents(t *testing.T) {
	asked := make(chan string, 10)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.RequestURI
		enc := json.NewEncoder(w)
		_ = enc.Encode(Event{Type: "created", Object: "a"})
		_ = enc.Encode(Event{Type: "deleted", Object: "a"})
		w.(http.Flusher).Flush()
		if r.URL.Query().Get("follow") != "false" {
			<-r.Context().Done()
		}
	})
	collect := func(ctx context.Context, follow bool, n int) (types string, failed error) {
		for e, err := range c.Events(ctx, time.Unix(0, 0), follow) {
			if err != nil {
				return types, err
			}
			types += e.Type + " "
			if n--; n == 0 {
				break
			}
		}
		return types, nil
	}
	if got, err := collect(context.Background(), false, -1); got != "created deleted " || err != nil {
		t.Errorf("remembered events: %q, %v", got, err)
	}
	if got := <-asked; got != "/v1/events?follow=false&since=1970-01-01T00%3A00%3A00Z" {
		t.Errorf("asked %s", got)
	}
	if got, err := collect(context.Background(), true, 1); got != "created " || err != nil {
		t.Errorf("loop left after one: %q, %v", got, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	if got, err := collect(ctx, true, -1); got != "created deleted " || err != nil {
		t.Errorf("followed until cancelled: %q, %v", got, err)
	}
}
