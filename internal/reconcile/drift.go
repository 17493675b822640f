package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/flatnet/flatnet/internal/dataplane"
)

const (
	maxPasses = 3                      // for a pass whose repairs need repairs: a recreated link takes what was on it along
	settle    = 5 * time.Millisecond   // notifications come in bursts
	resync    = 5 * time.Minute        // events are hints; this is the truth
	retry     = 10 * time.Millisecond  // after a pass that failed, as one does while others change much; then twice as long …
	retryMost = 500 * time.Millisecond // … and so on, up to this
)

// Hint is a notification from the kernel about something of ours.
type Hint struct {
	Object dataplane.Object // as it is now, or was when Gone; nil with Resync
	Gone   bool
	Resync bool // something was missed, or can't be told singly
	// Applied is how many plans the kernel had carried out on the host when Object was so: by the time that a Hint comes, we
	// may have made more of it. 0 when that is not known.
	Applied uint64
}

// Hint hears of a change in the host's namespace. One that we made ourselves is known and costs nothing more.
func (r *Reconciler) Hint(h Hint) {
	if h.Resync || r.surprising(h) {
		r.Kick()
	}
}

// Kick asks for a pass soon.
func (r *Reconciler) Kick() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

func (r *Reconciler) surprising(h Hint) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	have := r.past.at(h.Applied, h.Object.Key(), r.have[dataplane.HostNetns])
	if h.Gone {
		return have != nil
	}
	return have != h.Object
}

// Run repairs drift of the host's namespace until ctx ends: soon after a hint, and now and then without one.
func (r *Reconciler) Run(ctx context.Context) error {
	timer := time.NewTimer(resync)
	defer timer.Stop()
	pause, told := retry, ""
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.kick:
			sleep(ctx, settle)
			r.drainKick()
		case <-timer.C:
		}
		if _, err := r.Repair(ctx); err != nil && ctx.Err() == nil {
			if now := err.Error(); now != told {
				r.deps.Log.Warn("repair", "err", err)
				told = now
			}
			timer.Reset(pause)
			pause = min(2*pause, retryMost)
			continue
		}
		timer.Reset(resync)
		pause, told = retry, ""
	}
}

func (r *Reconciler) drainKick() {
	select {
	case <-r.kick:
	default:
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// start is the first Set.
func (r *Reconciler) start(ctx context.Context, parts map[string]dataplane.Host) ([]Change, error) {
	have, err := r.kernel.Observe(ctx, dataplane.HostNetns)
	if err != nil {
		return nil, fmt.Errorf("observe: %w", err)
	}
	r.have[dataplane.HostNetns] = have
	t, err := r.touched(parts)
	if err != nil {
		return nil, err
	}
	r.commit(parts, t)
	r.started = true
	for _, n := range r.foreignNetns() {
		r.incomplete[n] = unmarkedLink
	}
	return r.converge(ctx, &r.stats.Applied)
}

// Repair observes the host's namespace and undoes what drifted there. Inside workloads' namespaces it only sets links
// up again that had to be made anew, and completes what failed halfway.
func (r *Reconciler) Repair(ctx context.Context) ([]Change, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.started {
		return nil, nil
	}
	changes, err := r.converge(ctx, &r.stats.Repairs)
	if len(changes) > 0 && r.deps.Repaired != nil {
		r.deps.Repaired(changes)
	}
	return changes, err
}

// converge observes and applies until nothing differs, and mends all namespaces that are incomplete by then.
func (r *Reconciler) converge(ctx context.Context, count *uint64) ([]Change, error) {
	var done []Change
	var failed error
	for pass := 0; ; pass++ {
		have, err := r.kernel.Observe(ctx, dataplane.HostNetns)
		if err != nil {
			r.stats.Errors++
			return done, fmt.Errorf("observe: %w", err)
		}
		r.stats.Passes++
		r.have[dataplane.HostNetns] = have
		plan := dataplane.Diff(r.want[dataplane.HostNetns], have)
		if len(plan) == 0 {
			break
		}
		if pass == maxPasses {
			return done, errors.Join(failed, fmt.Errorf("not converged after %d passes, still to do:\n%s", maxPasses, plan))
		}
		change := Change{dataplane.HostNetns, plan}
		r.renewed([]Change{change})
		if failed = r.apply(ctx, []Change{change}, nil, count); failed == nil {
			done = append(done, change)
		}
	}
	more, err := r.mend(ctx, slices.Collect(maps.Keys(r.incomplete)), count)
	return append(done, more...), err
}

// renewed notes and returns the namespaces known to be set up in which changes of the host give a link a new end: nothing is on it.
func (r *Reconciler) renewed(changes []Change) (netns []string) {
	for _, c := range changes {
		if c.Netns != dataplane.HostNetns {
			continue
		}
		for _, n := range newFarEnds(c.Plan, r.have[c.Netns]) {
			if len(r.have[n]) > 0 {
				netns = append(netns, n)
				if r.incomplete[n] == nil {
					r.incomplete[n] = unmarkedLink
				}
			}
		}
	}
	return netns
}

// newFarEnds are the namespaces in which a plan gives links a new other end. A link that only changes keeps the one it has.
func newFarEnds(p dataplane.Plan, have dataplane.State) (netns []string) {
	for _, s := range p {
		l, ok := s.Object.(dataplane.Link)
		if !ok || l.PeerNetns == "" || s.Op == dataplane.Del {
			continue
		}
		if was, there := have[l.Key()].(dataplane.Link); !there || !was.Becomes(l) {
			netns = append(netns, l.PeerNetns)
		}
	}
	return netns
}

// Complete makes namespaces of workloads be as wanted in full: of those whose attachment was cut short, as only the caller
// knows. What their own processes changed since is undone.
func (r *Reconciler) Complete(ctx context.Context, netns ...string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range netns {
		r.incomplete[n] = anyStep
	}
	_, err := r.mend(ctx, netns, &r.stats.Applied)
	return err
}

// mend completes those of the namespaces that are incomplete. What it fails to do is left to the next pass.
func (r *Reconciler) mend(ctx context.Context, netns []string, count *uint64) (done []Change, err error) {
	var errs []error
	for _, n := range slices.Compact(slices.Sorted(slices.Values(netns))) {
		reason := r.incomplete[n]
		if reason == nil {
			continue
		}
		change, err := r.complete(ctx, n, reason, count)
		if err == nil {
			delete(r.incomplete, n)
		}
		if len(change.Plan) > 0 {
			done = append(done, change)
		}
		errs = append(errs, err)
	}
	return done, errors.Join(errs...)
}

// complete sets up a workload's namespace if one of the steps to do so is a reason to.
func (r *Reconciler) complete(ctx context.Context, netns string, reason reason, count *uint64) (Change, error) {
	if r.want[netns] == nil {
		return Change{}, nil
	}
	have, err := r.kernel.Observe(ctx, netns)
	if err != nil {
		return Change{}, inNetns(netns, fmt.Errorf("observe: %w", err))
	}
	r.have[netns] = have
	plan := dataplane.Diff(r.want[netns], have)
	if !slices.ContainsFunc(plan, reason) {
		return Change{}, nil
	}
	change := Change{netns, plan}
	return change, r.apply(ctx, []Change{change}, nil, count)
}

// anyStep is the reason after a change that failed halfway: what is there nobody knows, and with an address that went may have gone
// routes that no change is about.
func anyStep(dataplane.Step) bool { return true }

// unmarkedLink is the reason after a link was made: one without a mark was, and what belongs to it was not. With every link marked, what
// differs is the workload's own doing and stays.
func unmarkedLink(s dataplane.Step) bool {
	l, ok := s.Object.(dataplane.Link)
	return ok && s.Op == dataplane.Add && l.Kind != dataplane.Loopback
}

func (r *Reconciler) foreignNetns() []string {
	var names []string
	for n := range r.want {
		if n != dataplane.HostNetns {
			names = append(names, n)
		}
	}
	return names
}

// Drift observes the host's and every workload's namespace and returns what differs, repairing nothing. A namespace that
// can't be observed is an error beside the changes.
func (r *Reconciler) Drift(ctx context.Context) ([]Change, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var changes []Change
	var errs []error
	for _, netns := range append([]string{dataplane.HostNetns}, slices.Sorted(slices.Values(r.foreignNetns()))...) {
		have, err := r.kernel.Observe(ctx, netns)
		if err != nil {
			errs = append(errs, inNetns(netns, fmt.Errorf("observe: %w", err)))
			continue
		}
		if p := dataplane.Diff(r.want[netns], have); len(p) > 0 {
			changes = append(changes, Change{netns, p})
		}
	}
	return changes, errors.Join(errs...)
}

// DriftOf observes the namespaces of a part and returns what of the part differs, repairing nothing.
func (r *Reconciler) DriftOf(ctx context.Context, part dataplane.Host) ([]Change, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var changes []Change
	for _, netns := range slices.Sorted(maps.Keys(part.Netns)) {
		all, err := r.kernel.Observe(ctx, netns)
		if err != nil {
			return nil, inNetns(netns, fmt.Errorf("observe: %w", err))
		}
		have := dataplane.State{}
		for k := range part.Netns[netns] {
			if o, there := all[k]; there {
				have[k] = o
			}
		}
		if p := dataplane.Diff(part.Netns[netns], have); len(p) > 0 {
			changes = append(changes, Change{netns, p})
		}
	}
	return changes, nil
}
