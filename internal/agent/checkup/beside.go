package checkup

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/model"
)

// What others have on the host that is in the way of a cluster's network.
const (
	CodeOtherTunnel = "FN5425" // another VXLAN link has the port, or the VNI too
	CodeRouteInPool = "FN5426" // a route of others leads to addresses of a network
)

// foreignTunnels: the kernel has one VXLAN link of a VNI and port (drivers/net/vxlan, vxlan_vni_in_use). Others of the port work beside, but what
// comes in by the port is taken from the cluster's hosts only.
func foreignTunnels(f Facts, n model.Network) []api.Finding {
	if !n.Cluster.Uses(model.VXLAN) {
		return nil
	}
	var list []api.Finding
	for _, l := range f.Host.Links {
		if l.Kind != "vxlan" || l.Port != n.Cluster.Port || l.Name == n.TunnelName() || isTunnelOf(f.View, l) {
			continue
		}
		found := api.Finding{Code: CodeOtherTunnel, Level: warning, Owner: fmt.Sprintf("link %s, VNI %d at udp %d, which is not flatnet's", l.Name, l.VNI, l.Port),
			What: fmt.Sprintf("link %s uses the port of network %s: what comes to it from machines that are no hosts of the cluster is dropped", l.Name, n.Name),
			Fix:  fmt.Sprintf("another port for one of them: flatnet net set %s --port N, on a server", n.Name)}
		if l.VNI == n.Cluster.VNI {
			found.Level, found.What = failure, fmt.Sprintf("link %s has the port and the VNI of network %s: there can be one such link, so this host reaches no workload elsewhere", l.Name, n.Name)
			found.Fix = fmt.Sprintf("if nobody needs it: ip link del %s; or another VNI: flatnet net set %s --vni N, on a server", l.Name, n.Name)
		}
		list = append(list, found)
	}
	return list
}

// isTunnelOf reports whether a link is that of a network of ours.
func isTunnelOf(v model.View, l kernel.LinkInfo) bool {
	return slices.ContainsFunc(activeNetworks(v), func(n model.Network) bool { return n.Mode == model.Cluster && n.TunnelName() == l.Name })
}

// foreignRoutes lead elsewhere with what is for a workload of another host, or for nobody yet. Those to this host's own blocks are conflicts, which are
// told of by themselves.
func foreignRoutes(f Facts, n model.Network) []api.Finding {
	if n.Cluster.Inherited { // another program's, who made them
		return nil
	}
	var lines, fix []string
	for _, r := range f.View.Node.Routes {
		inside := slices.ContainsFunc(n.Ranges(), func(p netip.Prefix) bool { return p.Bits() <= r.Dest.Bits() && p.Contains(r.Dest.Addr()) })
		if !inside || slices.ContainsFunc(n.Subnets, func(s model.Subnet) bool { return s.Prefix.Overlaps(r.Dest) }) {
			continue
		}
		words := r.Dest.String()
		if r.Via.IsValid() {
			words += " via " + r.Via.String()
		}
		if r.Link != "" {
			words += " dev " + r.Link
		}
		fix = append(fix, "ip route del "+words)
		lines = append(lines, words+" proto "+r.Proto+holding(f.View, n, r.Dest))
	}
	if len(lines) == 0 {
		return nil
	}
	return []api.Finding{{Code: CodeRouteInPool, Level: failure, What: fmt.Sprintf("routes of others are within network %s: what is for its workloads goes there", n.Name), Owner: few(lines), Fix: strings.Join(fix[:min(len(fix), mostNodes)], "\n")}}
}

// holding says whose blocks a range lies in.
func holding(v model.View, n model.Network, p netip.Prefix) string {
	var hosts []string
	for key, l := range v.Leases {
		if name := v.Members[l.Node].Name; key.Network == n.Name && key.Block.Overlaps(p) && !slices.Contains(hosts, name) {
			hosts = append(hosts, name)
		}
	}
	if len(hosts) == 0 {
		return ", in a block of nobody yet"
	}
	slices.Sort(hosts)
	return ", in a block of " + strings.Join(hosts, ", ")
}
