package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/process"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
	"github.com/flatnet/flatnet/internal/store"
)

var errDead = errors.New("the daemon is dead")

// world is all that outlives a daemon: a kernel, a store, a journal, processes. A daemon can be made to die in it between any
// two of its effects.
type world struct {
	t       *testing.T
	kernel  *kerneltest.Fake
	store   *store.Memory
	journal *memoryJournal
	host    *fakeHost
	procs   *fakeProcesses
	runDir  string
	boot    string
	removed bool           // an uninstall ended
	again   map[string]int // how often another namespace came to stand at a path

	cluster func() store.Cluster // nil: in none
	self    string

	fuse fuse
	full atomic.Bool // the disk of store and journal
	kept map[string]Kept
}

func (w *world) write(file string) error {
	if w.full.Load() {
		return &fs.PathError{Op: "write", Path: filepath.Join(w.runDir, file), Err: syscall.ENOSPC}
	}
	return nil
}

// fuse burns with every effect of the daemon; when it is out, nothing has an effect any more.
type fuse struct {
	mu    sync.Mutex
	armed bool
	left  int
	steps []string
	dead  bool
}

func (f *fuse) burn(what string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return errDead
	}
	if !f.armed {
		return nil
	}
	if f.left == 0 {
		f.dead = true
		return errDead
	}
	f.left--
	f.steps = append(f.steps, what)
	return nil
}

func (f *fuse) burnt() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// isConstant knows the part of the nft ruleset that is the same on every host.
func isConstant(o dataplane.Object) bool {
	switch o.(type) {
	case dataplane.Table, dataplane.Set, dataplane.Chain, dataplane.Rule:
		return true
	}
	return false
}

// arm lets n effects happen.
func (f *fuse) arm(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed, f.left, f.steps = true, n, nil
}

// disarm reports whether the daemon died.
func (f *fuse) disarm() (died bool, steps []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	died, steps = f.dead, f.steps
	f.armed, f.dead = false, false
	return died, steps
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, kernel: kerneltest.NewFake(), store: store.NewMemory(), journal: &memoryJournal{all: map[string]model.Workload{}}, runDir: t.TempDir(), boot: "boot 1"}
	w.host = &fakeHost{node: model.Node{
		Name: "testhost",
		Links: []model.HostLink{
			{Name: "eth0", MTU: 1500, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24")}},
			{Name: "lo", MTU: 65536, Up: true, Loopback: true, Addrs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("::1/128")}},
		},
		Routes: []model.HostRoute{
			{Dest: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.1"), Link: "eth0", Proto: "static"},
			{Dest: netip.MustParsePrefix("192.0.2.0/24"), Link: "eth0", Proto: "kernel"},
		},
	}, events: make(chan Event)}
	w.procs = &fakeProcesses{world: w, alive: map[int]uint64{}, watched: map[string]int{}}
	constant := false
	w.kernel.BeforeStep = func(n int, netns string, s dataplane.Step) error {
		before := constant
		if constant = isConstant(s.Object); constant && before && !w.fuse.burnt() {
			return nil // they are one transaction
		}
		if w.fuse.burn(fmt.Sprintf("kernel %s%s", netns, s)) != nil {
			return kerneltest.ErrCrash
		}
		return nil
	}
	return w
}

// daemon is one that runs in a world.
type daemon struct {
	*Agent
	cancel context.CancelFunc
	done   chan error
}

// start starts a daemon and waits until it is ready.
func (w *world) start() *daemon {
	w.t.Helper()
	d := w.launch()
	select {
	case <-d.Ready():
	case err := <-d.done:
		w.t.Fatalf("the daemon ended at its start: %v", err)
	case <-time.After(20 * time.Second):
		w.t.Fatal("the daemon does not get ready")
	}
	return d
}

func (w *world) launch() *daemon {
	a := New(Config{RunDir: w.runDir, NetnsDir: "/run/netns", BootID: w.boot, Version: "test", ClusterDir: filepath.Join(w.runDir, "cluster")}, Deps{
		Store: dyingStore{w}, Journal: dyingJournal{w}, Kernel: w.kernel, Host: w.host, Namespaces: fakeNamespaces{w}, Processes: w.procs,
		Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) },
		Remove: func() error { return w.remove() }, Kept: w.kept,
	})
	if w.cluster != nil {
		a.enter(w.cluster(), w.self, func(n model.Node) (model.Member, error) {
			return model.Member{ID: w.self, Name: n.Name, Underlay4: n.AddrOn("eth0", false), MTU: 1500, Version: "test", Schema: store.Schema}, nil
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &daemon{Agent: a, cancel: cancel, done: make(chan error, 1)}
	go func() { d.done <- a.Run(ctx) }()
	w.t.Cleanup(func() { d.end(w.t) })
	return d
}

// end ends the daemon and waits for it.
func (d *daemon) end(t *testing.T) error {
	d.cancel()
	select {
	case err := <-d.done:
		d.done <- err
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the daemon does not end")
		return nil
	}
}

func (w *world) remove() error {
	if err := w.fuse.burn("remove files"); err != nil {
		return err
	}
	w.store, w.journal.all, w.removed = store.NewMemory(), map[string]model.Workload{}, true
	return nil
}

// dyingStore writes each change by itself, the worst that the contract allows.
type dyingStore struct{ *world }

func (s dyingStore) Load(ctx context.Context, kinds ...store.Kind) (store.Snapshot, error) {
	return s.store.Load(ctx, kinds...)
}

func (s dyingStore) Write(ctx context.Context, changes ...store.Change) ([]store.Object, error) {
	var all []store.Object
	for _, c := range changes {
		if err := s.fuse.burn(fmt.Sprintf("store %s %s", c.Kind, c.Name)); err != nil {
			return all, err
		}
		if err := s.write("flatnet.db"); err != nil {
			return all, err
		}
		objects, err := s.store.Write(ctx, c)
		if err != nil {
			return all, err
		}
		all = append(all, objects...)
	}
	return all, nil
}

type memoryJournal struct {
	mu   sync.Mutex
	all  map[string]model.Workload
	past []model.Workload
}

type dyingJournal struct{ *world }

func (j dyingJournal) Load() map[string]model.Workload {
	j.journal.mu.Lock()
	defer j.journal.mu.Unlock()
	return maps.Clone(j.journal.all)
}

func (j dyingJournal) Past() []model.Workload {
	j.journal.mu.Lock()
	defer j.journal.mu.Unlock()
	return slices.Clone(j.journal.past)
}

func (j dyingJournal) Put(w model.Workload) error {
	if err := errors.Join(j.fuse.burn("journal put "+w.Name), j.write("journal")); err != nil {
		return err
	}
	j.journal.mu.Lock()
	defer j.journal.mu.Unlock()
	j.journal.all[w.Name] = w
	j.journal.past = append(j.journal.past, w)
	return nil
}

func (j dyingJournal) Delete(name string) error {
	if err := errors.Join(j.fuse.burn("journal delete "+name), j.write("journal")); err != nil {
		return err
	}
	j.journal.mu.Lock()
	defer j.journal.mu.Unlock()
	delete(j.journal.all, name)
	return nil
}

type fakeHost struct {
	events chan Event

	mu        sync.Mutex
	node      model.Node
	listeners []Listener
	flushed   []string
	inventory inventory
}

func (h *fakeHost) Node(context.Context) (model.Node, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.node, nil
}

func (h *fakeHost) set(change func(*fakeHost)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
}

func (h *fakeHost) Listeners(context.Context) ([]Listener, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.listeners, nil
}

func (h *fakeHost) Owner(context.Context, Listener) string { return "process nginx[812]" }

func (h *fakeHost) FlushConntrack(_ context.Context, proto model.Proto, dest netip.Addr, ports model.Ports) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.flushed = append(h.flushed, fmt.Sprint(proto, " ", text(dest), " ", ports))
	return 1, nil
}

func (h *fakeHost) ForgetNeighbour(_ context.Context, netns, link string, addr netip.Addr) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.flushed = append(h.flushed, fmt.Sprintf("neighbour %s of %s in %s", addr, link, netns))
	return nil
}

func (h *fakeHost) FlushConntrackFrom(_ context.Context, prefix netip.Prefix, unrepliedOnly bool) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.flushed = append(h.flushed, fmt.Sprintf("from %s unreplied %v", prefix, unrepliedOnly))
	return 1, nil
}

func (h *fakeHost) Watch(ctx context.Context, each func(Event)) error {
	for {
		select {
		case ev := <-h.events:
			each(ev)
		case <-ctx.Done():
			return nil
		}
	}
}

func (h *fakeHost) Features() map[string]string {
	return map[string]string{"ipv6-loopback-forwards": "yes"}
}

// fakeProcesses are processes that a test begins and ends.
type fakeProcesses struct {
	*world
	mu      sync.Mutex
	alive   map[int]uint64
	watched map[string]int
	exited  func(string, int)
}

func (p *fakeProcesses) Start(pid int) (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	start, ok := p.alive[pid]
	if !ok {
		return 0, process.ErrGone
	}
	return start, nil
}

func (p *fakeProcesses) Add(name string, pid int, start uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.alive[pid] != start {
		return process.ErrGone
	}
	p.watched[name] = pid
	return nil
}

func (p *fakeProcesses) Forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.watched, name)
}

func (p *fakeProcesses) Run(ctx context.Context, exited func(string, int)) error {
	p.mu.Lock()
	p.exited = exited
	p.mu.Unlock()
	<-ctx.Done()
	return nil
}

func (p *fakeProcesses) Stop(_ context.Context, pid int, _ uint64, _ string, _ time.Duration) error {
	p.kill(pid, 143)
	return nil
}

// kill ends a process; who watches it is told.
func (p *fakeProcesses) kill(pid, code int) {
	eventually(p.t, "somebody watches processes", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.exited != nil
	})
	p.mu.Lock()
	delete(p.alive, pid)
	var who []string
	for name, watched := range p.watched {
		if watched == pid {
			who = append(who, name)
		}
	}
	exited := p.exited
	p.mu.Unlock()
	for _, name := range who {
		exited(name, code)
	}
}

// must ends the test on an error.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func network(name string, spec api.NetworkSpec) api.Manifest {
	return api.Manifest{APIVersion: api.APIVersion, Kind: api.KindNetwork, Metadata: api.Metadata{Name: name}, Network: &spec}
}

func on(network string) []api.EndpointSpec { return []api.EndpointSpec{{Network: network}} }

// checkConverged fails when the kernel is not as the daemon's state says, in any namespace, or the state contradicts itself.
func (w *world) checkConverged(d *daemon) {
	w.t.Helper()
	changes, err := d.rec.Drift(context.Background())
	if err != nil {
		w.t.Errorf("look at the kernel: %v", err)
	}
	for _, c := range changes {
		w.t.Errorf("namespace %q is not as rendered; to do:\n%s", c.Netns, c.Plan)
	}
	w.checkState(d)
	w.checkNamespaces(d)
}

func (w *world) checkState(d *daemon) {
	w.t.Helper()
	d.mu.RLock()
	defer d.mu.RUnlock()
	seen := map[string]string{}
	for name, x := range d.state.view.Workloads {
		for _, e := range x.Endpoints {
			for _, a := range e.Addrs {
				key := e.Network + " " + a.String()
				if other, twice := seen[key]; twice {
					w.t.Errorf("%s is given to %s and %s", key, other, name)
				}
				seen[key] = name
			}
		}
	}
	indexed := 0
	for network, addrs := range d.state.used {
		for a, name := range addrs {
			indexed++
			if seen[network+" "+a.String()] != name {
				w.t.Errorf("%s %s is held for %s, which does not have it", network, a, name)
			}
		}
	}
	if indexed != len(seen) {
		w.t.Errorf("%d addresses are indexed, %d are in use", indexed, len(seen))
	}
}

// checkNamespaces fails when a namespace was made for nobody.
func (w *world) checkNamespaces(d *daemon) {
	w.t.Helper()
	for key, o := range must[dataplane.State](w.t)(w.kernel.Observe(context.Background(), dataplane.HostNetns)) {
		if n, ok := o.(dataplane.Netns); ok {
			if owner := d.state.netns[n.Path]; owner == "" {
				w.t.Errorf("%s is nobody's (%s)", n, key)
			}
		}
	}
}

// drift is a hint that everything may have changed.
func resync() Event { return Event{Hint: reconcile.Hint{Resync: true}, Foreign: true} }
