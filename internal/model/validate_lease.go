package model

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// ClusterFacts is what leases and members are judged by. What stands in a shared store may come from an older node, from a
// broken one, or from somebody who means harm; what is refused here is left out, and nothing else suffers.
type ClusterFacts struct {
	Self    string                 // the ID of the node that judges; empty when it is none
	Pools   map[string][]BlockPool // of every cluster network, by name
	Members map[string]Member      // by ID

	// Before tells which of two members has said first what it says of itself now; nil: the one with the lower id. It must not be
	// the members' own word, as who came later is refused what the other has.
	Before func(a, b string) bool
}

// rootID is whom etcd lets do everything, and takes a certificate with that name for.
const rootID = "root"

// CheckMemberID judges what a node calls itself: it is a part of keys, of a certificate's name and of what people type.
func CheckMemberID(id string) (Problem, bool) {
	ok := len(id) >= 1 && len(id) <= maxName && id[0] != '-' && id[len(id)-1] != '-' && id != rootID
	if ok && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" {
		return Problem{}, false
	}
	return Problem{Code: CodeMember, Path: "id", Reason: fmt.Sprintf("node id %s cannot be used", quote(id)),
		Fix: "1 to 63 of a-z 0-9 -, no - at the ends, and not root", Example: "n-7f3a9c21"}, true
}

// CheckMember says what is wrong with a member that is to stand among the others.
func (f ClusterFacts) CheckMember(m Member) Problems {
	var ps Problems
	if p, bad := CheckMemberID(m.ID); bad {
		ps = append(ps, p)
	}
	if p, bad := CheckName("node", m.Name); bad {
		p.Code, p.Path = CodeMember, "name"
		ps = append(ps, p)
	}
	if len(m.Underlays()) == 0 {
		ps = append(ps, Problem{Code: CodeMember, Path: "underlay", Reason: "the node has no underlay address", Fix: "one by which the other nodes reach it"})
	}
	for _, v6 := range []bool{false, true} {
		if p, bad := f.checkUnderlay(m, v6); bad {
			ps = append(ps, p)
		}
	}
	if least := leastMTU(m); m.MTU < least || m.MTU > 65535 {
		ps = append(ps, Problem{Code: CodeMember, Path: "mtu", Reason: fmt.Sprintf("an underlay MTU of %d cannot be", m.MTU), Fix: fmt.Sprintf("%d to 65535", least)})
	}
	if m.Schema < 1 {
		ps = append(ps, Problem{Code: CodeMember, Path: "schema", Reason: fmt.Sprintf("schema %d cannot be", m.Schema), Fix: "1 or more"})
	}
	if len(m.Uses) > maxUses {
		ps = append(ps, Problem{Code: CodeMember, Path: "uses", Reason: "the node says that it uses more networks than there can be", Fix: fmt.Sprintf("at most %d bytes of names", maxUses)})
	}
	if len(m.Version) > maxVersion || strings.ContainsFunc(m.Version, func(r rune) bool { return r < ' ' || r > '~' }) {
		ps = append(ps, Problem{Code: CodeMember, Path: "version", Reason: "version " + quote(m.Version) + " is not one that flatnetd has", Fix: fmt.Sprintf("at most %d printable characters", maxVersion)})
	}
	return ps
}

// maxUses is how much a node may say of the networks that it uses: hundreds of names.
const maxUses = 16 << 10

// maxVersion is how long a version may be: those of builds from a revision have about 40 characters.
const maxVersion = 128

// leastMTU is what every host must take: RFC 791, RFC 8200.
func leastMTU(m Member) int {
	if m.Underlay4.IsValid() {
		return 576
	}
	return 1280
}

func (f ClusterFacts) checkUnderlay(m Member, v6 bool) (Problem, bool) {
	a := m.Underlay(v6)
	if !a.IsValid() {
		return Problem{}, false
	}
	path := "underlay4"
	if v6 {
		path = "underlay6"
	}
	if a.Is6() != v6 || !isUnicast(a) {
		return Problem{Code: CodeMember, Path: path, Reason: fmt.Sprintf("%s is not an address where a node could be reached", a), Fix: "a unicast address of that family"}, true
	}
	for _, id := range sortedKeys(f.Members) {
		if other := f.Members[id]; id != m.ID && other.Underlay(v6) == a {
			return Problem{Code: CodeUnderlayTaken, Path: path, Reason: fmt.Sprintf("%s is the underlay address of two nodes", a),
				Owner: fmt.Sprintf("node %s %s", quote(other.Name), id), Fix: "give one of them another address, or take the one that is gone away", Example: "flatnet host rm " + id}, true
		}
	}
	if network, pool, inside := f.poolOf(a); inside {
		return Problem{Code: CodeMember, Path: path, Reason: fmt.Sprintf("underlay address %s lies inside a cluster network", a),
			Owner: fmt.Sprintf("pool %s of network %q", pool, network), Fix: "an address that is not reached through the cluster's own networks"}, true
	}
	return Problem{}, false
}

// sortedKeys costs nothing when there are none, as there are for most of thousands of members.
func sortedKeys[V any](m map[string]V) []string {
	if len(m) == 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(m))
}

func (f ClusterFacts) poolOf(a netip.Addr) (network string, pool netip.Prefix, ok bool) {
	for name, pools := range f.Pools { // asked for each of thousands of members: nothing is gathered
		i := slices.IndexFunc(pools, func(p BlockPool) bool { return p.Prefix.Contains(a) })
		if i >= 0 && (!ok || name < network) {
			network, pool, ok = name, pools[i].Prefix, true
		}
	}
	return network, pool, ok
}

// SoundMembers are those that can be used, and why the others cannot. The node itself is never among the others: who has
// an address of its own, or its id, is refused. Of two others with one address the one stays that has had it longer.
func (f ClusterFacts) SoundMembers() (map[string]Member, map[string]Problems) {
	sound, refused := make(map[string]Member, len(f.Members)), map[string]Problems{}
	at := make(map[netip.Addr]string, len(f.Members)) // underlay address → who has it
	so := func(id string) {
		m := f.Members[id]
		facts := f
		facts.Members = nil // but for whom it may collide with
		for _, a := range m.Underlays() {
			if other, ok := at[a]; ok {
				if facts.Members == nil {
					facts.Members = map[string]Member{}
				}
				facts.Members[other] = f.Members[other]
			}
		}
		ps := facts.CheckMember(m)
		if m.ID != id {
			ps = append(ps, Problem{Code: CodeMember, Path: "id", Reason: fmt.Sprintf("the node published as %s calls itself %s", quote(id), quote(m.ID))})
		}
		if len(ps) > 0 {
			refused[id] = ps
			return
		}
		sound[id] = m
		for _, a := range m.Underlays() {
			at[a] = id
		}
	}
	if _, ok := f.Members[f.Self]; ok {
		so(f.Self)
	}
	for _, id := range f.byAge() {
		if id != f.Self {
			so(id)
		}
	}
	return sound, refused
}

// byAge are the members' ids, those first that others must not take anything from. Who collides with nobody need not be compared.
func (f ClusterFacts) byAge() []string {
	ids := slices.Sorted(maps.Keys(f.Members))
	if f.Before == nil || !f.collide() {
		return ids
	}
	slices.SortStableFunc(ids, func(a, b string) int {
		switch {
		case f.Before(a, b):
			return -1
		case f.Before(b, a):
			return 1
		}
		return 0
	})
	return ids
}

// collide reports whether two members have one address.
func (f ClusterFacts) collide() bool {
	seen := make(map[netip.Addr]bool, len(f.Members))
	for _, m := range f.Members {
		for _, a := range m.Underlays() {
			if seen[a] {
				return true
			}
			seen[a] = true
		}
	}
	return false
}

// CheckLease judges one lease by itself.
func (f ClusterFacts) CheckLease(l Lease) (Problem, bool) {
	if p, no := CheckMemberID(l.Node); no {
		p.Code, p.Path = CodeLease, "node"
		return p, true
	}
	pools, ok := f.Pools[l.Network]
	if !ok {
		return Problem{Code: CodeLease, Path: "network", Reason: fmt.Sprintf("there is no cluster network %s", quote(l.Network))}, true
	}
	pool, inside := poolFor(pools, l.Block)
	if _, ok := pool.Index(l.Block); ok && l.Block.Bits() > 0 {
		return Problem{}, false
	}
	p := f.misplaced(l, pool, inside)
	p.Code, p.Path = CodeLease, "block"
	return p, true
}

// misplaced says what is wrong with a block that is not one of its network.
func (f ClusterFacts) misplaced(l Lease, pool BlockPool, inside bool) (p Problem) {
	word, special := specialRange(l.Block)
	switch {
	case !l.Block.IsValid():
		p.Reason = "the block is no prefix"
	case l.Block.Bits() == 0:
		p.Reason = fmt.Sprintf("%s is every address there is", l.Block)
	case l.Block.Addr().Is4In6():
		p.Reason = fmt.Sprintf("%s is IPv4 spelled as IPv6", l.Block)
	case l.Block != l.Block.Masked():
		p.Reason, p.Fix = fmt.Sprintf("%s has bits set behind the prefix length", l.Block), "the prefix would be "+l.Block.Masked().String()
	case special:
		p.Reason = fmt.Sprintf("%s has %s", l.Block, word)
	case inside:
		p.Reason = fmt.Sprintf("%s is not one of the network's blocks", l.Block)
		p.Fix = fmt.Sprintf("blocks of pool %s are /%d", pool.Prefix, pool.Bits)
	default:
		p.Reason = fmt.Sprintf("%s lies outside of network %q", l.Block, l.Network)
		p.Fix = "a block of " + poolNames(f.Pools[l.Network])
		if network, other, ok := f.poolOf(l.Block.Addr()); ok && network != l.Network {
			p.Owner = fmt.Sprintf("pool %s of network %q", other, network)
		}
	}
	return p
}

// poolFor is the pool that a block touches.
func poolFor(pools []BlockPool, block netip.Prefix) (BlockPool, bool) {
	for _, p := range pools {
		if p.Valid() && p.Prefix.Overlaps(block) {
			return p, p.Prefix.Bits() <= block.Bits()
		}
	}
	return BlockPool{}, false
}

func poolNames(pools []BlockPool) string {
	names := make([]string, len(pools))
	for i, p := range pools {
		names[i] = p.Prefix.String()
	}
	return strings.Join(names, ", ")
}

// RefusedLease is a lease that may not be used, and why.
type RefusedLease struct {
	Lease   Lease
	Problem Problem
}

// SoundLeases are those that can be used, in the order given, and the others with their reasons. A lease must lie in its
// network, have the size of its blocks, overlap no earlier one of the same network, hold no address by which a member is
// reached, and belong to a member. An overlap between networks is judged where they are made, as the same range may be used twice.
func (f ClusterFacts) SoundLeases(leases []Lease) ([]Lease, []RefusedLease) {
	sound, refused := make([]Lease, 0, len(leases)), []RefusedLease{}
	taken := make(map[LeaseKey]Lease, len(leases))
	under := f.underlayBlocks()
	for _, l := range leases {
		p, bad := f.CheckLease(l)
		if !bad {
			p, bad = f.checkAmong(l, taken, under)
		}
		if bad {
			refused = append(refused, RefusedLease{l, p})
			continue
		}
		taken[l.Key()] = l
		sound = append(sound, l)
	}
	return sound, refused
}

// checkAmong judges a lease that is right by itself. Blocks of one network have one size in each pool, and pools do not
// overlap, so two blocks overlap only when they are the same.
func (f ClusterFacts) checkAmong(l Lease, taken map[LeaseKey]Lease, under map[LeaseKey]Member) (Problem, bool) {
	if other, ok := taken[l.Key()]; ok {
		return Problem{Code: CodeBlockTaken, Path: "block", Reason: fmt.Sprintf("%s is held already", l.Block), Owner: "node " + other.Node}, true
	}
	if m, ok := under[l.Key()]; ok {
		return Problem{Code: CodeLease, Path: "block", Reason: fmt.Sprintf("%s holds the underlay address of a node: routing it would cut that node off", l.Block),
			Owner: fmt.Sprintf("node %s %s", quote(m.Name), m.ID)}, true
	}
	if _, ok := f.Members[l.Node]; !ok {
		return Problem{Code: CodeLease, Path: "node", Reason: fmt.Sprintf("%s is held by node %s, of which nothing is known", l.Block, quote(l.Node)),
			Fix: "it is used as soon as that node says where it is"}, true
	}
	return Problem{}, false
}

// underlayBlocks are the blocks that hold underlay addresses.
func (f ClusterFacts) underlayBlocks() map[LeaseKey]Member {
	under := map[LeaseKey]Member{}
	ids := slices.Sorted(maps.Keys(f.Members))
	slices.Reverse(ids) // so that of several the lowest is named
	for network, pools := range f.Pools {
		for _, p := range pools {
			for _, id := range ids {
				if b, ok := p.BlockOf(f.Members[id].Underlay(p.Prefix.Addr().Is6())); ok {
					under[LeaseKey{network, b}] = f.Members[id]
				}
			}
		}
	}
	return under
}
