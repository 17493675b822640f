package reconcile

import (
	"context"
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
	parts   map[string][]place
	want    map[string]dataplane.State // the union of parts
	have    map[string]dataplane.State // the last known; of workload namespaces what was applied there
	past    past
	stats   Stats

	incomplete map[string]reason // workload namespaces in which what is known to be there may be missing
}

// reason tells the steps for which an incomplete namespace is looked after from those that are the workload's own doing.
type reason func(dataplane.Step) bool

// place is where one object of a part stands in what is wanted. A host of a large cluster has ten thousand parts of few objects: maps of
// their own would be most of what it needs.
type place struct {
	netns string
	key   dataplane.Key
}

// New returns a Reconciler that wants nothing yet.
func New(k Kernel, d Deps) *Reconciler {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	return &Reconciler{
		kernel: k, deps: d, kick: make(chan struct{}, 1),
		parts: map[string][]place{}, want: map[string]dataplane.State{}, have: map[string]dataplane.State{}, incomplete: map[string]reason{},
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
	changes, _ := withoutImplied(r.changes(t))
	return changes, nil
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
	changes, implied := withoutImplied(r.changes(t))
	r.commit(parts, t)
	done, err := r.send(ctx, changes, implied, t)
	if err != nil {
		r.Kick() // to go on trying: what was found in looking is no surprise any more
	}
	return done, err
}

// send carries out the changes that make what t touches as is wanted.
func (r *Reconciler) send(ctx context.Context, changes, implied []Change, t touched) ([]Change, error) {
	stripped, renewed := r.stripsLink(changes), r.renewed(changes)
	if err := r.apply(ctx, changes, t, &r.stats.Applied); err != nil {
		return changes, err
	}
	for _, c := range implied {
		r.learn(c, nil)
	}
	if stripped {
		more, err := r.converge(ctx, &r.stats.Applied)
		changes = append(changes, more...)
		if err != nil {
			return changes, err
		}
	}
	more, err := r.mend(ctx, append(slices.Collect(maps.Keys(t)), renewed...), &r.stats.Applied)
	return append(changes, more...), err
}

// touched holds, by namespace, the keys whose wanted object changes.
type touched map[string]*difference

// difference is what becomes wanted under some keys, and the keys under which nothing is wanted any more.
type difference struct {
	want dataplane.State
	gone map[dataplane.Key]bool
}

// of is the difference in a namespace, with room for so many objects if it is a new one.
func (t touched) of(netns string, room int) *difference {
	d := t[netns]
	if d == nil {
		d = &difference{want: make(dataplane.State, room), gone: map[dataplane.Key]bool{}}
		t[netns] = d
	}
	return d
}

// touched compares parts with what is wanted today. A key that another part claims is an error.
func (r *Reconciler) touched(parts map[string]dataplane.Host) (touched, error) {
	t := touched{}
	room := sizes(parts)
	for name, part := range parts {
		for _, at := range r.parts[name] {
			if part.Netns[at.netns][at.key] != r.want[at.netns][at.key] {
				t.of(at.netns, room[at.netns]).gone[at.key] = true
			}
		}
	}
	for name, part := range parts {
		for netns, state := range part.Netns {
			for k, o := range state {
				other, claimed := r.want[netns][k]
				if d := t[netns]; d != nil {
					if now, moves := d.want[k]; moves {
						other, claimed = now, true
					} else if len(d.gone) > 0 && d.gone[k] {
						claimed = false
					}
				}
				switch {
				case claimed && other != o:
					return nil, fmt.Errorf("part %q wants %q where another part wants %q", name, o, other)
				case !claimed:
					d := t.of(netns, room[netns])
					d.want[k] = o
					delete(d.gone, k)
				}
			}
		}
	}
	return t, nil
}

// sizes are how many objects the parts have, by namespace.
func sizes(parts map[string]dataplane.Host) map[string]int {
	n := map[string]int{}
	for _, part := range parts {
		for netns, state := range part.Netns {
			n[netns] += len(state)
		}
	}
	return n
}

// changes are the plans for what t touches, the host's namespace first, then the others by path.
func (r *Reconciler) changes(t touched) []Change {
	var changes []Change
	for _, netns := range slices.Sorted(maps.Keys(t)) {
		d, known, have := t[netns], r.have[netns], dataplane.State{}
		anew := map[string]bool{} // links
		for k, w := range d.want {
			if h, ok := known[k]; ok {
				have[k] = h
				if dataplane.IsAnew(h, w) {
					anew[w.(dataplane.Link).Name] = true
				}
			}
		}
		for k := range d.gone {
			if h, ok := known[k]; ok {
				have[k] = h
			}
		}
		if len(anew) > 0 {
			r.withLinks(netns, anew, d, have)
		}
		if p := dataplane.Diff(d.want, have); len(p) > 0 {
			changes = append(changes, Change{netns, p})
		}
	}
	return changes
}

// withLinks has what is on links that are made anew made anew too: it vanishes with them.
func (r *Reconciler) withLinks(netns string, anew map[string]bool, d *difference, have dataplane.State) {
	for k, o := range r.want[netns] {
		if anew[dataplane.LinkOf(o)] && !d.gone[k] && d.want[k] == nil {
			d.want[k] = o
		}
	}
	maps.DeleteFunc(have, func(k dataplane.Key, o dataplane.Object) bool { return anew[dataplane.LinkOf(o)] && !d.gone[k] })
}

// commit makes parts wanted.
func (r *Reconciler) commit(parts map[string]dataplane.Host, t touched) {
	for name, part := range parts {
		if places := placesOf(part); len(places) > 0 {
			r.parts[name] = places
		} else {
			delete(r.parts, name)
		}
	}
	for netns, d := range t {
		r.want[netns] = joined(r.want[netns], d.want)
		for k := range d.gone {
			delete(r.want[netns], k)
		}
		if len(r.want[netns]) == 0 && netns != dataplane.HostNetns {
			delete(r.want, netns)
			delete(r.have, netns)
		}
	}
}

// joined is both, the second before the first, in one of the two maps: what is added may be a thousand times what is there.
func joined(have, more dataplane.State) dataplane.State {
	if len(have) >= len(more) {
		maps.Copy(have, more)
		return have
	}
	for k, o := range have {
		if _, newer := more[k]; !newer {
			more[k] = o
		}
	}
	return more
}

func placesOf(part dataplane.Host) []place {
	n := 0
	for _, state := range part.Netns {
		n += len(state)
	}
	places := make([]place, 0, n)
	for netns, state := range part.Netns {
		for k := range state {
			places = append(places, place{netns, k})
		}
	}
	return places
}

// apply sends the plans, which are for t if it is not nil, and remembers what the kernel has then. After an error nobody knows: it looks at the
// host, and the workloads' namespaces that it did not get to are incomplete.
func (r *Reconciler) apply(ctx context.Context, changes []Change, t touched, count *uint64) error {
	for i, c := range changes {
		if r.incomplete[c.Netns] != nil {
			r.incomplete[c.Netns] = anyStep // the change marks a link as set up of which it is only a part
		}
		if err := r.kernel.Apply(ctx, c.Netns, c.Plan); err != nil {
			r.stats.Errors++
			if c.Netns == dataplane.HostNetns {
				r.relearn(ctx)
			} else {
				r.mayHave(c)
			}
			for _, undone := range changes[i:] {
				if undone.Netns != dataplane.HostNetns {
					r.incomplete[undone.Netns] = anyStep
				}
			}
			return inNetns(c.Netns, err)
		}
		*count += uint64(len(c.Plan))
		r.learn(c, t[c.Netns])
	}
	return nil
}

// learn notes what the kernel has after a change, which was made for d if that is not nil: then the keys are those of what is wanted, and
// none of thousands is made anew.
func (r *Reconciler) learn(c Change, d *difference) {
	if _, wanted := r.want[c.Netns]; !wanted && c.Netns != dataplane.HostNetns {
		return
	}
	have := r.have[c.Netns]
	if len(have) < len(c.Plan) {
		roomy := make(dataplane.State, len(have)+len(c.Plan))
		maps.Copy(roomy, have)
		have = roomy
		r.have[c.Netns] = have
	}
	if c.Netns == dataplane.HostNetns {
		r.past.note(r.applied(), c.Plan, have)
	}
	if d != nil {
		maps.Copy(have, d.want)
		for k := range d.gone {
			delete(have, k)
		}
		return
	}
	for _, s := range c.Plan {
		have.Take(s)
	}
}

// mayHave takes what a change that failed was to add to a workload's namespace for there: who takes it back takes it along, and what stays is
// looked at first, as the namespace is incomplete.
func (r *Reconciler) mayHave(c Change) {
	if r.want[c.Netns] == nil {
		return
	}
	have := dataplane.State{}
	maps.Copy(have, r.have[c.Netns])
	for _, s := range c.Plan {
		if s.Op != dataplane.Del {
			have[s.Object.Key()] = s.Object
		}
	}
	r.have[c.Netns] = have
}

func (r *Reconciler) relearn(ctx context.Context) {
	have, err := r.kernel.Observe(ctx, dataplane.HostNetns)
	if err != nil {
		r.deps.Log.Warn("observe after a failed change", "err", err)
		return
	}
	r.have[dataplane.HostNetns] = have
}

func inNetns(netns string, err error) error {
	if netns == dataplane.HostNetns {
		return err
	}
	return fmt.Errorf("netns %q: %w", netns, err)
}
