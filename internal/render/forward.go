package render

import (
	"net/netip"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// Forward is the part of one standing forward; it is empty while its workload is not there.
func Forward(v model.View, f model.Forward) (dataplane.Host, error) {
	var host dataplane.Host
	w, ok := v.Workloads[f.Workload]
	if !ok || w.Process.Exited {
		return host, nil
	}
	objects := forwardElements(v, w, f)
	if len(objects) == 0 {
		return host, nil
	}
	return host, host.State(dataplane.HostNetns).Put(objects...)
}

// forwardElements are the map elements that send a forward's ports to the workload's first address of each family.
func forwardElements(v model.View, w model.Workload, f model.Forward) []dataplane.Object {
	n, ok := v.Networks[f.Network]
	e, attached := w.Endpoint(f.Network)
	if !ok || !attached || !n.Active || !n.Routes() {
		return nil
	}
	var objects []dataplane.Object
	var done family[bool]
	for _, to := range e.Addrs {
		i := familyOf(to)
		if done[i] || f.HostIP.IsValid() && familyOf(f.HostIP) != i {
			continue
		}
		done[i] = true
		objects = append(objects, forwardTo(f, to)...)
		objects = append(objects, loopbackForwards(v.Node, n, f, to)...)
	}
	return objects
}

func forwardTo(f model.Forward, to netip.Addr) []dataplane.Object {
	if f.HostPorts.Len() > 1 && !f.Shifted() {
		return []dataplane.Object{rangeElement(f, to)}
	}
	var objects []dataplane.Object
	for i := range f.HostPorts.Len() {
		objects = append(objects, portElement(f, to, f.HostPorts.First+uint16(i), f.Ports.First+uint16(i)))
	}
	return objects
}

// rangeElement is a whole range whose numbers stay: one interval.
func rangeElement(f model.Forward, to netip.Addr) dataplane.Object {
	first, last := f.HostIP, f.HostIP
	if everyAddress(f) {
		all := netip.PrefixFrom(to, 0).Masked()
		first, last = all.Addr(), lastAddr(all)
	}
	ports := dataplane.Tuple{Addr: first, AddrLast: last, Proto: f.Proto, Port: f.HostPorts.First, PortLast: f.HostPorts.Last}
	return mapForwardRange[familyOf(to)].Element(ports).To(dataplane.Tuple{Addr: to})
}

func portElement(f model.Forward, to netip.Addr, from, port uint16) dataplane.Object {
	forwards, at := mapForward[familyOf(to)], dataplane.Tuple{Addr: f.HostIP, Proto: f.Proto, Port: from}
	if everyAddress(f) {
		forwards, at.Addr = mapForwardAny[familyOf(to)], netip.Addr{}
	}
	return forwards.Element(at).To(dataplane.Tuple{Addr: to, Port: port})
}

func everyAddress(f model.Forward) bool { return !f.HostIP.IsValid() || f.HostIP.IsUnspecified() }

// maxLoopbackPorts bounds what one forward costs at [::1], where a range is an object for every port.
const maxLoopbackPorts = 1024

// loopbackForwards answer a forward at [::1], where nft can't. SCTP has no hook for it.
func loopbackForwards(node model.Node, n model.Network, f model.Forward, to netip.Addr) []dataplane.Object {
	atLoopback := everyAddress(f) || f.HostIP == netip.IPv6Loopback()
	if !node.LoopbackBPF || !to.Is6() || !atLoopback || f.Proto == model.SCTP || f.HostPorts.Len() > maxLoopbackPorts {
		return nil
	}
	if n.NoHostAdapter && !everyAddress(f) {
		return nil // see byGateway
	}
	var objects []dataplane.Object
	for i := range f.HostPorts.Len() {
		l := dataplane.LoopbackForward{
			Proto: f.Proto, Port: f.HostPorts.First + uint16(i), To: to, ToPort: f.Ports.First + uint16(i),
		}
		if n.NoHostAdapter {
			l = byGateway(n, l)
		}
		objects = append(objects, l)
	}
	return objects
}

// byGateway goes to the published port of the gateway address, where nft takes over: a network without the host lets
// nothing of the host through that NAT has not marked. A forward on ::1 alone has no such port.
func byGateway(n model.Network, l dataplane.LoopbackForward) dataplane.LoopbackForward {
	if s, ok := n.Subnet(l.To); ok {
		l.To, l.ToPort = s.Gateway, l.Port
	}
	return l
}

// loopbackPrograms are what the loopbackForwards need. They are the node's, not a forward's: many forwards share them.
func loopbackPrograms(v model.View) []dataplane.Object {
	if !v.Node.LoopbackBPF || !forwards6(v) {
		return nil
	}
	var objects []dataplane.Object
	for _, p := range dataplane.LoopbackPrograms() {
		objects = append(objects, p)
	}
	return objects
}

// forwards6 reports whether some network can have forwards to IPv6 addresses.
func forwards6(v model.View) bool {
	for _, n := range v.Networks {
		for _, s := range n.Subnets {
			if n.Active && n.Routes() && s.Prefix.Addr().Is6() {
				return true
			}
		}
	}
	return false
}
