package render

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// Workload is the part of one workload: its namespace, its endpoints on both sides, and the forwards that live with it.
// The workload need not be in the View.
func Workload(v model.View, w model.Workload) (dataplane.Host, error) {
	var host dataplane.Host
	if w.Sharing != model.Own || w.Netns == "" || w.Process.Exited {
		return host, nil
	}
	if w.Managed {
		if err := host.State(dataplane.HostNetns).Put(dataplane.Netns{Path: w.Netns}); err != nil {
			return host, err
		}
	}
	inner := host.State(w.Netns)
	if err := inner.Put(dataplane.Link{Name: "lo", Kind: dataplane.Loopback, Up: true}); err != nil {
		return host, err
	}
	for _, e := range w.Endpoints {
		if err := endpoint(&host, v, w, e); err != nil {
			return host, fmt.Errorf("endpoint %q: %w", e.IfName, err)
		}
	}
	for _, r := range Routes(v, w) {
		if err := inner.Put(r); err != nil {
			return host, err
		}
	}
	if err := inner.Put(sourceRoutes(v, w)...); err != nil {
		return host, err
	}
	for _, f := range w.Forwards {
		if err := host.State(dataplane.HostNetns).Put(forwardElements(v, w, f)...); err != nil {
			return host, fmt.Errorf("forward %q: %w", f.Name(), err)
		}
	}
	return host, nil
}

// Routes are those of a workload's main table, beside the ones to the subnets that it is in.
func Routes(v model.View, w model.Workload) []dataplane.Route {
	return append(defaultRoutes(v, w), poolRoutes(v, w)...)
}

func endpoint(host *dataplane.Host, v model.View, w model.Workload, e model.Endpoint) error {
	n, ok := v.Networks[e.Network]
	if !ok {
		return fmt.Errorf("network %q is not there", e.Network)
	}
	if !n.Active || !n.HasBridge() {
		return nil
	}
	outer := host.State(dataplane.HostNetns)
	port := hostLink(v, n, w, e)
	if err := outer.Put(port); err != nil {
		return err
	}
	if err := outer.Put(guardElements(n, e, port.Name)...); err != nil {
		return err
	}
	if err := outer.Put(limits(v, n, w, e, port.Name)...); err != nil {
		return err
	}
	if err := outer.Put(slices.Concat(ownElements(n, e), isolationElements(n, e), inwardElements(n, e, port.Name), proxies(v, n, e))...); err != nil {
		return err
	}
	inner := host.State(w.Netns)
	if err := inner.Put(innerLink(v, n, w, e)); err != nil {
		return err
	}
	return inner.Put(innerAddresses(n, e)...)
}

func owner(w model.Workload, e model.Endpoint) string { return "ep/" + w.Name + "/" + e.IfName }

// hostLink is the endpoint's port of the bridge. Hairpin lets a workload reach itself by its published port where
// br_netfilter turns the packet back on the bridge.
func hostLink(v model.View, n model.Network, w model.Workload, e model.Endpoint) dataplane.Link {
	return dataplane.Link{
		Name: model.HostLinkName(w.Name, e.IfName), Kind: dataplane.Veth, Owner: owner(w, e),
		MAC: model.HostSideMAC(e.MAC), MTU: v.MTU(n), Up: true, Master: master(v, n),
		Peer: e.IfName, PeerNetns: w.Netns,
		Isolated: e.Isolated, Hairpin: n.Routes(),
	}
}

// master is the bridge of a network's ports. One that others made may be gone; the port waits for it.
func master(v model.View, n model.Network) string {
	if _, there := v.Node.Link(n.Bridge); n.BorrowsBridge() && !there {
		return ""
	}
	return n.BridgeName()
}

// proxies answer for the endpoint's addresses on the LAN of which they are a part.
func proxies(v model.View, n model.Network, e model.Endpoint) []dataplane.Object {
	if _, there := v.Node.Link(n.Uplink); !n.ProxyARP || !there {
		return nil
	}
	var objects []dataplane.Object
	for _, a := range e.Addrs {
		objects = append(objects, dataplane.ProxyNeighbour{Link: n.Uplink, Addr: a})
	}
	return objects
}

func innerLink(v model.View, n model.Network, w model.Workload, e model.Endpoint) dataplane.Link {
	return dataplane.Link{Name: e.IfName, Kind: dataplane.Veth, Owner: owner(w, e), MAC: e.MAC, MTU: v.MTU(n), Up: true, Quiet: isQuiet(n, e)}
}

// isQuiet reports whether IPv6 on the endpoint could reach nobody: the network has gateways, and IPv4 addresses only. What the kernel would
// send of itself, for ever in the case of router solicitations, the bridge would hand to every other endpoint. Guests of networks
// without a gateway may number themselves, and on a LAN others do.
func isQuiet(n model.Network, e model.Endpoint) bool {
	return n.NeedsSubnet() && len(e.Addrs) > 0 && !slices.ContainsFunc(e.Addrs, netip.Addr.Is6)
}

func innerAddresses(n model.Network, e model.Endpoint) []dataplane.Object {
	var objects []dataplane.Object
	for _, a := range e.Addrs {
		bits := a.BitLen()
		if s, ok := n.Subnet(a); ok {
			bits = s.Prefix.Bits()
		}
		objects = append(objects, dataplane.Address{Link: e.IfName, Prefix: netip.PrefixFrom(a, bits)})
	}
	return objects
}

// Policy routing inside a workload: the priority of its rules, which the main table's 32766 comes after, and the number of the
// table of eth0, which eth1's comes after.
const (
	sourcePriority = 15700
	sourceTable    = 15700
)

// sourceRoutes make what a workload on several networks sends from an address leave by the network of that address, whichever has
// the default route: an answer goes back the way the question came, or the anti-spoofing of the other network drops it. The table
// of an endpoint has what the main one would have if there were no other.
func sourceRoutes(v model.View, w model.Workload) []dataplane.Object {
	var objects []dataplane.Object
	for _, v6 := range []bool{false, true} {
		var out []model.Endpoint
		for _, e := range w.Endpoints {
			if n := v.Networks[e.Network]; n.Active && v.LeadsOut(e, v6) {
				out = append(out, e)
			}
		}
		if len(out) < 2 {
			continue
		}
		for _, e := range out {
			objects = append(objects, sourceTableOf(v.Networks[e.Network], e, v6)...)
		}
	}
	return objects
}

func sourceTableOf(n model.Network, e model.Endpoint, v6 bool) []dataplane.Object {
	table := tableNumber(e.IfName)
	var objects []dataplane.Object
	gateway := false
	for _, a := range e.Addrs {
		s, ok := n.Subnet(a)
		if !ok || a.Is6() != v6 {
			continue
		}
		objects = append(objects,
			dataplane.RouteRule{Priority: sourcePriority, From: a, Table: table},
			dataplane.Route{Dest: s.Prefix, Table: table, Link: e.IfName})
		if s.Gateway.IsValid() && !gateway {
			gateway = true
			objects = append(objects, dataplane.Route{Dest: netip.PrefixFrom(a, 0).Masked(), Table: table, Via: s.Gateway, Link: e.IfName})
		}
	}
	return objects
}

// tableNumber is sourceTable and the link's number: 15701 for eth1. It hangs on the link's name alone, so that links that come and
// go change nothing for the others; a name without a number has one from a hash, out of the way of those with.
func tableNumber(ifname string) int {
	digits := strings.TrimLeft(ifname, "abcdefghijklmnopqrstuvwxyz")
	if n, err := strconv.Atoi(digits); err == nil && n < 1000 && ifname == "eth"+digits {
		return sourceTable + n
	}
	h := fnv.New32a()
	h.Write([]byte(ifname))
	return sourceTable + 1000 + int(h.Sum32()%1_000_000)
}

// defaultRoutes are those of the workload's gateway endpoint, one a family.
func defaultRoutes(v model.View, w model.Workload) []dataplane.Route {
	var routes []dataplane.Route
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		e, ok := v.Gateway(w, any.Is6())
		if !ok {
			continue
		}
		n := v.Networks[e.Network]
		for _, a := range e.Addrs {
			s, ok := n.Subnet(a)
			if ok && n.Active && a.Is6() == any.Is6() && s.Gateway.IsValid() {
				routes = append(routes, dataplane.Route{Dest: netip.PrefixFrom(any, 0), Via: s.Gateway, Link: e.IfName})
				break
			}
		}
	}
	return routes
}

// guardElements hold a port to its own MAC and, where the network numbers its endpoints, to its addresses. The unspecified
// addresses are everyone's: duplicate address detection sends from them (RFC 5227, RFC 4862).
func guardElements(n model.Network, e model.Endpoint, port string) []dataplane.Object {
	if e.NoGuard || n.NoGuard {
		return nil
	}
	objects := []dataplane.Object{
		setGuarded.Element(dataplane.Tuple{Link: port}),
		setMACs.Element(dataplane.Tuple{Link: port, MAC: e.MAC}),
	}
	if !n.GuardsAddresses() {
		return objects
	}
	objects = append(objects, setLocked.Element(dataplane.Tuple{Link: port}))
	own := append([]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified(), e.MAC.LinkLocal()}, e.Addrs...)
	for _, a := range own {
		objects = append(objects, setAddrs[familyOf(a)].Element(dataplane.Tuple{Link: port, Addr: a}))
		if a.Is6() && !a.IsUnspecified() {
			objects = append(objects, setTargets.Element(dataplane.Tuple{Link: port, Addr: a}))
		}
	}
	return objects
}

// inwardElements let only what is of a closed network up to the host: where the guard does not see to that, and from a network that the
// host is not on nothing at all. The unspecified addresses are everyone's, see guardElements.
func inwardElements(n model.Network, e model.Endpoint, port string) []dataplane.Object {
	held := n.GuardsAddresses() && !n.NoGuard && !e.NoGuard
	if !closed(n) || held && !silent(n) {
		return nil
	}
	objects := []dataplane.Object{setStrict.Element(dataplane.Tuple{Link: port})}
	if silent(n) {
		return objects
	}
	near := []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 32), netip.PrefixFrom(netip.IPv6Unspecified(), 128), linkLocal6}
	for _, s := range n.Subnets {
		near = append(near, s.Prefix)
	}
	for _, p := range near {
		objects = append(objects, setNear[familyOf(p.Addr())].Element(dataplane.Tuple{Link: port, Addr: p.Masked().Addr(), AddrLast: lastAddr(p)}))
	}
	return objects
}

// ownElements are the addresses by which the host's rules know the endpoint; those of guests that number themselves are not known.
func ownElements(n model.Network, e model.Endpoint) []dataplane.Object {
	if !n.GuardsAddresses() {
		return nil
	}
	var objects []dataplane.Object
	for _, a := range e.Addrs {
		objects = append(objects, setOwn[familyOf(a)].Element(dataplane.Tuple{Addr: a}))
	}
	return objects
}

func isolationElements(n model.Network, e model.Endpoint) []dataplane.Object {
	var objects []dataplane.Object
	for _, a := range e.Addrs {
		if e.Isolated {
			objects = append(objects, setPortIso[familyOf(a)].Element(dataplane.Tuple{Link: n.BridgeName(), Addr: a}))
		}
	}
	return objects
}

func compare(a, b string) int { return strings.Compare(a, b) }
