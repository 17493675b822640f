package reconcile

import (
	"slices"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// counting is a Kernel that tells how many plans it has carried out on the host, and with each Hint how many it had then.
type counting interface{ Applied() uint64 }

func (r *Reconciler) applied() uint64 {
	if k, ok := r.kernel.(counting); ok {
		return k.Applied()
	}
	return 0
}

// past is what the last plans of ours replaced on the host, in order. A notification of one plan may be looked at when the
// next has been carried out; it is no surprise then, if it tells what was so between the two.
type past []replaced

type replaced struct {
	plan   uint64 // its number
	key    dataplane.Key
	before dataplane.Object // nil: there was none
}

// mostPast is how many plans are remembered.
const mostPast = 16

// note remembers what a plan replaces in have.
func (p *past) note(plan uint64, steps dataplane.Plan, have dataplane.State) {
	if plan == 0 {
		return
	}
	old := slices.IndexFunc(*p, func(r replaced) bool { return r.plan+mostPast > plan })
	switch {
	case old < 0:
		*p = (*p)[:0]
	case old > 0:
		*p = slices.Delete(*p, 0, old)
	}
	for _, s := range steps {
		key := s.Object.Key()
		before := have[key]
		if (s.Op == dataplane.Del && before != nil) || (s.Op != dataplane.Del && before != s.Object) {
			*p = append(*p, replaced{plan, key, before})
		}
	}
}

// at is the object as it was when so many plans had been carried out; as it is now when that is not known.
func (p past) at(plans uint64, key dataplane.Key, have dataplane.State) dataplane.Object {
	if plans > 0 {
		for _, r := range p {
			if r.plan > plans && r.key == key {
				return r.before
			}
		}
	}
	return have[key]
}
