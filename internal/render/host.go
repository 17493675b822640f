package render

import (
	"fmt"
	"slices"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// NodePart is the name of the part that holds the node's own objects.
const NodePart = "node"

// NetworkPart, WorkloadPart and ForwardPart name the parts of a host.
func NetworkPart(name string) string  { return "net/" + name }
func WorkloadPart(name string) string { return "workload/" + name }
func ForwardPart(name string) string  { return "forward/" + name }

// Host is everything the View's node must run.
func Host(v model.View) (dataplane.Host, error) {
	var host dataplane.Host
	parts, err := Parts(v)
	if err != nil {
		return host, err
	}
	for name, part := range parts {
		if err := host.Merge(part); err != nil {
			return host, fmt.Errorf("part %q: %w", name, err)
		}
	}
	return host, nil
}

// Parts is Host before the union, by part name.
func Parts(v model.View) (map[string]dataplane.Host, error) {
	parts := map[string]dataplane.Host{}
	add := func(name string, part dataplane.Host, err error) error {
		if err != nil {
			return fmt.Errorf("part %q: %w", name, err)
		}
		parts[name] = part
		return nil
	}
	node, err := Node(v)
	if err := add(NodePart, node, err); err != nil {
		return nil, err
	}
	for name, n := range v.Networks {
		part, err := Network(v, n)
		if err := add(NetworkPart(name), part, err); err != nil {
			return nil, err
		}
	}
	for name, w := range v.Workloads {
		part, err := Workload(v, w)
		if err := add(WorkloadPart(name), part, err); err != nil {
			return nil, err
		}
	}
	for name, render := range peers(v) {
		part, err := render()
		if err := add(name, part, err); err != nil {
			return nil, err
		}
	}
	for name, f := range v.Forwards {
		part, err := Forward(v, f)
		if err := add(ForwardPart(name), part, err); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

// Node is the part that all networks share: the rules, the sets they look into, the programs and the sysctls of the host. Without an
// active network it is empty, and flatnet leaves no trace.
func Node(v model.View) (dataplane.Host, error) {
	var host dataplane.Host
	objects := slices.Concat(hostSysctls(v), lanForwarding(v), loopbackPrograms(v), amongClusters(v))
	if len(objects) > 0 {
		if err := host.State(dataplane.HostNetns).Put(objects...); err != nil {
			return host, err
		}
	}
	for _, n := range v.Networks {
		if n.Active && n.HasBridge() {
			return host, host.State(dataplane.HostNetns).Put(rules()...)
		}
	}
	return host, nil
}

// hostSysctls are what forwarding needs, for the families that some nat or routed network has. Package kernel remembers what they
// were before, and puts that back when they are wanted no more.
func hostSysctls(v model.View) []dataplane.Object {
	wanted := map[string]string{}
	for _, n := range v.Networks {
		if n.Active {
			uplinkSysctls(v.Node, n, wanted)
		}
		if inCluster(n) && n.Cluster.Uses(model.VXLAN) {
			looseUnderlay(v, n, wanted)
		}
		for _, s := range n.Subnets {
			switch {
			case !n.Active || !n.Routes():
			case s.Prefix.Addr().Is4():
				wanted["net/ipv4/ip_forward"] = "1"
			default:
				forwarding6(beyondTunnels(v), wanted)
			}
		}
	}
	var objects []dataplane.Object
	for name, value := range wanted {
		objects = append(objects, dataplane.Sysctl{Name: name, Value: value})
	}
	return objects
}

// looseUnderlay lets in what workloads of other nodes send to this one: it comes by the underlay with their own address, to which the answer
// goes by the tunnel, and a strict check of the way back would drop it (RFC 3704 section 2.2). A link that is loose already is wanted so
// too, or the change itself would make us take it back.
func looseUnderlay(v model.View, n model.Network, wanted map[string]string) {
	link, ok := v.Node.Has(v.Members[v.Self].Underlay(false))
	l, _ := v.Node.Link(link)
	if ok && l.RPFilter >= 1 && !n.Cluster.Inherited {
		wanted["net/ipv4/conf/"+link+"/rp_filter"] = "2"
	}
}

// uplinkSysctls are those of a link that is not ours. Answers for others come at once: by default they wait up to 0.8 s
// (proxy_delay, arp(7)). A NIC in a bridge is no place for the host itself, which would give it a link-local address.
func uplinkSysctls(node model.Node, n model.Network, wanted map[string]string) {
	if _, there := node.Link(n.Uplink); !there {
		return
	}
	if n.Mode == model.Bridged {
		wanted["net/ipv6/conf/"+n.Uplink+"/disable_ipv6"] = "1"
	}
	for _, s := range n.Subnets {
		switch {
		case !n.ProxyARP:
		case s.Prefix.Addr().Is4():
			wanted["net/ipv4/neigh/"+n.Uplink+"/proxy_delay"] = "0"
		default:
			wanted["net/ipv6/neigh/"+n.Uplink+"/proxy_delay"] = "0"
			wanted["net/ipv6/conf/"+n.Uplink+"/proxy_ndp"] = "1"
		}
	}
}

// lanForwarding lets answers from a LAN that the host is on by a bridged network's bridge come in as by any link of the host: where
// some network routes, and else not.
func lanForwarding(v model.View) []dataplane.Object {
	var objects []dataplane.Object
	routes := false
	for _, n := range v.Networks {
		routes = routes || n.Active && n.Routes()
	}
	for _, n := range v.Networks {
		if n.Active && n.Mode == model.Bridged && !n.BorrowsBridge() {
			objects = append(objects, forwarding(n, routes))
		}
	}
	return objects
}

// beyondTunnels is the node without links that another program left and that are tunnels of a network here: they have a part of their own.
func beyondTunnels(v model.View) model.Node {
	left := map[string]bool{}
	for _, n := range v.Networks {
		if n.Cluster.Inherited {
			left[n.TunnelName()] = true
		}
	}
	node := v.Node
	if len(left) > 0 {
		node.Links = slices.DeleteFunc(slices.Clone(node.Links), func(l model.HostLink) bool { return left[l.Name] })
	}
	return node
}

// forwarding6 turns IPv6 forwarding on and keeps the default routes that the host has from router advertisements: with
// forwarding on the kernel heeds them only where accept_ra is 2. A link that already has 2 is wanted so too, or the
// change itself would make us take it back.
func forwarding6(node model.Node, wanted map[string]string) {
	wanted["net/ipv6/conf/all/forwarding"] = "1"
	for _, l := range node.Links {
		if l.AcceptRA >= 1 && !l.Loopback && l.Master == "" {
			wanted["net/ipv6/conf/"+l.Name+"/accept_ra"] = "2"
		}
	}
}
