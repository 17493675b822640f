package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/ipam"
	"github.com/flatnet/flatnet/internal/model"
)

// Workloads lists the workloads by name.
func (a *Agent) Workloads() []api.Workload {
	a.mu.RLock()
	defer a.mu.RUnlock()
	list := []api.Workload{}
	for _, name := range slices.Sorted(maps.Keys(a.state.view.Workloads)) {
		list = append(list, a.describeWorkload(a.state.view.Workloads[name]))
	}
	return list
}

// Workload describes one.
func (a *Agent) Workload(name string) (api.Workload, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	w, ok := a.state.view.Workloads[name]
	if !ok {
		return api.Workload{}, notFound("workload", name, a.state.view.Workloads)
	}
	return a.describeWorkload(w), nil
}

// CreateWorkload attaches a workload: in a namespace that exists, or in one that is made for it.
func (a *Agent) CreateWorkload(ctx context.Context, spec api.WorkloadSpec, dryRun bool) (api.Changed[api.Workload], error) {
	changed := api.Changed[api.Workload]{DryRun: dryRun}
	if err := a.begin(ctx); err != nil {
		return changed, err
	}
	defer a.end()
	w, identity, err := a.newWorkload(ctx, spec)
	if err != nil && !dryRun && a.grow(ctx, err, w) {
		w, identity, err = a.newWorkload(ctx, spec)
	}
	if err != nil {
		return changed, err
	}
	if changed.Steps, err = a.commit(ctx, putWorkload(w), dryRun); err != nil {
		return changed, fmt.Errorf("workload %q: %w", w.Name, err)
	}
	if !dryRun {
		a.attached(ctx, w, identity, changed.Steps)
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	changed.Object = a.describeWorkload(w)
	return changed, nil
}

// attached does what follows a workload that came.
func (a *Agent) attached(ctx context.Context, w model.Workload, identity string, steps []api.Step) {
	a.forgetFormer(ctx, w)
	a.mu.Lock()
	a.sticky.remember(w)
	a.state.gave(w)
	if identity != "" {
		a.isNamespace(w, identity)
	}
	a.mu.Unlock()
	if w.Managed {
		a.writeFiles(w)
	}
	a.flush(ctx, a.forwardsTo(w))
	a.event("attached", "workload/"+w.Name, addrText(w), steps...)
}

// forgetFormer has the host ask anew who has an address that another workload had, or this one with another MAC: it would go on sending to
// that one. It is called before the address is remembered to be this workload's.
func (a *Agent) forgetFormer(ctx context.Context, w model.Workload) {
	for _, e := range w.Endpoints {
		if e.MAC != a.usualMAC(w.Name, e) || slices.ContainsFunc(e.Addrs, func(addr netip.Addr) bool { return a.sticky.forOther(e.Network, w.Name, addr) }) {
			a.forgetNeighbours(ctx, e)
		}
	}
}

// forgetNeighbours has the host ask anew who has an endpoint's addresses.
func (a *Agent) forgetNeighbours(ctx context.Context, e model.Endpoint) {
	n := a.view().Networks[e.Network]
	if !n.HasBridge() {
		return
	}
	for _, addr := range e.Addrs {
		if err := a.deps.Host.ForgetNeighbour(ctx, dataplane.HostNetns, n.BridgeName(), addr); err != nil {
			a.deps.Log.Warn("forget who had an address before", "network", e.Network, "addr", addr, "err", err)
		}
	}
}

// newWorkload checks a request, finds addresses, and returns the workload with the identity of its namespace when somebody
// else made that.
func (a *Agent) newWorkload(ctx context.Context, spec api.WorkloadSpec) (w model.Workload, identity string, err error) {
	v := a.view()
	if spec.Name == "" {
		spec.Name = makeName(func(name string) bool { _, taken := v.Workloads[name]; return taken })
	}
	if _, taken := v.Workloads[spec.Name]; taken {
		return w, "", model.Problem{Code: model.CodeWorkloadExists, Path: "name", Reason: fmt.Sprintf("workload %q exists", spec.Name),
			Fix: "choose another name, or remove it", Example: "flatnet rm " + spec.Name}
	}
	r := workloadReader{view: v, netnsDir: a.config.NetnsDir}
	w = r.read(spec)
	w.Created = a.deps.Now().UTC()
	problems := append(r.problems, model.ValidateWorkload(v, w)...)
	problems = append(problems, a.inactive(w)...)
	if len(problems) > 0 {
		return w, "", problems.Err()
	}
	if identity, err = a.checkNamespace(w); err != nil {
		return w, "", err
	}
	if err := a.checkPorts(ctx, "publish", w.Forwards); err != nil {
		return w, "", err
	}
	w.NetnsID = identity
	return w, identity, a.allocate(&w)
}

// inactive are the problems of endpoints on networks that are not started.
func (a *Agent) inactive(w model.Workload) model.Problems {
	var ps model.Problems
	for i, e := range w.Endpoints {
		n, ok := a.view().Networks[e.Network]
		if p, off := a.keptOff(n); ok && off {
			p.Path = fmt.Sprintf("endpoints[%d].network", i)
			ps = append(ps, p)
			continue
		}
		if ok && !n.Active {
			ps = append(ps, model.Problem{Code: model.CodeInactive, Path: fmt.Sprintf("endpoints[%d].network", i), Reason: fmt.Sprintf("network %q is not started", n.Name),
				Fix: "start it first", Example: "flatnet net start " + n.Name})
		}
	}
	return ps
}

// checkNamespace refuses a path that is no namespace, the host's own, or another workload's. The path of a namespace that is
// to be made must be free.
func (a *Agent) checkNamespace(w model.Workload) (identity string, err error) {
	if w.Netns == "" {
		return "", nil
	}
	if owner, taken := a.state.netns[w.Netns]; taken {
		return "", model.Problem{Code: model.CodeInUse, Path: "netns", Reason: fmt.Sprintf("namespace %s is a workload's already", w.Netns),
			Owner: fmt.Sprintf("workload %q", owner), Fix: "remove that workload first, or share it", Example: "container:" + owner}
	}
	identity, err = a.deps.Namespaces.Identify(w.Netns)
	if w.Managed {
		if err == nil {
			return "", model.Problem{Code: model.CodeInUse, Path: "name", Reason: fmt.Sprintf("there is a namespace %s that flatnet did not make", w.Netns),
				Owner: "see ip netns", Fix: "choose another name, or attach that namespace itself with its path", Example: w.Netns}
		}
		return "", nil
	}
	bad := model.Problem{Code: model.CodeNetns, Path: "netns", Fix: "the path of a network namespace, as ip netns makes them", Example: "/run/netns/web"}
	if err != nil {
		bad.Reason = fmt.Sprintf("%s is not a network namespace: %s", w.Netns, err)
		return "", bad
	}
	if own, err := a.deps.Namespaces.Own(); err != nil || own == identity {
		bad.Reason, bad.Fix, bad.Example = fmt.Sprintf("%s is the host's own namespace", w.Netns), "leave it out and ask for sharing host", "host"
		return "", bad
	}
	for name, other := range a.namespace {
		if other == identity {
			return "", model.Problem{Code: model.CodeInUse, Path: "netns", Reason: fmt.Sprintf("namespace %s is a workload's already, by another path", w.Netns),
				Owner: fmt.Sprintf("workload %q", name), Fix: "remove that workload first"}
		}
	}
	return identity, a.notManaged(w.Netns, identity)
}

// notManaged refuses a namespace that was made for a workload, by whatever path it is named: two that do not know of each other would take
// each other's links for left over.
func (a *Agent) notManaged(path, identity string) error {
	for _, w := range a.view().Workloads {
		if !w.Managed || w.Netns == "" {
			continue
		}
		if id, err := a.deps.Namespaces.Identify(w.Netns); err == nil && sameNamespace(identity, id) {
			return model.Problem{Code: model.CodeInUse, Path: "netns", Reason: fmt.Sprintf("namespace %s is a workload's already, by another path", path),
				Owner: fmt.Sprintf("workload %q", w.Name), Fix: "connect that workload to the network", Example: "flatnet connect NETWORK " + w.Name}
		}
	}
	return nil
}

// allocate fills in the addresses and MACs that nobody asked for.
func (a *Agent) allocate(w *model.Workload) error {
	for i := range w.Endpoints {
		e := &w.Endpoints[i]
		if err := a.allocateAddrs(w.Name, e); err != nil {
			return asProblems(err, fmt.Sprintf("endpoints[%d].network", i)).Err()
		}
		if e.MAC == (model.MAC{}) {
			e.MAC = a.freeMAC(w.Name, *e)
		}
	}
	return nil
}

func (a *Agent) allocateAddrs(workload string, e *model.Endpoint) error {
	n := a.view().Networks[e.Network]
	if n.Mode == model.Cluster {
		return a.allocateBlock(workload, n, e)
	}
	for _, s := range n.Subnets {
		if slices.ContainsFunc(e.Addrs, s.Prefix.Contains) {
			continue
		}
		addr, err := a.freeAddr(*e, s, workload)
		if err != nil {
			return err
		}
		e.Addrs = append(e.Addrs, addr)
	}
	return nil
}

// usualMAC is derived from the names, of what a CNI runtime made from the address: those have made-up names that never come back, and with
// the same MAC for an address nobody's neighbour table is out of date when the next one has it.
func (a *Agent) usualMAC(workload string, e model.Endpoint) model.MAC {
	return model.EndpointMAC(macName(workload, e), e.Network)
}

func macName(workload string, e model.Endpoint) string {
	if e.Attachment != (model.Attachment{}) && len(e.Addrs) > 0 {
		return e.Addrs[0].String()
	}
	return workload
}

// freeMAC is the usual one; when somebody asked for just that one before, it is derived with a number too.
func (a *Agent) freeMAC(workload string, e model.Endpoint) model.MAC {
	of := macName(workload, e)
	for i, name := 0, of; ; i++ {
		mac := model.EndpointMAC(name, e.Network)
		if owner, taken := a.state.macs[e.Network][mac]; !taken || owner == workload {
			return mac
		}
		name = fmt.Sprintf("%s %d", of, i)
	}
}

// freeAddr prefers what the workload had, then what nobody had, then what only an absent one had.
func (a *Agent) freeAddr(e model.Endpoint, s model.Subnet, workload string) (netip.Addr, error) {
	prefer := a.sticky.had(e.Network, workload, s.Prefix)
	if !prefer.IsValid() {
		prefer = a.state.next[s.Prefix]
	}
	taken := func(addr netip.Addr) bool {
		_, used := a.state.used[e.Network][addr]
		_, own := a.state.view.Node.Has(addr) // of a bridged network, whose LAN the host is on too
		return used || own || a.hostLocal.holds(addr)
	}
	addr, err := nextIn(e, s, func(addr netip.Addr) bool { return taken(addr) || a.sticky.forOther(e.Network, workload, addr) }, prefer)
	var full *ipam.ExhaustedError
	if errors.As(err, &full) {
		addr, err = nextIn(e, s, taken, prefer)
	}
	if errors.As(err, &full) {
		return addr, full.Problem(e.Network)
	}
	return addr, err
}

// nextIn is the next free address of a subnet, in the ranges that the endpoint asks for when it names some of that family.
func nextIn(e model.Endpoint, s model.Subnet, used func(netip.Addr) bool, prefer netip.Addr) (addr netip.Addr, err error) {
	asked := false
	for _, r := range e.Ranges {
		if r.First.BitLen() != s.Prefix.Addr().BitLen() {
			continue
		}
		asked = true
		if addr, err = ipam.NextIn(s, within(r, s.Prefix), used, prefer); err == nil {
			return addr, nil
		}
	}
	if asked {
		return addr, err
	}
	return ipam.Next(s, used, prefer)
}

// within is the part of a range that is in the subnet; what is not, ipam finds to be of no use.
func within(r model.AddrRange, subnet netip.Prefix) model.AddrRange {
	if first := subnet.Masked().Addr(); r.First.Compare(first) < 0 {
		r.First = first
	}
	if last := model.LastAddr(subnet); r.Last.Compare(last) > 0 {
		r.Last = last
	}
	return r
}

// DeleteWorkload detaches a workload and forgets it. One whose command runs, or whose namespace others share, stays; with force
// the command is ended first.
func (a *Agent) DeleteWorkload(ctx context.Context, name string, force, dryRun bool) (api.Changed[api.Workload], error) {
	changed := api.Changed[api.Workload]{DryRun: dryRun}
	if force && !dryRun {
		if err := a.unshared(name); err != nil { // before its command is ended for nothing
			return changed, err
		}
		if w, err := a.StopWorkload(ctx, name, forcedStop, true); err != nil {
			return changed, err
		} else if _, err := a.Workload(name); err != nil { // it was to be removed with its command
			changed.Object, changed.Steps = w, []api.Step{}
			return changed, nil
		}
	}
	if err := a.begin(ctx); err != nil {
		return changed, err
	}
	defer a.end()
	w, ok := a.view().Workloads[name]
	if !ok {
		return changed, notFound("workload", name, a.view().Workloads)
	}
	if err := a.removable(w, force && (dryRun || w.ByRuntime())); err != nil {
		return changed, err
	}
	a.mu.RLock()
	changed.Object = a.describeWorkload(w)
	published := a.forwardsTo(w)
	a.mu.RUnlock()
	var err error
	if changed.Steps, err = a.commit(ctx, deleteWorkload(name), dryRun); err != nil {
		return changed, fmt.Errorf("workload %q: %w", name, err)
	}
	if !dryRun {
		a.deps.Processes.Forget(name)
		a.mu.Lock()
		a.isNamespace(w, "")
		a.mu.Unlock()
		if w.Managed || w.Process != (model.Process{}) {
			a.removeFiles(name)
		}
		a.flush(ctx, published)
		a.event("detached", "workload/"+name, "", changed.Steps...)
	}
	return changed, nil
}

// forcedStop is how long a command has between TERM and KILL when its workload is removed by force.
const forcedStop = time.Second

func (a *Agent) unshared(name string) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.removable(a.state.view.Workloads[name], true)
}

func (a *Agent) removable(w model.Workload, stopped bool) error {
	if w.ByRuntime() && !stopped {
		return byRuntime(w, fmt.Sprintf("workload %q is a container of a container runtime", w.Name),
			model.Problem{Fix: "remove it with its runtime; --force takes its network away and leaves it running without", Example: "flatnet rm --force " + w.Name})
	}
	if running(w) && !stopped {
		return model.Problem{Code: model.CodeInUse, Reason: fmt.Sprintf("workload %q runs", w.Name), Owner: fmt.Sprintf("process %d: %s", w.Process.PID, w.Process.Command),
			Fix: "stop it first", Example: "flatnet stop " + w.Name}
	}
	if users := a.users(w.Name); len(users) > 0 {
		return model.Problem{Code: model.CodeInUse, Reason: fmt.Sprintf("others share the namespace of workload %q", w.Name), Owner: listed(users),
			Fix: "remove those first"}
	}
	return nil
}

// users are the workloads that share another's namespace and have not ended.
func (a *Agent) users(name string) []string {
	var list []string
	for other := range a.state.joined[name] {
		if !a.state.view.Workloads[other].Process.Exited {
			list = append(list, fmt.Sprintf("workload %q", other))
		}
	}
	slices.Sort(list)
	return list
}

func running(w model.Workload) bool { return w.Process.PID != 0 && !w.Process.Exited }

// forwardsTo are all forwards that end in a workload.
func (a *Agent) forwardsTo(w model.Workload) []model.Forward {
	list := slices.Clone(w.Forwards)
	for _, f := range a.state.view.Forwards {
		if f.Workload == w.Name {
			list = append(list, f)
		}
	}
	return list
}
