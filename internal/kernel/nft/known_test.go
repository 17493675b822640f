package nft

import (
	"math/rand/v2"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// changeElements replaces the elements of every set that has some by a random choice.
func changeElements(t *testing.T, s dataplane.State, r *rand.Rand) dataplane.State {
	t.Helper()
	changed := s.Clone()
	remove(changed, func(o dataplane.Object) bool { _, is := o.(dataplane.Element); return is })
	for _, o := range s {
		if set, ok := o.(dataplane.Set); ok {
			putElements(t, changed, set, r)
		}
	}
	return changed
}

// TestOwnElementsNeedNoReading changes elements at random: the number of the ruleset must be the one that was foreseen, as
// the kernel alone decides what counts as a change.
func TestOwnElementsNeedNoReading(t *testing.T) {
	newNetns(t)
	c := newConn(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	have := state(t, sample(2)...)
	become(t, c, have)
	for range 30 {
		want := changeElements(t, have, r)
		apply(t, c, dataplane.Diff(want, have))
		now, err := c.Generation(ctx(t))
		if err != nil {
			t.Fatal(err)
		}
		if now != c.known.generation {
			t.Fatalf("the ruleset is of generation %d, foreseen was %d", now, c.known.generation)
		}
		same(t, want, observe(t, c))
		have = want
	}
}

// TestForeignChangesAreSeenBesideOwnOnes has somebody else change the tables just before and just after we do. The plan is made
// of what was there before, so that it may have nothing left to do.
func TestForeignChangesAreSeenBesideOwnOnes(t *testing.T) {
	newNetns(t)
	c := newConn(t)
	base := state(t, sample(3)...)
	ours := element(pair4, 9) // fn-net9 . 10.0.1.9 or so: see nft list
	plan := dataplane.Plan{{Op: dataplane.Add, Object: ours}}
	add := "add " + ours.String()
	const lose = `delete element inet flatnet pair4 { "fn-net1" . 10.0.1.8 }`
	for _, foreign := range []string{add, lose, add + "; " + lose, `add table ip other`} {
		for _, first := range []bool{true, false} {
			become(t, c, base)
			if first {
				nftCLI(t, foreign)
			}
			apply(t, c, plan)
			apply(t, c, plan) // changes nothing, which the kernel does not count
			if !first {
				nftCLI(t, foreign)
			}
			if _, ok := observe(t, c)[ours.Key()]; !ok {
				t.Errorf("nft %s (first: %t): our element is not there", foreign, first)
			}
		}
	}
}

// TestWhatIsNotForeseen lists plans that what is known says nothing sure of.
func TestWhatIsNotForeseen(t *testing.T) {
	there, missing := element(pair4, 1), element(pair4, 2)
	k := known{generation: 7, state: state(t, pair4, there, dataplane.Table{Family: dataplane.Inet})}
	for _, one := range []struct {
		op   dataplane.Op
		o    dataplane.Object
		want bool
	}{
		{dataplane.Add, missing, true},
		{dataplane.Del, there, true},
		{dataplane.Replace, there, true},
		{dataplane.Add, there, false},
		{dataplane.Del, missing, false},
		{dataplane.Replace, missing, false},
		{dataplane.Add, element(pairs, 1), false}, // no such set
		{dataplane.Del, pair4, false},
		{dataplane.Add, sampleRules()[0], false},
	} {
		plan := dataplane.Plan{{Op: one.op, Object: one.o}}
		if got := k.foresees(plan); got != one.want {
			t.Errorf("%sis foreseen: %t", plan, got)
		}
		if (known{state: k.state}).foresees(plan) {
			t.Errorf("%sis foreseen without knowledge", plan)
		}
	}
	k = known{generation: 1<<32 - 1, state: k.state}
	k.take(dataplane.Plan{{Op: dataplane.Add, Object: missing}})
	if k.generation != 1 {
		t.Errorf("after the last generation comes %d", k.generation)
	}
}
