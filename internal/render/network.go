package render

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// Network is the part of one network: its bridge with addresses and sysctls, and its elements. A network that is not
// active has none.
func Network(v model.View, n model.Network) (dataplane.Host, error) {
	var host dataplane.Host
	if !n.Active || waits(n) {
		return host, nil
	}
	if n.Mode == model.Cable {
		return cable(v, n)
	}
	state := host.State(dataplane.HostNetns)
	objects := [][]dataplane.Object{bridge(v, n), bridgeSysctls(n), networkElements(n), proxiedGateways(v, n), devices(v, n), clusterElements(v, n)}
	switch {
	case n.Mode == model.Bridged:
		objects = bridged(v, n)
	case n.ForeignBridge():
		objects = shared(v, n)
	}
	for _, objects := range objects {
		if err := state.Put(objects...); err != nil {
			return host, fmt.Errorf("network %q: %w", n.Name, err)
		}
	}
	return host, nil
}

// shared is a network whose bridge another program may have made, with workloads of its own on it: that one stays as it is, but for the
// forwards of 127.0.0.1, see bridgeSysctls. Where there is none, whoever comes first makes it.
func shared(v model.View, n model.Network) [][]dataplane.Object {
	objects := [][]dataplane.Object{devices(v, n), beside(v, n, networkElements(n)), beside(v, n, clusterElements(v, n))}
	if _, theirs := v.Node.Link(n.BridgeName()); theirs {
		local := dataplane.Sysctl{Name: fmt.Sprintf("net/ipv4/conf/%s/route_localnet", n.BridgeName()), Link: n.BridgeName(), Value: onOff(n.Routes())}
		return append(objects, beside(v, n, []dataplane.Object{local}))
	}
	return append(objects, beside(v, n, bridge(v, n)), beside(v, n, bridgeSysctls(n)))
}

// silent reports whether the host does not exist on the network at all.
func silent(n model.Network) bool {
	return n.Mode == model.Isolated || n.Mode == model.HostOnly && n.NoHostAdapter
}

// closed reports whether nothing is forwarded from or to the network.
func closed(n model.Network) bool { return n.Mode == model.HostOnly || n.Mode == model.Isolated }

// hidden reports whether the host routes for the network without being reachable at its gateway address.
func hidden(n model.Network) bool { return n.Routes() && n.NoHostAdapter }

// bridged is a bridge with a NIC in it: to the host's rules it is a piece of the LAN. A bridge that others made is
// theirs. The host has no address there, not even a link-local one, until somebody gives the bridge one.
func bridged(v model.View, n model.Network) [][]dataplane.Object {
	known := []dataplane.Object{setBridges.Element(dataplane.Tuple{Link: n.BridgeName()})}
	if n.BorrowsBridge() {
		return [][]dataplane.Object{known}
	}
	link := dataplane.Link{
		Name: n.BridgeName(), Kind: dataplane.Bridge, Owner: "net/" + n.Name, Uplink: n.Uplink,
		MAC: model.BridgeMAC(n.Name), MTU: v.MTU(n), Up: true,
	}
	objects := []dataplane.Object{link}
	if _, there := v.Node.Link(n.Uplink); there {
		objects = append(objects, dataplane.Port{Link: n.Uplink, Master: link.Name})
	}
	return [][]dataplane.Object{objects, bridgeSysctls(n), known}
}

func bridge(v model.View, n model.Network) []dataplane.Object {
	link := dataplane.Link{
		Name: n.BridgeName(), Kind: dataplane.Bridge, Owner: "net/" + n.Name,
		MAC: model.BridgeMAC(n.Name), MTU: v.MTU(n), Up: true, NoARP: silent(n),
	}
	objects := []dataplane.Object{link}
	if silent(n) {
		return objects
	}
	for _, s := range n.Subnets {
		objects = append(objects, dataplane.Address{Link: link.Name, Prefix: netip.PrefixFrom(s.Gateway, s.Prefix.Bits())})
	}
	return objects
}

// proxiedGateways let the LAN reach the gateways too: the host answers ARP for every address that it has on any link, but neighbour
// discovery only for those of the link itself.
func proxiedGateways(v model.View, n model.Network) []dataplane.Object {
	if _, there := v.Node.Link(n.Uplink); !n.ProxyARP || !there {
		return nil
	}
	var objects []dataplane.Object
	for _, s := range n.Subnets {
		if s.Gateway.Is6() {
			objects = append(objects, dataplane.ProxyNeighbour{Link: n.Uplink, Addr: s.Gateway})
		}
	}
	return objects
}

// bridgeSysctls settle what the host answers on the bridge; every mode sets the same ones, so that nothing of another mode stays.
// What comes from a closed network is not even looked at for forwarding: a packet whose TTL ends at the host, or that is too long to go
// on, is answered before the forward hook, to whatever source it claims, and the answer carries its content out
// (net/ipv4/ip_forward.c, RFC 1812 section 4.3.2.3). A bridge without an address would still answer ARP for every other address of the
// host (arp_ignore, Documentation/networking/ip-sysctl.rst); forwards of 127.0.0.1 need route_localnet.
func bridgeSysctls(n model.Network) []dataplane.Object {
	values := []struct{ path, value string }{
		{"net/ipv4/conf/%s/arp_ignore", "1"},
		{"net/ipv4/conf/%s/route_localnet", onOff(n.Routes())},
		{"net/ipv4/conf/%s/promote_secondaries", "1"}, // or a new gateway would go with the old one of its subnet
		{"net/ipv4/conf/%s/send_redirects", "0"},
		{"net/ipv6/conf/%s/accept_ra", "0"},
		{"net/ipv6/conf/%s/addr_gen_mode", onOff(n.Mode == model.Bridged)}, // 1: no link-local address unasked
		{"net/ipv6/conf/%s/disable_ipv6", onOff(silent(n))},
	}
	if silent(n) {
		values[0].value = "8"
	}
	var objects []dataplane.Object
	for _, v := range values {
		objects = append(objects, dataplane.Sysctl{Name: fmt.Sprintf(v.path, n.BridgeName()), Link: n.BridgeName(), Value: v.value})
	}
	if n.Mode != model.Bridged { // whose depends on other networks: see Node
		objects = append(objects, forwarding(n, n.Routes()))
	}
	return objects
}

// forwarding says whether what comes in by the bridge may go on to another link.
func forwarding(n model.Network, on bool) dataplane.Object {
	return dataplane.Sysctl{Name: fmt.Sprintf("net/ipv4/conf/%s/forwarding", n.BridgeName()), Link: n.BridgeName(), Value: onOff(on)}
}

func onOff(on bool) string {
	if on {
		return "1"
	}
	return "0"
}

func networkElements(n model.Network) []dataplane.Object {
	link := dataplane.Tuple{Link: n.BridgeName()}
	var objects []dataplane.Object
	member := func(is bool, sets ...dataplane.Set) {
		for _, s := range sets {
			if is {
				objects = append(objects, s.Element(link))
			}
		}
	}
	member(true, setNets, setBridges)
	member(n.Translates(), setNAT)
	member(n.Mode == model.Routed, setRouted)
	member(closed(n), setClosed)
	member(n.Mode == model.HostOnly && !silent(n), setHostOnly)
	member(silent(n), setSilent)
	member(hidden(n), setHidden)
	member(n.Uplink != "", setPinned)
	pair := func(set dataplane.Set, out string) {
		objects = append(objects, set.Element(dataplane.Tuple{Link: link.Link, Link2: out}))
	}
	pair(setSame, link.Link)
	if n.Uplink != "" {
		pair(setUplinks, n.Uplink)
	}
	for _, a := range n.SNAT {
		objects = append(objects, mapSNAT[familyOf(a)].Element(link).To(dataplane.Tuple{Addr: a}))
	}
	for _, s := range n.Subnets {
		objects = append(objects, subnetElements(n, s)...)
	}
	switch own := model.BridgeMAC(n.Name).LinkLocal(); {
	case hidden(n):
		objects = append(objects, setHiddenIP[1].Element(dataplane.Tuple{Addr: own}))
	case n.Mode == model.HostOnly && !silent(n):
		objects = append(objects, gatewayElement(n, own))
	}
	return objects
}

func subnetElements(n model.Network, s model.Subnet) []dataplane.Object {
	f := familyOf(s.Prefix.Addr())
	var objects []dataplane.Object
	if n.Routes() {
		objects = append(objects, setSubnets[f].Element(
			dataplane.Tuple{Link: n.BridgeName(), Addr: s.Prefix.Masked().Addr(), AddrLast: lastAddr(s.Prefix)}))
	}
	if hidden(n) {
		objects = append(objects, setHiddenIP[f].Element(dataplane.Tuple{Addr: s.Gateway}))
	}
	if n.Mode == model.HostOnly && !silent(n) {
		objects = append(objects, gatewayElement(n, s.Gateway))
	}
	return objects
}

func gatewayElement(n model.Network, a netip.Addr) dataplane.Object {
	return setGateways[familyOf(a)].Element(dataplane.Tuple{Link: n.BridgeName(), Addr: a})
}

// cable is one veth between the namespaces of the network's two endpoints; with fewer there is nothing yet. The end in
// the namespace whose path sorts first makes the pair, as namespaces are brought up in that order.
func cable(v model.View, n model.Network) (dataplane.Host, error) {
	var host dataplane.Host
	type end struct {
		model.Workload
		model.Endpoint
	}
	var ends []end
	for _, w := range v.Workloads {
		if e, ok := w.Endpoint(n.Name); ok && !w.Process.Exited {
			ends = append(ends, end{w, e})
		}
	}
	if len(ends) != 2 {
		return host, nil
	}
	slices.SortFunc(ends, func(a, b end) int { return compare(a.Netns, b.Netns) })
	for i, e := range ends {
		link := innerLink(v, n, e.Workload, e.Endpoint)
		if i == 0 {
			link.Peer, link.PeerNetns = ends[1].IfName, ends[1].Netns
		}
		state := host.State(e.Netns)
		if err := state.Put(link); err != nil {
			return host, err
		}
		if err := state.Put(innerAddresses(n, e.Endpoint)...); err != nil {
			return host, err
		}
	}
	return host, nil
}

func familyOf(a netip.Addr) int {
	if a.Is6() {
		return 1
	}
	return 0
}

// lastAddr is the highest address of a prefix.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
