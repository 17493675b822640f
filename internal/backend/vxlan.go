package backend

import (
	"fmt"
	"net/netip"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// vxlanDevice is the node's end of all tunnels of the network. What comes out of it may have a source that the node would answer
// by another link: a node's underlay address, or anybody while the backend changes, which not all nodes do at the same moment. So the
// check of the way back is loose (RFC 3704 section 2.4). None at all is not to be had: where that of all links is strict, it holds for a link with 0.
func vxlanDevice(p Place) []dataplane.Object {
	n, o := p.Network, p.Network.Cluster
	local := p.Self.Underlay(o.UnderlayV6)
	if !local.IsValid() {
		return nil
	}
	link := dataplane.Link{
		Name: n.TunnelName(), Kind: dataplane.VXLAN, Owner: "net/" + n.Name, MAC: p.mac(), MTU: p.tunnelMTU(), Up: true,
		Tunnel: dataplane.Tunnel{VNI: o.VNI, Port: o.Port, Local: local, NoTxCsum: o.NoChecksum},
	}
	objects := []dataplane.Object{link}
	for _, s := range []struct{ path, value string }{
		{"net/ipv4/conf/%s/rp_filter", "2"}, // needs the address of endpoints
		{"net/ipv4/conf/%s/forwarding", "1"},
		{"net/ipv4/conf/%s/send_redirects", "0"},
		{"net/ipv6/conf/%s/accept_ra", "0"},
		{"net/ipv6/conf/%s/addr_gen_mode", "1"}, // no link-local address: nobody would answer there
	} {
		objects = append(objects, dataplane.Sysctl{Name: fmt.Sprintf(s.path, link.Name), Link: link.Name, Value: s.value})
	}
	return append(objects, p.endpoints(link.Name)...)
}

func (p Place) mac() model.MAC {
	if p.MAC != (model.MAC{}) {
		return p.MAC
	}
	return model.TunnelMAC(p.Network.Name, p.Self.ID)
}

// endpoints are the node's own addresses on the tunnel: the first of each block, which no workload has, as flannel has them. Of a link
// without an IPv4 address the kernel takes the loose check of the way back for the strict one (net/ipv4/fib_frontend.c, no_addr). Where
// the node has no bridge, it needs them itself: else what it sends would have a source to which the answer comes by another way.
func (p Place) endpoints(tunnel string) []dataplane.Object {
	var objects []dataplane.Object
	for _, s := range p.Network.Subnets {
		first := s.Prefix.Masked().Addr()
		if p.Network.ForeignBridge() || first.Is4() {
			objects = append(objects, dataplane.Address{Link: tunnel, Prefix: netip.PrefixFrom(first, first.BitLen())})
		}
	}
	return objects
}

// tunnelMTU is that of the underlay link less what is put around.
func (p Place) tunnelMTU() int {
	mtu := model.DefaultMTU
	if name, ok := p.Host.Has(p.Self.Underlay(p.Network.Cluster.UnderlayV6)); ok {
		l, _ := p.Host.Link(name)
		mtu = l.MTU
	}
	mtu -= vxlanOverhead(p.Network.Cluster)
	if n := p.Network; n.Cluster.Inherited && n.MTU != 0 {
		mtu = min(mtu, n.MTU) // flannel's key MTU is about what the underlay carries
	}
	return mtu
}

func vxlanOverhead(o model.Overlay) int {
	o.Backend = model.VXLAN
	return o.Overhead()
}

// vxlan reaches a block through its first address, which no workload has: its neighbour entry leads to the MAC address of the
// holder's device, and that one's forwarding entry to the node. flannel's tunnels are made likewise, so either end may be flannel's.
func vxlan(p Place, peer Peer) ([]dataplane.Object, error) {
	v6 := p.Network.Cluster.UnderlayV6
	outer := peer.Member.Underlay(v6)
	if !p.Self.Underlay(v6).IsValid() {
		return nil, noUnderlay(p.Network.Name, p.Self, v6)
	}
	if !outer.IsValid() {
		return nil, noUnderlay(p.Network.Name, peer.Member, v6)
	}
	dev := p.Network.TunnelName()
	known := map[model.MAC]bool{}
	return each(peer, func(l model.Lease) ([]dataplane.Object, error) {
		if via := peer.Member.Underlay(l.Block.Addr().Is6()); p.Network.Cluster.DirectRouting && via.IsValid() {
			if link, ok := p.onLink(via); ok {
				return []dataplane.Object{direct(p, peer, l.Block, via, link)}, nil
			}
		}
		gate, mac := l.Block.Addr(), l.TunnelMAC()
		objects := []dataplane.Object{
			dataplane.Neighbour{Link: dev, Addr: gate, MAC: mac},
			dataplane.Route{Dest: l.Block, Via: gate, OnLink: true, Link: dev, Source: p.source(l.Block), MTU: p.narrow(peer.Member, vxlanOverhead(p.Network.Cluster))},
		}
		if gate.Is6() { // else the kernel refuses the gateway where the block, or a range around it, is led to by another link: before, or by others (net/ipv6/route.c)
			objects = append(objects, dataplane.Route{Dest: netip.PrefixFrom(gate, gate.BitLen()), Link: dev})
		}
		if !known[mac] {
			known[mac] = true
			objects = append(objects, dataplane.FDB{Link: dev, MAC: mac, Dst: outer})
		}
		return objects, nil
	})
}
