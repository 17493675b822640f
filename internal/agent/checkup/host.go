package checkup

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/model"
)

// forwardSwitches are the sysctls that let the host forward, by family.
var forwardSwitches = [...]string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"}

// forwarding: where a network of flatnet needs it, flatnet sets it, and package reconcile tells when it can't. Else it is a hint
// for those who have made their own bridge.
func forwarding(f Facts) []api.Finding {
	if f.Forward[0] || len(routedNetworks(f.View, 0)) > 0 {
		return nil
	}
	var list []api.Finding
	for _, b := range OtherBridges(f) {
		list = append(list, api.Finding{Code: CodeForwarding, Level: note, What: fmt.Sprintf("forwarding is off: what is on %s (%s), which is not flatnet's, does not reach beyond this host",
			b.Name, b.Addr.Masked()), Owner: SettingText(f.Sysctls, forwardSwitches[0]), Fix: setSysctl(forwardSwitches[0], "1")})
	}
	return list
}

// SettingText says which files set a switch to 0, those that are read last; empty when none does.
func SettingText(settings []Setting, name string) string {
	const most = 2
	var found []string
	for _, s := range settings {
		if s.Name == name && s.Value == "0" {
			found = append(found, fmt.Sprintf("%s, line %d: %s", s.File, s.Line, s.Text))
		}
	}
	if rest := len(found) - most; rest > 0 {
		found = append(found[rest:], fmt.Sprintf("and %d more files", rest))
	}
	return strings.Join(found, "\n")
}

// setSysctl writes names as sysctl wants them: with slashes where a link's name has dots.
func setSysctl(name, value string) string {
	if !strings.Contains(name, ".") {
		name = strings.ReplaceAll(name, "/", ".")
	}
	return fmt.Sprintf("sysctl -w %s=%s", name, value)
}

// closedLinks: IPv4 looks at the switch of the link that a packet comes in by (net/ipv4/route.c, ip_route_input_slow). IPv6
// looks at that of the whole host only.
func closedLinks(f Facts) []api.Finding {
	networks := routedNetworks(f.View, 0)
	if len(networks) == 0 || !f.Forward[0] {
		return nil
	}
	var list []api.Finding
	closed := func(link, what string) {
		if on, known := f.Switches.Forwards[link]; known && !on {
			name := "net/ipv4/conf/" + link + "/forwarding"
			list = append(list, api.Finding{Code: CodeLinkCloses, Level: failure, What: link + " does not forward: " + what,
				Owner: strings.TrimPrefix(setSysctl(name, "0"), "sysctl -w ") + ", while net.ipv4.ip_forward=1", Fix: setSysctl(name, "1")})
		}
	}
	for _, link := range waysOut(f, networks) {
		closed(link, "what comes in by it is dropped, answers to workloads of "+strings.Join(names(networks), ", ")+" too")
	}
	for _, n := range networks {
		closed(n.BridgeName(), "nothing of network "+n.Name+" leaves it")
	}
	return list
}

// waysOut are the links of the best default routes, and those that networks are bound to.
func waysOut(f Facts, networks []model.Network) []string {
	var links []string
	if all := defaultsOf(f.Host, 0); len(all) > 0 {
		for _, h := range all[0].Hops {
			links = append(links, h.Link)
		}
	}
	for _, n := range networks {
		if n.Uplink != "" {
			links = append(links, n.Uplink)
		}
	}
	slices.Sort(links)
	return slices.Compact(links)
}

// defaults are the host's default routes: there, alone, and leading to somebody.
func defaults(f Facts) []api.Finding {
	var list []api.Finding
	for _, v := range families {
		networks := routedNetworks(f.View, v)
		if len(networks) == 0 {
			continue
		}
		all := defaultsOf(f.Host, v)
		if len(all) == 0 {
			list = append(list, noDefault(f, v, names(networks))...)
			continue
		}
		dead := deadRouters(f, v, all[0])
		two := twoDefaults(v, all, len(dead) > 0 || !leadsUp(f.Host, all[0]))
		if len(two) > 0 {
			for i := range dead {
				dead[i].Fix = "" // the other one is there already
			}
		}
		list = append(append(list, dead...), two...)
	}
	return list
}

// noDefault is a fault when there was one; else the host may well be meant to have none.
func noDefault(f Facts, v family, networks []string) []api.Finding {
	past := f.Before[v]
	if past.Until.IsZero() {
		if v == 1 {
			return nil
		}
		return []api.Finding{{Code: CodeNoDefault, Level: note, What: "this host has no IPv4 default route: workloads of " + strings.Join(networks, ", ") + " reach no further than its own links"}}
	}
	found := api.Finding{Code: CodeNoDefault, Level: warning, Fix: restore(f, past, v),
		What:  fmt.Sprintf("this host has lost its %s default route: workloads of %s reach no further than its own links", v, strings.Join(networks, ", ")),
		Owner: pastText(past, v)}
	if link, ignores := ignoresRouters(f, past, v); ignores {
		found.What += fmt.Sprintf(", and %s does not heed router advertisements while forwarding is on", link)
		found.Fix = setSysctl("net/ipv6/conf/"+link+"/accept_ra", "2") + "\n" + found.Fix
	}
	return []api.Finding{found}
}

// restore are the commands that bring a default route back, with what it needs: its links up, and an address there. Of IPv6 a link
// that goes down loses its addresses. Without the link nothing helps.
func restore(f Facts, past Past, v family) string {
	var lines []string
	for i, h := range past.Route.Hops {
		l, there := linkOf(f.Host, h.Link)
		if !there {
			return ""
		}
		if !isUp(l) {
			lines = append(lines, setUp(l.Name))
		}
		if i > 0 || past.Route.Proto == "ra" || slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return isGlobal(p) && familyOf(p.Addr()) == v }) {
			continue
		}
		for _, p := range past.Addrs {
			lines = append(lines, fmt.Sprintf("ip address add %s dev %s", p, l.Name))
		}
	}
	return strings.Join(append(lines, pastCommand(past, v, "add")), "\n")
}

// ignoresRouters: with forwarding on, a link heeds advertisements only where accept_ra is 2.
func ignoresRouters(f Facts, past Past, v family) (string, bool) {
	if v == 0 || !f.Forward[1] || past.Route.Proto != "ra" || len(past.Route.Hops) == 0 {
		return "", false
	}
	l, ok := f.View.Node.Link(past.Route.Hops[0].Link)
	return l.Name, ok && l.AcceptRA == 1
}

// pastText tells of a default route before its last change.
func pastText(p Past, v family) string {
	return fmt.Sprintf("until %s there was: %s", p.Until.UTC().Format(time.TimeOnly)+" UTC", strings.TrimPrefix(pastCommand(p, v, ""), "ip "+v.flag()+"route  "))
}

func pastCommand(p Past, v family, verb string) string {
	return fmt.Sprintf("ip %sroute %s %s", v.flag(), verb, defaultText(p.Route))
}

// defaultText is a default route as `ip route` takes it.
func defaultText(d kernel.DefaultRoute) string {
	var b strings.Builder
	b.WriteString("default")
	for _, h := range d.Hops {
		if len(d.Hops) > 1 {
			b.WriteString(" nexthop")
		}
		b.WriteString(" " + hopText(h))
	}
	if d.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", d.Metric)
	}
	return b.String()
}

func hopText(h kernel.DefaultHop) string {
	if !h.Via.IsValid() {
		return "dev " + h.Link
	}
	return fmt.Sprintf("via %s dev %s", h.Via, h.Link)
}

// deadRouters: a router that was asked for and did not answer, or a link without carrier that took the place of another. Other links
// without carrier are told of by themselves.
func deadRouters(f Facts, v family, d kernel.DefaultRoute) []api.Finding {
	var list []api.Finding
	for _, h := range d.Hops {
		why := ""
		past := f.Before[v]
		replaced := !past.Until.IsZero() && !slices.Equal(past.Route.Hops, d.Hops)
		if l, ok := linkOf(f.Host, h.Link); ok && !hasCarrier(l) {
			if replaced {
				why = h.Link + " has no carrier"
			}
		} else if unanswered(f.Host, h.Link, h.Via) {
			why = fmt.Sprintf("nobody at %s answers for %s", h.Link, h.Via)
		}
		if why == "" {
			continue
		}
		found := api.Finding{Code: CodeDeadRouter, Level: warning, What: fmt.Sprintf("the %s default route leads to nobody: %s", v, why), Owner: "ip " + v.flag() + "route: " + defaultText(d)}
		if replaced {
			found.Owner += "\n" + pastText(past, v)
			past.Route.Metric = d.Metric
			found.Fix = pastCommand(past, v, "replace")
		}
		list = append(list, found)
	}
	return list
}

// leadsUp reports whether all links of a route have a carrier, as far as is known.
func leadsUp(s kernel.Space, d kernel.DefaultRoute) bool {
	return !slices.ContainsFunc(d.Hops, func(h kernel.DefaultHop) bool {
		l, ok := linkOf(s, h.Link)
		return ok && !hasCarrier(l)
	})
}

// unanswered reports whether the kernel has asked for a neighbour in vain.
func unanswered(s kernel.Space, link string, a netip.Addr) bool {
	return slices.ContainsFunc(s.Neighbours, func(n kernel.NeighbourInfo) bool {
		return n.Link == link && n.Addr == a && n.State == "FAILED"
	})
}

// twoDefaults: of IPv4 only the first of one metric is ever used; IPv6 takes them together. One has to go: the second, unless
// the first leads to nobody.
func twoDefaults(v family, all []kernel.DefaultRoute, firstDead bool) []api.Finding {
	if v == 1 || len(all) < 2 || all[0].Metric != all[1].Metric {
		return nil
	}
	extra := all[1]
	if firstDead {
		extra = all[0]
	}
	return []api.Finding{{Code: CodeTwoDefaults, Level: warning, What: fmt.Sprintf("two IPv4 default routes of one metric, of which only the first is used: %s; %s", defaultText(all[0]), defaultText(all[1])),
		Owner: fmt.Sprintf("proto %s; proto %s", all[0].Proto, all[1].Proto), Fix: "ip route del " + defaultText(extra)}}
}

// pinned networks may leave by one link only; when the host's default route leads elsewhere nothing leaves. A default route by that
// link in another table is there for those networks, by rules.
func pinned(f Facts) []api.Finding {
	var list []api.Finding
	told := map[string]bool{}
	for _, v := range families {
		all := defaultsOf(f.Host, v)
		for _, n := range routedNetworks(f.View, v) {
			l, there := linkOf(f.Host, n.Uplink)
			if told[n.Name] || !there || !hasCarrier(l) || len(all) == 0 || leadsBy(all[0], n.Uplink) { // told of elsewhere, or well
				continue
			}
			if slices.ContainsFunc(f.Host.ByRules, func(d kernel.DefaultRoute) bool { return d.V6 == (v == 1) && leadsBy(d, n.Uplink) }) {
				continue
			}
			told[n.Name] = true
			out := all[0].Hops[0].Link
			list = append(list, api.Finding{Code: CodeOtherUplink, Level: warning, Owner: fmt.Sprintf("network %s, uplink %s", n.Name, n.Uplink),
				What: fmt.Sprintf("network %s may leave by %s only, but the %s default route leads to %s: what is not on %[2]s's own network is dropped", n.Name, n.Uplink, v, out),
				Fix:  fmt.Sprintf("flatnet net set %s --uplink %s", n.Name, out)})
		}
	}
	return list
}

func leadsBy(d kernel.DefaultRoute, link string) bool {
	return slices.ContainsFunc(d.Hops, func(h kernel.DefaultHop) bool { return h.Link == link })
}
