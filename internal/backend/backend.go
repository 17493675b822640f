// Package backend holds the ways in which packets travel between the nodes of a cluster network: one pure function each, from who
// holds which block to the kernel objects that a node must have for it. A new one is a file, a line in Of and golden cases.
package backend

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// Place is a node as one network sees it.
type Place struct {
	Network model.Network // as the node has it: its blocks are the subnets
	Self    model.Member
	MAC     model.MAC  // of the node's own tunnel link; zero: derived
	Host    model.Node // links and routes of the node
}

// Peer is another node with the blocks of the network that it holds.
type Peer struct {
	Member model.Member
	Leases []model.Lease
}

// Backend is one way.
type Backend struct {
	// Device is what the node needs for the network whatever the peers are; it also takes what comes.
	Device func(Place) []dataplane.Object

	// Peer is what the node needs to send to a peer. An error, of model.Problem, is about blocks that are not reached; the objects are
	// those for the others.
	Peer func(Place, Peer) ([]dataplane.Object, error)
}

// Of is the backend of that name.
func Of(name model.Backend) (Backend, bool) {
	switch name {
	case model.HostGW:
		return Backend{Device: func(Place) []dataplane.Object { return nil }, Peer: hostGW}, true
	case model.VXLAN:
		return Backend{Device: vxlanDevice, Peer: vxlan}, true
	}
	return Backend{}, false
}

// source is the node's own address on the network, of the family of a block: what its workloads' peers see of the node itself.
func (p Place) source(block netip.Prefix) netip.Addr {
	if p.Network.ForeignBridge() {
		return netip.Addr{} // whether there is a bridge is the other program's business: see endpoints
	}
	for _, s := range p.Network.Subnets {
		if s.Gateway.Is6() == block.Addr().Is6() {
			return s.Gateway
		}
	}
	return netip.Addr{}
}

// narrow is the MTU of a route to a peer whose underlay takes less than the node's own; else zero.
func (p Place) narrow(peer model.Member, overhead int) int {
	link, _ := p.Host.Has(p.Self.Underlay(p.Network.Cluster.UnderlayV6))
	own, ok := p.Host.Link(link)
	if !ok || peer.MTU == 0 || peer.MTU >= own.MTU {
		return 0
	}
	return peer.MTU - overhead
}

// onLink is the link by which the node reaches an address without a router.
func (p Place) onLink(a netip.Addr) (link string, ok bool) {
	best := model.HostRoute{}
	found := false
	for _, r := range p.Host.Routes {
		if r.Dest.Contains(a) && (!found || r.Dest.Bits() > best.Dest.Bits() || r.Dest.Bits() == best.Dest.Bits() && r.Metric < best.Metric) {
			best, found = r, true
		}
	}
	return best.Link, found && !best.Via.IsValid()
}

// each makes the objects of every block, and joins the reasons of those that cannot be reached.
func each(peer Peer, one func(model.Lease) ([]dataplane.Object, error)) ([]dataplane.Object, error) {
	var objects []dataplane.Object
	var errs []error
	for _, l := range peer.Leases {
		made, err := one(l)
		objects = append(objects, made...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return objects, errors.Join(errs...)
}

func noUnderlay(network string, m model.Member, v6 bool) error {
	word := "IPv4"
	if v6 {
		word = "IPv6"
	}
	return model.Problem{Code: model.CodeNotOnLink, Reason: fmt.Sprintf("network %q: node %q has no %s underlay address", network, m.Name, word), Owner: "node " + m.ID,
		Fix: "give the node one, or let the network go by the other family"}
}
