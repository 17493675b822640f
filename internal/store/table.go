package store

import (
	"maps"
	"strconv"
)

// Table is the state that a store holds in memory: what Memory is, and what a durable store reads from. It decides what a
// change leads to and hands out snapshots; it has no lock, which is its owner's.
type Table struct {
	revision uint64 // of the last change ever made; versions and tokens are its values, so none comes twice
	kinds    map[Kind]*shelf
}

// shelf is one kind's objects, copied before a write when a snapshot has them.
type shelf struct {
	objects map[string]Object
	shared  bool
}

// NewTable begins with what was kept, at the revision it was kept at.
func NewTable(revision uint64, kept []Object) *Table {
	t := &Table{revision: revision, kinds: map[Kind]*shelf{}}
	for _, o := range kept {
		t.shelf(o.Kind).objects[o.Name] = o
	}
	return t
}

// Copy is a table of its own with the same state. Its cost does not grow with what is stored, as Snapshot's doesn't.
func (t *Table) Copy() *Table {
	c := &Table{revision: t.revision, kinds: make(map[Kind]*shelf, len(t.kinds))}
	for k, s := range t.kinds {
		s.shared = true
		c.kinds[k] = &shelf{objects: s.objects, shared: true}
	}
	return c
}

// Revision is that of the last change.
func (t *Table) Revision() uint64 { return t.revision }

// Do makes a change, or says why not. done tells whether anything differs now: putting what is there, or deleting what is
// not, does nothing.
func (t *Table) Do(c Change) (o Object, done bool, err error) {
	have, exists := t.Get(c.Kind, c.Name)
	data, done, err := c.Against(have, exists)
	if err != nil {
		return Object{}, false, err
	}
	if !done {
		return have, false, nil // of a deletion: none
	}
	if c.Delete {
		t.revision++
		delete(t.writable(c.Kind), c.Name)
		return Object{}, true, nil
	}
	t.revision++
	o = Object{Kind: c.Kind, Name: c.Name, Version: Version(strconv.FormatUint(t.revision, 10)), Data: data}
	t.writable(c.Kind)[c.Name] = o
	return o, true, nil
}

// Against is what the change makes of an object that a store has, or has not: the data to keep, and whether anything
// differs. A store of many machines makes it so only if the object is still at that version.
func (c Change) Against(have Object, exists bool) (data []byte, done bool, err error) {
	if c.err != nil {
		return nil, false, c.Fail(c.err)
	}
	if err := c.allowed(have, exists); err != nil {
		return nil, false, c.Fail(err)
	}
	if c.Delete || !exists {
		return c.Data, exists || !c.Delete, nil
	}
	data = c.Data
	if string(data) != string(have.Data) {
		data, err = carry(c.Kind, have.Data, data)
		if err != nil && c.Kind == Member { // it is whole in what its node says now, and nobody else can mend it
			data, err = c.Data, nil
		}
		if err != nil {
			return nil, false, c.Fail(err)
		}
	}
	return data, string(data) != string(have.Data), nil
}

func (c Change) allowed(have Object, exists bool) error {
	switch {
	case c.Base == Any:
		return nil
	case c.Base == New && exists && !c.Delete:
		return ErrExists
	case c.Base == New && !exists && !c.Delete:
		return nil
	case !exists:
		return ErrNotFound
	case c.Base != have.Version:
		return ErrConflict
	}
	return nil
}

// Get returns an object.
func (t *Table) Get(kind Kind, name string) (Object, bool) {
	s, ok := t.kinds[kind]
	if !ok {
		return Object{}, false
	}
	o, ok := s.objects[name]
	return o, ok
}

// Snapshot is the present state of the kinds, all when none is named. Its cost does not grow with what is stored: the
// next change to a kind pays for a copy of it.
func (t *Table) Snapshot(kinds ...Kind) Snapshot {
	s := Snapshot{Token: strconv.FormatUint(t.revision, 10), Objects: map[Kind]map[string]Object{}}
	if len(kinds) == 0 {
		for k := range t.kinds {
			kinds = append(kinds, k)
		}
	}
	for _, k := range kinds {
		if have, ok := t.kinds[k]; ok {
			have.shared = true
			s.Objects[k] = have.objects
		}
	}
	return s
}

func (t *Table) shelf(kind Kind) *shelf {
	s, ok := t.kinds[kind]
	if !ok {
		s = &shelf{objects: map[string]Object{}}
		t.kinds[kind] = s
	}
	return s
}

func (t *Table) writable(kind Kind) map[string]Object {
	s := t.shelf(kind)
	if s.shared {
		s.objects, s.shared = maps.Clone(s.objects), false
	}
	return s.objects
}
