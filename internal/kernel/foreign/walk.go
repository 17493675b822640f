package foreign

import (
	"cmp"
	"slices"
)

// depthMax bounds jumps into jumps, as the kernel does (NFT_JUMP_STACK_SIZE).
const depthMax = 16

// walker sends one probe through chains.
type walker struct {
	rules       Ruleset
	chains      map[chainKey]*Chain
	markUnknown bool // a rule on the way may have set the packet's mark
}

type chainKey struct {
	legacy              bool
	family, table, name string
}

func (c *Chain) key(name string) chainKey { return chainKey{c.Legacy, c.Family, c.Table, name} }

func newWalker(r Ruleset) *walker {
	w := &walker{rules: r, chains: make(map[chainKey]*Chain, len(r.Chains))}
	for i := range r.Chains {
		c := &r.Chains[i]
		w.chains[c.key(c.Name)] = c
	}
	return w
}

// hit is a place where a packet is dropped, or may be.
type hit struct {
	base  *Chain
	chain *Chain // where the rule is
	rule  string
	path  []string // chains from base to chain
	sure  bool     // no other end is possible in base
}

// run sends a probe through all base chains of its way, in order.
func (w *walker) run(p Probe) []hit {
	w.markUnknown = false
	var hits []hit
	for _, c := range w.way(p) {
		k, _ := p.at(c, w.rules)
		k.markUnknown = w.markUnknown
		s := &stroll{walker: w, packet: k, walked: map[visit]bool{}}
		s.base(c)
		if len(s.drops) > 0 {
			first := s.drops[0]
			first.sure = !s.passes
			hits = append(hits, first)
		}
	}
	return hits
}

// translated reports whether a probe leaves with another source, as far as that can be told.
func (w *walker) translated(p Probe) truth {
	w.markUnknown = false
	t := no
	for _, c := range w.way(p) {
		k, _ := p.at(c, w.rules)
		k.markUnknown = w.markUnknown
		s := &stroll{walker: w, packet: k, walked: map[visit]bool{}}
		s.base(c)
		t = max(t, s.source)
	}
	return t
}

// way are the base chains that the probe passes, in the order of hooks and priorities.
func (w *walker) way(p Probe) []*Chain {
	var way []*Chain
	for i := range w.rules.Chains {
		c := &w.rules.Chains[i]
		if _, ok := p.at(c, w.rules); ok && c.Hook != "" {
			way = append(way, c)
		}
	}
	hooks := p.Way.hooks()
	slices.SortStableFunc(way, func(a, b *Chain) int {
		return cmp.Or(cmp.Compare(slices.Index(hooks, a.Hook), slices.Index(hooks, b.Hook)), cmp.Compare(a.Priority, b.Priority))
	})
	return way
}

// stroll is the way of one packet through one base chain and what it jumps to. Where a condition is open both ways are taken.
type stroll struct {
	*walker
	packet packet
	root   *Chain
	path   []string
	drops  []hit
	passes bool  // an end without drop is possible
	source truth // it gets another source
	walked map[visit]bool
}

// visit is a chain as the packet comes to it; walking it again leads to the same ends.
type visit struct {
	chain       *Chain
	markUnknown bool
}

func (s *stroll) base(c *Chain) {
	s.root = c
	if !s.chain(c) {
		return
	}
	if c.Drops {
		s.drop(c, "policy drop")
	} else {
		s.passes = true
	}
}

// chain reports whether the packet may come back from it.
func (s *stroll) chain(c *Chain) (back bool) {
	if c == nil || len(s.path) >= depthMax {
		return true
	}
	here := visit{c, s.markUnknown}
	if back, ok := s.walked[here]; ok {
		return back
	}
	s.walked[here] = true // of a loop, which the kernel does not let in
	defer func() { s.walked[here] = back }()
	s.path = append(s.path, c.Name)
	defer func() { s.path = s.path[:len(s.path)-1] }()
	for i := range c.Rules {
		r := &c.Rules[i]
		t := r.matches(s.packet)
		if t == no {
			continue
		}
		if r.Marks {
			s.markUnknown, s.packet.markUnknown = true, true
		}
		if r.Translates {
			s.source = max(s.source, t)
		}
		goesOn, returns := s.verdict(c, r.Verdict, r.Text)
		back = back || returns
		if t == yes && !goesOn {
			return back
		}
	}
	return true
}

func (r *Rule) matches(p packet) truth {
	t := yes
	for _, c := range r.Conditions {
		if t = min(t, c.holds(p)); t == no {
			return no
		}
	}
	return t
}

// verdict carries out a verdict: the packet may go on to the next rule, or leave the chain for where it came from.
func (s *stroll) verdict(c *Chain, v Verdict, text string) (goesOn, returns bool) {
	switch v.Kind {
	case Accept:
		s.passes = true
		return false, false
	case Drop:
		s.drop(c, text)
		return false, false
	case Unknown:
		s.passes = true
		s.drop(c, text)
		return true, false
	case Return:
		return false, true
	case Jump:
		return s.chain(s.chains[c.key(v.Target)]), false
	case Goto:
		return false, s.chain(s.chains[c.key(v.Target)])
	case Mapped:
		return s.mapped(c, v, text)
	}
	return true, false
}

func (s *stroll) mapped(c *Chain, v Verdict, text string) (goesOn, returns bool) {
	found := no
	v.Map.lookup(s.packet.load(v.Loads), func(e Element, t truth) {
		found = max(found, t)
		on, back := s.verdict(c, e.Verdict, text)
		goesOn, returns = goesOn || on, returns || back
	})
	return goesOn || found != yes, returns
}

func (s *stroll) drop(c *Chain, rule string) {
	s.drops = append(s.drops, hit{base: s.root, chain: c, rule: rule, path: slices.Clone(s.path)})
}
