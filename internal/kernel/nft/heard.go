package nft

import (
	"context"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/nfnl"
)

// mostHeard is how many transactions of others are remembered.
const mostHeard = 64

// heard is what Watch was told of the last transactions of others: which parts of our tables each touched. So only those need be read
// again. Without a Watch it is empty.
type heard struct {
	mu   sync.Mutex
	now  touched            // by the transaction that is being told
	past map[uint32]touched // by the generation that it made
}

// touched are parts of our tables.
type touched struct {
	tables map[dataplane.Family]bool // all that is in them
	rules  map[dataplane.Family]bool // of all chains
	sets   map[dataplane.Key]bool    // their elements
}

func newTouched() touched {
	return touched{map[dataplane.Family]bool{}, map[dataplane.Family]bool{}, map[dataplane.Key]bool{}}
}

// note takes a notification.
func (h *heard) note(m nfnl.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.now.sets == nil {
		h.now = newTouched()
	}
	if m.Type != unix.NFT_MSG_NEWGEN {
		h.now.note(m)
		return
	}
	if h.past == nil || len(h.past) == mostHeard {
		h.past = map[uint32]touched{}
	}
	h.past[nfnl.Get(m.Attrs, unix.NFTA_GEN_ID).Uint32()] = h.now
	h.now = touched{}
}

// lost forgets everything, as some was not heard.
func (h *heard) lost() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now, h.past = touched{}, nil
}

func (t touched) note(m nfnl.Message) {
	family, ok := familyOf(m.Family)
	if !ok || nfnl.Get(m.Attrs, unix.NFTA_TABLE_NAME).String() != dataplane.TableName {
		return
	}
	switch m.Type {
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		t.rules[family] = true
	case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		name := nfnl.Get(m.Attrs, unix.NFTA_SET_ELEM_LIST_SET).String()
		t.sets[dataplane.Set{Family: family, Name: name}.Key()] = true
	default:
		t.tables[family] = true
	}
}

// between is what others touched from one generation to another; ok is false when not all of it was heard.
func (h *heard) between(from, to uint32) (all touched, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	all = newTouched()
	for n := 0; from != to; n++ {
		from = nextGeneration(from)
		one, ok := h.past[from]
		if !ok || n == mostHeard {
			return all, false
		}
		for family := range one.tables {
			all.tables[family] = true
		}
		for family := range one.rules {
			all.rules[family] = true
		}
		for set := range one.sets {
			all.sets[set] = true
		}
	}
	return all, true
}

// nextGeneration is how the kernel counts (net/netfilter/nf_tables_api.c, nf_tables_commit).
func nextGeneration(n uint32) uint32 {
	if n++; n == 0 {
		n++
	}
	return n
}

// holds reports whether an object is in what was touched.
func (t touched) holds(o dataplane.Object) bool {
	if t.tables[dataplane.FamilyOf(o)] {
		return true
	}
	switch o := o.(type) {
	case dataplane.Rule:
		return t.rules[o.Family]
	case dataplane.Element:
		return t.sets[o.Set().Key()]
	}
	return false
}

// catchUp makes what is known be of generation now by reading only what others touched since. It reports whether it could.
func (c *Conn) catchUp(ctx context.Context, now uint32) bool {
	if c.known.generation == 0 {
		return false
	}
	t, ok := c.heard.between(c.known.generation, now)
	if !ok {
		return false
	}
	var sets []dataplane.Set
	for key := range t.sets {
		if set, known := c.known.state[key].(dataplane.Set); known {
			sets = append(sets, set)
		} else {
			t.tables[dataplane.FamilyOf(key)] = true
		}
	}
	seen, err := c.consistently(ctx, func(s *snapshot) error { return c.readTouched(ctx, t, sets, s) })
	if err != nil || seen.generation != now {
		return false
	}
	remove(c.known.state, t.holds)
	if c.known.state.Put(seen.objects...) != nil {
		c.known = known{}
		return false
	}
	c.known.generation = now
	return true
}

func (c *Conn) readTouched(ctx context.Context, t touched, sets []dataplane.Set, s *snapshot) error {
	for _, family := range families {
		read := func(context.Context, dataplane.Family, *snapshot) error { return nil }
		switch {
		case t.tables[family]:
			read = c.readTable
		case t.rules[family]:
			read = c.rules
		}
		if err := read(ctx, family, s); err != nil {
			return err
		}
	}
	for _, set := range sets {
		if t.tables[set.Family] {
			continue
		}
		if err := c.elements(ctx, set, s); err != nil {
			return err
		}
	}
	return nil
}
