package checkup

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// Cluster is what this host knows of its cluster beyond the View.
type Cluster struct {
	Away       time.Time                 // since when the store does not answer; zero: it does, or there is none
	Self       string                    // this host's member ID
	Twin       bool                      // another machine has it too
	Removed    bool                      // the cluster does not know of it any more
	Silent     []Silent                  // hosts without a sign of life
	NotReached map[string][]NotReached   // nodes by network; "" is all networks
	Fenced     map[model.LeaseKey]string // blocks of this host that it must not use, with the reason
	Reverse    map[string]int            // the check of the way back (rp_filter) that holds on a link
	Holders    map[uint16]string         // processes that hold a UDP port
}

// NotReached is a node that nothing is sent to.
type NotReached struct {
	Node string // its name, or else its id
	Self bool
	Why  string
}

// Silent is a host without a sign of life.
type Silent struct {
	Node  string
	Since time.Time // zero: for longer than this host looks
}

// SinceText says since when there is no sign of life of a host.
func SinceText(since time.Time) string {
	if since.IsZero() {
		return "no sign of life"
	}
	return "no sign of life since " + since.UTC().Format("2006-01-02 15:04:05 UTC")
}

// mostNodes is how many nodes one finding names.
const mostNodes = 5

// ClusterFindings are those that need no look at the kernel.
func ClusterFindings(c Cluster) []api.Finding {
	if c.Removed { // the rest follows from that
		return []api.Finding{{Code: CodeRemoved, Level: failure, What: "this host is not in its cluster any more: it was taken out on a server, and has no blocks there", Owner: "host ID " + c.Self,
			Fix: "join again: flatnet token create on a server, then here: flatnet join SERVER --token TOKEN; or flatnet leave"}}
	}
	return slices.Concat(storeAway(c), twin(c), silent(c), notReached(c), fenced(c))
}

func storeAway(c Cluster) []api.Finding {
	if c.Away.IsZero() {
		return nil
	}
	return []api.Finding{{Code: CodeStoreAway, Level: warning, What: fmt.Sprintf("the cluster's store has not answered since %s: what runs goes on, but nothing of the cluster can be changed, and after the grace (24 h) this host stops using its blocks",
		c.Away.UTC().Format("2006-01-02 15:04:05 UTC")), Owner: "etcd on the cluster's servers, or the way there (tcp 2379)", Fix: "flatnet host ls says which hosts are servers; see there whether flatnetd and flatnet-etcd run"}}
}

func twin(c Cluster) []api.Finding {
	if !c.Twin {
		return nil
	}
	return []api.Finding{{Code: CodeTwin, Level: failure, What: "another flatnetd says that it is this host: two machines have the host ID " + c.Self + ", and both use its blocks and its tunnel's addresses",
		Owner: "a machine that was cloned after it had joined, as a rule: flatnet host ls -o wide on another host has its address", Fix: "on the copy: flatnet leave --force; then flatnet join there anew"}}
}

// silent is nothing to be told while the store does not answer: nothing is known then.
func silent(c Cluster) []api.Finding {
	if len(c.Silent) == 0 || !c.Away.IsZero() {
		return nil
	}
	var lines []string
	for _, s := range c.Silent {
		lines = append(lines, s.Node+": "+SinceText(s.Since))
	}
	what := fmt.Sprintf("%d hosts of the cluster give no sign of life: what runs there may be cut off from here", len(lines))
	if len(lines) == 1 {
		what = "a host of the cluster gives no sign of life: what runs there may be cut off from here"
	}
	return []api.Finding{{Code: CodeSilent, Level: warning, What: what, Owner: few(lines),
		Fix: "see there whether the machine and flatnetd run, and reach the servers (tcp 2379); one that is gone for good: flatnet host rm NAME on a server"}}
}

func notReached(c Cluster) []api.Finding {
	var list []api.Finding
	for _, network := range slices.Sorted(maps.Keys(c.NotReached)) {
		var lines []string
		for _, n := range c.NotReached[network] {
			if n.Self {
				list = append(list, api.Finding{Code: CodeNotReached, Level: failure, What: "the other hosts refuse this one: " + n.Why, Fix: "what it says of itself is to be right: flatnet host ls -o wide"})
				continue
			}
			lines = append(lines, n.Node+": "+n.Why)
		}
		if len(lines) == 0 {
			continue
		}
		of := "no network"
		if network != "" {
			of = "network " + network
		}
		found := api.Finding{Code: CodeNotReached, Level: failure, What: fmt.Sprintf("on %s %d of the nodes are not reached from here", of, len(lines)), Owner: few(lines), Fix: "flatnet net inspect " + network}
		if network == "" {
			found.What = fmt.Sprintf("%d nodes of the cluster are not reached from here", len(lines))
			found.Fix = "flatnet host ls -o wide"
		}
		if len(lines) == 1 {
			found.What = strings.Replace(strings.Replace(found.What, "1 of the nodes are", "a node is", 1), "1 nodes of the cluster are", "a node of the cluster is", 1)
		}
		if network != "" && slices.ContainsFunc(lines, offLink) {
			found.Fix = fmt.Sprintf("on a server: flatnet net set %s --backend vxlan --direct-routing", network)
		}
		list = append(list, found)
	}
	return list
}

// offLink knows hosts that only a tunnel reaches.
func offLink(line string) bool {
	return strings.Contains(line, model.CodeNotOnLink) && !strings.Contains(line, "underlay address")
}

// few are the first lines of many.
func few(lines []string) string {
	if rest := len(lines) - mostNodes; rest > 0 {
		lines = append(slices.Clone(lines[:mostNodes]), fmt.Sprintf("and %d more", rest))
	}
	return strings.Join(lines, "\n")
}

func fenced(c Cluster) []api.Finding {
	var list []api.Finding
	for _, key := range slices.SortedFunc(maps.Keys(c.Fenced), model.CompareLeases) {
		list = append(list, api.Finding{Code: CodeFenced, Level: failure, What: fmt.Sprintf("block %s of network %s is not used on this host any more: its workloads are cut off", key.Block, key.Network),
			Owner: c.Fenced[key], Fix: "it is asked for again as long as nobody else has it; workloads that are made anew get addresses of another block"})
	}
	return list
}

// tunnels: what stands in the way of packets between the nodes.
func tunnels(f Facts) []api.Finding {
	var list []api.Finding
	for _, n := range activeNetworks(f.View) {
		if n.Mode == model.Cluster {
			list = slices.Concat(list, portHeld(f, n), strictWayBack(f, n), smallerMTU(f, n), badChecksums(f, n), foreignTunnels(f, n), foreignRoutes(f, n), fullPools(f, n))
		}
	}
	return list
}

func portHeld(f Facts, n model.Network) []api.Finding {
	holder := f.Cluster.Holders[n.Cluster.Port]
	if holder == "" || !n.Cluster.Uses(model.VXLAN) {
		return nil
	}
	return []api.Finding{{Code: CodeTunnelPort, Level: failure, What: fmt.Sprintf("udp %d is held by a process: the tunnel of network %s cannot use it", n.Cluster.Port, n.Name), Owner: holder,
		Fix: fmt.Sprintf("stop that process, or on all hosts together: flatnet net set %s --port %d", n.Name, n.Cluster.Port+1)}}
}

// strictWayBack: what a workload of another node sends to this node's underlay address comes as itself by the underlay, while the way to
// the workload leads into the tunnel (net/ipv4/fib_frontend.c, __fib_validate_source).
func strictWayBack(f Facts, n model.Network) []api.Finding {
	link, ok := f.View.UnderlayLink(n)
	if !ok || f.Cluster.Reverse[link.Name] != 1 || !n.Cluster.Uses(model.VXLAN) || n.Cluster.Inherited || n.Cluster.UnderlayV6 {
		return nil
	}
	return []api.Finding{{Code: CodeWayBack, Level: warning, What: fmt.Sprintf("%s takes only what would be answered by it: workloads of network %s on other hosts do not reach this host's own addresses", link.Name, n.Name),
		Owner: fmt.Sprintf("net.ipv4.conf.%s.rp_filter or net.ipv4.conf.all.rp_filter is 1 (strict)", link.Name), Fix: setSysctl("net/ipv4/conf/"+link.Name+"/rp_filter", "2")}}
}

// smallerMTU: a node that has larger packets in its tunnel than this one's link takes.
func smallerMTU(f Facts, n model.Network) []api.Finding {
	link, ok := f.View.UnderlayLink(n)
	if !ok {
		return nil
	}
	largest, lines := 0, []string(nil)
	for _, id := range slices.Sorted(maps.Keys(f.View.Members)) {
		m := f.View.Members[id]
		sends := m.MTU
		if n.MTU != 0 {
			sends = min(sends, n.MTU+n.Cluster.Overhead())
		}
		if id != f.View.Self && n.Cluster.On(m) && sends > link.MTU {
			lines = append(lines, fmt.Sprintf("%s sends up to %d bytes", m.Name, sends))
			largest = max(largest, sends)
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return []api.Finding{{Code: CodeUnderlayMTU, Level: warning, What: fmt.Sprintf("%s takes packets of %d bytes, and other hosts of network %s send larger ones: they may be lost", link.Name, link.MTU, n.Name), Owner: few(lines),
		Fix: fmt.Sprintf("ip link set %s mtu %d, where the LAN can; or flatnet net set %s --mtu %d", link.Name, largest, n.Name, link.MTU-n.Cluster.Overhead())}}
}

// badChecksums: NICs and hypervisors that compute the checksum of what is in a tunnel, and spoil it. Small packets of ping arrive, as ICMP's
// checksum is none of theirs, and TCP does not.
func badChecksums(f Facts, n model.Network) []api.Finding {
	if f.Host.BadChecksums == 0 || !n.Cluster.Uses(model.VXLAN) || n.Cluster.NoChecksum {
		return nil
	}
	return []api.Finding{{Code: CodeBadChecksum, Level: note, What: fmt.Sprintf("%d UDP packets came to this host with a wrong checksum: where pings between hosts get through and TCP hangs, a NIC spoils the checksums of network %s", f.Host.BadChecksums, n.Name),
		Owner: "a sender's NIC, or a hypervisor between (checksum offload)", Fix: fmt.Sprintf("watch whether it grows: nstat -az UdpInCsumErrors; then, in the whole cluster: flatnet net set %s --checksum=false", n.Name)}}
}
