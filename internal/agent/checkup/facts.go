// Package checkup tells from facts of a host why packets do not get through, where that is nobody's rule and nothing of flatnet's
// own: forwarding that is off, default routes that lead nowhere, addresses that two have, sources that the LAN has no way back
// to. It is pure: who calls it has gathered the Facts. What is flatnet's own and drifted is package reconcile's to say, what
// others drop is package kernel/foreign's.
//
//	for _, f := range checkup.Findings(facts) {
//		fmt.Println(f.Code, f.What, f.Fix)
//	}
package checkup

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/model"
)

// The codes of findings, stable for ever.
const (
	CodeForwarding   = "FN5003" // forwarding is off
	CodeLinkCloses   = "FN5201" // one link does not forward
	CodeNoDefault    = "FN5202" // the host has no default route
	CodeOtherUplink  = "FN5203" // a network may leave by a link that nothing leads to
	CodeDeadRouter   = "FN5204" // the default route leads to nobody
	CodeTwoDefaults  = "FN5205" // two default routes of one metric
	CodeReturnRoute  = "FN5206" // the LAN needs a route to a routed network
	CodeDownLink     = "FN5207" // a link that networks leave by is down
	CodeStrayAddress = "FN5208" // an address on a port of a bridge
	CodeStrayPort    = "FN5209" // a link of others in a bridge of ours
	CodeInnerRoute   = "FN5301" // a workload's default route
	CodeDuplicate    = "FN5302" // two have one address
	CodeOtherRoute   = "FN5303" // the default route of a namespace that is not ours
	CodeNotReached   = "FN5401" // a node of the cluster is not reached
	CodeStoreAway    = "FN5402" // the cluster's store does not answer
	CodeFenced       = "FN5403" // a block that this host must not use any more
	CodeTunnelPort   = "FN5404" // a process holds the tunnel's port
	CodeWayBack      = "FN5405" // the underlay's link checks the way back strictly
	CodeUnderlayMTU  = "FN5406" // other nodes send larger packets than the underlay's link takes
	CodeSilent       = "FN5410" // a host of the cluster gives no sign of life
	CodeTwin         = "FN5411" // another machine says that it is this host
	CodeRemoved      = "FN5412" // this host was taken out of its cluster
	CodeBadChecksum  = "FN5407" // packets come with a wrong UDP checksum
)

// The levels of a finding.
const (
	note    = "note"
	warning = "warning"
	failure = "error"
)

// Facts are what a diagnosis looks at.
type Facts struct {
	View      model.View
	Host      kernel.Space
	Switches  kernel.Switches
	Forward   [2]bool                 // of IPv4 and IPv6: the host forwards at all
	Sysctls   []Setting               // what the host's files set of forwarding at boot
	Before    [2]Past                 // the default route of each family before the last change
	Workloads map[string]kernel.Space // by name; of those with a namespace of their own
	Others    []Other
	Closed    []string // bridges of others that are kept from the outside on purpose
	Cluster   Cluster
}

// Past is a default route that was.
type Past struct {
	Route kernel.DefaultRoute
	Until time.Time      // zero: no change was seen
	Addrs []netip.Prefix // the host's on its link, of the route's family
}

// Setting is a line of a file that sysctl reads.
type Setting struct {
	File  string
	Line  int
	Text  string // as it stands there
	Name  string // net/ipv4/ip_forward
	Value string
}

// Other is a namespace that is not flatnet's, on a bridge of the host.
type Other struct {
	kernel.Attachment
	Bridge string
	Space  kernel.Space
}

// inner is the link in an Other that is the far end of its port.
func (o Other) inner() (kernel.LinkInfo, bool) {
	for _, l := range o.Space.Links {
		if l.Index == o.Inner {
			return l, true
		}
	}
	return kernel.LinkInfo{}, false
}

// Findings are all that the facts tell, in the order links, host, networks, workloads; those of ClusterFindings are not among them.
func Findings(f Facts) []api.Finding {
	return slices.Concat(downLinks(f), tunnels(f), strayAddresses(f), strayPorts(f), forwarding(f), closedLinks(f), defaults(f), pinned(f), returnRoutes(f), innerRoutes(f), duplicates(f), otherRoutes(f))
}

// family is 0 for IPv4 and 1 for IPv6.
type family int

func familyOf(a netip.Addr) family {
	if a.Is6() {
		return 1
	}
	return 0
}

var families = []family{0, 1}

func (v family) String() string { return [...]string{"IPv4", "IPv6"}[v] }

// flag is what `ip` needs to be told; it ends with a blank.
func (v family) flag() string { return [...]string{"", "-6 "}[v] }

// activeNetworks are ordered by name.
func activeNetworks(v model.View) []model.Network {
	var list []model.Network
	for _, n := range v.Networks {
		if n.Active {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b model.Network) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// routedNetworks are the active networks that the host routes for, by name.
func routedNetworks(v model.View, of family) []model.Network {
	return slices.DeleteFunc(activeNetworks(v), func(n model.Network) bool {
		return !n.Routes() || !slices.ContainsFunc(n.Subnets, func(s model.Subnet) bool { return familyOf(s.Prefix.Addr()) == of })
	})
}

func names(list []model.Network) []string {
	all := make([]string, len(list))
	for i, n := range list {
		all[i] = n.Name
	}
	return all
}

// defaultsOf are a space's default routes of a family, the one that is used first.
func defaultsOf(s kernel.Space, of family) []kernel.DefaultRoute {
	var list []kernel.DefaultRoute
	for _, d := range s.Defaults {
		if d.V6 == (of == 1) {
			list = append(list, d)
		}
	}
	slices.SortStableFunc(list, func(a, b kernel.DefaultRoute) int { return cmp.Compare(metric(a), metric(b)) })
	return list
}

// metric is what the kernel compares: of IPv6, 0 stands for 1024 (IP6_RT_PRIO_USER).
func metric(d kernel.DefaultRoute) int {
	if d.V6 && d.Metric == 0 {
		return 1024
	}
	return d.Metric
}

func linkOf(s kernel.Space, name string) (kernel.LinkInfo, bool) {
	for _, l := range s.Links {
		if l.Name == name {
			return l, true
		}
	}
	return kernel.LinkInfo{}, false
}
