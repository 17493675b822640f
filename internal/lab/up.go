package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Up makes a lab and returns when all its pairs of workloads answer. When it fails, or ctx ends, it has taken away again
// what it had made.
func Up(ctx context.Context, spec Spec) (*Lab, error) {
	if spec.Bin == "" {
		program, err := os.Executable()
		if err != nil {
			return nil, err
		}
		spec.Bin = filepath.Dir(program)
	}
	spec, err := spec.complete()
	if err != nil {
		return nil, err
	}
	if err := spec.ready(); err != nil {
		return nil, err
	}
	l, err := create(spec)
	if err != nil {
		return nil, err
	}
	defer l.release()
	if err := l.up(ctx); err != nil {
		if kept := l.logs(); kept != "" {
			err = fmt.Errorf("%w\n%s", err, kept)
		}
		if undo := l.down(background(ctx)); undo != nil {
			err = fmt.Errorf("%w\nand then: %w", err, undo)
		}
		return nil, err
	}
	return l, nil
}

func (l *Lab) up(ctx context.Context) error {
	spec := l.state.Spec
	workloads := len(l.Workloads())
	l.tell("lab %q: %s, %s, inside private namespaces. Your own network is not touched.", spec.Name, count(len(l.hosts), "host"), count(workloads, "workload"))
	began := time.Now()
	if err := l.build(ctx); err != nil {
		return err
	}
	took := make([]time.Duration, len(l.hosts)) // to its place in the cluster
	if err := l.eachHost(func(i int, h *Host) error {
		since := time.Now()
		defer func() { took[i] = time.Since(since) }()
		return h.boot(ctx)
	}); err != nil {
		return err
	}
	since := time.Now()
	if err := l.connect(ctx, func(h *Host) {
		took[h.Number-1] += time.Since(since)
		if l.BackendName() != Static {
			since = time.Now()
		}
	}); err != nil {
		return err
	}
	if err := l.eachHost(func(i int, h *Host) error { return h.runAll(ctx) }); err != nil {
		return err
	}
	if err := l.teachNames(ctx); err != nil {
		return err
	}
	for i, h := range l.hosts {
		line, err := h.line(ctx)
		if err != nil {
			return err
		}
		l.tell("%s ok %.1fs", line, took[i].Seconds())
	}
	if !spec.Deaf {
		if err := l.answer(ctx); err != nil {
			return err
		}
	}
	if err := l.record(func(s *state) { s.Ready = true }); err != nil {
		return err
	}
	l.tell("ready in %s.", ran(began))
	l.hints()
	return nil
}

// boot brings a host to where flatnetd answers.
func (h *Host) boot(ctx context.Context) error {
	if err := h.PowerOn(ctx); err != nil {
		return err
	}
	return h.Start(ctx)
}

// runAll starts the host's workloads.
func (h *Host) runAll(ctx context.Context) error {
	for _, w := range h.Spec.Workloads {
		if err := h.run(ctx, w, h.lab.network()); err != nil {
			return err
		}
	}
	return nil
}

// eachHost calls f for all hosts at once and returns the first host's error.
func (l *Lab) eachHost(f func(i int, h *Host) error) error {
	errs := make([]error, len(l.hosts))
	var all sync.WaitGroup
	for i, h := range l.hosts {
		all.Go(func() { errs[i] = f(i, h) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// line is the host's in the picture of the lab.
func (h *Host) line(ctx context.Context) (string, error) {
	var subnet string
	var places []string
	for _, w := range h.Spec.Workloads {
		shown, err := (&Workload{w, h}).Show(ctx)
		if err != nil {
			return "", err
		}
		for _, e := range shown.Endpoints {
			if e.Network == h.lab.network() && len(e.IPs) > 0 {
				s, place := cutAddress(e.IPs[0])
				subnet, places = s, append(places, w+" "+place)
			}
		}
	}
	return fmt.Sprintf("  %-4s %-13s %-17s %-35s", h.Name, h.Address(), subnet, strings.Join(places, "  ")), nil
}

// logs are the last words of each flatnetd.
func (l *Lab) logs() string {
	var b strings.Builder
	for _, h := range l.hosts {
		if log := h.Log(); log != "" {
			fmt.Fprintf(&b, "%s: flatnetd: %s\n", h.Name, lastLine(log))
		}
	}
	return b.String()
}

func (l *Lab) hints() {
	workloads := l.Workloads()
	if len(workloads) == 0 {
		return
	}
	first, last := workloads[0].Name, workloads[len(workloads)-1].Name
	l.tell("try:   flatnet lab exec %s%s -- ping -c3 %s", l.flags(), first, last)
	if l.BackendName() == "vxlan" && len(l.hosts) > 1 && l.state.Spec.lans() == 1 {
		l.tell("       %-36s  the same picture with another backend", "flatnet lab backend "+l.flags()+"host-gw")
	}
	l.tell("       %-36s  what may go wrong", strings.TrimSpace("flatnet lab break "+l.flags()))
	l.tell("       stop: %s", strings.TrimSpace("flatnet lab down "+l.flags()))
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
