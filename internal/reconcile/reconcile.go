package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// Kernel is where plans are carried out. A namespace is named by its path; "" is the daemon's own.
type Kernel interface {
	// Observe returns what of ours is in the namespace.
	Observe(ctx context.Context, netns string) (dataplane.State, error)
	// Apply carries out the steps in order, goes on after one that fails, and joins the errors.
	Apply(ctx context.Context, netns string, p dataplane.Plan) error
}

// Change is what was or would be done in one namespace.
type Change struct {
	Netns string
	Plan  dataplane.Plan
}

// Deps are what a Reconciler tells others. Every field may be nil.
type Deps struct {
	Log *slog.Logger
	// Repaired hears what drift of the host's namespace was found and repaired.
	Repaired func([]Change)
}

// Stats counts since the Reconciler was made.
type Stats struct {
	Passes  uint64 // full observations of the host's namespace
	Applied uint64 // steps sent because something else was wanted
	Repairs uint64 // steps sent because the kernel had drifted
	Errors  uint64 // changes and passes that failed
	Objects int    // wanted in all namespaces
}

// Reconciler owns the kernel objects of one node. Its methods may be called from any goroutine; one works at a time.
type Reconciler struct {
	kernel Kernel
	deps   Deps
	kick   chan struct{}

	mu      sync.Mutex
	started bool
	parts   map[string]dataplane.Host
	want    map[string]dataplane.State // the union of parts
	have    map[string]dataplane.State // the last known; of workload namespaces what was applied there
	cut     map[string]bool            // workload namespaces in which a change failed halfway
	past    past
	stats   Stats
}

// New returns a Reconciler that wants nothing yet.
func New(k Kernel, d Deps) *Reconciler {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return &Reconciler{
		kernel: k, deps: d, kick: make(chan struct{}, 1),
		parts: map[string]dataplane.Host{}, want: map[string]dataplane.State{}, have: map[string]dataplane.State{}, cut: map[string]bool{},
	}
}

// Set makes parts the whole of what is wanted. The first call also observes the kernel and removes or mends what an
// earlier daemon left; inside workloads' namespaces it only completes links that were never set up.
func (r *Reconciler) Set(ctx context.Context, parts map[string]dataplane.Host) ([]Change, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	parts = r.whole(parts)
	if !r.started {
		return r.start(ctx, parts)
	}
	return r.put(ctx, parts)
}

// Put replaces the named parts; an empty Host removes one. The cost is that of the parts.
func (r *Reconciler) Put(ctx context.Context, parts map[string]dataplane.Host) ([]Change, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.put(ctx, parts)
}

// Preview returns what Put, or with whole Set, would do.
func (r *Reconciler) Preview(parts map[string]dataplane.Host, whole bool) ([]Change, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if whole {
		parts = r.whole(parts)
	}
	t, err := r.touched(parts)
	if err != nil {
		return nil, err
	}
	return withoutImplied(r.changes(t)), nil
}

// Stats returns the counters.
func (r *Reconciler) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	for _, state := range r.want {
		s.Objects += len(state)
	}
	return s
}

// whole adds an empty Host for every part of today that is not named.
func (r *Reconciler) whole(parts map[string]dataplane.Host) map[string]dataplane.Host {
	all := maps.Clone(parts)
	if all == nil {
		all = map[string]dataplane.Host{}
	}
	for name := range r.parts {
		if _, ok := all[name]; !ok {
			all[name] = dataplane.Host{}
		}
	}
	return all
}

func (r *Reconciler) put(ctx context.Context, parts map[string]dataplane.Host) ([]Change, error) {
	t, err := r.touched(parts)
	if err != nil {
		return nil, err
	}
	all := r.changes(t)
	changes := withoutImplied(all)
	r.commit(parts, t)
	stripped := r.stripsTunnel(changes)
	if err := r.apply(ctx, changes, &r.stats.Applied); err != nil {
		return changes, err
	}
	for _, c := range all {
		r.learn(c)
	}
	if stripped {
		more, err := r.converge(ctx, &r.stats.Applied, nil)
		changes = append(changes, more...)
		if err != nil {
			return changes, err
		}
	}
	return r.mend(ctx, t, changes)
}

// touched holds, by namespace, the keys whose wanted object changes, with the new object or nil.
type touched map[string]map[dataplane.Key]dataplane.Object

func (t touched) set(netns string, k dataplane.Key, o dataplane.Object) {
	if t[netns] == nil {
		t[netns] = map[dataplane.Key]dataplane.Object{}
	}
	t[netns][k] = o
}

// touched compares parts with those of today. A key that another part claims is an error.
func (r *Reconciler) touched(parts map[string]dataplane.Host) (touched, error) {
	t := touched{}
	for name := range parts {
		for netns, state := range r.parts[name].Netns {
			for k, o := range state {
				if parts[name].Netns[netns][k] != o {
					t.set(netns, k, nil)
				}
			}
		}
	}
	for name, part := range parts {
		for netns, state := range part.Netns {
			for k, o := range state {
				if r.parts[name].Netns[netns][k] == o {
					continue
				}
				if err := r.claim(t, name, netns, k, o); err != nil {
					return nil, err
				}
				t.set(netns, k, o)
			}
		}
	}
	return t, nil
}

func (r *Reconciler) claim(t touched, part, netns string, k dataplane.Key, o dataplane.Object) error {
	other, claimed := r.want[netns][k]
	if now, moves := t[netns][k]; moves {
		other, claimed = now, now != nil
	}
	if claimed && other != o {
		return fmt.Errorf("part %q wants %q where another part wants %q", part, o, other)
	}
	return nil
}

// changes are the plans for what t touches, the host's namespace first, then the others by path.
func (r *Reconciler) changes(t touched) []Change {
	var changes []Change
	for _, netns := range slices.Sorted(maps.Keys(t)) {
		want, have := dataplane.State{}, dataplane.State{}
		for k, o := range t[netns] {
			if o != nil {
				want[k] = o
			}
			if h, ok := r.have[netns][k]; ok {
				have[k] = h
			}
		}
		if p := dataplane.Diff(want, have); len(p) > 0 {
			changes = append(changes, Change{netns, p})
		}
	}
	return changes
}

// commit makes parts wanted.
func (r *Reconciler) commit(parts map[string]dataplane.Host, t touched) {
	for name, part := range parts {
		if len(part.Netns) == 0 {
			delete(r.parts, name)
		} else {
			r.parts[name] = part
		}
	}
	for netns, objects := range t {
		if r.want[netns] == nil {
			r.want[netns] = dataplane.State{}
		}
		for k, o := range objects {
			if o == nil {
				delete(r.want[netns], k)
			} else {
				r.want[netns][k] = o
			}
		}
		if len(r.want[netns]) == 0 && netns != dataplane.HostNetns {
			delete(r.want, netns)
			delete(r.have, netns)
		}
	}
}

// apply sends the plans and remembers what the kernel has then. After an error nobody knows: it looks.
func (r *Reconciler) apply(ctx context.Context, changes []Change, count *uint64) error {
	for _, c := range changes {
		if err := r.kernel.Apply(ctx, c.Netns, c.Plan); err != nil {
			r.stats.Errors++
			r.relearn(ctx)
			if c.Netns != dataplane.HostNetns {
				r.cut[c.Netns] = true
			}
			return inNetns(c.Netns, err)
		}
		*count += uint64(len(c.Plan))
		r.learn(c)
	}
	return nil
}

func (r *Reconciler) learn(c Change) {
	if _, wanted := r.want[c.Netns]; !wanted && c.Netns != dataplane.HostNetns {
		return
	}
	have := r.have[c.Netns]
	if have == nil {
		have = dataplane.State{}
		r.have[c.Netns] = have
	}
	if c.Netns == dataplane.HostNetns {
		r.past.note(r.applied(), c.Plan, have)
	}
	for _, s := range c.Plan {
		have.Take(s)
	}
}

func (r *Reconciler) relearn(ctx context.Context) {
	have, err := r.kernel.Observe(ctx, dataplane.HostNetns)
	if err != nil {
		r.deps.Log.Warn("observe after a failed change", "err", err)
		return
	}
	r.have[dataplane.HostNetns] = have
}

// mend completes the workloads' namespaces among those touched in which a change before failed halfway: what is there nobody knows, and
// with an address that went may have gone routes that no change is about.
func (r *Reconciler) mend(ctx context.Context, t touched, done []Change) ([]Change, error) {
	var errs []error
	for _, netns := range slices.Sorted(maps.Keys(t)) {
		if !r.cut[netns] {
			continue
		}
		delete(r.cut, netns)
		change, err := r.complete(ctx, netns, func(dataplane.Step) bool { return true }, &r.stats.Applied)
		if len(change.Plan) > 0 {
			done = append(done, change)
		}
		errs = append(errs, err)
	}
	return done, errors.Join(errs...)
}

func inNetns(netns string, err error) error {
	if netns == dataplane.HostNetns {
		return err
	}
	return fmt.Errorf("netns %q: %w", netns, err)
}

// withoutImplied leaves out what the kernel does by itself: with one end of a veth the other goes, with a tunnel its neighbours and FDB
// entries, and with a namespace, or a link of a workload, all that is on it.
func withoutImplied(changes []Change) []Change {
	type end struct{ netns, link string }
	gone := map[end]bool{}
	goneNetns := map[string]bool{}
	for _, c := range changes {
		for _, s := range c.Plan {
			if s.Op != dataplane.Del {
				continue
			}
			switch o := s.Object.(type) {
			case dataplane.Netns:
				goneNetns[o.Path] = true
			case dataplane.Link:
				gone[end{c.Netns, o.Name}] = true
				if o.Peer != "" {
					gone[end{o.PeerNetns, o.Peer}] = true
				}
			}
		}
	}
	implied := func(netns string, s dataplane.Step) bool {
		if s.Op != dataplane.Del {
			return false
		}
		switch o := s.Object.(type) { // of these there may be thousands
		case dataplane.Neighbour:
			return gone[end{netns, o.Link}]
		case dataplane.FDB:
			return gone[end{netns, o.Link}]
		}
		if netns == dataplane.HostNetns {
			return false
		}
		switch o := s.Object.(type) {
		case dataplane.Link:
			return o.Peer == "" // the far end, or lo
		case dataplane.Address:
			return gone[end{netns, o.Link}]
		case dataplane.Route:
			return gone[end{netns, o.Link}]
		}
		return false
	}
	var rest []Change
	for _, c := range changes {
		if goneNetns[c.Netns] {
			continue
		}
		var plan dataplane.Plan
		for _, s := range c.Plan {
			if !implied(c.Netns, s) {
				plan = append(plan, s)
			}
		}
		if len(plan) > 0 {
			rest = append(rest, Change{c.Netns, plan})
		}
	}
	return rest
}
