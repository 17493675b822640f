package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// Manifests are the stored networks and standing forwards, as Apply takes them.
func (a *Agent) Manifests() []api.Manifest {
	a.mu.RLock()
	defer a.mu.RUnlock()
	list := []api.Manifest{}
	v := a.state.view
	for _, name := range slices.Sorted(maps.Keys(v.Networks)) {
		list = append(list, networkManifest(a.asStored(v.Networks[name])))
	}
	for _, name := range slices.Sorted(maps.Keys(v.Forwards)) {
		list = append(list, forwardManifest(v.Forwards[name]))
	}
	return list
}

func networkManifest(n model.Network) api.Manifest {
	spec := networkSpec(n)
	return api.Manifest{APIVersion: api.APIVersion, Kind: api.KindNetwork, Metadata: api.Metadata{Name: n.Name, Labels: n.Labels}, Network: &spec}
}

func forwardManifest(f model.Forward) api.Manifest {
	return api.Manifest{APIVersion: api.APIVersion, Kind: api.KindForward, Metadata: api.Metadata{Name: f.Name()},
		Forward: &api.ForwardSpec{Publish: f.Publish(), Workload: f.Workload, Network: f.Network}}
}

// Apply makes networks and forwards be as the manifests say: all of them, or none; those of the cluster come first, each by itself. What
// is so already costs no step.
func (a *Agent) Apply(ctx context.Context, manifests []api.Manifest, yes consent, dryRun bool) (api.Changed[[]api.Manifest], error) {
	changed := api.Changed[[]api.Manifest]{DryRun: dryRun, Object: []api.Manifest{}, Steps: []api.Step{}}
	if err := a.begin(ctx); err != nil {
		return changed, err
	}
	defer a.end()
	p, err := judged(ctx, a, func() (applying, error) {
		p := applying{agent: a, yes: yes, objects: []api.Manifest{}, e: edit{networks: map[string]*model.Network{}, workloads: map[string]*model.Workload{}, forwards: map[string]*model.Forward{}}}
		err := p.all(ctx, manifests)
		return p, err
	})
	if err != nil {
		return changed, err
	}
	changed.Object = p.objects
	for _, n := range p.shared {
		done, err := a.putCluster(ctx, n, dryRun, "applied")
		if err != nil {
			return changed, err
		}
		changed.Steps = append(changed.Steps, done.Steps...)
	}
	if p.e.empty() {
		return changed, nil
	}
	did, err := a.commit(ctx, p.e, dryRun)
	changed.Steps = append(changed.Steps, did...)
	if err != nil || dryRun {
		return changed, err
	}
	for _, c := range p.changes {
		a.changed(ctx, c)
	}
	a.checkOverlaps()
	a.writeAllFiles()
	a.flush(ctx, p.flushed)
	a.event("applied", p.about(), fmt.Sprintf("%d networks, %d forwards", len(p.e.networks), len(p.e.forwards)), did...)
	return changed, nil
}

// applying gathers the edit of a list of manifests. Each is judged in the view that the ones before it lead to.
type applying struct {
	agent    *Agent
	yes      consent
	e        edit
	changes  []change
	shared   []model.Network // of the cluster, to be written there
	objects  []api.Manifest
	new      []model.Forward // whose ports must be free
	flushed  []model.Forward
	problems model.Problems
}

func (p *applying) about() string {
	for name := range p.e.networks {
		return "network/" + name
	}
	for name := range p.e.forwards {
		return "forward/" + name
	}
	return "node"
}

func (p *applying) all(ctx context.Context, manifests []api.Manifest) error {
	a := p.agent
	scratch := newState()
	scratch.view, scratch.seed = a.state.snapshot(), a.state.seed
	seen := map[string]bool{}
	p.each(manifests, seen, scratch, api.KindNetwork, p.network)
	p.each(manifests, seen, scratch, api.KindForward, p.forward)
	if len(p.problems) > 0 {
		return p.problems.Err()
	}
	return a.checkPorts(ctx, "", p.new)
}

func (p *applying) each(manifests []api.Manifest, seen map[string]bool, s *state, kind string, one func(*state, api.Manifest) model.Problems) {
	for i, m := range manifests {
		if m.Kind != kind {
			continue
		}
		path := fmt.Sprintf("[%d]", i)
		ps := one(s, m)
		if m.Metadata.Name != "" && seen[m.String()] {
			ps = append(ps, model.Problem{Code: model.CodeMalformed, Path: "metadata.name", Reason: m.String() + " is in the list twice"})
		}
		seen[m.String()] = true
		p.problems = append(p.problems, ps.Under(path)...)
	}
}

func (p *applying) network(s *state, m api.Manifest) model.Problems {
	a := p.agent
	old, exists := s.view.Networks[m.Metadata.Name]
	if exists {
		if err := staysWhere(old, *m.Network); err != nil {
			return asProblems(err, "")
		}
	}
	n, err := readNetwork(s, m, a.deps.Now().UTC())
	if err != nil {
		return asProblems(err, "")
	}
	p.objects = append(p.objects, networkManifest(n))
	if exists && sameNetwork(a.asStored(old), n) {
		return nil
	}
	if n.Mode == model.Cluster {
		return p.ofCluster(s, a.asStored(old), n)
	}
	e := putNetwork(n)
	if exists {
		c, err := a.changing(s.view, old, n, p.yes)
		if err != nil {
			return asProblems(err, "")
		}
		e, p.changes = c.edit, append(p.changes, c)
	}
	s.apply(e)
	maps.Copy(p.e.networks, e.networks)
	maps.Copy(p.e.workloads, e.workloads)
	maps.Copy(p.e.forwards, e.forwards)
	return nil
}

// ofCluster notes a network that is to be written to the cluster.
func (p *applying) ofCluster(s *state, old, n model.Network) model.Problems {
	if _, err := p.agent.inCluster(); err != nil {
		return asProblems(err, "")
	}
	if ps := p.agent.keepsBlocks(n); len(ps) > 0 {
		return ps
	}
	if err := p.agent.reachesAll(old, n, p.yes.force); err != nil {
		return asProblems(err, "")
	}
	here := n.At(s.view.BlocksOf(n.Name, s.view.Self))
	s.apply(putNetwork(here))
	p.shared = append(p.shared, n)
	return nil
}

func (p *applying) forward(s *state, m api.Manifest) model.Problems {
	f, ps := readForward(s.view, *m.Forward)
	if len(ps) > 0 {
		return ps.Under("spec")
	}
	if m.Metadata.Name != "" && m.Metadata.Name != f.Name() {
		return model.Problems{{Code: model.CodeName, Path: "metadata.name", Reason: fmt.Sprintf("forward %q listens on %s", short(m.Metadata.Name), f.Name()),
			Fix: "a forward is named by what it listens on; leave the name out", Example: f.Name()}}
	}
	p.objects = append(p.objects, forwardManifest(f))
	old, exists := s.view.Forwards[f.Name()]
	if exists && old == f {
		return nil
	}
	if exists {
		// Another target takes over: the check must not find the forward itself in its way.
		s.apply(edit{forwards: map[string]*model.Forward{f.Name(): nil}})
		p.flushed = append(p.flushed, old)
	} else {
		p.new = append(p.new, f)
	}
	if ps := model.ValidateForward(s.view, f); len(ps) > 0 {
		return ps
	}
	s.apply(edit{forwards: map[string]*model.Forward{f.Name(): &f}})
	p.e.forwards[f.Name()] = &f
	p.flushed = append(p.flushed, f)
	return nil
}
