package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/internal/ipam"
	"github.com/flatnet/flatnet/internal/model"
)

// move is an address of an endpoint that a change of subnets takes away, and the one that it gets instead.
type move struct {
	workload string
	from, to netip.Addr // to is zero when the subnet has no successor
}

func moveText(moves []move) string {
	const most = 32
	var words []string
	for _, m := range moves[:min(len(moves), most)] {
		to := text(m.to)
		if to == "" {
			to = "none"
		}
		words = append(words, fmt.Sprintf("%s %s → %s", m.workload, m.from, to))
	}
	if len(moves) > most {
		words = append(words, fmt.Sprintf("%d more", len(moves)-most))
	}
	return strings.Join(words, ", ")
}

// renumbering finds addresses for the endpoints of one network in its subnets of now.
type renumbering struct {
	net        model.Network
	successors map[netip.Prefix]model.Subnet // by the prefix that went
	prefer     func(network, workload string, subnet netip.Prefix) netip.Addr
	used       map[netip.Addr]bool
	moves      []move
	problems   model.Problems
}

// successorsOf pairs each subnet that goes with one of its family that comes, in their order.
func successorsOf(old, n model.Network) map[netip.Prefix]model.Subnet {
	pairs := map[netip.Prefix]model.Subnet{}
	has := func(n model.Network, s model.Subnet) bool {
		return slices.ContainsFunc(n.Subnets, func(o model.Subnet) bool { return o.Prefix == s.Prefix })
	}
	for _, v6 := range []bool{false, true} {
		var gone, come []model.Subnet
		for _, s := range old.Subnets {
			if s.Prefix.Addr().Is6() == v6 && !has(n, s) {
				gone = append(gone, s)
			}
		}
		for _, s := range n.Subnets {
			if s.Prefix.Addr().Is6() == v6 && !has(old, s) {
				come = append(come, s)
			}
		}
		for i := range min(len(gone), len(come)) {
			pairs[gone[i].Prefix] = come[i]
		}
	}
	return pairs
}

// hostPart is the address in the subnet to that has the place of a in from; none when it is too far behind.
func hostPart(a netip.Addr, from, to netip.Prefix) (netip.Addr, bool) {
	if to.Contains(a) {
		return a, true
	}
	b, base := a.AsSlice(), to.Masked().Addr().AsSlice()
	for i := range b {
		host := b[i] &^ maskByte(from.Bits(), i)
		if host&maskByte(to.Bits(), i) != 0 {
			return netip.Addr{}, false
		}
		base[i] |= host
	}
	moved, ok := netip.AddrFromSlice(base)
	return moved, ok
}

// maskByte is the i-th byte of a netmask.
func maskByte(bits, i int) byte {
	return ^byte(0xff >> min(max(bits-8*i, 0), 8))
}

// renumber gives the endpoints addresses that fit the network as it becomes. Those that fit stay. Others move, when that is
// agreed to: to the same place of the subnet that comes instead of theirs when it is free, else to a free one. And each has an
// address in each subnet.
func (c *change) renumber(v model.View, prefer func(string, string, netip.Prefix) netip.Addr, agreed bool) model.Problems {
	r := renumbering{net: c.net, successors: successorsOf(c.old, c.net), prefer: prefer, used: map[netip.Addr]bool{}}
	endpoints := r.endpoints(v)
	for _, e := range endpoints {
		e.keep(&r)
	}
	for _, e := range endpoints {
		e.move(&r, c.old)
	}
	for _, e := range endpoints {
		e.fill(&r)
	}
	if len(r.moves) > 0 && !agreed {
		return append(r.problems, model.Problem{Code: model.CodeInUse, Path: "spec.subnets", Reason: fmt.Sprintf("network %q is in use: %d addresses do not fit the subnets any more", c.net.Name, len(r.moves)),
			Owner: moveText(r.moves), Fix: "disconnect those workloads first, or with --renumber move them as said, with their forwards and names"})
	}
	c.moves = r.moves
	for _, e := range endpoints {
		w := v.Workloads[e.workload]
		if !slices.Equal(w.Endpoints[e.at].Addrs, e.now) {
			c.workload(w).Endpoints[e.at].Addrs = e.now
		}
	}
	return r.problems
}

// numbered is an endpoint while it gets its addresses.
type numbered struct {
	workload string
	at       int // in Workload.Endpoints
	was, now []netip.Addr
}

func (r *renumbering) endpoints(v model.View) []*numbered {
	var list []*numbered
	for _, name := range attached(v, r.net.Name) {
		for i, e := range v.Workloads[name].Endpoints {
			if e.Network == r.net.Name {
				list = append(list, &numbered{workload: name, at: i, was: e.Addrs})
			}
		}
	}
	return list
}

// keep takes over the addresses that fit, in their order.
func (e *numbered) keep(r *renumbering) {
	for _, a := range e.was {
		s, _, bad := model.CheckAddress(r.net, a)
		if !bad && !slices.ContainsFunc(e.now, s.Prefix.Contains) && !r.used[a] {
			e.now = append(e.now, a)
			r.used[a] = true
		}
	}
}

// move finds places for the addresses that do not fit.
func (e *numbered) move(r *renumbering, old model.Network) {
	for _, a := range e.was {
		if slices.Contains(e.now, a) {
			continue
		}
		m := move{workload: e.workload, from: a}
		if from, to, ok := r.successor(a, old); ok && !slices.ContainsFunc(e.now, to.Prefix.Contains) {
			m.to = r.place(e.workload, a, from, to)
		}
		if m.to.IsValid() {
			e.now = append(e.now, m.to)
			r.used[m.to] = true
		}
		r.moves = append(r.moves, m)
	}
}

// successor is the subnet that an address moves to: the one instead of its own, or its own when only its place is taken.
func (r *renumbering) successor(a netip.Addr, old model.Network) (netip.Prefix, model.Subnet, bool) {
	if s, ok := r.net.Subnet(a); ok {
		return s.Prefix, s, true
	}
	if was, ok := old.Subnet(a); ok {
		s, ok := r.successors[was.Prefix]
		return was.Prefix, s, ok
	}
	// A change was cut short, and nobody knows any more where the address was from: the bits behind the prefix are its place.
	for _, s := range r.net.Subnets {
		if s.Prefix.Addr().Is6() == a.Is6() {
			return netip.PrefixFrom(a, s.Prefix.Bits()).Masked(), s, true
		}
	}
	return netip.Prefix{}, model.Subnet{}, false
}

// place is where an address moves to in a subnet.
func (r *renumbering) place(workload string, a netip.Addr, from netip.Prefix, to model.Subnet) netip.Addr {
	if moved, ok := hostPart(a, from, to.Prefix); ok && moved != to.Gateway && to.Usable(moved) && !r.used[moved] && !slices.Contains(to.Reserved, moved) {
		return moved
	}
	return r.free(workload, to)
}

func (r *renumbering) free(workload string, s model.Subnet) netip.Addr {
	a, err := ipam.Next(s, func(a netip.Addr) bool { return r.used[a] }, r.prefer(r.net.Name, workload, s.Prefix))
	var full *ipam.ExhaustedError
	if errors.As(err, &full) && !slices.ContainsFunc(r.problems, func(p model.Problem) bool { return p.Code == model.CodeExhausted }) {
		r.problems = append(r.problems, full.Problem(r.net.Name))
	}
	return a
}

// fill gives an address in each subnet that the endpoint has none in.
func (e *numbered) fill(r *renumbering) {
	for _, s := range r.net.Subnets {
		if slices.ContainsFunc(e.now, s.Prefix.Contains) {
			continue
		}
		if a := r.free(e.workload, s); a.IsValid() {
			e.now = append(e.now, a)
			r.used[a] = true
		}
	}
}
