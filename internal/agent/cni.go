package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// Attach makes the endpoints of one CNI ADD: in the workload that the namespace is, or in a new one. For an attachment that is there
// already it does nothing, and made is false. When there is an error nothing was made. The namespace is open for this call only: nothing
// of it is kept.
func (a *Agent) Attach(ctx context.Context, id model.Attachment, spec api.WorkloadSpec, ns *os.File) (at api.Workload, made bool, err error) {
	if err := a.begin(ctx); err != nil {
		return at, false, err
	}
	defer a.end()
	identity, back, err := a.lend(spec.Netns, ns)
	if err != nil {
		return at, false, err
	}
	defer back()
	made = !a.isAttached(id, identity)
	w, err := a.attach(ctx, id, spec, identity)
	if err != nil && a.grow(ctx, err, w) {
		w, err = a.attach(ctx, id, spec, identity)
	}
	for lost := 0; lost < mostLost && errors.As(err, new(*heldError)); lost++ {
		w, err = a.attach(ctx, id, spec, identity)
	}
	if err != nil {
		return at, false, err
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.describeWorkload(w), made, nil
}

func (a *Agent) isAttached(id model.Attachment, identity string) bool {
	name, there := a.state.added[linkOf(id)]
	return there && a.namespace[name] == identity
}

// lend takes an open namespace that is to stand for its path until back is called.
func (a *Agent) lend(path string, ns *os.File) (string, func(), error) {
	bad := model.Problem{Code: model.CodeNetns, Path: "netns", Fix: "the path of the container's network namespace", Example: "/run/netns/web"}
	identity, back, err := a.deps.Namespaces.Lend(path, ns)
	if err != nil {
		bad.Reason = fmt.Sprintf("%s is not a network namespace: %s", path, err)
		return "", nil, bad
	}
	if own, err := a.deps.Namespaces.Own(); err != nil || own == identity {
		back()
		bad.Reason, bad.Fix = fmt.Sprintf("%s is the host's own namespace", path), "a container on the host's own network is not attached at all"
		return "", nil, bad
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state.lent[path]++
	return identity, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.state.lent[path]--; a.state.lent[path] == 0 {
			delete(a.state.lent, path)
		}
		back()
	}, nil
}

// attach is Attach by who has the token, and the namespace.
func (a *Agent) attach(ctx context.Context, id model.Attachment, spec api.WorkloadSpec, identity string) (model.Workload, error) {
	if err := a.evict(ctx, id, spec.Netns, identity); err != nil {
		return model.Workload{}, err
	}
	w, known := a.inNamespace(identity)
	if known && slices.ContainsFunc(w.Endpoints, func(e model.Endpoint) bool { return linkOf(e.Attachment) == linkOf(id) }) {
		return w, nil
	}
	if !known {
		if err := a.notManaged(spec.Netns, identity); err != nil {
			return model.Workload{}, err
		}
		w = model.Workload{Runtime: true, Name: a.containerName(spec.Name, id.Container), Netns: spec.Netns, NetnsID: identity, Labels: maps.Clone(spec.Labels), Created: a.deps.Now().UTC(),
			Unseen: !a.sees(spec.Netns, identity)}
	}
	w, added, err := a.withAttachment(ctx, w, id, spec)
	if err != nil {
		return added, err
	}
	steps, err := a.commit(ctx, putWorkload(w), false)
	if err != nil {
		return added, fmt.Errorf("workload %q: %w", w.Name, err)
	}
	a.cameToBe(ctx, w, added, identity, steps)
	return w, nil
}

// evict takes away what is in the way of an attachment and has ended: the workload of another namespace that stood at the path, and an
// attachment of that name in another namespace, whose DEL was lost.
func (a *Agent) evict(ctx context.Context, id model.Attachment, path, identity string) error {
	if name, taken := a.state.netns[path]; taken && a.namespace[name] != identity {
		w := a.view().Workloads[name]
		if !w.ByRuntime() {
			return model.Problem{Code: model.CodeInUse, Path: "netns", Reason: fmt.Sprintf("namespace %s is a workload's already", path), Owner: fmt.Sprintf("workload %q", name), Fix: "remove that workload first", Example: "flatnet rm " + name}
		}
		if err := a.release(ctx, w, "another namespace stands at "+path); err != nil {
			return err
		}
	}
	if name, there := a.state.added[linkOf(id)]; there && a.namespace[name] != identity {
		return a.detach(ctx, id)
	}
	return nil
}

// inNamespace is the workload that a namespace is.
func (a *Agent) inNamespace(identity string) (model.Workload, bool) {
	for name, other := range a.namespace {
		if other == identity {
			return a.view().Workloads[name], true
		}
	}
	return model.Workload{}, false
}

// sees reports whether a path leads to the namespace from where the daemon is, too.
func (a *Agent) sees(path, identity string) bool {
	found, err := a.deps.Namespaces.Identify(path)
	return err == nil && found == identity
}

// containerName is the name of a container's workload: the one asked for, with a part of the container's own when that cannot be had.
func (a *Agent) containerName(asked, container string) string {
	const room, mark = 63, 12 // bytes of a name; of a random ID, as docker shows them
	short := container
	if len(container) >= 2*mark && isHex(container) {
		short = container[:mark]
	}
	short = short[:min(room/2, len(short))]
	free := func(name string) bool {
		_, taken := a.view().Workloads[name]
		_, bad := model.CheckName("workload", name)
		return !taken && !bad
	}
	asked = strings.TrimRight(asked[:min(room-len(short)-1, len(asked))], "-._")
	for _, name := range []string{asked, short, asked + "-" + short, container[:min(room, len(container))]} {
		if free(name) && (name != short || asked == "") {
			return name
		}
	}
	return makeName(func(name string) bool { return !free(name) })
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// byRuntime is the problem of who would take a container's network away, or end it, in its runtime's place.
func byRuntime(w model.Workload, reason string, fix model.Problem) model.Problem {
	fix.Code, fix.Reason = model.CodeInUse, reason
	for _, e := range w.Endpoints {
		fix.Owner = fmt.Sprintf("container %s of the CNI configuration %q", short(e.Attachment.Container), e.Attachment.Config)
	}
	return fix
}

// withAttachment is the workload with the endpoints and published ports of an attachment more, and those alone.
func (a *Agent) withAttachment(ctx context.Context, w model.Workload, id model.Attachment, spec api.WorkloadSpec) (all, added model.Workload, err error) {
	if len(spec.Endpoints) == 0 {
		spec.Endpoints = []api.EndpointSpec{{}}
	}
	spec.Endpoints = slices.Clone(spec.Endpoints)
	for i := range spec.Endpoints {
		e := &spec.Endpoints[i]
		if e.Network == "" {
			if e.Network, err = a.networkOfContainers(); err != nil {
				return w, added, err
			}
		}
		if e.IfName == "" && i == 0 {
			e.IfName = id.IfName
		}
	}
	nameLinks(w, spec.Endpoints)
	spec.Name = w.Name
	r := workloadReader{view: a.view(), netnsDir: a.config.NetnsDir}
	added = r.read(spec)
	for i := range added.Endpoints {
		added.Endpoints[i].Attachment = id
	}
	was, published := len(w.Endpoints), len(w.Forwards)
	w.Endpoints = slices.Concat(w.Endpoints, added.Endpoints)
	w.Forwards = slices.Concat(w.Forwards, added.Forwards)
	problems := append(r.problems, asRequested(append(model.ValidateWorkload(a.view(), w), a.inactive(w)...), was, published)...)
	if len(problems) > 0 {
		return w, added, problems.Err()
	}
	if err := a.checkPorts(ctx, "publish", added.Forwards); err != nil {
		return w, added, err
	}
	if err := a.allocate(&added); err != nil {
		return w, added, err
	}
	copy(w.Endpoints[was:], added.Endpoints)
	return w, added, nil
}

// nameLinks gives each endpoint that has no link's name the first of net1, net2, … that is not in use: eth1 may be what the runtime asks for
// with its next ADD.
func nameLinks(w model.Workload, specs []api.EndpointSpec) {
	taken := map[string]bool{}
	for _, e := range w.Endpoints {
		taken[e.IfName] = true
	}
	for _, e := range specs {
		taken[e.IfName] = true
	}
	for i, n := 0, 1; i < len(specs); i++ {
		for ; specs[i].IfName == ""; n++ {
			if name := fmt.Sprintf("net%d", n); !taken[name] {
				specs[i].IfName, taken[name] = name, true
			}
		}
	}
}

// asRequested numbers the endpoints and ports in problems as the request did, which is about those after what was there already.
func asRequested(problems model.Problems, endpoints, publish int) model.Problems {
	for i := range problems {
		for list, before := range map[string]int{"endpoints": endpoints, "publish": publish} {
			var n int
			if _, err := fmt.Sscanf(problems[i].Path, list+"[%d]", &n); err == nil && n >= before {
				problems[i].Path = strings.Replace(problems[i].Path, fmt.Sprintf("[%d]", n), fmt.Sprintf("[%d]", n-before), 1)
			}
		}
	}
	return problems
}

// networkOfContainers is where a CNI configuration that names no network attaches: the only network of the cluster; without a cluster the
// only network, or the default one.
func (a *Agent) networkOfContainers() (string, error) {
	var clusters []string
	all := a.view().Networks
	all = maps.Clone(all)
	for name, n := range all {
		switch {
		case n.Mode == model.Cluster && a.fabric == nil:
			delete(all, name) // of a cluster that this host has left
		case n.Mode == model.Cluster:
			clusters = append(clusters, name)
		}
	}
	slices.Sort(clusters)
	_, standard := all[DefaultNetwork]
	switch {
	case len(clusters) == 1:
		return clusters[0], nil
	case len(clusters) > 1:
		return "", model.Problem{Code: model.CodeNotFound, Path: "network", Reason: "the cluster has several networks, and the CNI configuration names none", Owner: listed(clusters),
			Fix: "name one in it", Example: fmt.Sprintf("{\"type\": \"flatnet\", \"network\": %q}", clusters[0])}
	case len(all) == 1:
		return slices.Collect(maps.Keys(all))[0], nil
	case standard:
		return DefaultNetwork, nil
	}
	return "", model.Problem{Code: model.CodeNotFound, Path: "network", Reason: "the CNI configuration names no network, and there is none by default", Owner: listed(slices.Sorted(maps.Keys(all))),
		Fix: "name one in it, or make one", Example: "flatnet net create " + DefaultNetwork}
}

// cameToBe does what follows an attachment that came.
func (a *Agent) cameToBe(ctx context.Context, w, added model.Workload, identity string, steps []api.Step) {
	a.forgetFormer(ctx, added)
	a.mu.Lock()
	a.state.gave(added)
	a.isNamespace(w, identity)
	a.mu.Unlock()
	if w.Managed {
		a.writeFiles(w)
	}
	a.flush(ctx, added.Forwards)
	a.event("attached", "workload/"+w.Name, addrText(added), steps...)
}

// Detach takes away what a CNI ADD made; what is not there is no error. The workload goes with its last endpoint.
func (a *Agent) Detach(ctx context.Context, id model.Attachment) error {
	if err := a.begin(ctx); err != nil {
		return err
	}
	defer a.end()
	return a.detach(ctx, id)
}

func (a *Agent) detach(ctx context.Context, id model.Attachment) error {
	name, there := a.state.added[linkOf(id)]
	if !there {
		return nil
	}
	w := a.view().Workloads[name]
	of := func(e model.Endpoint) bool { return linkOf(e.Attachment) == linkOf(id) }
	stays := slices.ContainsFunc(w.Endpoints, func(e model.Endpoint) bool { return !of(e) })
	if !stays && !w.Managed && len(a.users(name)) == 0 {
		return a.release(ctx, w, "")
	}
	e, gone := a.withoutEndpoints(w, of)
	steps, err := a.commit(ctx, e, false)
	if err != nil {
		return fmt.Errorf("workload %q: %w", name, err)
	}
	a.wentAway(ctx, gone)
	if now := *e.workloads[name]; now.Managed {
		a.writeFiles(now)
	}
	a.event("disconnected", "workload/"+name, id.IfName, steps...)
	return nil
}

// withoutEndpoints is the edit that takes some endpoints from a workload with what is published by them, and the workload as far as it goes.
func (a *Agent) withoutEndpoints(w model.Workload, of func(model.Endpoint) bool) (e edit, gone model.Workload) {
	gone = w
	gone.Endpoints, gone.Forwards = nil, nil
	e = putWorkload(w)
	for _, end := range w.Endpoints {
		if !of(end) {
			continue
		}
		gone.Endpoints = append(gone.Endpoints, end)
		published := a.forwardsBy(w, end.Network)
		gone.Forwards = append(gone.Forwards, published...)
		without := a.withoutEndpoint(*e.workloads[w.Name], end.Network, published)
		without.forwards = joinMaps(without.forwards, e.forwards)
		e = without
	}
	return e, gone
}

func joinMaps[K comparable, V any](a, b map[K]V) map[K]V {
	if a == nil {
		return b
	}
	maps.Copy(a, b)
	return a
}

// release forgets a workload that a CNI runtime made, for a reason other than the runtime's word if there is one.
func (a *Agent) release(ctx context.Context, w model.Workload, why string) error {
	a.mu.RLock()
	w.Forwards = a.forwardsTo(w)
	a.mu.RUnlock()
	steps, err := a.commit(ctx, deleteWorkload(w.Name), false)
	if err != nil {
		return fmt.Errorf("workload %q: %w", w.Name, err)
	}
	a.mu.Lock()
	a.isNamespace(w, "")
	a.mu.Unlock()
	a.wentAway(ctx, w)
	a.event("detached", "workload/"+w.Name, why, steps...)
	return nil
}

// dropEmpty forgets workloads that a CNI runtime made and an edit, not of the runtime, has left without any endpoint.
func (a *Agent) dropEmpty(ctx context.Context, e edit) {
	for name, w := range e.workloads {
		if w == nil || !w.ByRuntime() || len(w.Endpoints) > 0 || len(a.users(name)) > 0 {
			continue
		}
		if err := a.release(ctx, *w, "it is on no network any more"); err != nil {
			a.deps.Log.Warn("forget a container without a network", "workload", name, "err", err)
		}
	}
}

// wentAway does what follows endpoints that went. Nothing remembers whose their addresses were, so that the host is to ask anew when
// somebody else has them.
func (a *Agent) wentAway(ctx context.Context, gone model.Workload) {
	a.flush(ctx, gone.Forwards)
	for _, e := range gone.Endpoints {
		a.forgetNeighbours(ctx, e)
	}
}

// Check says what has drifted of an attachment, as an error, or else what it is.
func (a *Agent) Check(ctx context.Context, id model.Attachment, ns *os.File) (api.Workload, error) {
	if err := a.begin(ctx); err != nil {
		return api.Workload{}, err
	}
	defer a.end()
	name, there := a.state.added[linkOf(id)]
	if !there {
		return api.Workload{}, model.Problem{Code: model.CodeNotFound, Reason: fmt.Sprintf("container %s has no attachment %s", short(id.Container), id.IfName), Fix: "attach it anew: DEL, then ADD"}
	}
	w := a.view().Workloads[name]
	identity, back, err := a.lend(w.Netns, ns)
	if err != nil {
		return api.Workload{}, err
	}
	defer back()
	if identity != a.namespace[name] {
		return api.Workload{}, model.Problem{Code: model.CodeNetns, Reason: fmt.Sprintf("another namespace than the one that was attached stands at %s", w.Netns), Owner: fmt.Sprintf("workload %q", name), Fix: "attach it anew: DEL, then ADD"}
	}
	part, err := a.state.workloadPart(name)
	if err != nil {
		return api.Workload{}, err
	}
	drift, err := a.rec.DriftOf(ctx, part)
	if err != nil {
		return api.Workload{}, err
	}
	if len(drift) > 0 {
		return api.Workload{}, model.Problem{Code: model.CodeDrifted, Reason: fmt.Sprintf("workload %q is not as it was made; what would mend it:\n%s", name, commandLines(steps(drift))), Fix: "attach it anew: DEL, then ADD"}
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.describeWorkload(w), nil
}

// Collect takes away all attachments of a configuration but the valid ones: CNI's GC. It goes on after an error.
func (a *Agent) Collect(ctx context.Context, config string, valid []model.Attachment) error {
	if err := a.begin(ctx); err != nil {
		return err
	}
	defer a.end()
	stay := map[containerLink]bool{}
	for _, id := range valid {
		stay[linkOf(id)] = true
	}
	var errs []error
	for _, id := range a.attachmentsOf(config) {
		if !stay[linkOf(id)] {
			errs = append(errs, a.detach(ctx, id))
		}
	}
	return errors.Join(errs...)
}

// attachmentsOf are those of one configuration, in order.
func (a *Agent) attachmentsOf(config string) []model.Attachment {
	found := map[model.Attachment]bool{}
	for _, name := range a.state.added {
		for _, e := range a.view().Workloads[name].Endpoints {
			if e.Attachment.Config == config && e.Attachment != (model.Attachment{}) {
				found[e.Attachment] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(x, y model.Attachment) int {
		return strings.Compare(x.Container+" "+x.IfName, y.Container+" "+y.IfName)
	})
}

// Serves says why an ADD on the networks would fail, as an error: CNI's STATUS. None named is that of containers.
func (a *Agent) Serves(ctx context.Context, networks []string) error {
	if err := a.begin(ctx); err != nil {
		return err
	}
	defer a.end()
	if len(networks) == 0 {
		networks = []string{""}
	}
	var problems model.Problems
	for _, name := range networks {
		problems = append(problems, asProblems(a.serves(name), "")...)
	}
	return problems.Err()
}

func (a *Agent) serves(name string) (err error) {
	if name == "" {
		if name, err = a.networkOfContainers(); err != nil {
			return err
		}
	}
	if _, known := a.view().Networks[name]; !known {
		return notFound("network", name, a.view().Networks)
	}
	probe := model.Workload{Name: "status", Endpoints: []model.Endpoint{{Network: name, IfName: "eth0", Attachment: model.Attachment{Container: "status"}}}}
	if problems := append(model.ValidateWorkload(a.view(), probe), a.inactive(probe)...); len(problems) > 0 {
		return problems.Err()
	}
	if reason, broken := a.broken[name]; broken {
		return model.Problem{Code: model.CodeKernelRefused, Reason: fmt.Sprintf("network %q: %s", name, reason), Fix: "see flatnet doctor"}
	}
	return a.allocate(&probe)
}

// commandLines are steps as one would type them, one a line.
func commandLines(list []api.Step) string {
	lines := make([]string, len(list))
	for i, s := range list {
		lines[i] = s.Command
	}
	return strings.Join(lines, "\n")
}
