package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/internal/model"
)

// change is what an edit of a network leads to.
type change struct {
	old, net model.Network
	edit     edit
	moves    []move
	dropped  []model.Forward
}

// changing finds what follows for workloads and forwards when a network becomes another one, or why it cannot.
func (a *Agent) changing(v model.View, old, n model.Network, yes consent) (change, error) {
	c := change{old: old, net: n, edit: putNetwork(n)}
	c.edit.workloads, c.edit.forwards = map[string]*model.Workload{}, map[string]*model.Forward{}
	problems := c.rewire(v)
	problems = append(problems, c.renumber(v, a.sticky.had, yes.renumber)...)
	problems = append(problems, c.dropForwards(v, yes.force)...)
	return c, problems.Err()
}

// text says what a change took along.
func (c *change) text() string {
	var words []string
	if c.old.Mode != c.net.Mode {
		words = append(words, fmt.Sprintf("%s is now %s", c.old.Mode, c.net.Mode))
	}
	if n := len(c.moves); n > 0 {
		words = append(words, fmt.Sprintf("%d addresses moved: %s", n, moveText(c.moves)))
	}
	if len(c.dropped) > 0 {
		words = append(words, "forwards gone: "+listed(forwardNames(c.dropped)))
	}
	return strings.Join(words, "; ")
}

// workload is a workload as the change leaves it so far, for writing.
func (c *change) workload(w model.Workload) *model.Workload {
	if changed := c.edit.workloads[w.Name]; changed != nil {
		return changed
	}
	w.Endpoints, w.Forwards = slices.Clone(w.Endpoints), slices.Clone(w.Forwards)
	c.edit.workloads[w.Name] = &w
	return &w
}

// attached are the names of the workloads on the network, in order.
func attached(v model.View, network string) []string {
	var names []string
	for name, w := range v.Workloads {
		if _, on := w.Endpoint(network); on {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// rewire refuses to make a bridge of a cable or the reverse under endpoints, and lets them follow the network's isolation: those
// that were as it said before.
func (c *change) rewire(v model.View) model.Problems {
	names := attached(v, c.net.Name)
	if len(names) > 0 && c.old.HasBridge() != c.net.HasBridge() {
		return model.Problems{{Code: model.CodeInUse, Path: "spec.mode", Reason: fmt.Sprintf("network %q is in use, and cannot become %s from %s", c.net.Name, c.net.Mode, c.old.Mode),
			Owner: "workloads " + listed(names), Fix: "disconnect them first"}}
	}
	if c.old.IsolatePorts == c.net.IsolatePorts {
		return nil
	}
	for _, name := range names {
		isolate(c.workload(v.Workloads[name]), c.old, c.net)
	}
	return nil
}

// isolate lets a workload's endpoint follow its network's isolation, if it was as the network said before.
func isolate(w *model.Workload, was, is model.Network) {
	for i, e := range w.Endpoints {
		if e.Network == is.Name && e.Isolated == was.IsolatePorts {
			w.Endpoints[i].Isolated = is.IsolatePorts
		}
	}
}

// dropForwards takes away the forwards that the network cannot have any more.
func (c *change) dropForwards(v model.View, force bool) model.Problems {
	for _, f := range v.AllForwards() {
		if f.Network == c.net.Name && !publishes(c.net, f) {
			c.dropped = append(c.dropped, f)
		}
	}
	if len(c.dropped) == 0 {
		return nil
	}
	if !force {
		return model.Problems{{Code: model.CodeForwardMode, Path: "spec.mode", Reason: fmt.Sprintf("network %q publishes ports, which it could not any more", c.net.Name),
			Owner: "forwards " + listed(forwardNames(c.dropped)), Fix: "remove those first, or with --force take them along", Example: "flatnet net forward rm " + c.dropped[0].Name()}}
	}
	for _, f := range c.dropped {
		if _, standing := v.Forwards[f.Name()]; standing {
			c.edit.forwards[f.Name()] = nil
			continue
		}
		w := c.workload(v.Workloads[f.Workload])
		w.Forwards = slices.DeleteFunc(w.Forwards, func(g model.Forward) bool { return g == f })
	}
	return nil
}

// publishes reports whether a network can have a forward.
func publishes(n model.Network, f model.Forward) bool {
	return n.Routes() && (!f.HostIP.IsValid() || slices.ContainsFunc(n.Subnets, func(s model.Subnet) bool { return s.Prefix.Addr().Is6() == f.HostIP.Is6() }))
}

// changed does what follows a network that was changed: addresses that moved are remembered, and connections forgotten that would go on
// as before.
func (a *Agent) changed(ctx context.Context, c change) {
	a.mu.Lock()
	a.sticky.follow(c)
	for _, name := range attached(a.state.view, c.net.Name) {
		e, _ := a.state.view.Workloads[name].Endpoint(c.net.Name)
		a.sticky.remember(model.Workload{Name: name, Endpoints: []model.Endpoint{e}})
	}
	a.mu.Unlock()
	ctx, cancel := detached(ctx)
	defer cancel()
	a.flush(ctx, c.dropped)
	if len(c.moves) > 0 {
		a.flushMoved(ctx, c)
	}
	if leavesOtherwise(c.old, c.net) {
		a.flushUnreplied(ctx, c)
	}
	if (c.old.Mode == model.Bridged) != (c.net.Mode == model.Bridged) {
		a.forgetGateways(ctx, c.net)
	}
}

// forgetGateways has workloads ask anew for their gateway, which was a machine of the LAN before and is the host now, or the reverse.
func (a *Agent) forgetGateways(ctx context.Context, n model.Network) {
	for _, name := range attached(a.view(), n.Name) {
		w := a.view().Workloads[name]
		e, _ := w.Endpoint(n.Name)
		for _, s := range n.Subnets {
			if w.Netns == "" || !s.Gateway.IsValid() {
				continue
			}
			if err := a.deps.Host.ForgetNeighbour(ctx, w.Netns, e.IfName, s.Gateway); err != nil {
				a.deps.Log.Warn("forget the gateway of before", "workload", name, "err", err)
			}
		}
	}
}

// leavesOtherwise reports whether what leaves the network has another source, or another way, than before.
func leavesOtherwise(old, n model.Network) bool {
	gateways := func(a, b model.Subnet) bool { return a.Gateway == b.Gateway }
	return !slices.EqualFunc(old.Subnets, n.Subnets, gateways) || old.Mode != n.Mode || old.Masquerade != n.Masquerade || old.Uplink != n.Uplink || old.NoHostAdapter != n.NoHostAdapter || !slices.Equal(old.SNAT, n.SNAT)
}

// flushUnreplied forgets the connections from the network that nobody has answered: they would be tried on in the way of before, as a
// ping without an answer is while it lasts. Those that work go on.
func (a *Agent) flushUnreplied(ctx context.Context, c change) {
	prefixes := map[netip.Prefix]bool{}
	for _, s := range slices.Concat(c.old.Subnets, c.net.Subnets) {
		prefixes[s.Prefix] = true
	}
	for p := range maps.Keys(prefixes) {
		a.forget(ctx, c.net.Name, p, true)
	}
}

// flushMoved forgets the connections of addresses that moved, and those by forwards that went there.
func (a *Agent) flushMoved(ctx context.Context, c change) {
	moved := map[string]bool{}
	for _, m := range c.moves {
		moved[m.workload] = true
		a.forget(ctx, c.net.Name, netip.PrefixFrom(m.from, m.from.BitLen()), false)
	}
	for _, f := range a.view().AllForwards() {
		if f.Network != c.net.Name || !moved[f.Workload] {
			continue
		}
		dest := f.HostIP
		if dest.IsUnspecified() {
			dest = netip.Addr{}
		}
		if _, err := a.deps.Host.FlushConntrack(ctx, f.Proto, dest, f.HostPorts); err != nil {
			a.deps.Log.Warn("forget connections of a forward", "forward", f.Name(), "err", err)
		}
	}
}

func (a *Agent) forget(ctx context.Context, network string, from netip.Prefix, unrepliedOnly bool) {
	if _, err := a.deps.Host.FlushConntrackFrom(ctx, from, unrepliedOnly); err != nil {
		a.deps.Log.Warn("forget connections of a network", "network", network, "from", from, "err", err)
	}
}
