package agent

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/render"
)

// reachesAll refuses a backend that would leave nodes unreached from this one, as host-gw does with those that are not on a common link. Other
// nodes may miss others: each says so in its own diagnosis.
func (a *Agent) reachesAll(old, n model.Network, force bool) error {
	if force || !n.Active || n.Cluster.Backend == old.Cluster.Backend {
		return nil
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	v := a.state.view
	n.Subnets = v.Networks[n.Name].Subnets
	v.Networks = maps.Clone(v.Networks)
	v.Networks[n.Name] = n
	var missed []string
	for at, leases := range a.state.holders {
		if at.Network != n.Name {
			continue
		}
		var list []model.Lease
		for _, l := range leases {
			list = append(list, l)
		}
		if _, err := render.Peer(v, n.Name, at.Node, list); err != nil {
			m := v.Members[at.Node]
			missed = append(missed, fmt.Sprintf("%s (%s)", printable(nodeName(v, at.Node)), strings.Join(texts(m.Underlays()), ", ")))
		}
	}
	if len(missed) == 0 {
		return nil
	}
	slices.Sort(missed)
	return model.Problem{Code: model.CodeNotOnLink, Path: "spec.cluster.backend", Reason: fmt.Sprintf("%d of the hosts would not be reached from this one with backend %s", len(missed), n.Cluster.Backend),
		Owner: "hosts " + listed(missed), Fix: "use a tunnel, and none to hosts on a common link; or --force, and what runs there is cut off", Example: fmt.Sprintf("flatnet net set %s --backend vxlan --direct-routing", n.Name)}
}

// uses are the cluster networks that workloads of this host are on, as it tells the others. The caller holds Agent.mu.
func (s *state) uses() string {
	var names []string
	for name, n := range s.view.Networks {
		if n.Mode == model.Cluster && len(s.used[name]) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ",")
}

// usedElsewhere are the hosts that say that workloads of theirs are on a network of the cluster.
func (a *Agent) usedElsewhere(n model.Network) []string {
	var names []string
	v := a.view()
	for id, m := range v.Members {
		if n.Mode == model.Cluster && id != v.Self && m.IsOn(n.Name) {
			names = append(names, "host "+printable(nodeName(v, id)))
		}
	}
	slices.Sort(names)
	return names
}

// fitsUnderlay refuses an MTU that is more than the underlay's link takes: every large packet would be lost, with nobody to say so.
func (r *networkReader) fitsUnderlay(n model.Network) model.Problems {
	link, known := r.view.UnderlayLink(n)
	fits := link.MTU - n.Cluster.Overhead()
	if n.Mode != model.Cluster || !known || n.MTU <= fits || r.old != nil && r.old.MTU == n.MTU && r.old.Cluster.Overhead() >= n.Cluster.Overhead() {
		return nil
	}
	return model.Problems{{Code: model.CodeMTU, Path: "spec.mtu", Reason: fmt.Sprintf("MTU %d does not fit through %s, which takes %d bytes less %d of the tunnel", n.MTU, link.Name, link.MTU, n.Cluster.Overhead()),
		Owner: "larger packets between hosts would be lost", Fix: fmt.Sprintf("at most %d; 0 follows the underlay. Or make the underlay's links take more on all hosts first", fits), Example: fmt.Sprintf("--mtu %d", fits)}}
}

// keptOff says why a network that the cluster has started is not on this host; ok is false when that is not so.
func (a *Agent) keptOff(n model.Network) (model.Problem, bool) {
	if n.Mode != model.Cluster || n.Active || a.fabric == nil {
		return model.Problem{}, false
	}
	stored, there := a.fabric.seen.Networks[n.Name]
	if !there || !stored.Active {
		return model.Problem{}, false
	}
	p := model.Problem{Code: model.CodeInactive, Reason: fmt.Sprintf("network %q is started in the cluster, and not on this host", n.Name)}
	if self := a.fabric.seen.Members[a.fabric.seen.Self]; !stored.Cluster.On(self) {
		p.Owner = "it is on " + listed(stored.Cluster.Nodes) + " only"
		p.Fix = "name this host as well, on a server; or --node none for all"
		p.Example = fmt.Sprintf("flatnet net set %s --node %s", n.Name, strings.Join(append(slices.Clone(stored.Cluster.Nodes), nodeName(a.view(), a.fabric.seen.Self)), ","))
		return p, true
	}
	p.Owner, p.Fix = a.unfit[n.Name], "move what is in its way: it starts here by itself then"
	return p, p.Owner != ""
}
