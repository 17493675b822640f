package nft

import (
	"math/rand/v2"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// randomState is part of the sample: tables, and what stands in them without a gap and with what it refers to.
func randomState(t *testing.T, r *rand.Rand) dataplane.State {
	s := dataplane.State{}
	keepTable := map[dataplane.Family]bool{dataplane.Inet: r.IntN(8) > 0, dataplane.BridgeNF: r.IntN(8) > 0}
	gone := map[dataplane.Key]bool{}
	next := map[dataplane.Key]int{}
	for _, o := range sample(0) {
		if !keepTable[dataplane.FamilyOf(o)] {
			continue
		}
		switch o := o.(type) {
		case dataplane.Chain:
			if gone[o.Key()] = o.Name == "output" && r.IntN(2) == 0; gone[o.Key()] {
				continue
			}
			if o.Hook != "" && r.IntN(6) == 0 {
				o.Priority += r.IntN(5)
			}
			put(t, s, o)
		case dataplane.Set:
			if gone[o.Key()] = r.IntN(5) == 0; gone[o.Key()] {
				continue
			}
			if o.Name == "ports" && r.IntN(3) == 0 {
				o.Value = dt{dataplane.IPv4Addr}
			}
			put(t, s, o)
			putElements(t, s, o, r)
		case dataplane.Rule:
			if r.IntN(4) == 0 || refersTo(o, gone) {
				continue
			}
			chain := dataplane.Chain{Family: o.Family, Name: o.Chain}.Key()
			o.Pos = next[chain]
			next[chain]++
			put(t, s, o)
		default:
			put(t, s, o)
		}
	}
	return s
}

func putElements(t *testing.T, s dataplane.State, set dataplane.Set, r *rand.Rand) {
	for n := range 12 {
		if set.Name == "protos" && n > 2 || r.IntN(2) == 0 {
			continue
		}
		is := tuple(set.Type, n, set.Interval)
		if set.Interval && is.PortLast > 0 { // grows and shrinks: the old range overlaps the new one
			is.PortLast += uint16(r.IntN(3))
		}
		put(t, s, set.Element(is).To(tuple(set.Value, r.IntN(3), false)))
	}
}

func refersTo(r dataplane.Rule, gone map[dataplane.Key]bool) bool {
	for _, name := range []string{r.Match.Lookup.Set, r.Match.Lookup2.Set, r.Map} {
		if gone[dataplane.Set{Family: r.Family, Name: name}.Key()] {
			return true
		}
	}
	// The set named ports is a map at times, in which a rule may not look up a bare key.
	return r.Match.Lookup.Set == "ports" || gone[dataplane.Chain{Family: r.Family, Name: r.Chain}.Key()]
}

func put(t *testing.T, s dataplane.State, o dataplane.Object) {
	t.Helper()
	if err := s.Put(o); err != nil {
		t.Fatal(err)
	}
}

func TestEveryStateLeadsToEveryOther(t *testing.T) {
	newNetns(t)
	c := newConn(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 60 {
		become(t, c, randomState(t, r))
	}
}

// TestAPlanForAnotherState carries out what leads to a state although the kernel is in a third: additions and deletions that are
// already so must not fail.
func TestAPlanTwice(t *testing.T) {
	newNetns(t)
	c := newConn(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 20 {
		want, have := randomState(t, r), observe(t, c)
		plan := dataplane.Diff(want, have)
		apply(t, c, plan)
		apply(t, c, plan)
		same(t, want, observe(t, c))
	}
}

func TestDeletingATableDeletesWhatIsInIt(t *testing.T) {
	newNetns(t)
	c := newConn(t)
	all := state(t, sample(2)...)
	become(t, c, all)
	delInet := dataplane.Plan{{Op: dataplane.Del, Object: dataplane.Table{Family: dataplane.Inet}}}
	apply(t, c, delInet)
	apply(t, c, delInet)
	for _, o := range observe(t, c) {
		if dataplane.FamilyOf(o) == dataplane.Inet {
			t.Errorf("still there: %s", o)
		}
	}
	become(t, c, all)
	apply(t, c, dataplane.Diff(dataplane.State{}, all)) // every object named
	same(t, dataplane.State{}, observe(t, c))
}

func TestRulesAreReadFromTheirUserData(t *testing.T) {
	for _, r := range sampleRules() {
		data, err := ruleUserData(r)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := unpackUserData(data)
		got.Family, got.Chain = r.Family, r.Chain
		if !ok || got != r {
			t.Errorf("got  %+v\nwant %+v", got, r)
		}
	}
}

func FuzzRuleUserData(f *testing.F) {
	for _, r := range sampleRules() {
		data, _ := ruleUserData(r)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, ok := unpackUserData(data)
		if !ok {
			return
		}
		r.Family, r.Chain = dataplane.Inet, "forward"
		again, err := ruleUserData(r)
		if err != nil {
			return
		}
		back, ok := unpackUserData(again)
		back.Family, back.Chain = r.Family, r.Chain
		if !ok || back != r {
			t.Errorf("%+v became %+v", r, back)
		}
	})
}
