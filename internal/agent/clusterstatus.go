package agent

import (
	"fmt"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/render"
)

// asStored is a network as it is asked for. One of the cluster is not what this host made of it: it has no blocks, and it is active also
// where a host has no part in it. The caller has the token, or Agent.mu at least for reading.
func (a *Agent) asStored(n model.Network) model.Network {
	if n.Mode != model.Cluster {
		return n
	}
	if a.fabric != nil {
		if s, ok := a.fabric.seen.Networks[n.Name]; ok {
			return s.At(nil)
		}
	}
	return n.At(nil)
}

// keepsBlocks refuses to take the ground from under blocks that nodes hold.
func (a *Agent) keepsBlocks(n model.Network) model.Problems {
	var held []string
	v := a.view()
	for key, l := range v.Leases {
		pool, _ := n.Cluster.Pool(key.Block.Addr())
		if _, isBlock := pool.Index(key.Block); key.Network == n.Name && !isBlock {
			held = append(held, fmt.Sprintf("%s of %s", key.Block, nodeName(v, l.Node)))
		}
	}
	if len(held) == 0 {
		return nil
	}
	slices.Sort(held)
	return model.Problems{{Code: model.CodeInUse, Path: "spec.cluster.pools", Reason: fmt.Sprintf("nodes hold blocks of network %q that these pools do not have", n.Name),
		Owner: "blocks " + listed(held), Fix: "name the pools of now as well: new ones may be added at any time; or make another network"}}
}

func nodeName(v model.View, id string) string {
	if m, ok := v.Members[id]; ok && m.Name != "" {
		return m.Name
	}
	return id
}

// describeCluster adds what only networks of the cluster have.
func (a *Agent) describeCluster(n model.Network, d *api.Network) {
	stored := a.asStored(n)
	if sameNetwork(stored, withActive(n.At(nil), stored.Active)) { // else it is one that might be
		d.Spec = networkSpec(stored)
	}
	d.Status.Scope, d.Status.Nodes, d.Status.Also, d.Status.MTUNote = "cluster", a.describeNodes(n), string(n.Cluster.Also), mtuNote(a.state.view, n)
}

func withActive(n model.Network, active bool) model.Network {
	n.Active = active
	return n
}

// mtuNote is the sum that a cluster network's MTU is.
func mtuNote(v model.View, n model.Network) string {
	if n.MTU != 0 {
		return ", as set; 0 follows the underlay"
	}
	var of string
	overhead := n.Cluster.Overhead()
	if link, ok := v.UnderlayLink(n); ok {
		of = fmt.Sprintf("%d of %s", link.MTU, link.Name)
	} else {
		of = fmt.Sprintf("%d, as the underlay's link is not known", v.MTU(n)+overhead)
	}
	if overhead == 0 {
		return of + ", as host-gw adds nothing"
	}
	outer := "IPv4 20"
	if n.Cluster.UnderlayV6 {
		outer = "IPv6 40"
	}
	note := fmt.Sprintf("%s less %d: %s, UDP 8, VXLAN 8, Ethernet 14", of, overhead, outer)
	if n.Cluster.Backend != model.VXLAN {
		note += ", until vxlan is gone"
	}
	return note
}

// describeNodes says who holds which blocks of a cluster network, and who is not reached.
func (a *Agent) describeNodes(n model.Network) []api.NodeBlocks {
	v := a.state.view
	var list []api.NodeBlocks
	for id, m := range v.Members {
		if !n.Cluster.On(m) {
			continue
		}
		d := api.NodeBlocks{ID: id, Name: m.Name, Underlay: texts(m.Underlays()), Self: id == v.Self, Problem: a.state.refused[render.PeerPart(n.Name, id)]}
		if a.fabric != nil {
			d.Alive = a.fabric.seen.Alive[id]
		}
		for _, l := range a.state.holders[model.Holder{Network: n.Name, Node: id}] {
			d.Blocks = append(d.Blocks, l.Block.String())
		}
		list = append(list, d)
	}
	list = append(list, a.unsoundNodes()...)
	slices.SortFunc(list, func(a, b api.NodeBlocks) int { return strings.Compare(a.Name+" "+a.ID, b.Name+" "+b.ID) })
	return list
}

// unsoundNodes are those whose description of themselves cannot be used.
func (a *Agent) unsoundNodes() []api.NodeBlocks {
	if a.fabric == nil {
		return nil
	}
	var list []api.NodeBlocks
	for what, why := range a.fabric.seen.Refused {
		if id, ok := strings.CutPrefix(what, "node "); ok {
			list = append(list, api.NodeBlocks{ID: id, Problem: why, Self: id == a.state.view.Self, Alive: a.fabric.seen.Alive[id]})
		}
	}
	return list
}
