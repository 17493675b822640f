package fabric

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// Picture is what a node knows of its cluster. Its maps are never written again.
type Picture struct {
	Self     string
	Live     bool                            // the store answers
	Twin     bool                            // another flatnetd says that it is this node
	Known    bool                            // the store has answered at some time, now or in an earlier life
	Networks map[string]model.Network        // as they are stored
	Members  map[string]model.Member         // sound ones, by ID
	Leases   map[model.LeaseKey]model.Lease  // sound ones of others, and those of the node's own that it may use
	Alive    map[string]bool                 // by member ID
	Refused  map[string]string               // what is not used of what is stored, with the reason
	Fenced   map[model.LeaseKey]store.Tenure // blocks of the node's own that it must not use
	versions map[string]store.Version        // of networks
	step     step
	mine     map[string][]netip.Prefix // blocks held, by network
}

// Blocks are those of a network that the node may use, IPv4 first.
func (p Picture) Blocks(network string) []netip.Prefix { return p.mine[network] }

// Version is that of a stored network: what a change of it is based on.
func (p Picture) Version(network string) store.Version { return p.versions[network] }

// sound is what of a snapshot can be used, by itself: it takes longer than to look at a single change, and is made once a snapshot.
type sound struct {
	snap    store.ClusterSnapshot
	members map[string]model.Member
	leases  map[model.LeaseKey]model.Lease
	refused map[string]string
	pools   map[string][]model.BlockPool   // of the networks that can be
	own     map[model.LeaseKey]model.Lease // of the node, by the store
	at      map[netip.Addr]string          // underlay addresses of the sound members; the only map that is changed in place, by who judges
	step    step
}

// step is by what a sound snapshot differs from the one before, whose maps it names; the zero step says nothing.
type step struct {
	fromMembers map[string]model.Member
	fromLeases  map[model.LeaseKey]model.Lease
	members     []string
	leases      []model.LeaseKey
}

func judge(snap store.ClusterSnapshot, self string) sound {
	s := sound{snap: snap, own: map[model.LeaseKey]model.Lease{}}
	s.pools, s.refused = SoundPools(snap, self)
	facts := model.ClusterFacts{Self: self, Members: snap.Members, Pools: s.pools, Before: snap.MemberBefore}
	var refused map[string]model.Problems
	s.members, refused = facts.SoundMembers()
	for id, ps := range refused {
		s.refused["node "+id] = ps.Error()
	}
	if len(refused) == 0 {
		s.members = snap.Members // there may be thousands: one map of them is enough
	}
	facts.Members = s.members
	s.at = make(map[netip.Addr]string, len(s.members))
	for id, m := range s.members {
		for _, a := range m.Underlays() {
			s.at[a] = id
		}
	}
	all := slices.AppendSeq(make([]model.Lease, 0, len(snap.Leases)), maps.Values(snap.Leases))
	good, bad := facts.SoundLeases(all)
	if s.leases = snap.Leases; len(bad) > 0 {
		s.leases = make(map[model.LeaseKey]model.Lease, len(good))
		for _, l := range good {
			s.leases[l.Key()] = l
		}
	}
	for _, l := range good {
		if l.Node == self {
			s.own[l.Key()] = l
		}
	}
	for _, b := range bad {
		if b.Lease.Node == self {
			s.own[b.Lease.Key()] = b.Lease // our own description may not be there yet
		}
		s.refused[b.Lease.String()] = b.Problem.Error()
	}
	for what, err := range snap.Unread {
		s.refused[what] = err.Error()
	}
	return s
}

// SoundPools are the pools of networks, without those that nobody could use, and those that the node's own address is in: else whoever writes
// a network shuts every node out, as one that is reached through it. The reasons are by "network NAME".
func SoundPools(snap store.ClusterSnapshot, self string) (pools map[string][]model.BlockPool, refused map[string]string) {
	pools, refused = poolsOf(snap), map[string]string{}
	for name := range pools {
		for _, p := range model.Validate(model.View{}, snap.Networks[name]) {
			if strings.HasPrefix(p.Path, "spec.cluster.pools") {
				refused["network "+name] = p.Error()
			}
		}
		for _, a := range snap.Members[self].Underlays() {
			if pool, inside := snap.Networks[name].Cluster.Pool(a); inside {
				refused["network "+name] = fmt.Sprintf("%s holds %s, by which this node is reached", pool.Prefix, a)
			}
		}
		if refused["network "+name] != "" {
			delete(pools, name)
		}
	}
	return pools, refused
}

func poolsOf(snap store.ClusterSnapshot) map[string][]model.BlockPool {
	pools := map[string][]model.BlockPool{}
	for name, n := range snap.Networks {
		if n.Mode == model.Cluster {
			pools[name] = n.Cluster.Pools
		}
	}
	return pools
}

// judgeChange is judge for a snapshot that follows on another of which everything was sound, and differs by a few sound things that have
// nothing to do with each other; else ok is false. It is what makes a change among thousands of nodes cheap.
func judgeChange(was sound, snap store.ClusterSnapshot, self string) (s sound, ok bool) {
	members, leases := changedIn(was.snap.Members, snap.Members), changedIn(was.snap.Leases, snap.Leases)
	if slices.Contains(members, self) || was.at == nil || len(was.refused) > 0 || len(snap.Unread) > 0 || len(members)+len(leases) > mostChanges || !reflect.DeepEqual(poolsOf(was.snap), poolsOf(snap)) {
		return s, false
	}
	s = was
	s.snap, s.members, s.leases = snap, snap.Members, snap.Leases
	facts := model.ClusterFacts{Self: self, Members: map[string]model.Member{}, Pools: was.pools}
	for _, id := range members {
		for _, a := range was.members[id].Underlays() {
			delete(s.at, a)
		}
	}
	for _, id := range members {
		m, there := snap.Members[id]
		if !there {
			continue
		}
		for _, a := range m.Underlays() {
			if _, taken := s.at[a]; taken {
				return s, false
			}
			s.at[a] = id
		}
		if m.ID != id || len(facts.CheckMember(m)) > 0 {
			return s, false
		}
	}
	if len(leases) > 0 {
		s.own = maps.Clone(was.own)
	}
	for _, key := range leases {
		l, there := snap.Leases[key]
		delete(s.own, key)
		if !there {
			continue
		}
		if _, bad := facts.CheckLease(l); bad {
			return s, false
		}
		if l.Node == self {
			s.own[key] = l
		}
	}
	s.step = step{was.members, was.leases, members, leases}
	return s, s.everyHolder(members, leases)
}

// mostChanges is how many changes are judged one by one.
const mostChanges = 64

// everyHolder reports whether no lease is left without its member by these changes.
func (s sound) everyHolder(members []string, leases []model.LeaseKey) bool {
	for _, key := range leases {
		l, there := s.leases[key]
		if _, known := s.members[l.Node]; there && !known {
			return false
		}
	}
	for _, id := range members {
		if _, there := s.members[id]; there {
			continue
		}
		for _, l := range s.leases {
			if l.Node == id {
				return false
			}
		}
	}
	return true
}

// changedIn are the keys that two maps differ by.
func changedIn[K, V comparable](was, now map[K]V) []K {
	if sameMap(was, now) {
		return nil
	}
	var keys []K
	for k, v := range now {
		if w, there := was[k]; !there || w != v {
			keys = append(keys, k)
		}
	}
	for k := range was {
		if _, there := now[k]; !there {
			keys = append(keys, k)
		}
	}
	return keys
}

// sameMap reports whether two maps are one: then nothing need be compared, as maps of snapshots and pictures are never written again.
func sameMap[K comparable, V any](a, b map[K]V) bool {
	return reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}

func equal[K, V comparable](a, b map[K]V) bool { return sameMap(a, b) || maps.Equal(a, b) }

// picture puts together what holds: of others what is sound, of the node's own what it has the right to use.
func (f *Fabric) picture() Picture {
	rights := f.rights()
	f.mu.Lock()
	defer f.mu.Unlock()
	s, tenure := f.sound, f.now(rights)
	p := Picture{
		Self: f.deps.Self, Live: s.snap.Live, Twin: f.twin, Known: s.snap.Token != "" || f.cached, Networks: map[string]model.Network{}, Members: s.members, Alive: s.snap.Alive,
		Refused: s.refused, Leases: s.leases, Fenced: map[model.LeaseKey]store.Tenure{}, versions: map[string]store.Version{}, mine: map[string][]netip.Prefix{},
	}
	for name, n := range s.snap.Networks {
		if n.Mode == model.Cluster {
			p.Networks[name], p.versions[name] = n, s.snap.Version(store.Network, name)
		}
	}
	if f.sameOwn(s, tenure) {
		p.Leases, p.step = s.leases, s.step
	} else {
		p.Leases = make(map[model.LeaseKey]model.Lease, len(s.leases)+1)
		maps.Copy(p.Leases, s.leases)
		maps.DeleteFunc(p.Leases, func(_ model.LeaseKey, l model.Lease) bool { return l.Node == p.Self })
		for key, t := range tenure {
			if other, taken := s.leases[key]; t.usable(f.deps.Now()) && (!taken || other.Node == p.Self) {
				p.Leases[key] = t.lease
			}
		}
	}
	for key, t := range tenure {
		if other, taken := s.leases[key]; !t.usable(f.deps.Now()) || taken && other.Node != p.Self {
			p.Fenced[key] = t.is
			continue
		}
		p.mine[key.Network] = append(p.mine[key.Network], key.Block)
	}
	for _, blocks := range p.mine {
		model.SortBlocks(blocks)
	}
	return p
}

// now are the node's blocks as the clock has it: a machine that has slept may know before its keeper does that a right is over. The caller
// holds the lock, and has asked for the rights before.
func (f *Fabric) now(rights []tenure) map[model.LeaseKey]tenure {
	all := maps.Clone(f.tenure)
	for _, r := range rights {
		if t, held := all[r.lease.Key()]; held && t.until == 0 && t.is == store.Secure && r.until != 0 && f.deps.Now() >= r.until {
			t.is = store.Overdue
			all[r.lease.Key()] = t
		}
	}
	return all
}

// sameOwn reports whether the store and the node agree on what the node may use.
func (f *Fabric) sameOwn(s sound, own map[model.LeaseKey]tenure) bool {
	n := 0
	for key, t := range own {
		if !t.usable(f.deps.Now()) {
			continue
		}
		if s.leases[key] != t.lease {
			return false
		}
		n++
	}
	return n == len(s.own)
}

// Changed are the members and the leases by which the picture differs from those of another. From the one just before it that costs nothing.
func (p Picture) Changed(members map[string]model.Member, leases map[model.LeaseKey]model.Lease) (ids []string, keys []model.LeaseKey) {
	if p.step.fromMembers != nil && sameMap(p.step.fromMembers, members) && sameMap(p.step.fromLeases, leases) {
		return p.step.members, p.step.leases
	}
	return changedIn(members, p.Members), changedIn(leases, p.Leases)
}

// same reports whether two pictures ask the same of a node.
func (p Picture) same(o Picture) bool {
	if members, leases := p.Changed(o.Members, o.Leases); len(members)+len(leases) > 0 {
		return false
	}
	return p.Live == o.Live && p.Twin == o.Twin && p.Known == o.Known && equal(p.Fenced, o.Fenced) &&
		equal(p.versions, o.versions) && equal(p.Refused, o.Refused) && equal(p.Alive, o.Alive)
}

// sameHere reports whether two pictures have the same networks, and the same blocks of the node's own.
func (p Picture) sameHere(o Picture) bool {
	return maps.Equal(p.versions, o.versions) && maps.EqualFunc(p.mine, o.mine, slices.Equal)
}

// String is what a log says of a picture.
func (p Picture) String() string {
	return fmt.Sprintf("%d networks, %d nodes, %d blocks, live %v", len(p.Networks), len(p.Members), len(p.Leases), p.Live)
}
