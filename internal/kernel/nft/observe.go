package nft

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/nfnl"
)

// reads bounds how often a ruleset that changes under our eyes is read again.
const reads = 20

// Observe returns every object of our two tables. They are read only when somebody else changed the ruleset, or we did in a
// way whose outcome was not sure, since the last Observe; and while Watch runs only what of them others touched; when afresh, all in any case. What nobody could want is returned as what it isn't: a rule that we did not
// write as one with the comment "foreign rule", a chain whose policy is not accept with another type, a set of types that we
// don't have without types, a table that was put to sleep not at all.
func (c *Conn) Observe(ctx context.Context, afresh bool) (dataplane.State, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, err := c.generation(ctx)
	if err != nil {
		return nil, err
	}
	if afresh || now != c.known.generation && !c.catchUp(ctx, now) {
		seen, err := c.read(ctx)
		if err != nil {
			return nil, err
		}
		if c.known, err = seen.known(); err != nil {
			return nil, err
		}
	}
	return c.known.copy(), nil
}

// snapshot is our tables at one generation of the ruleset.
type snapshot struct {
	generation uint32
	objects    []dataplane.Object
	chains     chainRules
}

func (s *snapshot) known() (known, error) {
	state := make(dataplane.State, len(s.objects))
	if err := state.Put(s.objects...); err != nil {
		return known{}, fmt.Errorf("nft: %w", err)
	}
	return known{s.generation, state}, nil
}

// chainRules are the rules that we recognised, by the position they were written for: what a chain is rewritten from.
type chainRules map[dataplane.Chain]map[int]dataplane.Rule

func (cr chainRules) put(pos int, r dataplane.Rule) {
	key := dataplane.Chain{Family: r.Family, Name: r.Chain}
	if cr[key] == nil {
		cr[key] = map[int]dataplane.Rule{}
	}
	if pos >= 0 {
		cr[key][pos] = r
	}
}

// read reads our tables until nobody changed the ruleset meanwhile.
func (c *Conn) read(ctx context.Context) (*snapshot, error) {
	return c.consistently(ctx, func(s *snapshot) error {
		for _, family := range families {
			if err := c.readTable(ctx, family, s); err != nil {
				return fmt.Errorf("nft: read table %s %s: %w", family, dataplane.TableName, err)
			}
		}
		return nil
	})
}

// readRules reads only the rules.
func (c *Conn) readRules(ctx context.Context) (*snapshot, error) {
	return c.consistently(ctx, func(s *snapshot) error {
		for _, family := range families {
			if err := c.rules(ctx, family, s); err != nil {
				return fmt.Errorf("nft: read rules of table %s %s: %w", family, dataplane.TableName, err)
			}
		}
		return nil
	})
}

func (c *Conn) consistently(ctx context.Context, fill func(*snapshot) error) (*snapshot, error) {
	for range reads {
		before, err := c.generation(ctx)
		if err != nil {
			return nil, err
		}
		s := &snapshot{generation: before, chains: chainRules{}}
		err = fill(s)
		if errors.Is(err, nfnl.ErrInterrupted) || errors.Is(err, unix.ENOENT) { // ENOENT: a set went while it was read
			continue
		}
		if err != nil {
			return nil, err
		}
		after, err := c.generation(ctx)
		if err != nil {
			return nil, err
		}
		if before == after {
			return s, nil
		}
	}
	return nil, fmt.Errorf("nft: %w, %d times in a row", nfnl.ErrInterrupted, reads)
}

func (c *Conn) readTable(ctx context.Context, family dataplane.Family, s *snapshot) error {
	flags, there, err := c.table(ctx, family)
	if err != nil || !there {
		return err
	}
	if flags == 0 {
		s.objects = append(s.objects, dataplane.Table{Family: family})
	}
	if err := c.chains(ctx, family, s); err != nil {
		return err
	}
	if err := c.rules(ctx, family, s); err != nil {
		return err
	}
	return c.sets(ctx, family, s)
}

func (c *Conn) table(ctx context.Context, family dataplane.Family) (flags uint32, there bool, err error) {
	m, err := c.sock.Get(ctx, unix.NFT_MSG_GETTABLE, number(family), func(w *nfnl.Writer) {
		w.String(unix.NFTA_TABLE_NAME, dataplane.TableName)
	})
	if errors.Is(err, unix.ENOENT) {
		return 0, false, nil
	}
	return nfnl.Get(m.Attrs, unix.NFTA_TABLE_FLAGS).Uint32(), err == nil, err
}

func (c *Conn) chains(ctx context.Context, family dataplane.Family, s *snapshot) error {
	return c.sock.Dump(ctx, unix.NFT_MSG_GETCHAIN, number(family), nil, func(m nfnl.Message) {
		if nfnl.Get(m.Attrs, unix.NFTA_CHAIN_TABLE).String() == dataplane.TableName {
			s.objects = append(s.objects, readChain(family, m.Attrs))
		}
	})
}

func (c *Conn) rules(ctx context.Context, family dataplane.Family, s *snapshot) error {
	next := map[string]int{}
	filter := func(w *nfnl.Writer) { w.String(unix.NFTA_RULE_TABLE, dataplane.TableName) }
	return c.sock.Dump(ctx, unix.NFT_MSG_GETRULE, number(family), filter, func(m nfnl.Message) {
		chain := nfnl.Get(m.Attrs, unix.NFTA_RULE_CHAIN).String()
		r, stored := readRule(family, next[chain], m.Attrs)
		next[chain]++
		s.objects = append(s.objects, r)
		s.chains.put(stored, r)
	})
}

func (c *Conn) sets(ctx context.Context, family dataplane.Family, s *snapshot) error {
	var sets []dataplane.Set
	filter := func(w *nfnl.Writer) { w.String(unix.NFTA_SET_TABLE, dataplane.TableName) }
	err := c.sock.Dump(ctx, unix.NFT_MSG_GETSET, number(family), filter, func(m nfnl.Message) {
		if set, ok := readSet(family, m.Attrs); ok {
			sets = append(sets, set)
			s.objects = append(s.objects, set)
		}
	})
	for i := 0; err == nil && i < len(sets); i++ {
		err = c.elements(ctx, sets[i], s)
	}
	return err
}

// elements reads a set's elements. A hash set that the kernel is just resizing, as it does for a while after many additions,
// is dumped with some elements twice and others not at all, without a word; wherever one is missing another is there twice.
func (c *Conn) elements(ctx context.Context, set dataplane.Set, s *snapshot) error {
	if set.Type == (dataplane.Types{}) {
		return nil
	}
	filter := func(w *nfnl.Writer) {
		w.String(unix.NFTA_SET_ELEM_LIST_TABLE, dataplane.TableName)
		w.String(unix.NFTA_SET_ELEM_LIST_SET, set.Name)
	}
	seen, twice := map[string]bool{}, false
	err := c.sock.Dump(ctx, unix.NFT_MSG_GETSETELEM, number(set.Family), filter, func(m nfnl.Message) {
		readElements(set, m.Attrs, func(e dataplane.Element, key []byte) {
			twice = twice || seen[string(key)]
			seen[string(key)] = true
			s.objects = append(s.objects, e)
		})
	})
	if err == nil && twice {
		return nfnl.ErrInterrupted
	}
	return err
}
