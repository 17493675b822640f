package checkup

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/model"
)

// innerRoutes are workloads whose default route is not the one that they were given.
func innerRoutes(f Facts) []api.Finding {
	var list []api.Finding
	for _, name := range slices.Sorted(maps.Keys(f.Workloads)) {
		for _, v := range families {
			want, ok := wanted(f.View, f.View.Workloads[name], v)
			if !ok {
				continue
			}
			if found, bad := innerRoute(f.Workloads[name], v, want); bad {
				found.Code, found.Level = CodeInnerRoute, warning
				found.What = fmt.Sprintf("workload %s: %s", name, found.What)
				found.Fix, found.Fixable = repair(f.Workloads[name], f.View.Workloads[name].Netns, v, want), true
				list = append(list, found)
			}
		}
	}
	return list
}

// wanted is the default route that a workload is given.
func wanted(v model.View, w model.Workload, of family) (kernel.DefaultHop, bool) {
	e, ok := v.Gateway(w, of == 1)
	n := v.Networks[e.Network]
	if !ok || !n.Active {
		return kernel.DefaultHop{}, false
	}
	for _, a := range e.Addrs {
		if s, ok := n.Subnet(a); ok && familyOf(a) == of && s.Gateway.IsValid() {
			return kernel.DefaultHop{Via: s.Gateway, Link: e.IfName}, true
		}
	}
	return kernel.DefaultHop{}, false
}

// innerRoute compares the default route that is used with the one to use.
func innerRoute(s kernel.Space, v family, want kernel.DefaultHop) (api.Finding, bool) {
	all := defaultsOf(s, v)
	switch {
	case len(all) == 0:
		return api.Finding{What: fmt.Sprintf("it has no %s default route, and reaches its own network only; it was given %s", v, hopText(want))}, true
	case len(all[0].Hops) == 1 && all[0].Hops[0] == want:
		return api.Finding{}, false
	case len(all[0].Hops) == 1 && all[0].Hops[0].Link != want.Link:
		return api.Finding{What: fmt.Sprintf("its %s default route leads by the wrong link: %s; it was given %s", v, hopText(all[0].Hops[0]), hopText(want))}, true
	case len(all[0].Hops) == 1 && !all[0].Hops[0].Via.IsValid():
		return api.Finding{What: fmt.Sprintf("its %s default route names no gateway: %s; it was given %s", v, hopText(all[0].Hops[0]), hopText(want))}, true
	}
	return api.Finding{What: fmt.Sprintf("its %s default route leads to another than its gateway: %s; it was given %s", v, defaultText(all[0]), hopText(want))}, true
}

// repair takes a better route away first: the one that was given would never be asked.
func repair(s kernel.Space, netns string, v family, want kernel.DefaultHop) string {
	replace := dataplane.Step{Op: dataplane.Replace, Object: given(v, want)}.Command(netns)
	better, ok := betterRoute(s, v)
	if !ok {
		return replace
	}
	return enter(netns, "ip "+v.flag()+"route del default"+better.String()[len("route default"):]) + "\n" + replace
}

// given is the default route that a workload was given, as an object of ours.
func given(v family, want kernel.DefaultHop) dataplane.Route {
	unspecified := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}[v]
	return dataplane.Route{Dest: netip.PrefixFrom(unspecified, 0), Via: want.Via, Link: want.Link}
}

// betterRoute is a default route that is asked before one of the usual metric.
func betterRoute(s kernel.Space, v family) (dataplane.Route, bool) {
	all := defaultsOf(s, v)
	if len(all) == 0 || len(all[0].Hops) != 1 || metric(all[0]) >= metric(kernel.DefaultRoute{V6: v == 1}) {
		return dataplane.Route{}, false
	}
	r := given(v, all[0].Hops[0])
	r.Metric = all[0].Metric
	return r, true
}

// InnerPlans give workloads the default routes back that they were given, by namespace. A better route of somebody else can be
// taken away only once it is ours.
func InnerPlans(f Facts) map[string]dataplane.Plan {
	plans := map[string]dataplane.Plan{}
	for name, space := range f.Workloads {
		w := f.View.Workloads[name]
		for _, v := range families {
			want, ok := wanted(f.View, w, v)
			if _, bad := innerRoute(space, v, want); !ok || !bad {
				continue
			}
			route := given(v, want)
			if better, ok := betterRoute(space, v); ok {
				ours := route
				ours.Metric = better.Metric
				plans[w.Netns] = append(plans[w.Netns], dataplane.Step{Op: dataplane.Replace, Object: ours}, dataplane.Step{Op: dataplane.Del, Object: ours})
			}
			plans[w.Netns] = append(plans[w.Netns], dataplane.Step{Op: dataplane.Replace, Object: route})
		}
	}
	return plans
}

// enter is an ip command as typed for a namespace: by its name where `ip` knows it.
func enter(netns, command string) string {
	if dir, name := filepath.Split(netns); dir == "/run/netns/" {
		return "ip -n " + name + command[len("ip"):]
	}
	return "nsenter --net=" + netns + " " + command
}

// otherRoutes are namespaces on bridges that others made by hand, without the default route that tutorials give them last.
func otherRoutes(f Facts) []api.Finding {
	var list []api.Finding
	for _, o := range f.Others {
		inner, ok := o.inner()
		bridge, there := linkOf(f.Host, o.Bridge)
		if !ok || !there || isOurs(bridge) && !routes(f.View, o.Bridge) || slices.Contains(f.Closed, o.Bridge) {
			continue
		}
		for _, gateway := range bridge.Addrs {
			v := familyOf(gateway.Addr())
			if v == 1 || !hasAddrIn(inner, gateway) {
				continue
			}
			if found, bad := otherRoute(o, v, kernel.DefaultHop{Via: gateway.Addr(), Link: inner.Name}); bad {
				list = append(list, found)
			}
			break
		}
	}
	return list
}

// routes reports whether a bridge of ours is that of a network that the host routes for.
func routes(v model.View, bridge string) bool {
	for _, n := range v.Networks {
		if n.Active && n.BridgeName() == bridge {
			return n.Routes()
		}
	}
	return false
}

func otherRoute(o Other, v family, want kernel.DefaultHop) (api.Finding, bool) {
	found := api.Finding{Code: CodeOtherRoute, Level: note, Fix: enter(o.Netns, fmt.Sprintf("ip %sroute replace default %s", v.flag(), hopText(want)))}
	all := defaultsOf(o.Space, v)
	switch {
	case len(all) == 0:
		found.What = fmt.Sprintf("namespace %s, by hand on %s: it has no %s default route; this host is %s there", o.Netns, o.Bridge, v, want.Via)
	case len(all[0].Hops) == 1 && unanswered(o.Space, all[0].Hops[0].Link, all[0].Hops[0].Via):
		found.What = fmt.Sprintf("namespace %s, by hand on %s: its %s default route leads to nobody: %s; this host is %s there", o.Netns, o.Bridge, v, hopText(all[0].Hops[0]), want.Via)
	default:
		return api.Finding{}, false
	}
	return found, true
}

func hasAddrIn(l kernel.LinkInfo, p netip.Prefix) bool {
	return slices.ContainsFunc(l.Addrs, func(a netip.Prefix) bool { return p.Masked().Contains(a.Addr()) })
}
