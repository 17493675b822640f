package kerneltest

import (
	"fmt"
	"syscall"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// putNFT adds or changes a table, set, chain, rule or element, which needs what it is in and what it names.
func (f *Fake) putNFT(s *space, step dataplane.Step) error {
	o := step.Object
	old, exists := s.objects[o.Key()]
	if exists && old == o {
		return nil
	}
	if exists && step.Op == dataplane.Add {
		return syscall.EEXIST
	}
	if e, ok := o.(dataplane.Element); ok && !exists && s.overlaps(e) {
		return syscall.EEXIST
	}
	for _, need := range needs(o) {
		if _, ok := s.objects[need]; !ok {
			return fmt.Errorf("no %s: %w", need, syscall.ENOENT)
		}
	}
	if exists {
		s.dropWithin(old) // a set or base chain is made anew, as neither can change its type
	}
	s.objects[o.Key()] = o
	f.tell(s.path, o)
	return nil
}

// overlaps reports whether an interval of the set has something in common with a new one.
func (s *space) overlaps(e dataplane.Element) bool {
	if !e.Set().Interval {
		return false
	}
	for _, o := range s.objects {
		if old, ok := o.(dataplane.Element); ok && old.Set() == e.Set() && meet(old.Is(), e.Is()) {
			return true
		}
	}
	return false
}

func meet(a, b dataplane.Tuple) bool {
	return a.Link == b.Link && a.Link2 == b.Link2 && a.MAC == b.MAC && a.Proto == b.Proto &&
		!a.AddrLast.Less(b.Addr) && !b.AddrLast.Less(a.Addr) && a.Port <= max(b.Port, b.PortLast) && b.Port <= max(a.Port, a.PortLast)
}

// needs are the keys of what must be there before an nft object.
func needs(o dataplane.Object) []dataplane.Key {
	switch o := o.(type) {
	case dataplane.Set:
		return []dataplane.Key{dataplane.Table{Family: o.Family}}
	case dataplane.Chain:
		return []dataplane.Key{dataplane.Table{Family: o.Family}}
	case dataplane.Element:
		return []dataplane.Key{o.Set().Key()}
	case dataplane.Rule:
		return ruleNeeds(o)
	}
	return nil
}

func ruleNeeds(r dataplane.Rule) []dataplane.Key {
	keys := []dataplane.Key{dataplane.Chain{Family: r.Family, Name: r.Chain}}
	if r.Do == dataplane.Jump {
		keys = append(keys, dataplane.Chain{Family: r.Family, Name: r.Target})
	}
	for _, set := range []string{r.Match.Lookup.Set, r.Match.Lookup2.Set, r.Map} {
		if set != "" {
			keys = append(keys, dataplane.Set{Family: r.Family, Name: set})
		}
	}
	return keys
}

// removeNFT deletes an nft object with all in it; a set or chain that a rule elsewhere names is EBUSY.
func (f *Fake) removeNFT(s *space, o dataplane.Object) error {
	key := o.Key()
	old, ok := s.objects[key]
	if !ok {
		return nil
	}
	if s.named(key) {
		return syscall.EBUSY
	}
	s.dropWithin(old)
	delete(s.objects, key)
	f.tell(s.path, old)
	return nil
}

// named reports whether a rule outside of the object itself refers to it.
func (s *space) named(key dataplane.Key) bool {
	for _, o := range s.objects {
		r, ok := o.(dataplane.Rule)
		if !ok || dataplane.Within(r, key) {
			continue
		}
		for _, need := range ruleNeeds(r) {
			if need == key {
				return true
			}
		}
	}
	return false
}

func (s *space) dropWithin(outer dataplane.Object) {
	key := outer.Key()
	for k, o := range s.objects {
		if dataplane.Within(o, key) {
			delete(s.objects, k)
		}
	}
}
