package nft

import (
	"maps"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// known is what our tables hold at one generation of the ruleset. The kernel counts every transaction of anybody: while the
// number stays, nothing needs to be read. The zero known is no knowledge.
type known struct {
	generation uint32
	state      dataplane.State
}

// foresees reports whether a transaction of the plan, carried out at that generation, is sure to make the next one and to do
// what the plan says, no more and no less: elements come and go in sets that are there, and each step changes something. A
// transaction without effect is not counted; the number after it would be another's.
func (k known) foresees(plan dataplane.Plan) bool {
	for _, s := range plan {
		e, ok := s.Object.(dataplane.Element)
		if !ok || k.state[e.Set().Key()] != e.Set() {
			return false
		}
		if _, there := k.state[e.Key()]; there != (s.Op != dataplane.Add) {
			return false
		}
	}
	return k.generation != 0
}

// take makes known what the tables hold after the transaction of a plan that was foreseen.
func (k *known) take(plan dataplane.Plan) {
	for _, s := range plan {
		k.state.Take(s)
	}
	k.generation = nextGeneration(k.generation)
}

// copy is for one who may change it.
func (k known) copy() dataplane.State { return maps.Clone(k.state) }
