package agent

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/checkup"
	"github.com/flatnet/flatnet/internal/kernel/foreign"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// clusterFindings are what is known to be wrong with this host's part in its cluster. The caller holds Agent.mu.
func (a *Agent) clusterFindings() []api.Finding {
	if a.fabric == nil {
		return nil
	}
	seen := a.fabric.seen
	c := checkup.Cluster{Away: a.fabric.away, Twin: seen.Twin, Self: seen.Self, Silent: a.silentNodes(), NotReached: map[string][]checkup.NotReached{}, Fenced: map[model.LeaseKey]string{}}
	_, known := seen.Members[seen.Self]
	c.Removed = !known && seen.Known && seen.Live && !seen.Twin && a.fabric.away.IsZero() && a.deps.Now().Sub(a.fabric.entered) > describeTime
	for _, n := range a.unsoundNodes() {
		c.Removed = c.Removed && !n.Self
		c.NotReached[""] = append(c.NotReached[""], checkup.NotReached{Node: n.ID, Self: n.Self, Why: n.Problem})
	}
	for name, n := range a.state.view.Networks {
		if n.Mode != model.Cluster || !n.Active {
			continue
		}
		for _, node := range a.describeNodes(n) {
			if node.Problem != "" && node.Name != "" { // without a name it was told of already
				c.NotReached[name] = append(c.NotReached[name], checkup.NotReached{Node: node.Name, Self: node.Self, Why: node.Problem})
			}
		}
	}
	for key, is := range seen.Fenced {
		if _, exists := a.state.view.Networks[key.Network]; exists {
			c.Fenced[key] = fencedBecause(is)
		}
	}
	for _, list := range c.NotReached {
		slices.SortFunc(list, func(a, b checkup.NotReached) int { return strings.Compare(a.Node, b.Node) })
	}
	return checkup.ClusterFindings(c)
}

// describeTime is in which a host that comes to a cluster has described itself there.
const describeTime = 3 * time.Second

func fencedBecause(is store.Tenure) string {
	if is == store.Overdue {
		return "it could not be renewed for the grace (24 h), after which another host may have it"
	}
	return "the cluster's store says that this host does not hold it any more"
}

// clusterFacts are what the kernel knows that the tunnels of the cluster's networks depend on.
func (a *Agent) clusterFacts(ctx context.Context, v model.View) checkup.Cluster {
	c := checkup.Cluster{Reverse: map[string]int{}, Holders: map[uint16]string{}}
	ports := map[uint16]bool{}
	for _, n := range v.Networks {
		if n.Mode != model.Cluster || !n.Active {
			continue
		}
		ports[n.Cluster.Port] = n.Cluster.Uses(model.VXLAN) || ports[n.Cluster.Port]
		if link, ok := v.UnderlayLink(n); ok {
			c.Reverse[link.Name] = max(sysctlNumber("net/ipv4/conf/all/rp_filter"), sysctlNumber("net/ipv4/conf/"+link.Name+"/rp_filter"))
		}
	}
	if len(ports) == 0 {
		return c
	}
	listeners, err := a.deps.Host.Listeners(ctx)
	if err != nil {
		a.deps.Log.Warn("list the host's listeners", "err", err)
	}
	for _, l := range listeners {
		if l.Proto != model.UDP || !ports[l.Port] {
			continue
		}
		if owner := a.deps.Host.Owner(ctx, l); strings.HasPrefix(owner, "process ") { // the kernel's own tunnels listen too
			c.Holders[l.Port] = owner + " on " + listenText(l)
		}
	}
	return c
}

// sysctlNumber is 0 for what cannot be read.
func sysctlNumber(name string) int {
	value, _ := os.ReadFile(filepath.Join("/proc/sys", name))
	n, _ := strconv.Atoi(strings.TrimSpace(string(value)))
	return n
}

// tunnelProbes are the packets of the tunnels, of one other node for all.
func tunnelProbes(v model.View) []foreign.Probe {
	var probes []foreign.Probe
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(v.Networks)) {
		n := v.Networks[name]
		link, ok := v.UnderlayLink(n)
		own, peer := v.Members[v.Self].Underlay(n.Cluster.UnderlayV6), somePeer(v, n)
		key := fmt.Sprint(link.Name, n.Cluster.Port, own.Is6())
		if n.Mode != model.Cluster || !n.Active || !n.Cluster.Uses(model.VXLAN) || !ok || !peer.IsValid() || seen[key] {
			continue
		}
		seen[key] = true
		in := foreign.Probe{Name: fmt.Sprintf("tunnel packets of other nodes arrive (udp %d)", n.Cluster.Port), Link: link.Name, Way: foreign.ToHost, In: link.Name, Src: peer, Dst: own,
			Proto: unix.IPPROTO_UDP, SrcPort: 50000, DstPort: n.Cluster.Port}
		out := in
		out.Name, out.Way, out.In, out.Out, out.Src, out.Dst = fmt.Sprintf("tunnel packets leave (udp %d)", n.Cluster.Port), foreign.FromHost, "", link.Name, own, peer
		probes = append(probes, in, out)
	}
	return probes
}

// somePeer is the underlay address of another node of a network.
func somePeer(v model.View, n model.Network) netip.Addr {
	for _, id := range slices.Sorted(maps.Keys(v.Members)) {
		m := v.Members[id]
		if addr := m.Underlay(n.Cluster.UnderlayV6); id != v.Self && n.Cluster.On(m) && addr.IsValid() {
			return addr
		}
	}
	return netip.Addr{}
}

// tunnelFindings say who drops packets of the tunnels. What lets them pass lets nothing else pass: the link is the host's, and not ours.
func tunnelFindings(rules foreign.Ruleset, v model.View) []foreign.Finding {
	var list []foreign.Finding
	for _, probe := range tunnelProbes(v) {
		for _, f := range foreign.Findings(rules, []foreign.Probe{probe}) {
			f.Fix = letTunnelPass(f, probe)
			list = append(list, f)
		}
	}
	return list
}

func letTunnelPass(f foreign.Finding, p foreign.Probe) string {
	dir, flag, name := "in", "-i", "iifname"
	if p.Way == foreign.FromHost {
		dir, flag, name = "out", "-o", "oifname"
	}
	tool := map[bool]string{false: "iptables", true: "ip6tables"}[p.Src.Is6()]
	switch {
	case strings.HasPrefix(f.Owner, "ufw"):
		return fmt.Sprintf("ufw allow %s on %s proto udp to any port %d", dir, p.Link, p.DstPort)
	case strings.HasPrefix(f.Owner, "firewalld"):
		return fmt.Sprintf("firewall-cmd --permanent --add-port=%d/udp\nfirewall-cmd --reload", p.DstPort)
	case f.Family == "ip" || f.Family == "ip6": // tables of iptables, as a rule
		return fmt.Sprintf("%s -t %s -I %s %s %s -p udp --dport %d -j ACCEPT", tool, f.Table, f.Chain, flag, p.Link, p.DstPort)
	}
	return fmt.Sprintf("nft insert rule %s %s %s %s %s udp dport %d accept", f.Family, f.Table, f.Chain, name, p.Link, p.DstPort)
}
