package reconcile

import (
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

// past is what the last plans of ours replaced on the host. A notification of one plan may be looked at when the
// next has been carried out; it is no surprise then, if it tells what was so between the two.
type past struct {
	order []replaced                   // by plan
	of    map[dataplane.Key][]replaced // the same, of each object
}

type replaced struct {
	plan   uint64 // its number
	key    dataplane.Key
	before dataplane.Object // nil: there was none
}

const (
	mostPast = 16   // plans are remembered, …
	longPast = 1000 // … but none that has more steps: a late notification about it costs a pass
)

// note remembers what a plan replaces in have.
func (p *past) note(plan uint64, steps dataplane.Plan, have dataplane.State) {
	if plan == 0 {
		return
	}
	p.forget(plan)
	if len(steps) > longPast {
		return
	}
	for _, s := range steps {
		key := s.Object.Key()
		before := have[key]
		if (s.Op == dataplane.Del && before != nil) || (s.Op != dataplane.Del && before != s.Object) {
			p.add(replaced{plan, key, before})
		}
	}
}

func (p *past) add(r replaced) {
	if p.of == nil {
		p.of = map[dataplane.Key][]replaced{}
	}
	p.order = append(p.order, r)
	p.of[r.key] = append(p.of[r.key], r)
}

// forget drops what is too old once there is that plan.
func (p *past) forget(plan uint64) {
	n := 0
	for n < len(p.order) && p.order[n].plan+mostPast <= plan {
		key := p.order[n].key
		if p.of[key] = p.of[key][1:]; len(p.of[key]) == 0 {
			delete(p.of, key)
		}
		n++
	}
	if n == len(p.order) {
		p.order = nil // there may have been thousands
		return
	}
	p.order = p.order[n:]
}

// at is the object as it was when so many plans had been carried out; as it is now when that is not known.
func (p *past) at(plans uint64, key dataplane.Key, have dataplane.State) dataplane.Object {
	if plans > 0 {
		for _, r := range p.of[key] {
			if r.plan > plans {
				return r.before
			}
		}
	}
	return have[key]
}
