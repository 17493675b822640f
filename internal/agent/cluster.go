package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/internal/agent/fabric"
	"github.com/flatnet/flatnet/internal/join"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// member is this host's part in a cluster.
type member struct {
	*fabric.Fabric
	cluster store.Cluster
	stop    context.CancelFunc
	done    chan struct{}
	seen    fabric.Picture       // the last one that was taken over; guarded by Agent.mu
	silent  map[string]time.Time // nodes without a sign of life, since when; zero: since before this host looked; guarded by Agent.mu
	away    time.Time            // since when the store does not answer; zero: it does; guarded by Agent.mu
	entered time.Time            // when this host came to the cluster, or flatnetd to it
	uses    string               // what this host last told of the networks that it uses; guarded by Agent.mu
}

// Description is how this host wants to be known to the other nodes of its cluster, given its links and routes; an error says why it
// cannot be reached now.
type Description func(model.Node) (model.Member, error)

// enter makes this host a node of a cluster: it follows the store from now on, until exit. What an earlier life knew of the
// cluster holds at once.
func (a *Agent) enter(c store.Cluster, self string, describe Description) {
	defer a.past.moving(a.deps.Now)()
	m := &member{cluster: c, done: make(chan struct{}), entered: a.deps.Now()}
	m.Fabric = fabric.New(fabric.Deps{
		Cluster: c, Self: self, Log: a.deps.Log, Tell: func(typ, object, text string) { a.event(typ, object, text) },
		Member: func() (model.Member, error) {
			a.mu.Lock()
			node, uses := a.state.view.Node, a.state.uses()
			m.uses = uses
			a.mu.Unlock()
			member, err := describe(node)
			member.Uses = uses
			return member, err
		},
		Used: a.usedOf, Here: a.here, Unfit: a.isUnfit, Show: func(p fabric.Picture) { a.adopt(m, p) }, Cache: a.cache(),
	})
	a.mu.Lock()
	a.fabric = m
	a.mu.Unlock()
	select {
	case <-a.ready:
	default:
		a.meet()
		a.take(m, m.Last()) // the start brings it to the kernel
	}
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	go func() {
		defer close(m.done)
		select {
		case <-a.ready:
		case <-ctx.Done():
			return
		}
		if err := m.Run(ctx); err != nil && ctx.Err() == nil {
			a.deps.Log.Error("follow the cluster", "err", err)
		}
	}()
}

// meet looks at the host before the start does: what the cluster has is judged by the host's links and routes.
func (a *Agent) meet() {
	node, err := a.deps.Host.Node(context.Background())
	if err != nil {
		a.deps.Log.Warn("read the host's links and routes", "err", err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state.view.Node = node
}

// exit ends following the cluster. With forget this host is none of its nodes any more, and all that came from it goes; else that stays
// as it is.
func (a *Agent) exit(ctx context.Context, forget bool) error {
	a.mu.RLock()
	m := a.fabric
	a.mu.RUnlock()
	if m == nil {
		return nil
	}
	var err error
	if forget {
		defer a.past.moving(a.deps.Now)()
		err = m.Leave(ctx)
	}
	m.stop()
	<-m.done
	err = errors.Join(err, m.cluster.Close())
	if forget {
		a.adopt(m, fabric.Picture{Known: true})
		a.mu.Lock()
		a.fabric = nil
		a.mu.Unlock()
	}
	return err
}

func (a *Agent) cache() *fabric.Cache {
	if a.config.ClusterDir == "" {
		return nil
	}
	return &fabric.Cache{Folder: join.Folder(a.config.ClusterDir), BootID: a.config.BootID}
}

// adopt takes a picture over and brings the kernel to it.
func (a *Agent) adopt(m *member, p fabric.Picture) {
	a.op <- struct{}{}
	defer a.end()
	a.takeOver(m, p)
}

// takeOver is adopt for who has the token.
func (a *Agent) takeOver(m *member, p fabric.Picture) {
	ctx, cancel := detached(context.Background())
	defer cancel()
	began := a.deps.Now()
	unfit := a.unfit
	before := m.seen
	e, inverse := a.take(m, p)
	many := len(e.cluster.ids)+len(e.cluster.keys) > manyParts
	if many {
		lavish()
		defer a.deps.processors.another()()
	}
	defer func() {
		if many {
			thrift()
		}
	}()
	a.tellSilent(before, p)
	for name, reason := range a.unfit {
		if unfit[name] != reason {
			a.event("conflict", "network/"+name, "the cluster's network cannot run here: "+reason)
		}
	}
	if e.empty() {
		return
	}
	a.mu.Lock()
	parts, errs := a.state.touched(inverse)
	a.mu.Unlock()
	a.noteAgain(parts, errs) // what cannot be made keeps nothing else from it
	many = many || len(parts) > manyParts
	settling := a.settling(e, inverse)
	if err := a.persist(ctx, e, inverse, settling); err != nil {
		a.deps.Log.Error("follow the cluster", "err", err)
	}
	changes, err := a.rec.Put(ctx, parts)
	if err != nil {
		a.event("error", "node", "follow the cluster: "+err.Error())
	} else {
		a.settled(settling)
	}
	a.adoptedElsewhere()
	if len(e.networks) > 0 {
		a.checkOverlaps()
		a.writeAllFiles()
	}
	if len(changes) > 0 {
		first, all := didFirst(changes, mostSteps)
		text := fmt.Sprintf("the cluster changed: %s (%v)", p, a.deps.Now().Sub(began).Round(time.Millisecond))
		if all > len(first) {
			text += fmt.Sprintf("; the first %d of %d steps", len(first), all)
		}
		a.event("followed", "node", text, first...)
	}
}

// judgeAgain looks once more whether networks of the cluster can run here that could not before: something was in their way.
func (a *Agent) judgeAgain() {
	a.mu.RLock()
	m := a.fabric
	late := m != nil && len(a.unfit) > 0
	a.mu.RUnlock()
	if !late {
		return
	}
	go func() {
		a.op <- struct{}{}
		defer a.end()
		a.takeOver(m, m.seen)
	}()
}

// dropGhosts forgets networks of a cluster that this host has left, which stayed for workloads that were on them, when those are gone.
func (a *Agent) dropGhosts(ctx context.Context) {
	if a.fabric != nil {
		return
	}
	e := edit{networks: map[string]*model.Network{}}
	for name, n := range a.view().Networks {
		if n.Mode == model.Cluster && !a.inUse(name) {
			e.networks[name] = nil
		}
	}
	if len(e.networks) == 0 {
		return
	}
	if _, err := a.commit(ctx, e, false); err != nil {
		a.deps.Log.Warn("forget the networks of a cluster that was left", "err", err)
	}
}

func (a *Agent) inUse(network string) bool {
	for _, w := range a.view().Workloads {
		if _, on := w.Endpoint(network); on {
			return true
		}
	}
	return false
}

// take makes the state be as a picture says. The caller has the token, or the agent has not started yet.
func (a *Agent) take(m *member, p fabric.Picture) (e, inverse edit) {
	a.mu.Lock()
	defer a.mu.Unlock()
	v := a.state.view
	a.state.view.Self = p.Self
	e = edit{networks: a.networksOf(p)}
	e.workloads = reisolated(v, e.networks)
	e.cluster = &common{members: p.Members, leases: p.Leases}
	e.cluster.ids, e.cluster.keys = p.Changed(v.Members, v.Leases)
	inverse = a.state.apply(e)
	a.noteSilent(m, p)
	m.seen = p
	switch {
	case p.Live:
		m.away = time.Time{}
	case m.away.IsZero():
		m.away = a.deps.Now()
	}
	return e, inverse
}

// reisolated are the workloads that follow the isolation of networks that change.
func reisolated(v model.View, networks map[string]*model.Network) map[string]*model.Workload {
	change := map[string]*model.Workload{}
	for name, is := range networks {
		was, there := v.Networks[name]
		if is == nil || !there || was.IsolatePorts == is.IsolatePorts {
			continue
		}
		for _, on := range attached(v, name) {
			if change[on] == nil {
				w := v.Workloads[on]
				w.Endpoints = slices.Clone(w.Endpoints)
				change[on] = &w
			}
			isolate(change[on], was, *is)
		}
	}
	return change
}

// networksOf are the networks of the cluster that change on this host: each as it is here, with the host's own blocks as subnets. One
// that is not there any more stays, stopped, as long as a workload of this host is on it.
func (a *Agent) networksOf(p fabric.Picture) map[string]*model.Network {
	v, old := a.state.view, a.state.view.Networks
	v.Self, v.Members, v.Networks = p.Self, p.Members, maps.Clone(old)
	maps.DeleteFunc(v.Networks, func(_ string, n model.Network) bool { return n.Mode == model.Cluster && !n.Active }) // nothing of it is here
	change := map[string]*model.Network{}
	reasons := map[string]string{}
	for _, name := range inOrder(v, p.Networks) {
		n := p.Networks[name]
		was, there := old[name]
		if there && was.Mode != model.Cluster {
			reasons[name] = "this host has a network of its own with that name"
			continue
		}
		here := n.At(p.Blocks(name))
		here.Active = n.Active && n.Cluster.On(p.Members[p.Self])
		if here.Active && !(there && was.Active) {
			if ps := model.Validate(v, n); len(ps) > 0 {
				here.Active, reasons[name] = false, ps.Error()
			}
		}
		if !there || !reflect.DeepEqual(was, here) {
			change[name] = &here
		}
		if delete(v.Networks, name); here.Active {
			v.Networks[name] = here // the next one must not be in its way
		}
	}
	for name, was := range old {
		if _, there := p.Networks[name]; there || was.Mode != model.Cluster || !p.Known {
			continue
		}
		change[name] = nil
		if a.state.attachedTo(name) {
			if change[name] = &was; !was.Active {
				delete(change, name)
			}
			was.Active = false
			reasons[name] = "the cluster has it no more"
		}
	}
	a.unfit = reasons
	return change
}

// inOrder are the names of a cluster's networks: what is active here comes first, then what was made earlier. Of two that cannot both be
// on this host the first one is.
func inOrder(v model.View, networks map[string]model.Network) []string {
	names := slices.Collect(maps.Keys(networks))
	slices.SortFunc(names, func(a, b string) int {
		switch x, y := v.Networks[a].Active, v.Networks[b].Active; {
		case x != y && x:
			return -1
		case x != y:
			return 1
		}
		return cmp.Or(networks[a].Created.Compare(networks[b].Created), strings.Compare(a, b))
	})
	return names
}

// attachedTo reports whether a workload is on a network.
func (s *state) attachedTo(network string) bool {
	for _, w := range s.view.Workloads {
		if _, on := w.Endpoint(network); on {
			return true
		}
	}
	return false
}

// isUnfit reports whether a network of the cluster cannot be on this host. Of one that is not known yet its blocks are claimed first.
func (a *Agent) isUnfit(network string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	n, there := a.state.view.Networks[network]
	return there && !n.Active
}
