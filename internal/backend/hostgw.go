package backend

import (
	"fmt"
	"net/netip"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// hostGW is a route a block, by way of its node: what a router would be told. Each family of blocks goes by its own family of
// underlay addresses.
func hostGW(p Place, peer Peer) ([]dataplane.Object, error) {
	return each(peer, func(l model.Lease) ([]dataplane.Object, error) {
		via := peer.Member.Underlay(l.Block.Addr().Is6())
		if !via.IsValid() {
			return nil, noUnderlay(p.Network.Name, peer.Member, l.Block.Addr().Is6())
		}
		link, ok := p.onLink(via)
		if !ok {
			return nil, model.Problem{Code: model.CodeNotOnLink, Reason: fmt.Sprintf("network %q: node %q at %s is not on a common link with this node: %s cannot be reached without a tunnel",
				p.Network.Name, peer.Member.Name, via, l.Block), Owner: "node " + peer.Member.ID,
				Fix: "use a tunnel; nodes on a common link can still go without", Example: fmt.Sprintf("flatnet net set %s --backend vxlan --direct-routing", p.Network.Name)}
		}
		return []dataplane.Object{direct(p, peer, l.Block, via, link)}, nil
	})
}

func direct(p Place, peer Peer, block netip.Prefix, via netip.Addr, link string) dataplane.Route {
	return dataplane.Route{Dest: block, Via: via, Link: link, Source: p.source(block), MTU: p.narrow(peer.Member, 0)}
}
