// Package fail_test tells what a cluster lives through: daemons killed, an etcd frozen, addresses that change, routes taken away, values in
// the store that mean harm. The programs and the namespaces are real, there is traffic all the time, and what of it is lost is counted.
package fail_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/internal/lab"
	"github.com/flatnet/flatnet/test/rig"
)

func TestMain(m *testing.M) { os.Exit(kerneltest.Main(m)) }

// long is set for stories that take more than ordinary tests may: make test-cluster.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("CLUSTER_LONG") == "" {
		t.Skip("takes long: make test-cluster")
	}
}

// site is a lab whose hosts are in a cluster.
type site struct {
	*testing.T
	*lab.Lab
	joined bool // the test itself is on the LAN
}

// hosts are n hosts with one workload each, w1 on h1 and so on.
func hosts(n int) []lab.HostSpec {
	all := make([]lab.HostSpec, n)
	for i := range all {
		all[i] = lab.HostSpec{Name: fmt.Sprint("h", i+1), Workloads: []string{fmt.Sprint("w", i+1)}}
	}
	return all
}

func newSite(t *testing.T, spec lab.Spec) *site {
	t.Helper()
	rig.Program(t, "flatnet")
	rig.Program(t, "flatnet-etcd")
	spec.Bin = filepath.Dir(rig.Program(t, "flatnetd"))
	l, err := lab.Up(t.Context(), spec)
	if err != nil {
		t.Fatal(lab.Text(err))
	}
	t.Cleanup(func() {
		for _, h := range l.Hosts() {
			if t.Failed() {
				t.Logf("%s: flatnetd:\n%s", h.Name, tail(h.Log(), 60))
			}
		}
		if err := l.Down(context.Background()); err != nil {
			t.Error(lab.Text(err))
		}
	})
	return &site{T: t, Lab: l}
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// part is a story of the same site.
func (s *site) part(name string, tell func(s *site)) {
	s.Helper()
	s.T.Run(name, func(t *testing.T) {
		part := *s
		part.T = t
		tell(&part)
	})
}

// h is host n, from 1.
func (s *site) h(n int) *lab.Host { return s.Hosts()[n-1] }

// must fails the test when there is an error.
func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(lab.Text(err))
	}
}

// run carries a command out on a machine.
func (s *site) run(m interface {
	Exec(context.Context, ...string) (string, error)
}, line string) string {
	s.Helper()
	out, err := m.Exec(s.Context(), "sh", "-c", line)
	if err != nil {
		s.Fatalf("%s: %v\n%s", line, err, out)
	}
	return out
}

func (s *site) flatnet(n int, args ...string) string {
	s.Helper()
	out, err := s.h(n).Flatnet(s.Context(), args...)
	if err != nil {
		s.Fatalf("h%d: flatnet %s: %v\n%s", n, strings.Join(args, " "), err, out)
	}
	return out
}

func (s *site) eventually(what string, is func() bool) time.Duration {
	s.Helper()
	return s.within(rig.Patience, what, is)
}

// within is eventually with a patience of its own: for what the programs themselves wait for.
func (s *site) within(patience time.Duration, what string, is func() bool) time.Duration {
	s.Helper()
	began := time.Now()
	for end := began.Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("not within %v: %s", patience, what)
		}
	}
	return time.Since(began)
}

// settled wants nothing to be left to do on host n.
func (s *site) settled(n int) {
	s.Helper()
	c := s.h(n).Client()
	defer c.Close()
	var steps []api.Step
	for end := time.Now().Add(rig.Patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		var err error
		if steps, err = c.Plan(s.Context()); err == nil && len(steps) == 0 {
			return
		}
	}
	s.Errorf("h%d: the plan is not empty: %v", n, steps)
}

// told are the events of host n of a type since a time.
func (s *site) told(n int, typ string, since time.Time) []api.Event {
	s.Helper()
	c := s.h(n).Client()
	defer c.Close()
	var list []api.Event
	for e, err := range c.Events(s.Context(), since, false) {
		s.must(err)
		if e.Type == typ && !e.Time.Before(since) {
			list = append(list, e)
		}
	}
	return list
}

// network is the cluster's network as host n shows it.
func (s *site) network(n int) api.Network {
	s.Helper()
	c := s.h(n).Client()
	defer c.Close()
	net, err := c.Network(s.Context(), "cluster")
	s.must(err)
	return net
}

// blocks are those of host n, as it says.
func (s *site) blocks(n int) []string {
	s.Helper()
	for _, d := range s.network(n).Status.Nodes {
		if d.Self {
			return d.Blocks
		}
	}
	return nil
}

// address is a workload's.
func (s *site) address(workload string) string {
	s.Helper()
	a, err := s.Workload(workload).Address(s.Context())
	s.must(err)
	return a.String()
}

// started makes a workload on host n, which is seen to answer by the workload from. It stays: the host's neighbour table would know its address
// by its MAC for a while.
func (s *site) started(n int, name string, from *lab.Workload) {
	s.Helper()
	s.flatnet(n, "run", "-d", "--name", name, "--network", "cluster", "--", "sleep", "1d")
	c := s.h(n).Client()
	defer c.Close()
	w, err := c.Workload(s.Context(), name)
	s.must(err)
	ip, _, _ := strings.Cut(w.Endpoints[0].IPs[0], "/")
	f := s.flowTo(from, ip)
	s.eventually(name+" answers", func() bool { return f.last() != 0 })
	f.stop()
}

// inside calls f on a thread in a workload's namespace.
func (s *site) inside(w *lab.Workload, f func() error) {
	s.Helper()
	s.must(netns.Do(w.Netns(), f))
}

// lines of a text that have all of some words.
func lines(text string, words ...string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(l, w) })
	})
}
