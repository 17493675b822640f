package agent

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/socket"
	"github.com/flatnet/flatnet/internal/model"
)

// Handler answers the calls that package api documents.
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, answer func(r *http.Request) (any, error), parameters ...string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := onlyParameters(r.URL.RawQuery, parameters); err != nil {
				socket.Fail(w, err)
				return
			}
			v, err := answer(r)
			if err != nil {
				socket.Fail(w, err)
				return
			}
			socket.Answer(w, v)
		})
	}
	a.readRoutes(handle)
	a.networkRoutes(handle)
	a.workloadRoutes(handle)
	a.changeRoutes(handle)
	a.clusterRoutes(handle)
	a.showRoutes(mux)
	mux.HandleFunc("GET /v1/cni/status", a.serveCNIStatus)
	mux.HandleFunc("GET /v1/events", a.serveEvents)
	mux.HandleFunc("GET /readyz", a.serveReady)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		socket.Fail(w, model.Problem{Code: model.CodeNotFound, Reason: fmt.Sprintf("there is no call %s %s", r.Method, short(r.URL.Path)),
			Fix: "flatnet and flatnetd may be of different versions: see `flatnet version`"})
	})
	return mux
}

const (
	dryRun   = "dryRun"
	force    = "force"
	renumber = "renumber"
)

func consentOf(r *http.Request) consent {
	return consent{renumber: isSet(r, renumber), force: isSet(r, force)}
}

type handle func(pattern string, answer func(*http.Request) (any, error), parameters ...string)

func (a *Agent) readRoutes(handle handle) {
	handle("GET /v1/version", func(*http.Request) (any, error) {
		return api.Version{Version: a.config.Version, API: []string{api.APIVersion}, PID: os.Getpid()}, nil
	})
	handle("GET /v1/status", func(r *http.Request) (any, error) { return a.Status(r.Context()) })
	handle("GET /v1/networks", func(*http.Request) (any, error) { return a.Networks(), nil })
	handle("GET /v1/networks/{name}", func(r *http.Request) (any, error) { return a.Network(r.PathValue("name")) })
	handle("GET /v1/workloads", func(*http.Request) (any, error) { return a.Workloads(), nil })
	handle("GET /v1/workloads/{name}", func(r *http.Request) (any, error) { return a.Workload(r.PathValue("name")) })
	handle("GET /v1/forwards", func(*http.Request) (any, error) { return a.Forwards(), nil })
	handle("GET /v1/manifests", func(*http.Request) (any, error) { return a.Manifests(), nil })
	handle("GET /v1/plan", func(r *http.Request) (any, error) { return a.Plan(r.Context()) })
	handle("GET /v1/doctor", func(r *http.Request) (any, error) {
		list, err := a.Doctor(r.Context())
		if list == nil {
			list = []api.Finding{}
		}
		return list, err
	})
}

func (a *Agent) networkRoutes(handle handle) {
	handle("POST /v1/networks", func(r *http.Request) (any, error) {
		var m api.Manifest
		if err := socket.Body(r, &m); err != nil {
			return nil, err
		}
		if m.Network == nil {
			return nil, model.Problem{Code: model.CodeUnknownKind, Path: "kind", Reason: fmt.Sprintf("a %s is no network", m.Kind), Fix: "forwards and lists go to apply", Example: api.KindNetwork}
		}
		return a.CreateNetwork(r.Context(), m, isSet(r, dryRun))
	}, dryRun)
	handle("POST /v1/networks/{name}/edit", func(r *http.Request) (any, error) {
		var e api.NetworkEdit
		if err := socket.Body(r, &e); err != nil {
			return nil, err
		}
		return a.EditNetwork(r.Context(), r.PathValue("name"), e, consentOf(r), isSet(r, dryRun))
	}, dryRun, renumber, force)
	handle("DELETE /v1/networks/{name}", func(r *http.Request) (any, error) {
		return a.DeleteNetwork(r.Context(), r.PathValue("name"), isSet(r, force), isSet(r, dryRun))
	}, dryRun, force)
	handle("POST /v1/networks/{name}/start", func(r *http.Request) (any, error) {
		return a.StartNetwork(r.Context(), r.PathValue("name"), isSet(r, dryRun))
	}, dryRun)
	handle("POST /v1/networks/{name}/stop", func(r *http.Request) (any, error) {
		return a.StopNetwork(r.Context(), r.PathValue("name"), isSet(r, dryRun))
	}, dryRun)
	handle("POST /v1/networks/{name}/autostart", func(r *http.Request) (any, error) {
		var s api.Autostart
		if err := socket.Body(r, &s); err != nil {
			return nil, err
		}
		return a.AutostartNetwork(r.Context(), r.PathValue("name"), s.On, isSet(r, dryRun))
	}, dryRun)
}

func (a *Agent) workloadRoutes(handle handle) {
	handle("POST /v1/workloads", func(r *http.Request) (any, error) {
		var spec api.WorkloadSpec
		if err := socket.Body(r, &spec); err != nil {
			return nil, err
		}
		return a.CreateWorkload(r.Context(), spec, isSet(r, dryRun))
	}, dryRun)
	handle("DELETE /v1/workloads/{name}", func(r *http.Request) (any, error) {
		return a.DeleteWorkload(r.Context(), r.PathValue("name"), isSet(r, force), isSet(r, dryRun))
	}, dryRun, force)
	handle("POST /v1/workloads/{name}/process", func(r *http.Request) (any, error) {
		var p api.Process
		if err := socket.Body(r, &p); err != nil {
			return nil, err
		}
		return a.SetProcess(r.Context(), r.PathValue("name"), p)
	})
	handle("POST /v1/workloads/{name}/stop", func(r *http.Request) (any, error) {
		var s api.Stop
		if err := socket.Body(r, &s); err != nil {
			return nil, err
		}
		timeout, err := stopTimeout(s)
		if err != nil {
			return nil, err
		}
		return a.StopWorkload(r.Context(), r.PathValue("name"), timeout, isSet(r, force))
	}, force)
	handle("POST /v1/workloads/{name}/endpoints", func(r *http.Request) (any, error) {
		var spec api.EndpointSpec
		if err := socket.Body(r, &spec); err != nil {
			return nil, err
		}
		return a.Connect(r.Context(), r.PathValue("name"), spec, isSet(r, dryRun))
	}, dryRun)
	handle("DELETE /v1/workloads/{name}/endpoints/{network}", func(r *http.Request) (any, error) {
		return a.Disconnect(r.Context(), r.PathValue("name"), r.PathValue("network"), isSet(r, force), isSet(r, dryRun))
	}, dryRun, force)
}

func stopTimeout(s api.Stop) (time.Duration, error) {
	const usual, most = 10, 3600 // seconds
	if s.TimeoutSeconds < 0 || s.TimeoutSeconds > most {
		return 0, model.Problem{Code: model.CodeMalformed, Path: "timeoutSeconds", Reason: fmt.Sprintf("%d seconds are out of bounds", s.TimeoutSeconds), Fix: "0 to 3600"}
	}
	if s.TimeoutSeconds == 0 {
		s.TimeoutSeconds = usual
	}
	return time.Duration(s.TimeoutSeconds) * time.Second, nil
}

func (a *Agent) changeRoutes(handle handle) {
	handle("POST /v1/forwards", func(r *http.Request) (any, error) {
		var specs []api.ForwardSpec
		if err := socket.Body(r, &specs); err != nil {
			return nil, err
		}
		return a.AddForwards(r.Context(), specs, isSet(r, dryRun))
	}, dryRun)
	handle("DELETE /v1/forwards", func(r *http.Request) (any, error) {
		var names []string
		if err := socket.Body(r, &names); err != nil {
			return nil, err
		}
		return a.RemoveForwards(r.Context(), names, isSet(r, dryRun))
	}, dryRun)
	handle("POST /v1/apply", func(r *http.Request) (any, error) {
		manifests, err := readManifests(r)
		if err != nil {
			return nil, err
		}
		return a.Apply(r.Context(), manifests, consentOf(r), isSet(r, dryRun))
	}, dryRun, renumber, force)
	handle("POST /v1/repair", func(r *http.Request) (any, error) { return a.Repair(r.Context(), isSet(r, dryRun)) }, dryRun)
	handle("POST /v1/doctor/fix", func(r *http.Request) (any, error) {
		var f api.Fix
		if err := socket.Body(r, &f); err != nil {
			return nil, err
		}
		return a.Fix(r.Context(), f.Code, isSet(r, dryRun))
	}, dryRun)
	handle("POST /v1/uninstall", func(r *http.Request) (any, error) { return a.Uninstall(r.Context(), isSet(r, dryRun), isSet(r, force)) }, dryRun, force)
}

// readManifests reads a list, each by itself, so that every problem has the number of its manifest.
func readManifests(r *http.Request) ([]api.Manifest, error) {
	var texts []json.RawMessage
	if err := socket.Body(r, &texts); err != nil {
		return nil, err
	}
	manifests := make([]api.Manifest, len(texts))
	var problems model.Problems
	for i, text := range texts {
		if err := socket.Decode(text, &manifests[i]); err != nil {
			problems = append(problems, asProblems(err, fmt.Sprintf("[%d]", i))...)
		}
	}
	return manifests, problems.Err()
}

// onlyParameters refuses a query with anything but the known parameters, each once and true or false: a dryRun that is not
// understood would be carried out.
func onlyParameters(query string, known []string) error {
	q, err := parameters(query, known)
	if err != nil {
		return err
	}
	for name := range q {
		if _, err := isTrue(q, name); err != nil {
			return err
		}
	}
	return nil
}

// parameters reads a query strictly: URL.Query leaves out what it cannot read.
func parameters(query string, known []string) (url.Values, error) {
	q, err := url.ParseQuery(query)
	if err != nil {
		return nil, model.Problem{Code: model.CodeMalformed, Path: "?" + short(query), Reason: "not a query: " + err.Error(), Fix: "NAME=VALUE with & between them", Example: "?dryRun=true"}
	}
	for _, name := range slices.Sorted(maps.Keys(q)) {
		switch {
		case !slices.Contains(known, name):
			return nil, model.Problem{Code: model.CodeUnknownField, Path: "?" + short(name), Reason: fmt.Sprintf("this call has no parameter %q", short(name)), Fix: fmt.Sprintf("parameters: %v", known)}
		case len(q[name]) > 1:
			return nil, model.Problem{Code: model.CodeMalformed, Path: "?" + name, Reason: fmt.Sprintf("parameter %q is given %d times", name, len(q[name])), Fix: "give it once"}
		}
	}
	return q, nil
}

// isTrue reads a parameter that is there.
func isTrue(q url.Values, name string) (bool, error) {
	on, err := strconv.ParseBool(q.Get(name))
	if err != nil {
		return false, model.Problem{Code: model.CodeMalformed, Path: "?" + name, Reason: fmt.Sprintf("%q is neither true nor false", short(q.Get(name))), Fix: "true or false", Example: "?" + name + "=true"}
	}
	return on, nil
}

func isSet(r *http.Request, name string) bool {
	on, _ := strconv.ParseBool(r.URL.Query().Get(name)) // checked before
	return on
}

// serveEvents streams what happened since the time asked for, and what happens from then on; without a time, all that is
// remembered.
func (a *Agent) serveEvents(w http.ResponseWriter, r *http.Request) {
	next, follow, err := a.eventsFrom(r.URL.RawQuery)
	if err != nil {
		socket.Fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	for {
		list, n, more := a.events.after(next)
		next = n
		for _, ev := range list {
			if enc.Encode(ev) != nil {
				return
			}
		}
		if out.Flush() != nil || !follow {
			return
		}
		select {
		case <-more:
		case <-r.Context().Done():
			return
		}
	}
}

// eventsFrom is the number of the first event asked for, and whether those to come are.
func (a *Agent) eventsFrom(query string) (next uint64, follow bool, err error) {
	q, err := parameters(query, []string{"since", "follow"})
	if err != nil {
		return 0, false, err
	}
	if q.Has("since") {
		t, err := time.Parse(time.RFC3339Nano, q.Get("since"))
		if err != nil {
			return 0, false, model.Problem{Code: model.CodeMalformed, Path: "?since", Reason: fmt.Sprintf("%q is no time", short(q.Get("since"))), Example: "2026-01-02T15:04:05Z"}
		}
		next = a.events.since(t)
	}
	if !q.Has("follow") {
		return next, true, nil
	}
	follow, err = isTrue(q, "follow")
	return next, follow, err
}

func (a *Agent) serveReady(w http.ResponseWriter, _ *http.Request) {
	select {
	case <-a.ready:
		w.WriteHeader(http.StatusOK)
		fmt.Fprintln(w, "ready")
	default:
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "starting")
	}
}

// Panicked is told by the server of a panic in a handler.
func (a *Agent) Panicked(what string) {
	a.count.panics.Add(1)
	a.event("error", "node", "bug in flatnetd: "+what)
}
