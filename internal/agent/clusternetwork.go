package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// putCluster makes the cluster have a network, based on what this host last saw of it. The caller has the token, which is given back
// while the network comes round by the store.
func (a *Agent) putCluster(ctx context.Context, n model.Network, dryRun bool, event string) (api.Changed[api.Network], error) {
	changed := api.Changed[api.Network]{DryRun: dryRun, Steps: []api.Step{}}
	m, err := a.inCluster()
	if err != nil {
		return changed, err
	}
	if ps := a.keepsBlocks(n); len(ps) > 0 {
		return changed, ps
	}
	old, base := m.seen.Networks[n.Name], m.seen.Version(n.Name) // what n was made of: who has written since is not written over
	what := inCommon(old, n)
	here := n.At(m.seen.Blocks(n.Name))
	here.Active = n.Active && n.Cluster.On(m.seen.Members[m.seen.Self])
	if changed.Steps, err = a.commit(ctx, putNetwork(here), true); err != nil {
		return changed, fmt.Errorf("network %q: %w", n.Name, err)
	}
	if !dryRun {
		if err := a.away(func() error { return a.writeNetwork(ctx, m, old, base, n) }); err != nil {
			return changed, fmt.Errorf("network %q: %w", n.Name, err)
		}
		a.event(event, "network/"+n.Name, "in the whole cluster"+what)
		here = a.view().Networks[n.Name]
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	changed.Object = a.describeNetwork(here)
	changed.Object.Spec = networkSpec(n)
	return changed, nil
}

// inCommon words what a change of a network is about; empty for a new one.
func inCommon(old, now model.Network) string {
	if old.Name == "" {
		return ""
	}
	var all []string
	say := func(what string, was, is any) {
		if was, is := fmt.Sprint(was), fmt.Sprint(is); was != is {
			all = append(all, fmt.Sprintf("%s %s, was %s", what, is, was))
		}
	}
	was, is := old.Cluster, now.Cluster
	say("active", old.Active, now.Active)
	say("backend", was.Backend, is.Backend)
	say("pools", poolWords(was), poolWords(is))
	say("VNI", was.VNI, is.VNI)
	say("port", was.Port, is.Port)
	say("IPv6 underlay", was.UnderlayV6, is.UnderlayV6)
	say("hosts", was.Nodes, is.Nodes)
	if len(all) == 0 {
		return ""
	}
	return ": " + strings.Join(all, "; ")
}

func poolWords(o model.Overlay) []string {
	var all []string
	for _, p := range o.Pools {
		all = append(all, fmt.Sprintf("%s:%d", p.Prefix, p.Bits))
	}
	return all
}

// writeNetwork writes a network over what it was made of and waits until it has come round. A backend that needs a device gets it on every
// node before the first of them sends by it.
func (a *Agent) writeNetwork(ctx context.Context, m *member, old model.Network, base store.Version, n model.Network) error {
	put := func(n model.Network) (err error) {
		base, err = m.write(ctx, store.PutNetwork(n, base), a.hasNetwork(m, n.Name))
		return err
	}
	if old.Name != "" && old.Cluster.Backend != n.Cluster.Backend && n.Cluster.Backend == model.VXLAN && !old.Cluster.Uses(model.VXLAN) {
		ready := n
		ready.Cluster.Backend, ready.Cluster.Also = old.Cluster.Backend, n.Cluster.Backend
		if err := put(ready); err != nil {
			return err
		}
		time.Sleep(readyTime) // also when nobody waits for the answer any more
	}
	err := put(n)
	if err == nil && n.Cluster.Also != "" {
		time.AfterFunc(alsoTime, func() { a.finish(n.Name, base) })
	}
	return err
}

const (
	readyTime = time.Second      // in which all nodes have heard of a change and followed it
	alsoTime  = 30 * time.Second // after which no node sends by the backend of before
)

// finishes ends changes of a backend whose authors did not come to it: whoever may write will do.
func (a *Agent) finishes(ctx context.Context) error {
	type change struct {
		network string
		written store.Version
	}
	since := map[change]time.Time{}
	for {
		pause(ctx, alsoTime)
		if ctx.Err() != nil {
			return nil
		}
		a.mu.RLock()
		m, old := a.fabric, since
		since = map[change]time.Time{}
		if m != nil {
			for name, n := range m.seen.Networks {
				if n.Cluster.Also == "" {
					continue
				}
				c := change{name, m.seen.Version(name)}
				if since[c] = old[c]; since[c].IsZero() {
					since[c] = time.Now()
				}
			}
		}
		a.mu.RUnlock()
		for c, begin := range since {
			if time.Since(begin) > 4*alsoTime {
				a.finish(c.network, c.written)
			}
		}
	}
}

// finish ends a change of the backend, unless the network was written again since.
func (a *Agent) finish(name string, written store.Version) {
	a.mu.RLock()
	m := a.fabric
	if m == nil || m.seen.Version(name) != written {
		a.mu.RUnlock()
		return
	}
	n := m.seen.Networks[name]
	a.mu.RUnlock()
	n.Cluster.Also = ""
	ctx, cancel := context.WithTimeout(context.Background(), clusterTime)
	defer cancel()
	if _, err := m.cluster.Write(ctx, store.PutNetwork(n, written)); err != nil {
		a.deps.Log.Warn("end a change of the backend", "network", name, "err", err)
	}
}

// dropCluster takes a network out of the cluster. The caller has the token, which is given back meanwhile.
func (a *Agent) dropCluster(ctx context.Context, name string) error {
	m, err := a.inCluster()
	if err != nil {
		return err
	}
	base := m.seen.Version(name)
	return a.away(func() error {
		_, err := m.write(ctx, store.Delete(store.Network, name, base), func(store.Version) bool {
			a.mu.RLock()
			defer a.mu.RUnlock()
			_, there := m.seen.Networks[name]
			return !there
		})
		return err
	})
}

// inCluster is this host's part in the cluster.
func (a *Agent) inCluster() (*member, error) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.fabric == nil {
		return nil, model.Problem{Code: model.CodeNoCluster, Reason: "this host is in no cluster", Fix: "found one, or join one: flatnet init; flatnet join ADDRESS --token TOKEN"}
	}
	return a.fabric, nil
}

// away does what waits for the cluster without the token, which it takes back.
func (a *Agent) away(do func() error) error {
	a.end()
	defer func() { a.op <- struct{}{} }()
	return a.nameServers(do())
}

// nameServers says where that can be done which is refused here.
func (a *Agent) nameServers(err error) error {
	var p model.Problem
	if a.place == nil || !errors.As(err, &p) || p.Code != model.CodeNotServer {
		return err
	}
	p.Owner = a.place.Servers(context.Background())
	return p
}

// write changes what the cluster has in common and waits until that has come round to this host.
func (m *member) write(ctx context.Context, c store.Change, arrived func(store.Version) bool) (store.Version, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clusterTime)
	defer cancel()
	written, err := m.cluster.Write(ctx, c)
	if err != nil {
		return "", clusterProblem(err)
	}
	for !arrived(written[0].Version) {
		select {
		case <-ctx.Done():
			return "", model.Problem{Code: model.CodeClusterAway, Reason: "it is written down, but has not come back to this host yet", Fix: "it will; see `flatnet host ls`"}
		case <-time.After(2 * time.Millisecond):
		}
	}
	return written[0].Version, nil
}

// clusterTime bounds a change of what the cluster has in common.
const clusterTime = 10 * time.Second

// hasNetwork reports whether a network is as it was written, or as it was since, and has its first blocks here: who asked for it may use it at
// once.
func (a *Agent) hasNetwork(m *member, name string) func(store.Version) bool {
	patience := time.Now().Add(clusterTime / 3)
	return func(written store.Version) bool {
		a.mu.RLock()
		defer a.mu.RUnlock()
		if _, there := m.seen.Networks[name]; !there || m.seen.Version(name).Before(written) {
			return false
		}
		here := a.state.view.Networks[name]
		return !here.Active || len(here.Subnets) > 0 || a.unfit[name] != "" || m.Why(name) != "" || time.Now().After(patience)
	}
}

func clusterProblem(err error) error {
	switch {
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrExists), errors.Is(err, store.ErrNotFound):
		return model.Problem{Code: model.CodeVersion, Reason: "somebody else changed it at the same moment: " + err.Error(), Fix: "look at it again, and repeat the change"}
	case errors.Is(err, store.ErrDenied):
		return model.Problem{Code: model.CodeNotServer, Reason: "what all nodes have in common is changed on the cluster's servers", Fix: "run the command there"}
	case errors.Is(err, store.ErrClosed):
		return model.Problem{Code: model.CodeClusterAway, Reason: "the connection to the cluster's store ended meanwhile, as this host's address changed or flatnetd ends", Fix: "see whether it was done, and repeat it otherwise"}
	case errors.Is(err, store.ErrAway), errors.Is(err, context.DeadlineExceeded):
		return model.Problem{Code: model.CodeClusterAway, Reason: "the cluster's store does not answer", Owner: store.WhyAway(err), Fix: "what runs goes on; repeat the change when `flatnet host ls` shows the servers again"}
	}
	return err
}

// cluster reads what only networks of mode cluster have.
func (r *networkReader) cluster(n *model.Network, spec *api.ClusterSpec) {
	if n.Mode != model.Cluster {
		if spec != nil {
			r.add(model.Problem{Code: model.CodeCluster, Path: "spec.cluster", Reason: fmt.Sprintf("mode %s has no settings of a cluster", n.Mode), Fix: "leave them out, or use mode cluster"})
		}
		return
	}
	if spec == nil {
		spec = &api.ClusterSpec{}
	}
	o := model.Overlay{Backend: model.Backend(spec.Backend), VNI: spec.VNI, Port: spec.Port, DirectRouting: spec.DirectRouting, NoChecksum: isFalse(spec.Checksum),
		UnderlayV6: spec.Underlay == "ipv6", Nodes: spec.Nodes}
	if o.Backend == "" {
		o.Backend = model.VXLAN
	}
	if o.Port == 0 {
		o.Port = model.DefaultVXLANPort
	}
	if o.VNI == 0 {
		o.VNI = r.freeVNI(n.Name)
	}
	if spec.Underlay != "" && spec.Underlay != "ipv4" && spec.Underlay != "ipv6" {
		r.add(model.Problem{Code: model.CodeCluster, Path: "spec.cluster.underlay", Reason: fmt.Sprintf("underlay %q is not known", short(spec.Underlay)), Fix: "ipv4 or ipv6"})
	}
	o.Pools = r.pools(*n, spec.Pools)
	for i, text := range spec.NoMasquerade {
		o.Keep = append(o.Keep, r.plainPrefix(fmt.Sprintf("spec.cluster.noMasquerade[%d]", i), text))
	}
	for i, v := range spec.Reserved {
		o.Reserved = append(o.Reserved, model.Reservation{Block: r.plainPrefix(fmt.Sprintf("spec.cluster.reserved[%d].block", i), v.Block), Node: r.memberID(v.Node)})
	}
	if r.old != nil && r.old.Mode == model.Cluster {
		o.Tunnel, o.Also = r.old.Cluster.Tunnel, r.old.Cluster.Also
		o.Inherited, o.ForeignBridge = r.old.Cluster.Inherited, r.old.Cluster.ForeignBridge
		if was := r.old.Cluster.Backend; was != o.Backend {
			o.Also = was
		}
	}
	n.Cluster = o
}

func (r *networkReader) plainPrefix(path, text string) netip.Prefix {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		r.add(model.Problem{Code: model.CodeCluster, Path: path, Reason: fmt.Sprintf("%q is not a prefix", short(text)), Fix: "an address, a slash and a number of bits", Example: "192.168.0.0/16"})
	}
	return p
}

// memberID is the id of the node that somebody calls by its name; what is no name of a node is taken as an id.
func (r *networkReader) memberID(name string) string {
	for id, m := range r.view.Members {
		if m.Name == name && name != "" {
			return id
		}
	}
	return name
}

func (r *networkReader) freeVNI(name string) uint32 {
	taken := map[uint32]bool{}
	for _, n := range r.view.Networks {
		if n.Name != name {
			taken[n.Cluster.VNI] = true
		} else if n.Cluster.VNI != 0 {
			return n.Cluster.VNI
		}
	}
	vni := uint32(model.DefaultVNI)
	for taken[vni] {
		vni++
	}
	return vni
}

// pools are those asked for, or what the network has, or one that is free: flannel's and Kubernetes' usual one if it can be.
func (r *networkReader) pools(n model.Network, specs []api.PoolSpec) []model.BlockPool {
	if len(specs) == 0 && r.old != nil && r.old.Mode == model.Cluster {
		return r.old.Cluster.Pools
	}
	if len(specs) == 0 {
		usual := model.BlockPool{Prefix: netip.MustParsePrefix("10.244.0.0/16"), Bits: 24}
		n.Cluster = model.Overlay{Pools: []model.BlockPool{usual}, Backend: model.VXLAN, VNI: 1, Port: 1}
		for _, p := range model.Validate(r.view, n) {
			if p.Code != model.CodeOverlapHost && p.Code != model.CodeOverlapNetwork {
				continue
			}
			for _, free := range model.FreeSubnets(r.view, model.Pools(r.seed), false, 16, 1) {
				return []model.BlockPool{{Prefix: free, Bits: 24}}
			}
		}
		return []model.BlockPool{usual}
	}
	var pools []model.BlockPool
	for i, s := range specs[:min(len(specs), model.MaxPools+1)] {
		p := r.plainPrefix(fmt.Sprintf("spec.cluster.pools[%d]", i), s.Subnet)
		pools = append(pools, model.BlockPool{Prefix: p, Bits: blockBits(p, s.Block)})
	}
	return pools
}

// blockBits is the length of a pool's blocks: as asked for, or a /24 or /64, or a quarter of a pool that is not four times as large.
func blockBits(pool netip.Prefix, asked int) int {
	usual := 24
	if pool.Addr().Is6() {
		usual = 64
	}
	if asked != 0 {
		return asked
	}
	return max(usual, pool.Bits()+2)
}

func clusterSpec(o model.Overlay) *api.ClusterSpec {
	spec := &api.ClusterSpec{Backend: string(o.Backend), VNI: o.VNI, Port: o.Port, DirectRouting: o.DirectRouting, Nodes: o.Nodes}
	for _, p := range o.Pools {
		spec.Pools = append(spec.Pools, api.PoolSpec{Subnet: p.Prefix.String(), Block: p.Bits})
	}
	for _, p := range o.Keep {
		spec.NoMasquerade = append(spec.NoMasquerade, p.String())
	}
	for _, v := range o.Reserved {
		spec.Reserved = append(spec.Reserved, api.ReservationSpec{Block: v.Block.String(), Node: v.Node})
	}
	if o.NoChecksum {
		spec.Checksum = new(bool)
	}
	if o.UnderlayV6 {
		spec.Underlay = "ipv6"
	}
	return spec
}

// mergeCluster puts what is asked for into the settings of a cluster network.
func mergeCluster(spec *api.ClusterSpec, e api.ClusterEdit) {
	set(&spec.Backend, e.Backend)
	set(&spec.VNI, e.VNI)
	set(&spec.Port, e.Port)
	set(&spec.Underlay, e.Underlay)
	set(&spec.DirectRouting, e.DirectRouting)
	spec.Checksum = cmp.Or(e.Checksum, spec.Checksum)
	setList(&spec.Pools, e.Pools)
	setList(&spec.NoMasquerade, e.NoMasquerade)
	setList(&spec.Nodes, e.Nodes)
	setList(&spec.Reserved, e.Reserved)
}
