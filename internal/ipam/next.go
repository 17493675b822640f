package ipam

import (
	"fmt"
	"net/netip"

	"github.com/flatnet/flatnet/internal/model"
)

// Next returns an address that may be given automatically: a usable one of the subnet, inside its Range, neither its
// gateway nor reserved, and not used.
//
// prefer is where to begin. When it is free itself it is taken: so a workload gets its old address back. Otherwise the
// search goes on from it and once around the range: so with the address after the one given last, which is most likely
// free, the cost does not grow with what is in use, and an address just given back rests the longest. A prefer outside the
// range begins at its first address.
//
// The error is an *ExhaustedError.
func Next(s model.Subnet, used func(netip.Addr) bool, prefer netip.Addr) (netip.Addr, error) {
	r := Range(s)
	return NextIn(s, model.AddrRange{First: r.Masked().Addr(), Last: model.LastAddr(r)}, used, prefer)
}

// NextIn is Next for that part of the subnet that somebody asks for in place of its Range.
func NextIn(s model.Subnet, r model.AddrRange, used func(netip.Addr) bool, prefer netip.Addr) (netip.Addr, error) {
	first, last := r.First, r.Last
	if last.Compare(first) < 0 {
		return netip.Addr{}, &ExhaustedError{Subnet: s.Prefix, Range: r}
	}
	start := first
	if r.Contains(prefer) {
		start = prefer
	}
	inUse := 0
	for a, tried := start, 0; tried < mostTried; tried++ {
		if free(s, a) {
			if !used(a) {
				return a, nil
			}
			inUse++
		}
		if a == last {
			a = first
		} else {
			a = a.Next()
		}
		if a == start {
			break
		}
	}
	return netip.Addr{}, &ExhaustedError{Subnet: s.Prefix, Range: r, InUse: inUse}
}

// mostTried ends the search when a subnet cannot be gone through: all of a /8, the largest IPv4 subnet there can be.
const mostTried = 1 << 24

// free reports whether an address may be given automatically at all.
func free(s model.Subnet, a netip.Addr) bool {
	if a == s.Gateway || !s.Usable(a) {
		return false
	}
	for _, r := range s.Reserved {
		if a == r {
			return false
		}
	}
	return true
}

// Range is where automatic addresses of a subnet come from.
func Range(s model.Subnet) netip.Prefix {
	if s.Range.IsValid() {
		return s.Range
	}
	return s.Prefix
}

// Size is how many addresses of a subnet can be given automatically; a float, as IPv6 has many.
func Size(s model.Subnet) float64 {
	r := Range(s)
	n := 1.0
	for range r.Addr().BitLen() - r.Bits() {
		n *= 2
	}
	never := map[netip.Addr]bool{s.Prefix.Masked().Addr(): true, s.Gateway: true}
	if s.Prefix.Addr().Is4() {
		never[model.LastAddr(s.Prefix)] = true
	}
	for _, a := range s.Reserved {
		never[a] = true
	}
	for a := range never {
		if r.Contains(a) {
			n--
		}
	}
	return n
}

// ExhaustedError says that a subnet has no address left to give.
type ExhaustedError struct {
	Subnet netip.Prefix
	Range  model.AddrRange // the part of it that automatic addresses come from
	InUse  int             // addresses of the range
}

func (e *ExhaustedError) Error() string {
	within := ""
	if e.Range.First != e.Subnet.Masked().Addr() || e.Range.Last != model.LastAddr(e.Subnet) {
		within = fmt.Sprintf(" within range %s", e.Range)
	}
	use := fmt.Sprintf("all %d are in use or remembered", e.InUse)
	if e.InUse == 1 {
		use = "the only one is in use or remembered"
	}
	return fmt.Sprintf("subnet %s: no address is free%s: %s", e.Subnet, within, use)
}

// Problem says it to a person.
func (e *ExhaustedError) Problem(network string) model.Problem {
	return model.Problem{Code: model.CodeExhausted, Reason: fmt.Sprintf("network %q: %s", network, e),
		Fix: "remove workloads, widen the range, or add a subnet", Example: fmt.Sprintf("flatnet net inspect %s", network)}
}
