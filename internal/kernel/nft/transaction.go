package nft

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/nfnl"
)

// transaction is a batch of messages, and what each is about.
type transaction struct {
	nfnl.Batch
	about []fmt.Stringer // by the message's number
	err   error          // the first object that could not be written
	sets  uint32         // ids given
}

func newTransaction(generation uint32) *transaction {
	return &transaction{Batch: *nfnl.NewBatch(generation)}
}

// compile turns a plan into messages. seen has the rules from which changed chains are written anew, and their generation.
func compile(plan dataplane.Plan, seen *snapshot) *transaction {
	tx := newTransaction(seen.generation)
	tx.carryOut(plan, seen.chains)
	return tx
}

// renew makes sets and chains again that are there: all rules of their tables go first, as they refer to them.
func renew(want, have dataplane.State, old []dataplane.Object, seen *snapshot) *transaction {
	tx := newTransaction(seen.generation)
	left, chains := have.Clone(), maps.Clone(seen.chains)
	for _, family := range families {
		if slices.ContainsFunc(old, func(o dataplane.Object) bool { return dataplane.FamilyOf(o) == family }) {
			tx.flush(dataplane.Chain{Family: family})
			remove(left, func(o dataplane.Object) bool { return isRule(o) && dataplane.FamilyOf(o) == family })
			maps.DeleteFunc(chains, func(c dataplane.Chain, _ map[int]dataplane.Rule) bool { return c.Family == family })
		}
	}
	for _, o := range old {
		tx.del(o)
		remove(left, func(in dataplane.Object) bool { return in.Key() == o.Key() || dataplane.Within(in, o) })
	}
	ours := want.Clone()
	remove(ours, func(o dataplane.Object) bool { return !isOurs(o) && left[o.Key()] == nil })
	tx.carryOut(dataplane.Diff(ours, left), chains)
	return tx
}

// carryOut writes the messages of a plan. Elements are deleted first, as a range that is added may overlap one that goes; the
// order is invisible to packets.
func (tx *transaction) carryOut(plan dataplane.Plan, chains chainRules) {
	d := doomed(plan)
	tx.elements(unix.NFT_MSG_DELSETELEM, elementsOf(plan, func(s dataplane.Step) bool {
		return s.Op != dataplane.Add && !d.holds(s.Object)
	}))
	for _, s := range plan {
		if s.Op != dataplane.Del {
			tx.add(s.Object)
		}
	}
	tx.rewrite(plan, chains, d)
	tx.elements(unix.NFT_MSG_NEWSETELEM, elementsOf(plan, func(s dataplane.Step) bool { return s.Op != dataplane.Del }))
	for _, s := range plan {
		if s.Op == dataplane.Del && (isTable(s.Object) || !d.holds(s.Object)) {
			tx.del(s.Object)
		}
	}
}

func remove(s dataplane.State, which func(dataplane.Object) bool) {
	for key, o := range s {
		if which(o) {
			delete(s, key)
		}
	}
}

// isOurs reports whether an object that was read is of the vocabulary, so that it can be written again.
func isOurs(o dataplane.Object) bool {
	switch o := o.(type) {
	case dataplane.Rule:
		return o.Do != ""
	case dataplane.Set:
		return o.Type != dataplane.Types{}
	case dataplane.Chain:
		_, ok := hookNumber(o.Hook)
		return o.Hook == "" || ok && !strings.HasSuffix(o.Type, policyDrop)
	}
	return true
}

// containers are the tables and sets that a plan deletes.
type containers []dataplane.Object

func doomed(plan dataplane.Plan) containers {
	var d containers
	for _, s := range plan {
		switch s.Object.(type) {
		case dataplane.Table, dataplane.Set:
			if s.Op == dataplane.Del {
				d = append(d, s.Object)
			}
		}
	}
	return d
}

// holds reports whether o goes with one of the containers.
func (d containers) holds(o dataplane.Object) bool {
	return slices.ContainsFunc(d, func(c dataplane.Object) bool { return dataplane.Within(o, c) })
}

func isRule(o dataplane.Object) bool {
	_, ok := o.(dataplane.Rule)
	return ok
}

func isTable(o dataplane.Object) bool {
	_, ok := o.(dataplane.Table)
	return ok
}

// add writes a table, set or chain.
func (tx *transaction) add(o dataplane.Object) {
	switch o := o.(type) {
	case dataplane.Table:
		tx.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, o.Family, o)
		tx.String(unix.NFTA_TABLE_NAME, dataplane.TableName)
		tx.Uint32(unix.NFTA_TABLE_FLAGS, 0) // wakes one that was put to sleep
	case dataplane.Set:
		tx.message(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, o.Family, o)
		tx.sets++
		writeSet(&tx.Writer, o, tx.sets)
	case dataplane.Chain:
		tx.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, o.Family, o)
		tx.check(o, writeChain(&tx.Writer, o))
	}
}

// del deletes a table, set or chain.
func (tx *transaction) del(o dataplane.Object) {
	switch o := o.(type) {
	case dataplane.Table:
		tx.message(unix.NFT_MSG_DELTABLE, 0, o.Family, o)
		tx.String(unix.NFTA_TABLE_NAME, dataplane.TableName)
	case dataplane.Set:
		tx.message(unix.NFT_MSG_DELSET, 0, o.Family, o)
		tx.String(unix.NFTA_SET_TABLE, dataplane.TableName)
		tx.String(unix.NFTA_SET_NAME, o.Name)
	case dataplane.Chain:
		tx.message(unix.NFT_MSG_DELCHAIN, 0, o.Family, o)
		tx.String(unix.NFTA_CHAIN_TABLE, dataplane.TableName)
		tx.String(unix.NFTA_CHAIN_NAME, o.Name)
	}
}

// rewrite flushes every chain that the plan has rules of and writes its rules in order of their positions.
func (tx *transaction) rewrite(plan dataplane.Plan, from chainRules, d containers) {
	changed := chainRules{}
	for _, s := range plan {
		r, ok := s.Object.(dataplane.Rule)
		if !ok || d.holds(r) {
			continue
		}
		key := dataplane.Chain{Family: r.Family, Name: r.Chain}
		if changed[key] == nil {
			changed[key] = maps.Clone(from[key])
		}
		if s.Op == dataplane.Del {
			changed.remove(key, r.Pos)
		} else {
			changed.put(r.Pos, r)
		}
	}
	chains := slices.SortedFunc(maps.Keys(changed), func(a, b dataplane.Chain) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Name, b.Name))
	})
	for _, chain := range chains {
		tx.flush(chain)
	}
	for _, chain := range chains {
		for _, pos := range slices.Sorted(maps.Keys(changed[chain])) {
			tx.rule(pos, changed[chain][pos])
		}
	}
}

// remove forgets a rule but not its chain, which is to be flushed.
func (cr chainRules) remove(chain dataplane.Chain, pos int) {
	if cr[chain] == nil {
		cr[chain] = map[int]dataplane.Rule{}
	}
	delete(cr[chain], pos)
}

// flush deletes all rules of a chain; of the whole table when it has no name.
func (tx *transaction) flush(chain dataplane.Chain) {
	tx.message(unix.NFT_MSG_DELRULE, 0, chain.Family, chain)
	tx.String(unix.NFTA_RULE_TABLE, dataplane.TableName)
	if chain.Name != "" {
		tx.String(unix.NFTA_RULE_CHAIN, chain.Name)
	}
}

func (tx *transaction) rule(pos int, r dataplane.Rule) {
	r.Pos = pos
	tx.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, r.Family, r)
	tx.String(unix.NFTA_RULE_TABLE, dataplane.TableName)
	tx.String(unix.NFTA_RULE_CHAIN, r.Chain)
	tx.Nest(unix.NFTA_RULE_EXPRESSIONS, func() { tx.check(r, writeRule(&tx.Writer, r)) })
	data, err := ruleUserData(r)
	tx.check(r, err)
	tx.Bytes(unix.NFTA_RULE_USERDATA, data)
}

// elementsOf are the elements of the steps that are chosen.
func elementsOf(plan dataplane.Plan, choose func(dataplane.Step) bool) []dataplane.Element {
	var es []dataplane.Element
	for _, s := range plan {
		if e, ok := s.Object.(dataplane.Element); ok && choose(s) {
			es = append(es, e)
		}
	}
	return es
}

// elements adds or deletes elements, a message for every run of the same set.
func (tx *transaction) elements(typ uint16, es []dataplane.Element) {
	for len(es) > 0 {
		n, set := 1, es[0].Set()
		for n < min(len(es), elementsInMessage) && es[n].Set() == set {
			n++
		}
		flags := uint16(0)
		if typ == unix.NFT_MSG_NEWSETELEM {
			flags = unix.NLM_F_CREATE
		}
		tx.message(typ, flags, set.Family, run(es[:n]))
		tx.check(nil, writeElements(&tx.Writer, set, es[:n], typ == unix.NFT_MSG_NEWSETELEM))
		es = es[n:]
	}
}

// run is a message's elements; the kernel doesn't say which of them it refused.
type run []dataplane.Element

func (r run) String() string {
	if len(r) == 1 {
		return r[0].String()
	}
	return fmt.Sprintf("%s and %d more", r[0], len(r)-1)
}

func (tx *transaction) message(typ, flags uint16, family dataplane.Family, about fmt.Stringer) {
	tx.Message(typ, flags, number(family))
	tx.about = append(tx.about, about)
}

func (tx *transaction) check(about fmt.Stringer, err error) {
	if err == nil || tx.err != nil {
		return
	}
	tx.err = err
	if about != nil {
		tx.err = fmt.Errorf("%s: %w", about, err)
	}
}
