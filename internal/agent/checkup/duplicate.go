package checkup

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/model"
)

// claim is who an address of a network belongs to.
type claim struct {
	who string // "workload web", "the gateway of network lab"
	mac model.MAC
}

// claims are the addresses of a network with their owners.
func claims(v model.View, n model.Network) map[netip.Addr]claim {
	all := map[netip.Addr]claim{}
	for _, s := range n.Subnets {
		if n.HostPresent() && s.Gateway.IsValid() {
			all[s.Gateway] = claim{"the gateway of network " + n.Name, model.BridgeMAC(n.Name)}
		}
	}
	for _, w := range v.Workloads {
		if e, ok := w.Endpoint(n.Name); ok && !w.Process.Exited {
			for _, a := range e.Addrs {
				all[a] = claim{"workload " + w.Name, e.MAC}
			}
		}
	}
	return all
}

// duplicates are addresses of a network that somebody else has too. Where one can look, at links of the host and in
// namespaces, that is seen at once; of others it is seen by who answered for an address just now. Nothing is sent.
func duplicates(f Facts) []api.Finding {
	var list []api.Finding
	for _, name := range slices.Sorted(maps.Keys(f.View.Networks)) {
		n := f.View.Networks[name]
		if !n.Active || !n.HasBridge() {
			continue
		}
		d := duplicateSearch{Facts: f, network: n, claims: claims(f.View, n), seen: map[netip.Addr]bool{}}
		d.onHost()
		d.inWorkloads()
		d.inOthers()
		d.answered()
		list = append(list, d.found...)
	}
	return append(list, amongOthers(f)...)
}

type duplicateSearch struct {
	Facts
	network model.Network
	claims  map[netip.Addr]claim
	seen    map[netip.Addr]bool // told already
	found   []api.Finding
}

// tell reports an address that is somebody else's; who must not be its owner.
func (d *duplicateSearch) tell(a netip.Addr, who, fix string) {
	if d.seen[a] {
		return
	}
	d.seen[a] = true
	d.found = append(d.found, api.Finding{Code: CodeDuplicate, Level: warning,
		What:  fmt.Sprintf("%s is the address of two on network %s: of %s and of %s", a, d.network.Name, d.claims[a].who, who),
		Owner: d.guard(), Fix: fix})
}

// guard says what the other one can do with the address.
func (d *duplicateSearch) guard() string {
	if d.network.GuardsAddresses() && !d.network.NoGuard {
		return "ports of flatnet let nobody else speak for it; a port plugged in by hand is not guarded"
	}
	return "nothing keeps others from speaking for it on this network"
}

// onHost: the host itself has the address on another link than the network's bridge.
func (d *duplicateSearch) onHost() {
	if n := d.network; !n.HostPresent() && !n.Routes() && n.Mode != model.Bridged {
		return // the host is not there: the same address elsewhere is no other's
	}
	for _, l := range d.Host.Links {
		if l.Name == d.network.BridgeName() {
			continue
		}
		for _, p := range l.Addrs {
			if _, ours := d.claims[p.Addr()]; ours {
				d.tell(p.Addr(), "this host at "+l.Name, fmt.Sprintf("ip address del %s dev %s", p, l.Name))
			}
		}
	}
}

// inWorkloads: a workload has taken another's address.
func (d *duplicateSearch) inWorkloads() {
	for _, name := range slices.Sorted(maps.Keys(d.Workloads)) {
		w := d.View.Workloads[name]
		e, ok := w.Endpoint(d.network.Name)
		if !ok {
			continue
		}
		for _, l := range d.Workloads[name].Links {
			if _, other := endpointAt(w, l.Name); other && l.Name != e.IfName {
				continue // of another network
			}
			for _, p := range l.Addrs {
				if c, ours := d.claims[p.Addr()]; ours && c.who != "workload "+name {
					d.tell(p.Addr(), fmt.Sprintf("workload %s, by hand at %s", name, l.Name), enter(w.Netns, fmt.Sprintf("ip address del %s dev %s", p, l.Name)))
				}
			}
		}
	}
}

func endpointAt(w model.Workload, ifname string) (model.Endpoint, bool) {
	for _, e := range w.Endpoints {
		if e.IfName == ifname {
			return e, true
		}
	}
	return model.Endpoint{}, false
}

// inOthers: a namespace that was plugged into the bridge by hand has one. It answers for those of all its links (arp_ignore).
func (d *duplicateSearch) inOthers() {
	for _, o := range d.Others {
		if o.Bridge != d.network.BridgeName() {
			continue
		}
		for _, l := range o.Space.Links {
			for _, p := range l.Addrs {
				if _, ours := d.claims[p.Addr()]; ours {
					d.tell(p.Addr(), fmt.Sprintf("namespace %s, plugged in by hand at %s", o.Netns, o.Link), enter(o.Netns, fmt.Sprintf("ip address del %s dev %s", p, l.Name)))
				}
			}
		}
	}
}

// answered: a neighbour sends to the address just now, at a MAC that is not the owner's and that the bridge knows the port of.
// Entries that are not in use may be of an earlier owner. Whom one can look into is not judged by hearsay.
func (d *duplicateSearch) answered() {
	d.neighbours(d.Host, d.network.BridgeName())
	for _, name := range slices.Sorted(maps.Keys(d.Workloads)) {
		if e, ok := d.View.Workloads[name].Endpoint(d.network.Name); ok {
			d.neighbours(d.Workloads[name], e.IfName)
		}
	}
}

func (d *duplicateSearch) neighbours(s kernel.Space, link string) {
	for _, n := range s.Neighbours {
		c, ours := d.claims[n.Addr]
		mac, err := model.ParseMAC(n.MAC)
		inUse := slices.Contains([]string{"REACHABLE", "DELAY", "PROBE"}, n.State)
		if !ours || err != nil || n.Link != link || !inUse || mac == c.mac || d.lookedInto(n.MAC) {
			continue
		}
		port, known := d.Switches.Ports[d.network.BridgeName()][mac]
		if !known {
			continue
		}
		if d.leadsToLAN(port) {
			d.tell(n.Addr, fmt.Sprintf("somebody on the LAN behind %s, with the MAC %s", port, mac), "")
			continue
		}
		d.tell(n.Addr, fmt.Sprintf("somebody with the MAC %s behind %s", mac, port), "ip link set dev "+port+" nomaster")
	}
}

// leadsToLAN reports whether a port has more than one guest behind it: then it is not to be unplugged.
func (d *duplicateSearch) leadsToLAN(port string) bool {
	l, _ := linkOf(d.Host, port)
	return port == d.network.Uplink || d.network.BorrowsBridge() || l.Kind != "veth" && l.Kind != "tun"
}

// lookedInto reports whether a MAC is that of a namespace whose addresses were seen.
func (d *duplicateSearch) lookedInto(mac string) bool {
	has := func(l kernel.LinkInfo) bool { return l.MAC == mac }
	for _, s := range d.Workloads {
		if slices.ContainsFunc(s.Links, has) {
			return true
		}
	}
	return slices.ContainsFunc(d.Others, func(o Other) bool { return slices.ContainsFunc(o.Space.Links, has) })
}

// amongOthers are addresses that two namespaces on a bridge made by hand have, or one has that is the host's there.
func amongOthers(f Facts) []api.Finding {
	type place struct {
		bridge string
		addr   netip.Addr
	}
	first := map[place]string{}
	for _, l := range f.Host.Links {
		for _, p := range l.Addrs {
			if l.Kind == "bridge" && !isOurs(l) {
				first[place{l.Name, p.Addr()}] = "this host"
			}
		}
	}
	others := slices.SortedFunc(slices.Values(f.Others), func(a, b Other) int {
		return cmp.Or(cmp.Compare(a.Netns, b.Netns), cmp.Compare(a.Link, b.Link))
	})
	var list []api.Finding
	for _, o := range others {
		inner, _ := o.inner()
		if bridge, ok := linkOf(f.Host, o.Bridge); !ok || isOurs(bridge) {
			continue
		}
		for _, p := range inner.Addrs {
			at := place{o.Bridge, p.Addr()}
			if p.Addr().IsLinkLocalUnicast() {
				continue
			}
			if who := first[at]; who != "" {
				list = append(list, api.Finding{Code: CodeDuplicate, Level: note, What: fmt.Sprintf("%s is the address of two on %s, which is not flatnet's: of %s and of namespace %s", p.Addr(), o.Bridge, who, o.Netns),
					Fix: enter(o.Netns, fmt.Sprintf("ip address del %s dev %s", p, inner.Name))})
				continue
			}
			first[at] = "namespace " + o.Netns
		}
	}
	return list
}

// isOurs reports whether a link has flatnet's mark.
func isOurs(l kernel.LinkInfo) bool { return strings.HasPrefix(l.Alias, "flatnet ") }
