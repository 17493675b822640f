package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// consent is what somebody who edits a network agreed to beforehand.
type consent struct {
	renumber bool // endpoints get other addresses
	force    bool // forwards that the network cannot have any more go
}

// EditNetwork changes a network while workloads are on it.
func (a *Agent) EditNetwork(ctx context.Context, name string, e api.NetworkEdit, yes consent, dryRun bool) (api.Changed[api.Network], error) {
	changed := api.Changed[api.Network]{DryRun: dryRun, Steps: []api.Step{}}
	if err := a.begin(ctx); err != nil {
		return changed, err
	}
	defer a.end()
	old, ok := a.view().Networks[name]
	if !ok {
		return changed, notFound("network", name, a.view().Networks)
	}
	old = a.asStored(old)
	n, err := judged(ctx, a, func() (model.Network, error) { return readEdit(a.state, old, e) })
	if err != nil {
		return changed, err
	}
	if n.Mode == model.Cluster && !sameNetwork(old, n) {
		if err := a.reachesAll(old, n, yes.force); err != nil {
			return changed, err
		}
		return a.putCluster(ctx, n, dryRun, "changed")
	}
	if n.Mode != model.Cluster && !sameNetwork(old, n) {
		c, err := a.changing(a.view(), old, n, yes)
		if err != nil {
			return changed, err
		}
		if changed.Steps, err = a.commit(ctx, c.edit, dryRun); err != nil {
			return changed, fmt.Errorf("network %q: %w", name, err)
		}
		if !dryRun {
			a.changed(ctx, c)
			a.checkOverlaps()
			a.writeAllFiles()
			a.event("changed", "network/"+name, c.text(), changed.Steps...)
		}
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	if n.Mode == model.Cluster {
		n = a.view().Networks[name]
	}
	changed.Object = a.describeNetwork(n)
	return changed, nil
}

// readEdit is the network that an edit makes of one.
func readEdit(s *state, old model.Network, e api.NetworkEdit) (model.Network, error) {
	spec, problems := merged(networkSpec(old), e)
	if len(problems) > 0 {
		return old, problems.Err()
	}
	inherit(&spec, old, e, s.view.Node)
	meta := api.Metadata{Name: old.Name, Labels: maps.Clone(old.Labels)}
	if meta.Labels == nil && len(e.Labels) > 0 {
		meta.Labels = map[string]string{}
	}
	maps.Copy(meta.Labels, e.Labels)
	for _, k := range e.DropLabels {
		delete(meta.Labels, k)
	}
	r := networkReader{view: s.view, seed: s.seed, old: &old, fresh: e.Subnets != nil}
	if err := staysWhere(old, spec); err != nil {
		return old, err
	}
	n := r.read(meta, spec)
	n.Created = old.Created
	return n, r.check(n)
}

// staysWhere refuses to move a network between this host and the cluster.
func staysWhere(old model.Network, spec api.NetworkSpec) error {
	if was, now := old.Mode == model.Cluster, model.Mode(spec.Mode) == model.Cluster; was != now {
		return model.Problem{Code: model.CodeCluster, Path: "spec.mode", Reason: "a network of the cluster cannot become one of this host, nor the reverse",
			Fix: "make another network and connect the workloads to it", Example: "flatnet net create NAME --mode " + short(spec.Mode)}
	}
	return nil
}

// merged puts what is asked for into a spec.
func merged(spec api.NetworkSpec, e api.NetworkEdit) (api.NetworkSpec, model.Problems) {
	set(&spec.Mode, e.Mode)
	set(&spec.Bridge, e.Bridge)
	set(&spec.Uplink, e.Uplink)
	set(&spec.Masquerade, e.Masquerade)
	set(&spec.ProxyARP, e.ProxyARP)
	set(&spec.IsolatePorts, e.IsolatePorts)
	set(&spec.MTU, e.MTU)
	spec.HostAdapter = cmp.Or(e.HostAdapter, spec.HostAdapter)
	spec.Guard = cmp.Or(e.Guard, spec.Guard)
	spec.Autostart = cmp.Or(e.Autostart, spec.Autostart)
	setList(&spec.SNATIPs, e.SNATIPs)
	setList(&spec.DNS, e.DNS)
	setList(&spec.Subnets, e.Subnets)
	if e.Cluster != nil {
		if spec.Cluster == nil {
			spec.Cluster = &api.ClusterSpec{}
		}
		mergeCluster(spec.Cluster, *e.Cluster)
	}
	if e.NAT == nil {
		return spec, nil
	}
	return spec, switchNAT(&spec, e)
}

// set is for a field of which nil says that it stays.
func set[T any](field, asked *T) {
	if asked != nil {
		*field = *asked
	}
}

// setList is set for a list. An empty one is asked for, too.
func setList[T any](field *[]T, asked []T) {
	if asked != nil {
		*field = asked
	}
}

// switchNAT is VMware's "share the host's connection" and "take the NAT device away", and KVM's masquerade on a routed network.
func switchNAT(spec *api.NetworkSpec, e api.NetworkEdit) model.Problems {
	bad := func(reason, fix, example string) model.Problems {
		return model.Problems{{Code: model.CodeMode, Path: "nat", Reason: reason, Fix: fix, Example: example}}
	}
	mode := model.Mode(spec.Mode)
	switch {
	case e.Mode != nil || e.Masquerade != nil:
		return bad("nat says by itself what mode and masquerade are to be", "leave nat out, or those", "")
	case mode == model.Routed:
		spec.Masquerade = *e.NAT
	case *e.NAT && (mode == model.HostOnly || mode == model.Isolated):
		spec.Mode = string(model.NAT)
	case !*e.NAT && mode == model.NAT:
		spec.Mode = string(model.HostOnly)
	case *e.NAT && mode != model.NAT:
		return bad(fmt.Sprintf("mode %s has no NAT to switch on", mode), "choose the mode", "--mode nat")
	}
	return nil
}

// inherit takes out of a spec what comes from the network before and what the mode of now cannot have. What the edit asks for stays,
// and is refused where it does not fit.
func inherit(spec *api.NetworkSpec, old model.Network, e api.NetworkEdit, node model.Node) {
	n := model.Network{Mode: model.Mode(spec.Mode), Masquerade: spec.Masquerade, Uplink: spec.Uplink}
	bridging := (old.Mode == model.Bridged) != (n.Mode == model.Bridged) // then the uplink is another thing
	if e.Masquerade == nil && n.Mode != model.Routed {
		spec.Masquerade = false
	}
	if e.ProxyARP == nil && n.Mode != model.Routed {
		spec.ProxyARP = false
	}
	if e.SNATIPs == nil && !n.Translates() {
		spec.SNATIPs = nil
	}
	if e.HostAdapter == nil && !n.NeedsSubnet() {
		spec.HostAdapter = nil
	}
	hosts, _ := node.Link(spec.Bridge)
	borrows := e.Bridge != nil && n.Mode == model.Bridged && hosts.Bridge
	if e.Uplink == nil && (bridging || borrows || !n.Routes() && n.Mode != model.Bridged) {
		spec.Uplink = ""
	}
	if e.Bridge == nil && (old.BorrowsBridge() && (bridging || spec.Uplink != "") || !n.HasBridge()) {
		spec.Bridge = ""
	}
	if e.Subnets == nil && !n.NeedsSubnet() && (bridging || n.Mode != model.Bridged) {
		spec.Subnets = withoutGateways(spec.Subnets, old)
	}
}

// withoutGateways leaves out the gateways that the network has now.
func withoutGateways(subnets []api.SubnetSpec, old model.Network) []api.SubnetSpec {
	subnets = slices.Clone(subnets)
	for i, s := range subnets {
		was := slices.IndexFunc(old.Subnets, func(o model.Subnet) bool { return o.Prefix.String() == s.Subnet && text(o.Gateway) == s.Gateway })
		if was >= 0 {
			subnets[i].Gateway = ""
		}
	}
	return subnets
}
