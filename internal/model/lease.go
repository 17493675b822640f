package model

import (
	"fmt"
	"iter"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
)

// Member is a node of the cluster as it publishes itself. It is comparable.
type Member struct {
	ID        string     // for the node's whole life, whatever its name and addresses become; see CheckMemberID
	Name      string     // for people: the host name
	Underlay4 netip.Addr // where the others reach it; at least one of the two
	Underlay6 netip.Addr
	MTU       int    // bytes, of the link that has the underlay address
	Version   string // of its flatnetd, for people
	Schema    int    // the largest schema of stored values that it reads
	Uses      string `json:",omitempty"` // the cluster networks that workloads of it are on, by name, with commas between; empty also of nodes of before
}

// IsOn reports whether workloads of the member are on a network, as far as it says.
func (m Member) IsOn(network string) bool {
	return slices.Contains(strings.Split(m.Uses, ","), network)
}

// Underlay is the member's address of one family, or the zero Addr.
func (m Member) Underlay(v6 bool) netip.Addr {
	if v6 {
		return m.Underlay6
	}
	return m.Underlay4
}

// Underlays are the addresses that the member has.
func (m Member) Underlays() []netip.Addr {
	var all []netip.Addr
	for _, a := range []netip.Addr{m.Underlay4, m.Underlay6} {
		if a.IsValid() {
			all = append(all, a)
		}
	}
	return all
}

// Lease says that a node holds a block of a cluster network: its workloads' addresses are of it. A node may hold several
// blocks of a network, of each family.
type Lease struct {
	Network string
	Block   netip.Prefix // masked; one of the blocks of one of the network's pools
	Node    string       // Member.ID: a node holds its blocks by who it is, not by where it is
	MAC     MAC          // of the holder's tunnel link; zero: TunnelMAC
}

// LeaseKey is what there is one lease of.
type LeaseKey struct {
	Network string
	Block   netip.Prefix
}

// Key is the lease's.
func (l Lease) Key() LeaseKey { return LeaseKey{l.Network, l.Block} }

// TunnelMAC is the address of the holder's tunnel link.
func (l Lease) TunnelMAC() MAC {
	if l.MAC != (MAC{}) {
		return l.MAC
	}
	return TunnelMAC(l.Network, l.Node)
}

func (l Lease) String() string { return fmt.Sprintf("%s of %q at %s", l.Block, l.Network, l.Node) }

// BlockPool is a range of a cluster network, cut into blocks of one size.
type BlockPool struct {
	Prefix netip.Prefix // masked
	Bits   int          // the length of its blocks: Prefix.Bits() to the family's bits
}

// Valid reports whether the pool has blocks at all.
func (p BlockPool) Valid() bool {
	return p.Prefix.IsValid() && p.Prefix == p.Prefix.Masked() && p.Bits >= p.Prefix.Bits() && p.Bits <= p.Prefix.Addr().BitLen()
}

// Count is how many blocks the pool has; 2⁶⁴−1 stands for all larger numbers.
func (p BlockPool) Count() uint64 {
	switch spread := p.Bits - p.Prefix.Bits(); {
	case !p.Valid():
		return 0
	case spread >= 64:
		return 1<<64 - 1
	default:
		return 1 << spread
	}
}

// Block is the i-th block of the pool, from 0 to Count()−1.
func (p BlockPool) Block(i uint64) netip.Prefix {
	a := p.Prefix.Addr().As16()
	p.shifted(i, func(at int, b byte) { a[at] |= b })
	addr := netip.AddrFrom16(a)
	if p.Prefix.Addr().Is4() {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, p.Bits)
}

// Index says which block of the pool a prefix is, if it is one.
func (p BlockPool) Index(block netip.Prefix) (uint64, bool) {
	if !p.Valid() || block.Bits() != p.Bits || block != block.Masked() || !p.contains(block.Addr()) {
		return 0, false
	}
	if p.Bits-p.Prefix.Bits() > 64 {
		return 0, true // too many to be numbered: any number will do to begin a search
	}
	a := block.Addr().As16()
	end := 128 - (p.Prefix.Addr().BitLen() - p.Bits) // of the block's bits in the 16 bytes
	var i uint64
	for n := range p.Bits - p.Prefix.Bits() {
		bit := end - 1 - n
		i |= uint64(a[bit/8]>>(7-bit%8)&1) << n
	}
	return i, true
}

// shifted calls each with the bytes that number i is in the bits between the pool's and the block's length.
func (p BlockPool) shifted(i uint64, each func(at int, b byte)) {
	end := 128 - (p.Prefix.Addr().BitLen() - p.Bits)
	for n := 0; n < bits.Len64(i); n++ {
		if bit := end - 1 - n; i>>n&1 == 1 {
			each(bit/8, 1<<(7-bit%8))
		}
	}
}

// BlockOf is the block that holds an address.
func (p BlockPool) BlockOf(a netip.Addr) (netip.Prefix, bool) {
	if !p.Valid() || !p.contains(a) {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, p.Bits).Masked(), true
}

// contains is Contains without the addresses of another spelling: mapped ones and those with a zone.
func (p BlockPool) contains(a netip.Addr) bool { return a.Zone() == "" && p.Prefix.Contains(a) }

// Blocks are the pool's blocks from number first on, and around the end, each once.
func (p BlockPool) Blocks(first uint64) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		count := p.Count()
		for i := range count {
			at := first + i
			if at >= count || at < first {
				at -= count
			}
			if !yield(p.Block(at)) {
				return
			}
		}
	}
}
