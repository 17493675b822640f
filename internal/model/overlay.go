package model

import (
	"cmp"
	"net/netip"
	"slices"
)

// Cluster is the mode of a network that all nodes of a cluster share; the others are a node's own.
const Cluster Mode = "cluster" // one flat network on many hosts: everybody keeps its address

// Overlay is what a network of mode cluster has beyond others: the same on all nodes. It has no Subnets of its own: on each node those
// are the blocks that the node holds, see Network.At.
type Overlay struct {
	Pools         []BlockPool
	Backend       Backend
	Also          Backend        `json:",omitzero"` // while the backend changes: the one that is coming or going. All nodes take what comes by it
	VNI           uint32         // tells the network's tunnels from others' (RFC 7348): 1 to 16777215
	Port          uint16         // UDP
	DirectRouting bool           `json:",omitzero"` // vxlan: without a tunnel to nodes on a common link
	NoChecksum    bool           `json:",omitzero"` // vxlan: no outer UDP checksum, for NICs that spoil it
	UnderlayV6    bool           `json:",omitzero"` // nodes reach each other by their IPv6 underlay addresses
	Keep          []netip.Prefix `json:",omitzero"` // destinations outside that see the workloads' own addresses
	Nodes         []string       `json:",omitzero"` // member IDs or names of the nodes that have the network; none: all
	Reserved      []Reservation  `json:",omitzero"`
	Tunnel        string         `json:",omitzero"` // link name of the tunnel; empty: derived, see TunnelName
	Inherited     bool           `json:",omitzero"` // another program has run the network on this host, flannel: what it left is in nobody's way
	ForeignBridge bool           `json:",omitzero"` // another program may have made the bridge, and attach workloads to it: see Network.ForeignBridge
}

// Backend is how packets between the nodes of a cluster network travel.
type Backend string

// The backends.
const (
	VXLAN  Backend = "vxlan"   // in UDP (RFC 7348): any underlay that carries UDP
	HostGW Backend = "host-gw" // plain routes: the nodes must be on a common link
)

// Reservation keeps a block for one node, or from all.
type Reservation struct {
	Block netip.Prefix
	Node  string // member ID; empty: nobody gets it
}

// What a cluster network has unless something else is said: those of Linux and flannel.
const (
	DefaultVNI       = 1
	DefaultVXLANPort = 8472
)

// ForeignBridge reports whether the network's bridge may be one that another program made and that has its workloads on it. Where there is such
// a one, it is used as it is, with its MAC and addresses; where there is none, it is made as any other.
func (n Network) ForeignBridge() bool {
	return n.ShareBridge || n.Mode == Cluster && n.Cluster.ForeignBridge
}

// SharesBridge reports whether two networks stand on one bridge: flannel's two families on that of its CNI plugin.
func (n Network) SharesBridge(o Network) bool {
	return n.Mode == Cluster && o.Mode == Cluster && n.ForeignBridge() && o.ForeignBridge() && n.BridgeName() == o.BridgeName()
}

// TunnelName is the link name of a cluster network's tunnel on each node.
func (n Network) TunnelName() string {
	if n.Cluster.Tunnel != "" {
		return n.Cluster.Tunnel
	}
	return linkName("fx", n.Name)
}

// TunnelMAC is the address of a member's tunnel link on a network. It follows from who the member is, so nobody needs to be told.
func TunnelMAC(network, member string) MAC { return derivedMAC(0x02, "tunnel/"+network+"/"+member) }

// On reports whether a node has the network.
func (o Overlay) On(m Member) bool {
	return len(o.Nodes) == 0 || slices.Contains(o.Nodes, m.ID) || slices.Contains(o.Nodes, m.Name)
}

// Uses reports whether packets may come by a backend.
func (o Overlay) Uses(b Backend) bool { return o.Backend == b || o.Also == b }

// Pool is the one that an address is of.
func (o Overlay) Pool(a netip.Addr) (BlockPool, bool) {
	for _, p := range o.Pools {
		if p.contains(a) {
			return p, true
		}
	}
	return BlockPool{}, false
}

// At is the network as a node has it that holds these blocks: each is a subnet with the first address as gateway.
func (n Network) At(blocks []netip.Prefix) Network {
	n.Subnets = nil
	for _, b := range slices.SortedFunc(slices.Values(blocks), comparePrefix) {
		n.Subnets = append(n.Subnets, Subnet{Prefix: b, Gateway: FirstAddr(b)})
	}
	return n
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(cmp.Compare(a.Addr().BitLen(), b.Addr().BitLen()), a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// At is the View as another member has it, as far as it is known here: without workloads, and with this node's links and routes.
func (v View) At(member string) View {
	v.Self = member
	networks := make(map[string]Network, len(v.Networks))
	for name, n := range v.Networks {
		if n.Mode == Cluster {
			networks[name] = n.At(v.BlocksOf(name, member))
		}
	}
	v.Networks, v.Workloads, v.Forwards = networks, nil, nil
	return v
}

// BlocksOf are the blocks of a network that a member holds.
func (v View) BlocksOf(network, member string) []netip.Prefix {
	var blocks []netip.Prefix
	for key, l := range v.Leases {
		if l.Node == member && key.Network == network {
			blocks = append(blocks, key.Block)
		}
	}
	slices.SortFunc(blocks, comparePrefix)
	return blocks
}

// UnderlayLink is the host's link that has the node's own underlay address for a cluster network.
func (v View) UnderlayLink(n Network) (HostLink, bool) {
	name, ok := v.Node.Has(v.Members[v.Self].Underlay(n.Cluster.UnderlayV6))
	if !ok {
		return HostLink{}, false
	}
	return v.Node.Link(name)
}

// clusterMTU is what fits between the nodes: the underlay link's less what the backends put around a packet.
func (v View) clusterMTU(n Network) int {
	mtu := DefaultMTU
	if l, ok := v.UnderlayLink(n); ok {
		mtu = l.MTU
	}
	return mtu - n.Cluster.Overhead()
}

// Overhead is what the backends put around a packet, in bytes. VXLAN: Ethernet 14, VXLAN 8, UDP 8, and IPv4 20 or IPv6 40.
func (o Overlay) Overhead() int {
	switch {
	case !o.Uses(VXLAN):
		return 0
	case o.UnderlayV6:
		return 14 + 8 + 8 + 40
	}
	return 14 + 8 + 8 + 20
}

// Holder is a node on a network.
type Holder struct{ Network, Node string }

// Holders are the leases by who holds them, each list in order.
func (v View) Holders() map[Holder][]Lease {
	held := map[Holder][]Lease{}
	for _, l := range v.Leases {
		at := Holder{l.Network, l.Node}
		held[at] = append(held[at], l)
	}
	for _, leases := range held {
		slices.SortFunc(leases, func(a, b Lease) int { return comparePrefix(a.Block, b.Block) })
	}
	return held
}

// SortBlocks orders blocks, those of IPv4 first.
func SortBlocks(blocks []netip.Prefix) { slices.SortFunc(blocks, comparePrefix) }

// CompareLeases orders leases by network and block.
func CompareLeases(a, b LeaseKey) int {
	return cmp.Or(cmp.Compare(a.Network, b.Network), comparePrefix(a.Block, b.Block))
}
