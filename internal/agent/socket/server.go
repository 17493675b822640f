package socket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// Server answers on a unix socket.
type Server struct {
	Handler  http.Handler
	Access   Access
	Log      *slog.Logger
	Panicked func(what string) // told of a panic in a handler, which the caller of the request sees as FN3008
	Grace    time.Duration     // how long running requests may take when the context ends
}

// Serve accepts until the context ends, then lets running requests finish and returns nil.
func (s Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.guard(s.Handler),
		ConnContext:       rememberPeer,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       60 * time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.Background(), s.Grace)
		defer cancel()
		done <- srv.Shutdown(grace)
	})
	err := srv.Serve(l)
	if stop() {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	if err := <-done; err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return srv.Close()
}

// guard lets in who may, bounds the body, and turns a panic into an answer.
func (s Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer s.recovered(w, r)
		if err := s.Access.check(r); err != nil {
			Fail(w, err)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
		next.ServeHTTP(w, r)
	})
}

func (s Server) recovered(w http.ResponseWriter, r *http.Request) {
	v := recover()
	if v == nil || v == http.ErrAbortHandler {
		return
	}
	what := fmt.Sprintf("%s %s: %v", r.Method, r.URL.Path, v)
	s.Log.Error("panic in a request", "request", r.Method+" "+r.URL.Path, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	if s.Panicked != nil {
		s.Panicked(what)
	}
	Fail(w, model.Problem{Code: model.CodeInternal, Reason: "bug in flatnetd: " + what, Fix: "please report it with flatnetd's log"})
}

// Answer writes v as the body of a 200.
func Answer(w http.ResponseWriter, v any) { write(w, http.StatusOK, v) }

// Fail writes the error as an api.Error with the status that fits its first problem.
func Fail(w http.ResponseWriter, err error) {
	e := Explain(err)
	write(w, status(e), e)
}

func write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The caller may have gone; there is nobody to tell.
	_ = json.NewEncoder(w).Encode(v)
}

// Explain turns any error into what the caller is told.
func Explain(err error) api.Error {
	var e api.Error
	for _, p := range problemsOf(err) {
		e.Problems = append(e.Problems, api.Problem{Code: p.Code, Path: p.Path, Reason: p.Reason, Owner: p.Owner, Fix: p.Fix, Example: p.Example})
	}
	e.Exit = exit(e.Problems[0].Code)
	return e
}

func problemsOf(err error) model.Problems {
	var many model.Problems
	if errors.As(err, &many) && len(many) > 0 {
		return many
	}
	var one model.Problem
	if errors.As(err, &one) {
		return model.Problems{one}
	}
	return model.Problems{{Code: model.CodeInternal, Reason: err.Error()}}
}

// exit is the tool's exit status for a code, by its thousands; that there is no such object is a negative answer.
func exit(code string) int {
	if code == model.CodeNotFound {
		return api.ExitNegative
	}
	switch thousands(code) {
	case '1':
		return api.ExitUsage
	case '2':
		return api.ExitConflict
	case '4':
		return api.ExitNotPermitted
	}
	return api.ExitNegative
}

func status(e api.Error) int {
	code := e.Problems[0].Code
	switch {
	case code == model.CodeNotFound:
		return http.StatusNotFound
	case code == model.CodeTooLarge:
		return http.StatusRequestEntityTooLarge
	case code == model.CodeStopping:
		return http.StatusServiceUnavailable
	}
	switch thousands(code) {
	case '1':
		return http.StatusBadRequest
	case '2':
		return http.StatusConflict
	case '4':
		return http.StatusForbidden
	}
	return http.StatusInternalServerError
}

func thousands(code string) byte {
	if len(code) < 3 {
		return 0
	}
	return code[2]
}
