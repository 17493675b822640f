package render

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/flatnet/flatnet/internal/backend"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// MemberPart and PeerPart name the parts of a host that other nodes are the cause of.
func MemberPart(id string) string        { return "member/" + id }
func PeerPart(network, id string) string { return "peer/" + network + "/" + id }

// Member is the part of one member of the cluster: the addresses that it is known by. What comes in a tunnel is taken only from
// these, and workloads of cluster networks show themselves to these as they are.
func Member(v model.View, id string) (dataplane.Host, error) {
	var host dataplane.Host
	m, known := v.Members[id]
	if !known || !anyInCluster(v) {
		return host, nil
	}
	for _, a := range m.Underlays() {
		if err := host.State(dataplane.HostNetns).Put(setMembers[familyOf(a)].Element(dataplane.Tuple{Addr: a})); err != nil {
			return host, err
		}
	}
	return host, nil
}

func anyInCluster(v model.View) bool {
	for _, n := range v.Networks { // for each of thousands of members: nothing is gathered
		if inCluster(n) {
			return true
		}
	}
	return false
}

// inCluster reports whether a network is a running one of the cluster.
func inCluster(n model.Network) bool { return n.Mode == model.Cluster && n.Active }

// Peer is the part of one other node on one cluster network: the way to the blocks that it holds, leases, which are all of that node on that
// network. The error is about those that are not reached; the part is what the others need.
func Peer(v model.View, network, id string, leases []model.Lease) (dataplane.Host, error) {
	var host dataplane.Host
	n, ok := v.Networks[network]
	m, known := v.Members[id]
	if !ok || !inCluster(n) || waits(n) || !known || id == v.Self || len(leases) == 0 {
		return host, nil
	}
	b, ok := backend.Of(n.Cluster.Backend)
	if !ok {
		return host, fmt.Errorf("network %q: no backend %q", network, n.Cluster.Backend)
	}
	objects, err := b.Peer(place(v, n), backend.Peer{Member: m, Leases: leases})
	if len(objects) == 0 {
		return host, err
	}
	if put := host.State(dataplane.HostNetns).Put(objects...); put != nil {
		return dataplane.Host{}, put
	}
	return host, err
}

// waits reports whether a network that another program has run here is not taken over yet: how its tunnel is known to others is known
// only with the node's own block.
func waits(n model.Network) bool { return n.Cluster.Inherited && len(n.Subnets) == 0 }

func place(v model.View, n model.Network) backend.Place {
	return backend.Place{Network: n, Self: v.Members[v.Self], MAC: tunnelMAC(v, n), Host: v.Node}
}

// tunnelMAC is that of the node's own tunnel link, if its leases say one: the others go by that.
func tunnelMAC(v model.View, n model.Network) model.MAC {
	for _, s := range n.Subnets {
		if l, ok := v.Leases[model.LeaseKey{Network: n.Name, Block: s.Prefix}]; ok && l.Node == v.Self {
			return l.MAC
		}
	}
	return model.MAC{}
}

// peers are the parts of all other nodes, by part name.
func peers(v model.View) map[string]func() (dataplane.Host, error) {
	parts := map[string]func() (dataplane.Host, error){}
	for id := range v.Members {
		parts[MemberPart(id)] = func() (dataplane.Host, error) { return Member(v, id) }
	}
	for at, leases := range v.Holders() {
		parts[PeerPart(at.Network, at.Node)] = func() (dataplane.Host, error) { return Peer(v, at.Network, at.Node, leases) }
	}
	return parts
}

// devices are what the backends of a cluster network need on this node, also that which is coming or going.
func devices(v model.View, n model.Network) []dataplane.Object {
	if !inCluster(n) {
		return nil
	}
	var objects []dataplane.Object
	for _, name := range slices.Compact([]model.Backend{n.Cluster.Backend, n.Cluster.Also}) {
		if b, ok := backend.Of(name); ok {
			objects = append(objects, b.Device(place(v, n))...)
		}
	}
	return objects
}

// tunnels are the link names of the tunnels among the objects.
func tunnels(objects []dataplane.Object) []string {
	var names []string
	for _, o := range objects {
		if l, is := o.(dataplane.Link); is {
			names = append(names, l.Name)
		}
	}
	return names
}

// clusterElements make a cluster network's bridge and tunnels one network to the host's rules, and say to whom workloads show themselves
// as they are.
func clusterElements(v model.View, n model.Network) []dataplane.Object {
	if !inCluster(n) {
		return nil
	}
	bridge := n.BridgeName()
	objects := []dataplane.Object{setRouted.Element(dataplane.Tuple{Link: bridge})}
	if !n.Cluster.Inherited { // a node that flanneld runs on may drop what has a source to which its own answer goes by the tunnel (rp_filter)
		objects = append(objects, setCluster.Element(dataplane.Tuple{Link: bridge}))
	}
	for _, p := range outermost(slices.Concat(n.Ranges(), n.Cluster.Keep)) {
		objects = append(objects, setKeep[familyOf(p.Addr())].Element(dataplane.Tuple{Link: bridge, Addr: p.Masked().Addr(), AddrLast: lastAddr(p)}))
	}
	for _, out := range slices.Concat(tunnels(devices(v, n)), underlays(v)) {
		objects = append(objects, setBetween.Element(dataplane.Tuple{Link: bridge, Link2: out}), setBetween.Element(dataplane.Tuple{Link: out, Link2: bridge}))
	}
	for _, tunnel := range tunnels(devices(v, n)) {
		for _, s := range []dataplane.Set{setNets, setRouted, setTunnels} {
			objects = append(objects, s.Element(dataplane.Tuple{Link: tunnel}))
		}
		objects = append(objects, setSame.Element(dataplane.Tuple{Link: bridge, Link2: tunnel}), setSame.Element(dataplane.Tuple{Link: tunnel, Link2: bridge}))
	}
	return objects
}

// underlays are the links of the host by which it reaches the other nodes: not those of flatnet's own networks, whose rules hold for them.
func underlays(v model.View) []string {
	var links []string
	for _, a := range v.Members[v.Self].Underlays() {
		link, ok := v.Node.Has(a)
		if ok && !slices.Contains(links, link) && !ofNetwork(v, link) {
			links = append(links, link)
		}
	}
	return links
}

// ofNetwork reports whether a link is the bridge of a network here.
func ofNetwork(v model.View, link string) bool {
	for _, n := range v.Networks {
		if n.HasBridge() && n.BridgeName() == link {
			return true
		}
	}
	return false
}

// beside leaves out what another network on the same bridge says already: one object stands in one part.
func beside(v model.View, n model.Network, objects []dataplane.Object) []dataplane.Object {
	said := dataplane.State{}
	for _, other := range v.Networks {
		if other.Name < n.Name && inCluster(other) && !waits(other) && n.SharesBridge(other) {
			for _, o := range slices.Concat(bridge(v, other), bridgeSysctls(other), networkElements(other), clusterElements(v, other)) {
				said[o.Key()] = o
			}
		}
	}
	return slices.DeleteFunc(objects, func(o dataplane.Object) bool { _, is := said[o.Key()]; return is })
}

// outermost are the prefixes that lie in no other: the intervals of a set may not overlap.
func outermost(prefixes []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range prefixes {
		within := func(o netip.Prefix) bool { return o.Overlaps(p) && (o.Bits() < p.Bits() || slices.Contains(out, o)) }
		if !slices.ContainsFunc(prefixes, func(o netip.Prefix) bool { return o != p && within(o) }) && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// amongClusters are what the cluster's networks have together: the ports that their tunnels come in by, and which links are foreign to
// which ranges, as a packet of another network may come without a tunnel, by a link of the host.
func amongClusters(v model.View) []dataplane.Object {
	state := dataplane.State{}
	for _, n := range v.Networks {
		if !inCluster(n) || waits(n) {
			continue
		}
		if n.Cluster.Uses(model.VXLAN) {
			e := setPorts.Element(dataplane.Tuple{Proto: model.UDP, Port: n.Cluster.Port})
			state[e.Key()] = e
		}
		for _, other := range v.Networks {
			if other.Name == n.Name || n.SharesBridge(other) || !other.Active || !other.HasBridge() || other.Mode == model.Bridged || other.Mode == model.Routed {
				continue
			}
			for _, p := range n.Ranges() {
				e := setForeign[familyOf(p.Addr())].Element(dataplane.Tuple{Link: other.BridgeName(), Addr: p.Masked().Addr(), AddrLast: lastAddr(p)})
				state[e.Key()] = e
			}
		}
	}
	return slices.Collect(maps.Values(state))
}

// poolRoutes lead a workload that is on other networks too to all of a cluster network by that network's own gateway.
func poolRoutes(v model.View, w model.Workload) []dataplane.Route {
	if len(w.Endpoints) < 2 {
		return nil
	}
	var routes []dataplane.Route
	for _, e := range w.Endpoints {
		n := v.Networks[e.Network]
		if !inCluster(n) {
			continue
		}
		done := map[netip.Prefix]bool{}
		for _, a := range e.Addrs {
			s, ok := n.Subnet(a)
			pool, of := n.Cluster.Pool(a)
			if ok && of && pool.Prefix != s.Prefix && !done[pool.Prefix] {
				done[pool.Prefix] = true
				routes = append(routes, dataplane.Route{Dest: pool.Prefix, Via: s.Gateway, Link: e.IfName})
			}
		}
	}
	return routes
}
