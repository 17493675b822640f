package dataplane

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Op is what a Step does with its object.
type Op string

// The operations. Replace changes an object that is there under the same key. A link that is gone by then it does not make: with another one
// its far end would be another, of which no step is.
const (
	Add     Op = "add"
	Replace Op = "replace"
	Del     Op = "del"
)

// Step is one change of the kernel.
type Step struct {
	Op     Op
	Object Object // Del: as it was seen
	Anew   bool   // Replace of a link: it goes, with all that is on it, and another one comes
}

// String is the step in words of ip and nft: `add route 10.0.1.0/24 via 192.168.0.2 dev eth0`.
func (s Step) String() string { return string(s.Op) + " " + s.Object.String() }

// Plan is an ordered list of steps for one namespace.
type Plan []Step

// String is one step a line.
func (p Plan) String() string {
	var b strings.Builder
	for _, s := range p {
		b.WriteString(s.String() + "\n")
	}
	return b.String()
}

// Diff returns the steps that lead from have to want: additions and replacements in the order of dependence (sysctls of the
// host, tables, sets, chains, rules, elements, programs, bridges, links, ports, qdiscs, links' sysctls, addresses, routes, what hangs on
// routes), then deletions in
// the reverse order. A key moved from one link to another is a replacement.
func Diff(want, have State) Plan {
	var forward, back Plan
	found := 0
	for k, w := range want {
		h, ok := have[k]
		if ok {
			found++
		}
		switch {
		case !ok:
			forward = append(forward, Step{Op: Add, Object: w})
		case h != w && !isQuietLate(h, w):
			forward = append(forward, Step{Op: Replace, Object: w, Anew: IsAnew(h, w)})
		}
	}
	if found < len(have) { // else all of have is wanted: it need not be looked up once more
		for k, h := range have {
			if _, ok := want[k]; !ok {
				back = append(back, Step{Op: Del, Object: h})
			}
		}
	}
	back = withoutContents(back)
	room, back := makeRoom(forward, back)
	forward = append(forward, room...)
	inOrder(forward, turn)
	inOrder(back, func(Step) int { return 0 })
	slices.Reverse(back)
	return append(forward, back...)
}

// IsAnew reports whether what is there is a link that cannot become what is wanted in its place.
func IsAnew(have, want Object) bool {
	h, isLink := have.(Link)
	w, stays := want.(Link)
	return isLink && stays && !h.Becomes(w)
}

// LinkOf is the link that an object is on and vanishes with; empty when there is none.
func LinkOf(o Object) string {
	switch o := o.(type) {
	case Address:
		return o.Link
	case Route:
		return o.Link
	case Neighbour:
		return o.Link
	case FDB:
		return o.Link
	case ProxyNeighbour:
		return o.Link
	case Shaper:
		return o.Link
	case Redirect:
		return o.Link
	case Sysctl:
		return o.Link
	}
	return ""
}

// isQuietLate reports whether a link is as wanted, but was set up before it was to be Quiet. What it gave itself then it keeps.
func isQuietLate(have, want Object) bool {
	h, ok := have.(Link)
	if !ok || !h.Up || h.Quiet {
		return false
	}
	h.Quiet = true
	return h == want
}

// makeRoom takes out of the deletions those that must come before what is added: an interval that may overlap a new one of the set,
// where the kernel refuses the second; an IPv6 address that changes its prefix length, of which a link has one; an address that
// becomes the gateway of a route, as the kernel takes a gateway of its own for none; and a tunnel link, as a VNI at a port has but one.
func makeRoom(forward, back Plan) (room, rest Plan) {
	if len(back) == 0 {
		return nil, back
	}
	coming := map[Key]bool{}
	for _, s := range forward {
		if place, ok := crowded(s.Object); ok {
			coming[place] = true
		}
	}
	if len(coming) == 0 {
		return nil, back
	}
	rest = slices.DeleteFunc(back, func(s Step) bool {
		place, ok := crowded(s.Object)
		_, isRoute := s.Object.(Route)
		if ok && !isRoute && coming[place] {
			room = append(room, s)
			return true
		}
		return false
	})
	return room, rest
}

// crowded is the place that objects of different keys cannot share.
func crowded(o Object) (place Key, ok bool) {
	switch o := o.(type) {
	case Element:
		is := o.Is()
		return o.Set().Element(Tuple{Link: is.Link, Link2: is.Link2, Proto: is.Proto}), o.Set().Interval
	case Address:
		return Address{Link: o.Link, Prefix: netip.PrefixFrom(o.Prefix.Addr(), o.Prefix.Addr().BitLen())}, true
	case Route:
		return Address{Link: o.Link, Prefix: netip.PrefixFrom(o.Via, o.Via.BitLen())}, o.Via.IsValid()
	case Link:
		return Link{Tunnel: Tunnel{VNI: o.Tunnel.VNI, Port: o.Tunnel.Port}}, o.Kind == VXLAN
	}
	return nil, false
}

// turn orders the deletions that makeRoom has put among the additions of their kind: they come first, but an IPv4 address last, as with
// the last one of a link its routes go.
func turn(s Step) int {
	a, isAddress := s.Object.(Address)
	switch {
	case s.Op != Del:
		return 1
	case isAddress && a.Prefix.Addr().Is4():
		return 2
	}
	return 0
}

// withoutContents leaves out deletions of what goes with its table.
func withoutContents(back Plan) Plan {
	gone := map[Family]bool{}
	for _, s := range back {
		if t, ok := s.Object.(Table); ok {
			gone[t.Family] = true
		}
	}
	if len(gone) == 0 {
		return back
	}
	return slices.DeleteFunc(back, func(s Step) bool {
		family, ok := tableOf(s.Object)
		return ok && gone[family]
	})
}

// Within reports whether an object of nft goes when the table, set or chain goes; the key of one will do.
func Within(o, container Object) bool {
	switch c := container.(type) {
	case Table:
		family, in := tableOf(o)
		return in && family == c.Family
	case Set:
		e, ok := o.(Element)
		return ok && e.Set().Key() == c.Key()
	case Chain:
		r, ok := o.(Rule)
		return ok && r.Family == c.Family && r.Chain == c.Name
	}
	return false
}

// FamilyOf is the family of an object of nft; that of others is empty.
func FamilyOf(o Object) Family {
	switch o := o.(type) {
	case Table:
		return o.Family
	case Chain:
		return o.Family
	case Set:
		return o.Family
	case Rule:
		return o.Family
	case Element:
		return o.Set().Family
	}
	return ""
}

// tableOf is the family of the table that an object is in.
func tableOf(o Object) (Family, bool) {
	_, isTable := o.(Table)
	family := FamilyOf(o)
	return family, family != "" && !isTable
}

// inOrder sorts steps by dependence: by kind, then by turn and what is first within a kind, then by text.
func inOrder(p Plan, turn func(Step) int) {
	type placed struct {
		*Step
		group int // of kind and turn
		text  []byte
	}
	const turns, usualText = 16, 80
	from := slices.Clone(p)
	steps := make([]placed, len(p))
	b := make([]byte, 0, usualText*len(p)) // the texts, one after the other: there may be thousands
	ends := make([]int, len(p))
	for i, s := range p {
		b = appendPlace(b, s.Object)
		ends[i] = len(b)
	}
	start := 0
	for i, s := range p {
		steps[i] = placed{&from[i], int(s.Object.kind())*turns + turn(s), b[start:ends[i]]}
		start = ends[i]
	}
	slices.SortFunc(steps, func(a, b placed) int {
		if a.group != b.group {
			return a.group - b.group
		}
		return bytes.Compare(a.text, b.text)
	})
	for i, s := range steps {
		p[i] = *s.Step
	}
}

// appendPlace appends what objects of one kind are sorted by: their text, but the rules of a chain in their order; the main table's routes last,
// so that what has a table of its own never goes by another's default route meanwhile; forwarding of a link after ip_forward, which sets
// that of all links; and accept_ra before all other sysctls: with forwarding on, the kernel drops the default route that it had from a
// router advertisement unless accept_ra is 2 by then (net/ipv6/ndisc.c, rt6_purge_dflt_routers).
func appendPlace(b []byte, o Object) []byte {
	switch o := o.(type) {
	case Rule:
		return fmt.Appendf(b, "%s %s %04d", o.Family, o.Chain, o.Pos)
	case Sysctl:
		if strings.HasSuffix(o.Name, "/accept_ra") {
			return append(append(b, "0 "...), o.Name...)
		}
		if o.Link != "" && strings.HasSuffix(o.Name, "/forwarding") {
			return append(append(b, "2 "...), o.Name...)
		}
		return append(append(b, "1 "...), o.Name...)
	case Route:
		turn := "2 "
		if o.Table != 0 {
			turn = "1 "
		} else if o.Via.IsValid() { // what leads to gateways is there before
			turn = "3 "
		}
		return o.append(append(b, turn...))
	case Neighbour:
		return o.append(b)
	case FDB:
		return o.append(b)
	case Element:
		return o.append(b)
	}
	return append(b, o.String()...)
}

// Clone returns a copy of the state; the objects are values.
func (s State) Clone() State {
	c := make(State, len(s))
	for k, o := range s {
		c[k] = o
	}
	return c
}

// Apply returns the state that a Plan, carried out in full, makes of s; s is not changed. It is what the kernel should do,
// and the law that Diff is tested against: Diff(a, b).Apply(b) == a.
func (p Plan) Apply(s State) State {
	out := s.Clone()
	for _, step := range p {
		out.Take(step)
	}
	return out
}

// Take changes s as the step, carried out, changes the kernel: with a table goes what is in it.
func (s State) Take(step Step) {
	if step.Op != Del {
		s[step.Object.Key()] = step.Object
		return
	}
	delete(s, step.Object.Key())
	table, ok := step.Object.(Table)
	if !ok {
		return
	}
	for k, o := range s {
		if family, in := tableOf(o); in && family == table.Family {
			delete(s, k)
		}
	}
}
