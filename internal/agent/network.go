package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// DefaultNetwork is the network that a fresh installation has, and that workloads are on when they name none.
const DefaultNetwork = model.DefaultNetwork

// Networks lists the networks by name.
func (a *Agent) Networks() []api.Network {
	a.mu.RLock()
	defer a.mu.RUnlock()
	list := []api.Network{}
	for _, name := range slices.Sorted(maps.Keys(a.state.view.Networks)) {
		list = append(list, a.describeNetwork(a.state.view.Networks[name]))
	}
	return list
}

// Network describes one.
func (a *Agent) Network(name string) (api.Network, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	n, ok := a.state.view.Networks[name]
	if !ok {
		return api.Network{}, notFound("network", name, a.state.view.Networks)
	}
	return a.describeNetwork(n), nil
}

func notFound[V any](kind, name string, known map[string]V) error {
	p := model.Problem{Code: model.CodeNotFound, Reason: fmt.Sprintf("there is no %s %q", kind, short(name))}
	if names := slices.Sorted(maps.Keys(known)); len(names) > 0 && len(names) <= 8 {
		p.Fix = kind + "s: " + strings.Join(names, ", ")
	}
	return p
}

// CreateNetwork makes a new network, and starts it unless its spec says otherwise.
func (a *Agent) CreateNetwork(ctx context.Context, m api.Manifest, dryRun bool) (api.Changed[api.Network], error) {
	var none api.Changed[api.Network]
	if err := a.begin(ctx); err != nil {
		return none, err
	}
	defer a.end()
	if _, taken := a.view().Networks[m.Metadata.Name]; taken {
		return none, model.Problem{Code: model.CodeNetworkExists, Path: "metadata.name", Reason: fmt.Sprintf("network %q exists", m.Metadata.Name),
			Fix: fmt.Sprintf("choose another name, or change it: flatnet net set %s (what it is now: flatnet net inspect %s)", m.Metadata.Name, m.Metadata.Name)}
	}
	n, err := judged(ctx, a, func() (model.Network, error) { return readNetwork(a.state, m, a.deps.Now().UTC()) })
	if err != nil {
		return none, err
	}
	return a.putNetwork(ctx, n, dryRun, "created")
}

// readNetwork turns a manifest into a network that may stand beside the others. One that has the name now is replaced.
func readNetwork(s *state, m api.Manifest, now time.Time) (model.Network, error) {
	r := networkReader{view: s.view, seed: s.seed}
	old, changes := s.view.Networks[m.Metadata.Name]
	if changes {
		r.old = &old
	}
	n := r.read(m.Metadata, *m.Network)
	n.Created = now
	if changes {
		n.Created = old.Created
	}
	return n, r.check(n)
}

// check says what is wrong with the network that was read, and with reading it.
func (r *networkReader) check(n model.Network) error {
	of := append(model.Validate(r.view, n), r.fitsUnderlay(n)...)
	return allProblems(r.problems, append(of, withoutField(foreignSNAT(r.view.Node, n), of)...)).Err()
}

// foreignSNAT are the problems of source addresses that the host does not have: answers to them would not come back.
func foreignSNAT(node model.Node, n model.Network) model.Problems {
	var ps model.Problems
	for i, a := range n.SNAT {
		fix, own := "addresses:", false
		for _, l := range node.Links {
			for _, p := range l.Addrs {
				own = own || p.Addr() == a
				if !l.Loopback && p.Addr().Is6() == a.Is6() && !p.Addr().IsLinkLocalUnicast() {
					fix += " " + p.Addr().String()
				}
			}
		}
		if own {
			continue
		}
		if fix == "addresses:" {
			fix = "the host has no address of that family; leave it out"
		}
		ps = append(ps, model.Problem{Code: model.CodeSNAT, Path: fmt.Sprintf("spec.snatIPs[%d]", i), Reason: fmt.Sprintf("%s is not an address of this host", a),
			Owner: "answers to it would not come back to this host", Fix: fix})
	}
	return ps
}

// withoutField drops the problems of fields that others are about already.
func withoutField(ps, said model.Problems) model.Problems {
	return slices.DeleteFunc(ps, func(p model.Problem) bool {
		return slices.ContainsFunc(said, func(s model.Problem) bool { return field(s.Path) == field(p.Path) })
	})
}

// allProblems are those of reading a request, and of what was read; not of what is missing for not having been read.
func allProblems(read, of model.Problems) model.Problems {
	all := slices.Clone(read)
	for _, p := range of {
		said := slices.ContainsFunc(read, func(r model.Problem) bool { return field(r.Path) == field(p.Path) })
		if !said {
			all = append(all, p)
		}
	}
	return all
}

// field is the outermost field of a path below spec or spec.cluster: subnets of spec.subnets[0].gateway.
func field(path string) string {
	rest, _ := strings.CutPrefix(path, "spec.")
	rest, _ = strings.CutPrefix(rest, "cluster.")
	if i := strings.IndexAny(rest, ".["); i >= 0 {
		rest = rest[:i]
	}
	return rest
}

func (a *Agent) putNetwork(ctx context.Context, n model.Network, dryRun bool, event string) (api.Changed[api.Network], error) {
	if n.Mode == model.Cluster {
		return a.putCluster(ctx, n.At(nil), dryRun, event)
	}
	changed := api.Changed[api.Network]{DryRun: dryRun}
	done, err := a.commit(ctx, putNetwork(n), dryRun)
	if err != nil {
		return changed, fmt.Errorf("network %q: %w", n.Name, err)
	}
	changed.Steps = done
	a.mu.RLock()
	changed.Object = a.describeNetwork(n)
	a.mu.RUnlock()
	if !dryRun {
		a.checkOverlaps()
		a.event(event, "network/"+n.Name, "", done...)
	}
	return changed, nil
}

// StartNetwork makes an inactive network's kernel objects.
func (a *Agent) StartNetwork(ctx context.Context, name string, dryRun bool) (api.Changed[api.Network], error) {
	return a.changeNetwork(ctx, name, dryRun, "started", func(n *model.Network) error {
		if p, off := a.keptOff(a.view().Networks[name]); off {
			return p
		}
		n.Active = true
		return model.Validate(a.view(), *n).Err()
	})
}

// StopNetwork removes a network's kernel objects; its workloads keep their addresses and are back when it starts.
func (a *Agent) StopNetwork(ctx context.Context, name string, dryRun bool) (api.Changed[api.Network], error) {
	return a.changeNetwork(ctx, name, dryRun, "stopped", func(n *model.Network) error {
		n.Active = false
		return nil
	})
}

// AutostartNetwork says whether a network starts with the daemon after a reboot.
func (a *Agent) AutostartNetwork(ctx context.Context, name string, on, dryRun bool) (api.Changed[api.Network], error) {
	return a.changeNetwork(ctx, name, dryRun, "autostart", func(n *model.Network) error {
		n.Autostart = on
		return nil
	})
}

func (a *Agent) changeNetwork(ctx context.Context, name string, dryRun bool, event string, change func(*model.Network) error) (api.Changed[api.Network], error) {
	var none api.Changed[api.Network]
	if err := a.begin(ctx); err != nil {
		return none, err
	}
	defer a.end()
	old, ok := a.view().Networks[name]
	if !ok {
		return none, notFound("network", name, a.view().Networks)
	}
	old = a.asStored(old)
	n, err := judged(ctx, a, func() (model.Network, error) {
		n := old
		err := change(&n)
		return n, err
	})
	if err != nil {
		return none, err
	}
	if sameNetwork(n, old) {
		a.mu.RLock()
		defer a.mu.RUnlock()
		return api.Changed[api.Network]{Object: a.describeNetwork(a.view().Networks[name]), Steps: []api.Step{}, DryRun: dryRun}, nil
	}
	return a.putNetwork(ctx, n, dryRun, event)
}

// DeleteNetwork removes a network. With force the workloads on it lose their endpoints there, and the forwards by it go.
func (a *Agent) DeleteNetwork(ctx context.Context, name string, force, dryRun bool) (api.Changed[api.Network], error) {
	changed := api.Changed[api.Network]{DryRun: dryRun}
	if err := a.begin(ctx); err != nil {
		return changed, err
	}
	defer a.end()
	n, ok := a.view().Networks[name]
	if !ok {
		return changed, notFound("network", name, a.view().Networks)
	}
	e, users := a.withoutNetwork(name)
	users = append(users, a.usedElsewhere(n)...)
	if len(users) > 0 && !force {
		return changed, model.Problem{Code: model.CodeInUse, Reason: fmt.Sprintf("network %q is in use", name), Owner: listed(users),
			Fix: "remove those first, or with --force take them off it", Example: "flatnet net rm --force " + name}
	}
	a.mu.RLock()
	changed.Object = a.describeNetwork(n)
	a.mu.RUnlock()
	var err error
	if n.Mode == model.Cluster && !dryRun {
		if err := a.dropCluster(ctx, name); err != nil {
			return changed, fmt.Errorf("network %q: %w", name, err)
		}
		if _, still := a.view().Networks[name]; !still {
			e.networks = nil
		}
	}
	if changed.Steps, err = a.commit(ctx, e, dryRun); err != nil {
		return changed, fmt.Errorf("network %q: %w", name, err)
	}
	if !dryRun {
		a.forgetSticky(name)
		a.checkOverlaps()
		a.writeAllFiles()
		a.event("deleted", "network/"+name, "", changed.Steps...)
		a.judgeAgain()
	}
	return changed, nil
}

// withoutNetwork is the edit that removes a network and all that stands on it, and whom that concerns.
func (a *Agent) withoutNetwork(name string) (e edit, users []string) {
	e = edit{networks: map[string]*model.Network{name: nil}, workloads: map[string]*model.Workload{}, forwards: map[string]*model.Forward{}}
	for _, w := range a.view().Workloads {
		if _, on := w.Endpoint(name); !on {
			continue
		}
		users = append(users, fmt.Sprintf("workload %q", w.Name))
		w.Endpoints = slices.DeleteFunc(slices.Clone(w.Endpoints), func(e model.Endpoint) bool { return e.Network == name })
		w.Forwards = slices.DeleteFunc(slices.Clone(w.Forwards), func(f model.Forward) bool { return f.Network == name })
		e.workloads[w.Name] = &w
	}
	for key, f := range a.view().Forwards {
		if f.Network == name {
			users = append(users, "forward "+key)
			e.forwards[key] = nil
		}
	}
	slices.Sort(users)
	return e, users
}

// listed joins names, the first few of many.
func listed(names []string) string {
	const most = 8
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
