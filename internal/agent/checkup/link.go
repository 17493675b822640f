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

// downLinks are links that networks leave by and that are down, or not plugged in. Much else follows from that.
func downLinks(f Facts) []api.Finding {
	var list []api.Finding
	for _, name := range waysOutOnce(f) {
		l, there := linkOf(f.Host, name)
		of := leavingBy(f, name)
		if !there || hasCarrier(l) || len(of) == 0 {
			continue
		}
		found := api.Finding{Code: CodeDownLink, Level: failure, What: fmt.Sprintf("%s is down: workloads of %s do not leave this host by it", name, strings.Join(of, ", ")),
			Fix: setUp(name)}
		if isUp(l) {
			found.What = fmt.Sprintf("%s has no carrier: workloads of %s do not leave this host by it", name, strings.Join(of, ", "))
			found.Owner, found.Fix = "no cable, or its other end is off", ""
		}
		list = append(list, found)
	}
	return list
}

// waysOutOnce are the links that lead out, or did so before their routes went, and those that networks are bound to.
func waysOutOnce(f Facts) []string {
	var links []string
	add := func(name string) {
		if name != "" && !slices.Contains(links, name) {
			links = append(links, name)
		}
	}
	for _, v := range families {
		all := defaultsOf(f.Host, v)
		if len(all) == 0 && !f.Before[v].Until.IsZero() {
			all = []kernel.DefaultRoute{f.Before[v].Route}
		}
		if len(all) > 0 {
			for _, h := range all[0].Hops {
				add(h.Link)
			}
		}
	}
	if len(links) == 0 { // nobody knows which led out: those with addresses may have
		for _, l := range f.Host.Links {
			if l.Kind != "bridge" && l.Master == "" && !l.Loopback && !isOurs(l) && slices.ContainsFunc(l.Addrs, isGlobal) {
				add(l.Name)
			}
		}
	}
	for _, n := range activeNetworks(f.View) {
		add(n.Uplink)
	}
	return links
}

// leavingBy names the networks that leave by a link: those bound to it, or to none.
func leavingBy(f Facts, link string) []string {
	var of []model.Network
	for _, n := range activeNetworks(f.View) {
		if n.Uplink == link || n.Uplink == "" && n.Routes() {
			of = append(of, n)
		}
	}
	return names(of)
}

// strayAddresses are addresses of the host on a port of a network's bridge: what comes in by a port is the bridge's.
func strayAddresses(f Facts) []api.Finding {
	var list []api.Finding
	for _, l := range f.Host.Links {
		n, ok := networkOn(f.View, l.Master)
		if !ok || isOurs(l) || l.Name != n.Uplink && !n.BorrowsBridge() {
			continue
		}
		var addrs, fix []string
		for _, p := range l.Addrs {
			if isGlobal(p) {
				addrs = append(addrs, p.String())
				fix = append(fix, fmt.Sprintf("ip address del %[1]s dev %[2]s && ip address add %[1]s dev %[3]s", p, l.Name, l.Master))
			}
		}
		if len(addrs) == 0 {
			continue
		}
		list = append(list, api.Finding{Code: CodeStrayAddress, Level: warning, What: fmt.Sprintf("%s, which is a port of %s, has %s of this host: it reaches nobody from there, and nobody reaches it", l.Name, l.Master, strings.Join(addrs, ", ")),
			Owner: fmt.Sprintf("network %s; addresses of the host belong on the bridge", n.Name), Fix: strings.Join(append(fix, movedDefaults(f, l)...), "\n")})
	}
	return list
}

// movedDefaults put default routes of a port on its bridge; they go with the port's last address.
func movedDefaults(f Facts, port kernel.LinkInfo) []string {
	var lines []string
	for _, v := range families {
		for _, d := range defaultsOf(f.Host, v) {
			if len(d.Hops) == 1 && d.Hops[0].Link == port.Name {
				d.Hops = []kernel.DefaultHop{{Via: d.Hops[0].Via, Link: port.Master}}
				lines = append(lines, fmt.Sprintf("ip %sroute replace %s", v.flag(), defaultText(d)))
			}
		}
	}
	return lines
}

// strayPorts are links of others in a bridge of ours. Where workloads leave the host anyway, another guest that somebody plugged in
// by hand is no surprise.
func strayPorts(f Facts) []api.Finding {
	var list []api.Finding
	for _, l := range f.Host.Links {
		n, ok := networkOn(f.View, l.Master)
		if !ok || isOurs(l) || n.BorrowsBridge() || n.ForeignBridge() || l.Name == n.Uplink {
			continue
		}
		found := api.Finding{Code: CodeStrayPort, Level: warning, What: fmt.Sprintf("%s was put into %s by hand: network %s (%s) is open to whatever is there, and nothing guards it", l.Name, l.Master, n.Name, n.Mode),
			Fix: "ip link set " + l.Name + " nomaster"}
		if n.Mode != model.Bridged && l.Kind != "tun" {
			found.Owner = "where the network is meant to be on a LAN that is there: flatnet net set " + n.Name + " --mode bridged --uplink " + l.Name
		}
		if isGuest(l) && (n.Routes() || n.Mode == model.Bridged) {
			found.Level, found.Owner = note, ""
		}
		list = append(list, found)
	}
	return list
}

// isGuest reports whether a link is of the kind that leads to one guest of this host.
func isGuest(l kernel.LinkInfo) bool { return l.Kind == "veth" || l.Kind == "tun" }

// networkOn is the active network whose bridge that is.
func networkOn(v model.View, bridge string) (model.Network, bool) {
	for _, n := range activeNetworks(v) {
		if bridge != "" && n.HasBridge() && n.BridgeName() == bridge {
			return n, true
		}
	}
	return model.Network{}, false
}

func isGlobal(p netip.Prefix) bool {
	return !p.Addr().IsLinkLocalUnicast() && !p.Addr().IsLoopback()
}

func hasCarrier(l kernel.LinkInfo) bool { return slices.Contains(l.Flags, "LOWER_UP") }

func setUp(link string) string { return "ip link set " + link + " up" }
