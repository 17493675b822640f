package fabric

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// Picture is what a node knows of its cluster. Its maps are never written again.
type Picture struct {
	Self     string
	Live     bool                            // the store answers
	Known    bool                            // the store has answered at some time, now or in an earlier life
	Networks map[string]model.Network        // as they are stored
	Members  map[string]model.Member         // sound ones, by ID
	Leases   map[model.LeaseKey]model.Lease  // sound ones of others, and those of the node's own that it may use
	Alive    map[string]bool                 // by member ID
	Refused  map[string]string               // what is not used of what is stored, with the reason
	Fenced   map[model.LeaseKey]store.Tenure // blocks of the node's own that it must not use
	versions map[string]store.Version        // of networks
	mine     map[string][]netip.Prefix       // blocks held, by network
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
	own     map[model.LeaseKey]model.Lease // of the node, by the store
}

func judge(snap store.ClusterSnapshot, self string) sound {
	s := sound{snap: snap, refused: map[string]string{}, leases: make(map[model.LeaseKey]model.Lease, len(snap.Leases)), own: map[model.LeaseKey]model.Lease{}}
	facts := model.ClusterFacts{Self: self, Members: snap.Members, Pools: map[string][]model.BlockPool{}}
	for name, n := range snap.Networks {
		if n.Mode == model.Cluster {
			facts.Pools[name] = n.Cluster.Pools
		}
	}
	var refused map[string]model.Problems
	s.members, refused = facts.SoundMembers()
	for id, ps := range refused {
		s.refused["node "+id] = ps.Error()
	}
	facts.Members = s.members
	all := slices.AppendSeq(make([]model.Lease, 0, len(snap.Leases)), maps.Values(snap.Leases))
	good, bad := facts.SoundLeases(all)
	for _, l := range good {
		s.leases[l.Key()] = l
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

// picture puts together what holds: of others what is sound, of the node's own what it has the right to use.
func (f *Fabric) picture() Picture {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sound
	p := Picture{
		Self: f.deps.Self, Live: s.snap.Live, Known: s.snap.Token != "" || f.cached, Networks: map[string]model.Network{}, Members: s.members, Alive: s.snap.Alive,
		Refused: s.refused, Leases: s.leases, Fenced: map[model.LeaseKey]store.Tenure{}, versions: map[string]store.Version{}, mine: map[string][]netip.Prefix{},
	}
	for name, n := range s.snap.Networks {
		if n.Mode == model.Cluster {
			p.Networks[name], p.versions[name] = n, s.snap.Version(store.Network, name)
		}
	}
	if f.sameOwn(s) {
		p.Leases = s.leases
	} else {
		p.Leases = maps.Clone(s.leases)
		maps.DeleteFunc(p.Leases, func(_ model.LeaseKey, l model.Lease) bool { return l.Node == p.Self })
		for key, t := range f.tenure {
			if other, taken := s.leases[key]; t.usable(f.deps.Now()) && (!taken || other.Node == p.Self) {
				p.Leases[key] = t.lease
			}
		}
	}
	for key, t := range f.tenure {
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

// sameOwn reports whether the store and the node agree on what the node may use.
func (f *Fabric) sameOwn(s sound) bool {
	n := 0
	for key, t := range f.tenure {
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

// same reports whether two pictures ask the same of a node.
func (p Picture) same(o Picture) bool {
	return p.Live == o.Live && p.Known == o.Known && maps.Equal(p.Members, o.Members) && maps.Equal(p.Leases, o.Leases) && maps.Equal(p.Fenced, o.Fenced) &&
		maps.Equal(p.versions, o.versions) && maps.Equal(p.Refused, o.Refused) && maps.Equal(p.Alive, o.Alive)
}

// String is what a log says of a picture.
func (p Picture) String() string {
	return fmt.Sprintf("%d networks, %d nodes, %d blocks, live %v", len(p.Networks), len(p.Members), len(p.Leases), p.Live)
}
