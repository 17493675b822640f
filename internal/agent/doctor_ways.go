package agent

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/checkup"
	"github.com/flatnet/flatnet/internal/agent/ways"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/render"
)

// mostWays is how many ways to other hosts are asked at a time. Of more it is the turn of others with each second.
const mostWays = 64

// wayFindings ask other hosts whether packets get through, and judge the answers.
func (a *Agent) wayFindings(ctx context.Context) []api.Finding {
	v, list := a.waysOut(func(model.Member) bool { return true })
	return checkup.WayFindings(v, a.ask(ctx, list))
}

// newWayTime is how long a host that has joined just now waits until others let its packets in.
const newWayTime = 2 * time.Second

// tryWays asks those of these servers, ADDRESS:PORT, that have a block, as soon as they know this host.
func (a *Agent) tryWays(ctx context.Context, servers []string) []api.Way {
	at := map[netip.Addr]bool{}
	for _, s := range servers {
		if p, err := netip.ParseAddrPort(s); err == nil {
			at[p.Addr()] = true
		}
	}
	if a.deps.Surveyor == nil {
		return nil
	}
	soon, cancel := context.WithTimeout(ctx, newWayTime)
	defer cancel()
	v, list := a.firstWays(soon, func(m model.Member) bool {
		return slices.ContainsFunc(m.Underlays(), func(a netip.Addr) bool { return at[a] })
	})
	ways.Await(soon, list)
	var tried []api.Way
	for _, w := range a.ask(ctx, list) {
		one := api.Way{Host: printable(nodeName(v, w.Node)), Network: w.Network, Backend: string(v.Networks[w.Network].Cluster.Backend), Underlay: w.Outer.String(), RTT: w.RTT}
		if fs := checkup.WayFindings(v, []ways.Answer{w}); len(fs) > 0 {
			one.Problem, one.Fix = fs[0].Code+": "+fs[0].What, fs[0].Fix
		}
		tried = append(tried, one)
	}
	return tried
}

// firstWays waits until there are ways; without a network of the cluster there will be none.
func (a *Agent) firstWays(ctx context.Context, to func(model.Member) bool) (model.View, []ways.Way) {
	for {
		a.mu.RLock()
		known := a.fabric != nil && a.fabric.seen.Live
		a.mu.RUnlock()
		v, list := a.waysOut(to)
		none := known && !slices.ContainsFunc(slices.Collect(maps.Values(v.Networks)), func(n model.Network) bool { return n.Mode == model.Cluster && n.Active })
		if len(list) > 0 || none || ctx.Err() != nil {
			return v, list
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// ask is nothing where the agent has no kernel of its own to look at, as in tests.
func (a *Agent) ask(ctx context.Context, list []ways.Way) []ways.Answer {
	if a.deps.Surveyor == nil {
		return nil
	}
	return ways.Ask(ctx, list)
}

// waysOut are the ways that this host has to others: for each network and family one.
func (a *Agent) waysOut(to func(model.Member) bool) (model.View, []ways.Way) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	v := a.state.view
	var list []ways.Way
	for at, leases := range a.state.holders {
		n, ok := v.Networks[at.Network]
		if !ok || n.Mode != model.Cluster || !n.Active || at.Node == v.Self || !to(v.Members[at.Node]) || a.state.refused[render.PeerPart(at.Network, at.Node)] != "" {
			continue
		}
		seen := map[bool]bool{}
		for _, l := range leases {
			v6 := l.Block.Addr().Is6()
			if m := v.Members[at.Node]; !seen[v6] && hasFamily(n, v6) && n.Cluster.On(m) {
				seen[v6] = true
				list = append(list, wayTo(v, n, m, l.Block))
			}
		}
	}
	slices.SortFunc(list, func(a, b ways.Way) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Network, b.Network), a.Block.Addr().Compare(b.Block.Addr()))
	})
	return a.state.snapshot(), turn(list, mostWays, a.deps.Now())
}

// hasFamily reports whether this host has a block of the family, and so an address to ask with.
func hasFamily(n model.Network, v6 bool) bool {
	return slices.ContainsFunc(n.Subnets, func(s model.Subnet) bool { return s.Prefix.Addr().Is6() == v6 })
}

func wayTo(v model.View, n model.Network, m model.Member, block netip.Prefix) ways.Way {
	v6 := n.Cluster.UnderlayV6
	w := ways.Way{Node: m.ID, Network: n.Name, Outer: m.Underlay(v6), Self: v.Members[v.Self].Underlay(v6), Block: block, Gate: block.Addr().Next(), Beyond: lastOf(block).Prev()}
	w.Tunnel = n.Cluster.Backend == model.VXLAN
	if via := m.Underlay(block.Addr().Is6()); w.Tunnel && n.Cluster.DirectRouting && via.IsValid() {
		_, near := onLink(v, via)
		w.Tunnel = !near
	}
	if w.Outer.IsValid() && !w.Tunnel {
		w.Outer = cmp.Or(m.Underlay(block.Addr().Is6()), w.Outer)
		w.Self = cmp.Or(v.Members[v.Self].Underlay(w.Outer.Is6()), w.Self)
	}
	return w
}

// onLink is the link of this host on whose subnet an address is.
func onLink(v model.View, a netip.Addr) (string, bool) {
	for _, l := range v.Node.Links {
		for _, p := range l.Addrs {
			if p.Masked().Contains(a) {
				return l.Name, true
			}
		}
	}
	return "", false
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(bytes); i++ {
		bytes[i/8] |= 1 << (7 - i%8)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}

// turn is the part of a list whose turn it is.
func turn(list []ways.Way, most int, now time.Time) []ways.Way {
	if len(list) <= most {
		return list
	}
	parts := (len(list) + most - 1) / most
	part := int(now.Unix()) % parts
	return list[part*most : min(len(list), (part+1)*most)]
}
