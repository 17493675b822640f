package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
	"github.com/flatnet/flatnet/internal/render"
	"golang.org/x/sync/errgroup"
)

const (
	// factsDelay gathers changes of the host's links and routes: a VPN that comes up makes a dozen.
	factsDelay = 50 * time.Millisecond
	// lookEvery is how often namespaces that others made are looked at, beside on hints: a namespace ends without an event
	// when it had no link of ours.
	lookEvery = 30 * time.Second
)

// watch passes the kernel's hints on, and follows the facts of the host. Its first event is a Resync, so what changed between
// start and here is seen.
func (a *Agent) watch(ctx context.Context) error {
	facts, lost, many := make(chan struct{}, 1), make(chan reconcile.Hint, 64), make(chan struct{}, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.followHost(ctx, facts, lost, many) })
	g.Go(func() error {
		err := a.deps.Host.Watch(ctx, func(ev Event) {
			if a.mayBeLost(ctx, ev.Hint) {
				if !offer(lost, ev.Hint) {
					offer(many, struct{}{}) // more than can be told one by one: all are looked at
				}
				if !ev.Hint.Resync {
					return // to be let go of, not to be repaired
				}
			}
			if ev.Hint.Resync {
				a.past.blame(ev.By)
			}
			if ev.Hint.Resync || ev.Hint.Object != nil {
				a.rec.Hint(ev.Hint)
			}
			if ev.Hint.Resync || ev.Foreign {
				offer(facts, struct{}{})
			}
		})
		if err == nil && ctx.Err() == nil {
			err = errors.New("its messages ended")
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("watch the kernel: %w", err)
		}
		return nil
	})
	return g.Wait()
}

// offer sends when there is room: the kernel's messages must not wait for who is busy.
func offer[T any](c chan<- T, v T) bool {
	select {
	case c <- v:
		return true
	default:
		return false
	}
}

// followHost does what takes longer than the kernel's messages may wait.
func (a *Agent) followHost(ctx context.Context, facts <-chan struct{}, lost <-chan reconcile.Hint, many <-chan struct{}) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case h := <-lost:
			a.lookForLost(ctx, h)
		case <-many:
			a.lookForLost(ctx, reconcile.Hint{Resync: true})
		case <-look.C:
			a.lookForLost(ctx, reconcile.Hint{Resync: true})
			a.lookForFiles()
		case <-facts:
			pause(ctx, factsDelay)
			a.refreshNode(ctx)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// refreshNode reads the facts of the host again, and renders anew what follows from them.
func (a *Agent) refreshNode(ctx context.Context) {
	node, err := a.deps.Host.Node(ctx)
	if err != nil {
		a.deps.Log.Warn("read the host's links and routes", "err", err)
		return
	}
	a.notePast(ctx, node)
	if a.begin(ctx) != nil {
		return
	}
	defer a.end()
	a.learnNode(ctx, node)
}

// learnNode takes over the facts of the host and reports whether they are others than before. The caller has the token.
func (a *Agent) learnNode(ctx context.Context, node model.Node) bool {
	if sameNode(node, a.view().Node) {
		return false
	}
	a.mu.Lock()
	a.state.view.Node = node
	m := a.fabric
	a.mu.Unlock()
	if m != nil {
		m.Changed()
	}
	if a.place != nil {
		a.place.Changed()
	}
	a.checkOverlaps()
	a.rerender(ctx)
	a.writeAllFiles()
	return true
}

// judged does what hangs on the host as it is now. The facts that are known lag behind by a moment, in which a script has made the link
// that it names next, or given the NIC an address, or a container has ended: so the host is looked at once more.
func judged[T any](ctx context.Context, a *Agent, judge func() (T, error)) (T, error) {
	a.loseGone(ctx, a.suspects(reconcile.Hint{Resync: true}))
	if node, err := a.deps.Host.Node(ctx); err == nil {
		a.learnNode(ctx, node)
	}
	return judge()
}

func sameNode(a, b model.Node) bool {
	return a.Name == b.Name && slices.Equal(a.Routes, b.Routes) && slices.EqualFunc(a.Links, b.Links, func(x, y model.HostLink) bool {
		same := slices.Equal(x.Addrs, y.Addrs)
		x.Addrs, y.Addrs = nil, nil
		return same && fmt.Sprint(x) == fmt.Sprint(y)
	})
}

// rerender brings the kernel to what the whole state asks, where that differs.
func (a *Agent) rerender(ctx context.Context) {
	ctx, cancel := detached(ctx)
	defer cancel()
	parts, errs := a.state.parts()
	a.note(errs)
	changes, err := a.rec.Set(ctx, parts)
	if err != nil {
		a.deps.Log.Warn("follow the host", "err", err)
	}
	if len(changes) > 0 {
		a.event("followed", "node", "links or routes of the host changed", did(changes)...)
	}
}

// checkOverlaps finds active networks that a route or address of the host overlaps: a VPN that came up after them. The
// caller has the token.
func (a *Agent) checkOverlaps() {
	now := map[string]string{}
	for name, n := range a.view().Networks {
		for _, s := range n.Subnets {
			if owner, overlaps := n.Overlap(a.view().Node, s.Prefix); overlaps && n.Active {
				now[name] = fmt.Sprintf("%s overlaps %s", s.Prefix, owner)
				break
			}
		}
	}
	a.mu.Lock()
	before := a.conflicts
	a.conflicts = now
	a.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(now)) {
		if before[name] != now[name] {
			a.event("conflict", "network/"+name, now[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if _, still := now[name]; !still {
			a.event("resolved", "network/"+name, "nothing overlaps it any more")
		}
	}
}

// lookForLost marks workloads whose namespace, made by others, has vanished or is another one by now. What was in it is not
// made again; the workload stays until it is removed. A hint leads to the one workload that it is of.
func (a *Agent) lookForLost(ctx context.Context, h reconcile.Hint) {
	suspects := a.suspects(h)
	if len(suspects) == 0 || a.begin(ctx) != nil {
		return
	}
	defer a.end()
	a.loseGone(ctx, suspects)
}

// loseGone is lookForLost for who has the token.
func (a *Agent) loseGone(ctx context.Context, suspects map[string]string) {
	for name, identity := range suspects {
		w, ok := a.view().Workloads[name]
		if _, known := a.state.lost[name]; !ok || known {
			continue
		}
		if reason := a.gone(ctx, w, identity); reason == "" {
			continue
		} else if w.ByRuntime() {
			a.letGo(ctx, w, reason)
		} else {
			a.lose(ctx, name, reason)
		}
	}
}

// lookForFiles has the namespaces put back that flatnet made and somebody took the files of, which nothing tells of.
func (a *Agent) lookForFiles() {
	a.mu.RLock()
	var paths []string
	for _, w := range a.state.view.Workloads {
		if w.Managed && w.Sharing == model.Own {
			paths = append(paths, w.Netns)
		}
	}
	a.mu.RUnlock()
	if slices.ContainsFunc(paths, func(path string) bool {
		_, err := a.deps.Namespaces.Identify(path)
		return err != nil
	}) {
		a.rec.Kick()
	}
}

// letGo forgets what a CNI runtime made when its namespace has ended: a DEL that never comes leaks no address.
func (a *Agent) letGo(ctx context.Context, w model.Workload, reason string) {
	if err := a.release(ctx, w, reason); err != nil {
		a.deps.Log.Warn("let go of a container whose namespace is gone", "workload", w.Name, "err", err)
	}
}

// mayBeLost reports whether a hint tells that a namespace made by others has gone, with the workload's link in it.
func (a *Agent) mayBeLost(ctx context.Context, h reconcile.Hint) bool {
	if h.Resync || !h.Gone {
		return h.Resync
	}
	for name, identity := range a.suspects(h) {
		a.mu.RLock()
		w := a.state.view.Workloads[name]
		a.mu.RUnlock()
		return a.gone(ctx, w, identity) != ""
	}
	return false
}

// suspects are the workloads that a hint may mean, with the identities that their namespaces had.
func (a *Agent) suspects(h reconcile.Hint) map[string]string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if h.Resync {
		return maps.Clone(a.namespace)
	}
	l, isLink := h.Object.(dataplane.Link)
	name := a.state.ports[l.Name]
	identity, ok := a.namespace[name]
	if !isLink || !h.Gone || !ok {
		return nil
	}
	return map[string]string{name: identity}
}

// gone says why a workload's namespace is not the one that it was.
func (a *Agent) gone(ctx context.Context, w model.Workload, identity string) string {
	if w.Unseen {
		return a.unseenGone(ctx, w)
	}
	now, err := a.deps.Namespaces.Identify(w.Netns)
	switch {
	case err != nil:
		return fmt.Sprintf("its namespace %s is gone", w.Netns)
	case !sameNamespace(now, identity):
		return fmt.Sprintf("another namespace stands at %s", w.Netns)
	}
	return ""
}

// isNamespace notes which namespace a workload is in that others made, or with an empty identity that there is no such workload any more. The
// caller holds mu, or nobody else runs yet.
func (a *Agent) isNamespace(w model.Workload, identity string) {
	if identity == "" {
		delete(a.namespace, w.Name)
	} else {
		a.namespace[w.Name] = identity
	}
	if w.Netns != "" && !w.Managed {
		a.deps.Namespaces.Expect(w.Netns, identity)
	}
}

// sameNamespace compares identities. One that an older flatnetd wrote down is the inode alone.
func sameNamespace(now, was string) bool {
	inode, _, _ := strings.Cut(now, ".")
	return now == was || inode == was
}

// unseenGone judges a namespace that is out of sight by the host's ends of its links: the kernel takes them along with it.
func (a *Agent) unseenGone(ctx context.Context, w model.Workload) string {
	links, err := a.deps.Host.ListLinks(ctx, dataplane.HostNetns)
	if err != nil {
		return ""
	}
	there := map[string]bool{}
	for _, l := range links {
		there[l.Name] = true
	}
	for _, e := range w.Endpoints {
		if there[model.HostLinkName(w.Name, e.IfName)] {
			return ""
		}
	}
	return "its links are gone, and with them most likely its namespace"
}

func (a *Agent) lose(ctx context.Context, name, reason string) {
	a.mu.Lock()
	a.state.lost[name] = reason
	w := a.state.view.Workloads[name]
	parts, errs := a.state.touched(edit{workloads: map[string]*model.Workload{name: &w}})
	a.mu.Unlock()
	err := errors.Join(errs...)
	if err == nil {
		ctx, cancel := detached(ctx)
		defer cancel()
		_, err = a.rec.Put(ctx, parts)
	}
	if err != nil {
		a.deps.Log.Warn("let go of a workload whose namespace is gone", "workload", name, "part", render.WorkloadPart(name), "err", err)
	}
	a.event("lost", "workload/"+name, reason)
}
