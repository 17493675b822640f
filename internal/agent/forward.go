package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// Forwards lists all published ports by name.
func (a *Agent) Forwards() []api.Forward {
	a.mu.RLock()
	defer a.mu.RUnlock()
	list := []api.Forward{}
	for _, f := range a.state.view.AllForwards() {
		list = append(list, a.describeForward(f))
	}
	return list
}

// AddForwards publishes ports that stay published: all of them, or none.
func (a *Agent) AddForwards(ctx context.Context, specs []api.ForwardSpec, dryRun bool) (api.Changed[[]api.Forward], error) {
	changed := api.Changed[[]api.Forward]{DryRun: dryRun, Object: []api.Forward{}}
	if err := a.begin(ctx); err != nil {
		return changed, err
	}
	defer a.end()
	list, err := judged(ctx, a, func() ([]model.Forward, error) {
		list, problems := a.newForwards(specs, func(i int) string { return fmt.Sprintf("[%d]", i) })
		return list, problems.Err()
	})
	if err != nil {
		return changed, err
	}
	if err := a.checkPorts(ctx, "", list); err != nil {
		return changed, err
	}
	e := edit{forwards: map[string]*model.Forward{}}
	for _, f := range list {
		e.forwards[f.Name()] = &f
	}
	if changed.Steps, err = a.commit(ctx, e, dryRun); err != nil {
		return changed, err
	}
	if !dryRun {
		a.flush(ctx, list)
		a.forwardEvents("created", list, changed.Steps)
	}
	changed.Object = a.describeForwards(list)
	return changed, nil
}

func (a *Agent) describeForwards(list []model.Forward) []api.Forward {
	a.mu.RLock()
	defer a.mu.RUnlock()
	out := []api.Forward{}
	for _, f := range list {
		out = append(out, a.describeForward(f))
	}
	return out
}

// forwardEvents tells of one forward with its steps, of many in one sentence.
func (a *Agent) forwardEvents(typ string, list []model.Forward, steps []api.Step) {
	if len(list) == 0 {
		return
	}
	a.event(typ, "forward/"+list[0].Name(), listed(forwardNames(list)), steps...)
}

// newForwards reads and checks forwards against what exists and against each other.
func (a *Agent) newForwards(specs []api.ForwardSpec, path func(int) string) ([]model.Forward, model.Problems) {
	v := a.view()
	var list []model.Forward
	var problems model.Problems
	among := newClashes()
	for i, spec := range specs {
		f, ps := readForward(v, spec)
		if len(ps) == 0 {
			ps = append(ps, a.exists(f)...)
			ps = append(ps, withoutSpec(model.ValidateForward(v, f))...)
		}
		if other, clash := among.add(f); clash && len(ps) == 0 {
			ps = append(ps, model.Problem{Code: model.CodeForwardClash, Path: "publish", Reason: fmt.Sprintf("%s is asked for twice", f.Name()),
				Owner: "forward " + other.Name() + " of the same request", Fix: "choose another host port or address"})
		}
		problems = append(problems, ps.Under(path(i))...)
		list = append(list, f)
	}
	return list, problems
}

// withoutSpec names the fields as the request has them: only a manifest has them below spec.
func withoutSpec(ps model.Problems) model.Problems {
	for i := range ps {
		ps[i].Path = strings.TrimPrefix(ps[i].Path, "spec.")
	}
	return ps
}

// exists is the problem of a forward that is there already, also with the same target.
func (a *Agent) exists(f model.Forward) model.Problems {
	if old, ok := a.view().Forwards[f.Name()]; ok && old.Workload == f.Workload {
		return model.Problems{{Code: model.CodeForwardClash, Path: "publish", Reason: fmt.Sprintf("%s is forwarded already", f.Name()),
			Owner: fmt.Sprintf("forward %s of workload %q", old.Name(), old.Workload), Fix: "remove it first", Example: "flatnet net forward rm " + f.Name()}}
	}
	return nil
}

// readForward is the forward that a spec asks for; without a network it is the workload's nat network, or the default one
// for a workload that is not there yet.
func readForward(v model.View, spec api.ForwardSpec) (model.Forward, model.Problems) {
	f, err := model.ParseForward(spec.Publish)
	if err != nil {
		return f, asProblems(err, "publish")
	}
	f.Workload, f.Network = spec.Workload, spec.Network
	if a, err := netip.ParseAddr(f.Workload); err == nil && v.Workloads[f.Workload].Name == "" {
		var found bool
		if f.Workload, f.Network, found = whoHas(v, a, f.Network); !found {
			return f, model.Problems{{Code: model.CodeForwardTarget, Path: "workload", Reason: fmt.Sprintf("no workload has the address %s", a),
				Fix: "a forward goes to a workload, also one that is not there yet; " + workloadNames(v)}}
		}
	}
	if f.Network == "" {
		f.Network = DefaultNetwork
		if w, ok := v.Workloads[f.Workload]; ok {
			f.Network = publishingNetwork(v, w)
		}
	}
	if f.Network == "" {
		return f, model.Problems{{Code: model.CodeForwardMode, Path: "workload", Reason: fmt.Sprintf("workload %q is on no nat network, so nobody outside could come in", f.Workload),
			Fix: "attach it to a nat network"}}
	}
	return f, nil
}

// whoHas is the workload that has an address, on the network asked for or on any.
func whoHas(v model.View, a netip.Addr, network string) (workload, on string, found bool) {
	for _, name := range slices.Sorted(maps.Keys(v.Workloads)) {
		for _, e := range v.Workloads[name].Endpoints {
			if slices.Contains(e.Addrs, a.Unmap()) && (network == "" || network == e.Network) {
				return name, e.Network, true
			}
		}
	}
	return "", network, false
}

func workloadNames(v model.View) string {
	if len(v.Workloads) == 0 {
		return "there are no workloads"
	}
	return "workloads: " + listed(slices.Sorted(maps.Keys(v.Workloads)))
}

// asProblems are the problems of an error, below a path; none of no error.
func asProblems(err error, path string) model.Problems {
	if err == nil {
		return nil
	}
	many := model.Problems{{Code: model.CodeInternal, Reason: err.Error()}}
	var one model.Problem
	if !errors.As(err, &many) && errors.As(err, &one) {
		many = model.Problems{one}
	}
	if path == "" {
		return many
	}
	return many.Under(path)
}

// RemoveForwards takes back published ports by name, live: all of them, or none.
func (a *Agent) RemoveForwards(ctx context.Context, names []string, dryRun bool) (api.Changed[[]api.Forward], error) {
	changed := api.Changed[[]api.Forward]{DryRun: dryRun, Object: []api.Forward{}}
	if err := a.begin(ctx); err != nil {
		return changed, err
	}
	defer a.end()
	e, list, problems := a.withoutForwards(names)
	if len(problems) > 0 {
		return changed, problems.Err()
	}
	changed.Object = a.describeForwards(list)
	var err error
	if changed.Steps, err = a.commit(ctx, e, dryRun); err != nil {
		return changed, err
	}
	if !dryRun {
		a.flush(ctx, list)
		a.forwardEvents("deleted", list, changed.Steps)
	}
	return changed, nil
}

// withoutForwards is the edit that removes forwards, standing ones and those published with workloads.
func (a *Agent) withoutForwards(names []string) (e edit, list []model.Forward, problems model.Problems) {
	e = edit{forwards: map[string]*model.Forward{}, workloads: map[string]*model.Workload{}}
	var published map[string]model.Forward
	for i, name := range names {
		if f, ok := a.view().Forwards[name]; ok {
			e.forwards[name] = nil
			list = append(list, f)
			continue
		}
		if published == nil {
			published = a.published()
		}
		f, ok := published[name]
		if !ok {
			problems = append(problems, model.Problem{Code: model.CodeNotFound, Path: fmt.Sprintf("[%d]", i), Reason: fmt.Sprintf("there is no forward %q", short(name)),
				Fix: "names are as flatnet net forward ls shows them", Example: "tcp/8080"})
			continue
		}
		list = append(list, f)
		w := a.view().Workloads[f.Workload]
		if p := e.workloads[f.Workload]; p != nil {
			w = *p
		}
		w.Forwards = slices.DeleteFunc(slices.Clone(w.Forwards), func(g model.Forward) bool { return g.Name() == name })
		e.workloads[w.Name] = &w
	}
	return e, list, problems
}

// published are the forwards that live with workloads, by name.
func (a *Agent) published() map[string]model.Forward {
	all := map[string]model.Forward{}
	for _, w := range a.view().Workloads {
		for _, f := range w.Forwards {
			all[f.Name()] = f
		}
	}
	return all
}

// clashes finds forwards of one request that listen on a common port; by port, as a thousand may come at once.
type clashes struct {
	byPort map[portKey][]model.Forward
}

type portKey struct {
	proto model.Proto
	port  uint16
}

func newClashes() *clashes { return &clashes{byPort: map[portKey][]model.Forward{}} }

// add remembers f and returns one before it that it clashes with.
func (c *clashes) add(f model.Forward) (model.Forward, bool) {
	if f.HostPorts.First == 0 {
		return f, false
	}
	for i := range f.HostPorts.Len() {
		key := portKey{f.Proto, f.HostPorts.First + uint16(i)}
		for _, other := range c.byPort[key] {
			if other.Clashes(f) {
				return other, true
			}
		}
		c.byPort[key] = append(c.byPort[key], f)
	}
	return f, false
}

// checkPorts refuses forwards on ports that a process of the host listens on: its clients would be cut off.
func (a *Agent) checkPorts(ctx context.Context, path string, forwards []model.Forward) error {
	if len(forwards) == 0 {
		return nil
	}
	listeners, err := a.deps.Host.Listeners(ctx)
	if err != nil {
		a.deps.Log.Warn("list the host's listeners", "err", err)
		return nil
	}
	byPort := map[portKey][]Listener{}
	for _, l := range listeners {
		key := portKey{l.Proto, l.Port}
		byPort[key] = append(byPort[key], l)
	}
	var problems model.Problems
	for i, f := range forwards {
		if l, taken := listening(byPort, f); taken {
			p := model.Problem{Code: model.CodePortTaken, Path: fmt.Sprintf("%s[%d]", path, i), Owner: a.deps.Host.Owner(ctx, l), Fix: "choose another host port or address, or stop that process",
				Reason: fmt.Sprintf("port %d/%s of the host is in use on %s", l.Port, l.Proto, listenText(l))}
			problems = append(problems, p)
		}
	}
	return problems.Err()
}

func listenText(l Listener) string {
	if l.Addr.IsUnspecified() {
		return "every address"
	}
	return l.Addr.String()
}

// listening finds who a forward would take connections from.
func listening(byPort map[portKey][]Listener, f model.Forward) (Listener, bool) {
	for i := range f.HostPorts.Len() {
		for _, l := range byPort[portKey{f.Proto, f.HostPorts.First + uint16(i)}] {
			if l.hears(f.HostIP) {
				return l, true
			}
		}
	}
	return Listener{}, false
}

// hears reports whether the listener waits on the address, or on any when that is zero or unspecified.
func (l Listener) hears(a netip.Addr) bool {
	switch {
	case !a.IsValid() || a.IsUnspecified() || l.Addr == a:
		return true
	case !l.Addr.IsUnspecified():
		return false
	}
	return l.Addr.Is6() == a.Is6() || l.Addr.Is6() && !l.V6Only
}

// flush forgets connections by forwards that came or went: those of UDP would stick to where they went before.
func (a *Agent) flush(ctx context.Context, forwards []model.Forward) {
	var udp []model.Forward
	for _, f := range forwards {
		if f.Proto == model.UDP {
			udp = append(udp, f)
		}
	}
	if len(udp) == 0 {
		return
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	for _, f := range udp {
		dest := f.HostIP
		if dest.IsUnspecified() {
			dest = netip.Addr{}
		}
		if _, err := a.deps.Host.FlushConntrack(ctx, f.Proto, dest, f.HostPorts); err != nil {
			a.deps.Log.Warn("forget connections of a forward", "forward", f.Name(), "err", err)
		}
	}
}
