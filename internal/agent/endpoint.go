package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// Connect attaches a workload to one more network while it runs. Its other endpoints stay as they are; the default route goes to
// the endpoint of highest priority.
func (a *Agent) Connect(ctx context.Context, name string, spec api.EndpointSpec, dryRun bool) (api.Changed[api.Workload], error) {
	changed := api.Changed[api.Workload]{DryRun: dryRun}
	if err := a.begin(ctx); err != nil {
		return changed, err
	}
	defer a.end()
	w, err := a.enterable(name)
	if err != nil {
		return changed, err
	}
	w, e, err := a.withEndpoint(ctx, w, spec)
	if err != nil {
		return changed, err
	}
	if changed.Steps, err = a.commit(ctx, putWorkload(w), dryRun); err != nil {
		return changed, fmt.Errorf("workload %q: %w", w.Name, err)
	}
	if !dryRun {
		a.connected(ctx, w, e, changed.Steps)
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	changed.Object = a.describeWorkload(w)
	return changed, nil
}

// enterable is a workload whose namespace can be given another endpoint, or lose one.
func (a *Agent) enterable(name string) (model.Workload, error) {
	w, ok := a.view().Workloads[name]
	switch {
	case !ok:
		return w, notFound("workload", name, a.view().Workloads)
	case w.Sharing == model.Joined:
		return w, model.Problem{Code: model.CodeSharing, Reason: fmt.Sprintf("workload %q shares the namespace of workload %q, and has no endpoints of its own", name, w.Join),
			Fix: "name that one: its endpoints are for both", Example: w.Join}
	case w.Sharing == model.Host:
		return w, model.Problem{Code: model.CodeSharing, Reason: fmt.Sprintf("workload %q is on the host's own network", name), Fix: "run it anew with --network NET"}
	case w.Process.Exited:
		return w, model.Problem{Code: model.CodeNotRunning, Reason: fmt.Sprintf("the command of workload %q has ended, and with it its endpoints", name),
			Fix: "remove it and run it anew", Example: "flatnet rm " + name}
	}
	if reason, lost := a.state.lost[name]; lost {
		return w, model.Problem{Code: model.CodeNotRunning, Reason: fmt.Sprintf("workload %q is lost: %s", name, reason), Fix: "remove it and attach it anew", Example: "flatnet rm " + name}
	}
	return w, nil
}

// withEndpoint is the workload with one endpoint more.
func (a *Agent) withEndpoint(ctx context.Context, w model.Workload, spec api.EndpointSpec) (model.Workload, model.Endpoint, error) {
	if spec.Network == "" {
		spec.Network = DefaultNetwork
	}
	if e, on := w.Endpoint(spec.Network); on {
		return w, e, model.Problem{Code: model.CodeAttachedTwice, Path: "network", Reason: fmt.Sprintf("workload %q is on network %q already", w.Name, spec.Network),
			Owner: fmt.Sprintf("its endpoint %s %s", e.IfName, strings.Join(texts(e.Addrs), " ")), Fix: "to change it, disconnect it first", Example: fmt.Sprintf("flatnet disconnect %s %s", spec.Network, w.Name)}
	}
	if spec.IfName == "" {
		spec.IfName = a.freeLink(ctx, w)
	}
	at := len(w.Endpoints)
	r := workloadReader{view: a.view(), netnsDir: a.config.NetnsDir}
	e := r.endpoint(at, spec)
	w.Endpoints = append(slices.Clone(w.Endpoints), e)
	problems := append(r.problems, model.ValidateWorkload(a.view(), w)...)
	problems = append(problems, a.inactive(w)...)
	if problems = ofEndpoint(problems, at); len(problems) > 0 {
		return w, e, problems.Err()
	}
	alone := model.Workload{Name: w.Name, Endpoints: []model.Endpoint{e}}
	if err := a.allocate(&alone); err != nil {
		return w, e, err
	}
	w.Endpoints[at] = alone.Endpoints[0]
	return w, w.Endpoints[at], nil
}

// ofEndpoint are the problems of one endpoint, by the names that its fields have in a request for it alone.
func ofEndpoint(all model.Problems, at int) model.Problems {
	var ps model.Problems
	for _, p := range all {
		if rest, ok := strings.CutPrefix(p.Path, fmt.Sprintf("endpoints[%d].", at)); ok {
			p.Path = rest
			ps = append(ps, p)
		}
	}
	return ps
}

// freeLink is the first of eth0, eth1, … that the workload's namespace has no link of.
func (a *Agent) freeLink(ctx context.Context, w model.Workload) string {
	taken := map[string]bool{}
	for _, e := range w.Endpoints {
		taken[e.IfName] = true
	}
	links, err := a.deps.Host.ListLinks(ctx, w.Netns)
	if err != nil {
		a.deps.Log.Debug("list the links of a workload", "workload", w.Name, "err", err)
	}
	for _, l := range links {
		taken[l.Name] = true
	}
	for i := 0; ; i++ {
		if name := fmt.Sprintf("eth%d", i); !taken[name] {
			return name
		}
	}
}

// connected does what follows an endpoint that came.
func (a *Agent) connected(ctx context.Context, w model.Workload, e model.Endpoint, steps []api.Step) {
	alone := model.Workload{Name: w.Name, Endpoints: []model.Endpoint{e}}
	a.forgetFormer(ctx, alone)
	a.mu.Lock()
	a.sticky.remember(alone)
	a.state.gave(alone)
	a.mu.Unlock()
	if w.Managed {
		a.writeFiles(w)
	}
	a.flush(ctx, a.forwardsBy(w, e.Network))
	a.event("connected", "workload/"+w.Name, fmt.Sprintf("network %s: %s %s", e.Network, e.IfName, addrText(alone)), steps...)
}

// forwardsBy are the forwards that end in a workload's endpoint on one network.
func (a *Agent) forwardsBy(w model.Workload, network string) []model.Forward {
	return slices.DeleteFunc(a.forwardsTo(w), func(f model.Forward) bool { return f.Network != network })
}

// Disconnect takes a workload off a network while it runs. Ports that are published by it keep it there; with force they go too.
func (a *Agent) Disconnect(ctx context.Context, name, network string, force, dryRun bool) (api.Changed[api.Workload], error) {
	changed := api.Changed[api.Workload]{DryRun: dryRun}
	if err := a.begin(ctx); err != nil {
		return changed, err
	}
	defer a.end()
	w, err := a.enterable(name)
	if err != nil {
		return changed, err
	}
	gone, err := a.attachedTo(w, network)
	if err != nil {
		return changed, err
	}
	published := a.forwardsBy(w, network)
	if len(published) > 0 && !force {
		return changed, model.Problem{Code: model.CodeInUse, Reason: fmt.Sprintf("ports of workload %q are published by network %q", name, network), Owner: "forwards " + listed(forwardNames(published)),
			Fix: "remove those first, or with --force take them along", Example: fmt.Sprintf("flatnet disconnect --force %s %s", network, name)}
	}
	e := a.withoutEndpoint(w, network, published)
	if changed.Steps, err = a.commit(ctx, e, dryRun); err != nil {
		return changed, fmt.Errorf("workload %q: %w", name, err)
	}
	w = *e.workloads[name]
	if !dryRun {
		if w.Managed {
			a.writeFiles(w)
		}
		a.flush(ctx, published)
		a.event("disconnected", "workload/"+name, fmt.Sprintf("network %s: %s", network, gone.IfName), changed.Steps...)
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	changed.Object = a.describeWorkload(w)
	return changed, nil
}

// attachedTo is the workload's endpoint on a network, which must be there.
func (a *Agent) attachedTo(w model.Workload, network string) (model.Endpoint, error) {
	e, on := w.Endpoint(network)
	if on {
		return e, nil
	}
	if _, known := a.view().Networks[network]; !known {
		return e, notFound("network", network, a.view().Networks)
	}
	p := model.Problem{Code: model.CodeNotFound, Path: "network", Reason: fmt.Sprintf("workload %q is not on network %q", w.Name, network), Fix: "it is on no network"}
	var names []string
	for _, e := range w.Endpoints {
		names = append(names, e.Network)
	}
	if len(names) > 0 {
		p.Fix = "it is on " + listed(names)
	}
	return e, p
}

// withoutEndpoint is the edit that takes a workload off a network, with the forwards that end there.
func (a *Agent) withoutEndpoint(w model.Workload, network string, published []model.Forward) edit {
	w.Endpoints = slices.DeleteFunc(slices.Clone(w.Endpoints), func(e model.Endpoint) bool { return e.Network == network })
	w.Forwards = slices.DeleteFunc(slices.Clone(w.Forwards), func(f model.Forward) bool { return f.Network == network })
	e := putWorkload(w)
	for _, f := range published {
		if _, standing := a.view().Forwards[f.Name()]; standing {
			if e.forwards == nil {
				e.forwards = map[string]*model.Forward{}
			}
			e.forwards[f.Name()] = nil
		}
	}
	return e
}

func forwardNames(list []model.Forward) []string {
	names := make([]string, len(list))
	for i, f := range list {
		names[i] = f.Name()
	}
	slices.Sort(names)
	return names
}
