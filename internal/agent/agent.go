package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/membership"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
	"github.com/flatnet/flatnet/internal/store"
	"golang.org/x/sync/errgroup"
)

// ErrUninstalled is what Run ends with after an uninstall: there is nothing to come back to.
var ErrUninstalled = errors.New("flatnet was uninstalled")

// Agent is the daemon without its socket.
type Agent struct {
	config Config
	deps   Deps
	rec    *reconcile.Reconciler
	events *events
	since  time.Time
	ready  chan struct{}
	leave  chan struct{} // closed when an uninstall is done
	again  chan struct{} // there are late ends
	count  counters
	looks  looks
	past   past                   // the host's default routes before the last change
	place  *membership.Membership // this host's place in a cluster; nil: it can have none

	hostLocal *hostLocal

	op       chan struct{} // holds one token: who has it may change things
	restored string        // why files could not be put back last time

	mu        sync.RWMutex // guards the fields below; written only by who has the token
	state     *state
	sticky    sticky
	conflicts map[string]string          // networks that something on the host overlaps, with what
	broken    map[string]string          // networks, and parts of other kinds, that could not be rendered, with the reason
	namespace map[string]string          // identities of the foreign workloads' namespaces, by workload
	fabric    *member                    // this host's part in a cluster; nil: none
	unfit     map[string]string          // networks of the cluster that cannot run on this host, with the reason
	emptied   map[netip.Prefix]time.Time // since when a block of the host's own is not in use
	late      map[string]int             // exit statuses of commands whose end could not be noted yet, by workload
	unsettled []string                   // workloads that a crash left half set up; of the start only
}

type counters struct {
	changes, refused, panics, events atomic.Uint64
}

// Counters are plain numbers of what the agent did since it started, for metrics.
type Counters struct {
	Changes, Refused, Panics, Events uint64
	Networks, Workloads, Endpoints   int
	Forwards, Conflicts, Lost        int
	Reconcile                        reconcile.Stats
}

// New returns an Agent that has done nothing yet.
func New(c Config, d Deps) *Agent {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.processors == nil {
		d.processors = new(processors)
	}
	a := &Agent{
		config: c, deps: d, events: newEvents(), since: d.Now(), ready: make(chan struct{}), leave: make(chan struct{}),
		op: make(chan struct{}, 1), state: newState(), sticky: newSticky(),
		conflicts: map[string]string{}, broken: map[string]string{}, namespace: map[string]string{}, late: map[string]int{}, again: make(chan struct{}, 1),
	}
	a.rec = reconcile.New(d.Kernel, reconcile.Deps{Log: d.Log, Repaired: a.repaired})
	a.place = a.newPlace()
	a.hostLocal = newHostLocal(c.HostLocalDir, d.Log, d.Now)
	return a
}

// Ready is closed when the kernel was brought to what is asked for, and requests are answered.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// Run starts the agent and keeps the host as asked until ctx ends, which leaves everything in the kernel as it is.
func (a *Agent) Run(ctx context.Context) error {
	if a.place != nil {
		if err := a.place.Resume(); err != nil {
			return err
		}
	}
	if a.config.Elsewhere != nil {
		_ = a.enterElsewhere(ctx) // or later
	}
	if err := a.start(ctx); err != nil {
		return err
	}
	close(a.ready)
	defer func() { _ = a.exit(ctx, false) }()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.rec.Run(ctx) })
	g.Go(func() error { return a.watch(ctx) })
	g.Go(func() error { return a.deps.Processes.Run(ctx, a.exited) })
	g.Go(func() error { return a.noteLateEnds(ctx) })
	g.Go(func() error { return a.keepRecords(ctx) })
	g.Go(func() error { return a.finishes(ctx) })
	if a.place != nil {
		g.Go(func() error { return a.place.Run(ctx) })
	}
	if a.config.Elsewhere != nil {
		g.Go(func() error { return a.residesElsewhere(ctx) })
	}
	g.Go(func() error {
		select {
		case <-a.leave:
			return ErrUninstalled
		case <-ctx.Done():
			return nil
		}
	})
	err := g.Wait()
	select {
	case <-a.leave: // also when ctx ended at the same moment
		return ErrUninstalled
	default:
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// begin waits for the token that allows to change things; end gives it back.
func (a *Agent) begin(ctx context.Context) error {
	select {
	case <-a.ready:
	default:
		return model.Problem{Code: model.CodeStopping, Reason: "flatnetd is still starting", Fix: "try again in a moment"}
	}
	select {
	case a.op <- struct{}{}:
		return a.stays()
	case <-ctx.Done():
		return model.Problem{Code: model.CodeStopping, Reason: "gave up waiting for the change before: " + ctx.Err().Error()}
	}
}

// stays gives the token back after an uninstall that had it before.
func (a *Agent) stays() error {
	select {
	case <-a.leave:
		a.end()
		return model.Problem{Code: model.CodeStopping, Reason: "flatnet is being uninstalled"}
	default:
		return nil
	}
}

func (a *Agent) end() { <-a.op }

// opTimeout bounds one change; the kernel answers in microseconds.
const opTimeout = time.Minute

// detached is ctx without its end: a change that has begun is not left half-way because the caller went.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), opTimeout)
}

// commit carries out an edit, or with dryRun tells what it would do. The caller has the token.
func (a *Agent) commit(ctx context.Context, e edit, dryRun bool) ([]api.Step, error) {
	if dryRun {
		return a.preview(e)
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	inverse, parts, err := a.apply(e)
	if err != nil {
		return nil, err
	}
	if err := a.enterBooks(e); err != nil {
		return nil, errors.Join(err, a.revert(ctx, inverse))
	}
	settling := a.settling(e, inverse)
	if err := a.persist(ctx, e, inverse, settling); err != nil {
		a.count.refused.Add(1)
		return nil, errors.Join(recordProblem(err), a.revert(ctx, inverse))
	}
	changes, err := a.rec.Put(ctx, parts)
	if err == nil {
		a.count.changes.Add(1)
		a.settled(settling)
		if len(e.workloads) > 0 {
			a.used()
			a.dropGhosts(ctx)
			a.dropEmpty(ctx, e)
		}
		return did(changes), nil
	}
	a.count.refused.Add(1)
	if onlyRemoves(e) { // what is to go stays struck out, and the reconciler goes on trying
		return did(changes), kernelProblem(err, "what is left is tried again; ")
	}
	if err := a.revert(ctx, inverse); err != nil {
		a.deps.Log.Error("take back a change that the kernel refused", "err", err)
	}
	return nil, kernelProblem(err, "it was taken back; ")
}

// apply makes the edit in memory and renders what it touches; an error leaves everything as it was.
func (a *Agent) apply(e edit) (inverse edit, parts map[string]dataplane.Host, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	inverse = a.state.apply(e)
	parts, errs := a.state.touched(inverse)
	if err = errors.Join(errs...); err != nil {
		a.state.apply(inverse)
	}
	return inverse, parts, err
}

func (a *Agent) preview(e edit) ([]api.Step, error) {
	a.mu.Lock()
	inverse := a.state.apply(e)
	parts, errs := a.state.touched(inverse)
	a.state.apply(inverse)
	a.mu.Unlock()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	changes, err := a.rec.Preview(parts, false)
	return steps(changes), err
}

// revert makes the inverse of an edit, as far as it can. It has its own time: that of the edit may be what has run out.
func (a *Agent) revert(ctx context.Context, inverse edit) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	_, parts, err := a.apply(inverse)
	if err != nil {
		return err
	}
	err = a.persist(ctx, inverse, edit{}, nil)
	_, putErr := a.rec.Put(ctx, parts)
	return errors.Join(err, putErr)
}

// settling are the workloads inside whose namespaces an edit changes something. What differs there is the workload's own doing
// and left alone, except after a crash in the midst of such a change: so the journal tells of it before and after.
func (a *Agent) settling(e, inverse edit) map[string]model.Workload {
	list := map[string]model.Workload{}
	add := func(w model.Workload) {
		if w.Sharing == model.Own && w.Netns != "" {
			list[w.Name] = w
		}
	}
	for name, w := range e.workloads {
		if was := inverse.workloads[name]; w != nil && (was == nil || !slices.EqualFunc(was.Endpoints, w.Endpoints, sameEndpoint)) {
			add(*w)
		}
		for _, end := range a.otherEnds(name, e, inverse) {
			add(end)
		}
	}
	for name := range e.networks {
		for _, w := range a.view().Workloads {
			if _, on := w.Endpoint(name); on {
				add(w)
			}
		}
	}
	return list
}

// otherEnds are the workloads at the far ends of the cables that a changed workload is or was on.
func (a *Agent) otherEnds(name string, e, inverse edit) []model.Workload {
	var list []model.Workload
	for _, w := range []*model.Workload{e.workloads[name], inverse.workloads[name]} {
		if w == nil {
			continue
		}
		for _, ep := range w.Endpoints {
			if a.view().Networks[ep.Network].Mode != model.Cable {
				continue
			}
			for _, owner := range a.state.macs[ep.Network] {
				if owner != name {
					list = append(list, a.view().Workloads[owner])
				}
			}
		}
	}
	return list
}

func sameEndpoint(a, b model.Endpoint) bool {
	return a.Network == b.Network && a.IfName == b.IfName && a.MAC == b.MAC && a.Priority == b.Priority && slices.Equal(a.Addrs, b.Addrs)
}

// settled notes that the namespaces are as they should be. When it cannot be noted, the next start sets them up once more.
func (a *Agent) settled(list map[string]model.Workload) {
	for name, w := range list {
		if err := a.deps.Journal.Put(w); err != nil {
			a.deps.Log.Warn("note that a workload is set up", "workload", name, "err", err)
		}
	}
}

// persist writes an edit down. What goes is struck out of the journal before the networks it stands on, what comes is
// written after them.
func (a *Agent) persist(ctx context.Context, e, inverse edit, settling map[string]model.Workload) error {
	for name, w := range settling {
		if _, comes := e.workloads[name]; comes && inverse.workloads[name] == nil {
			continue
		}
		if was := inverse.workloads[name]; was != nil {
			w = *was
		}
		w.Settling = true
		if err := a.deps.Journal.Put(w); err != nil {
			return fmt.Errorf("workload %q: %w", name, err)
		}
	}
	for name, w := range e.workloads {
		if w == nil {
			if err := a.deps.Journal.Delete(name); err != nil {
				return fmt.Errorf("workload %q: %w", name, err)
			}
		}
	}
	if changes := stored(e, inverse); len(changes) > 0 {
		if _, err := a.deps.Store.Write(ctx, changes...); err != nil {
			return err
		}
	}
	for name, w := range e.workloads {
		if w == nil {
			continue
		}
		noted := *w
		_, noted.Settling = settling[name]
		if err := a.deps.Journal.Put(noted); err != nil {
			return fmt.Errorf("workload %q: %w", name, err)
		}
	}
	for name, w := range e.workloads {
		a.hostLocal.keep(name, w)
	}
	return nil
}

// stored are the changes of this host's own records that an edit makes: networks come before the forwards on them.
func stored(e, inverse edit) []store.Change {
	var changes []store.Change
	for name, n := range e.networks {
		if was := inverse.networks[name]; n != nil && n.Mode == model.Cluster || was != nil && was.Mode == model.Cluster {
			continue // the cluster keeps it
		}
		if n == nil {
			changes = append(changes, store.Delete(store.Network, name, store.Any))
		} else {
			changes = append(changes, store.PutNetwork(*n, store.Any))
		}
	}
	for name, f := range e.forwards {
		if f == nil {
			changes = append(changes, store.Delete(store.Forward, name, store.Any))
		} else {
			changes = append(changes, store.PutForward(*f, store.Any))
		}
	}
	return changes
}

func onlyRemoves(e edit) bool { return gone(e.networks) && gone(e.workloads) && gone(e.forwards) }

func gone[V any](change map[string]*V) bool {
	for _, v := range change {
		if v != nil {
			return false
		}
	}
	return true
}

// view is what is asked for now. Only who has the token may use it, and not after giving that back.
func (a *Agent) view() model.View { return a.state.view }

// mostSteps is how many steps an event keeps: a thousand events of a hundred thousand steps would fill the memory.
const mostSteps = 64

// event tells those who listen, and the log.
func (a *Agent) event(typ, object, text string, did ...api.Step) {
	if n := len(did); n > mostSteps {
		did = slices.Clone(did[:mostSteps])
		text = strings.TrimPrefix(fmt.Sprintf("%s; the first %d of %d steps", text, mostSteps, n), "; ")
	}
	a.count.events.Add(1)
	a.events.add(api.Event{Time: a.deps.Now().UTC(), Type: typ, Object: object, Text: text, Steps: did})
	a.deps.Log.Info("event", "type", typ, "object", object, "text", text, "steps", len(did))
}

// kernelProblem words what the kernel refused, and what was done then.
func kernelProblem(err error, then string) error {
	var p model.Problem
	var ps model.Problems
	if errors.As(err, &p) || errors.As(err, &ps) {
		return err
	}
	if isFull(err) {
		return recordProblem(err)
	}
	return model.Problem{Code: model.CodeKernelRefused, Reason: "the kernel refused: " + err.Error(),
		Fix: then + "see `flatnet doctor` for what stands in the way"}
}
