package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Store is the contract. Its methods may be called by several goroutines.
type Store interface {
	// Load returns everything of the kinds, of all when none is named.
	Load(ctx context.Context, kinds ...Kind) (Snapshot, error)

	// Watch sends a snapshot at once and after changes to one of the kinds, all when none is named. Changes that come
	// faster than the receiver reads are one snapshot: the newest. The channel is closed when ctx ends or the store closes.
	Watch(ctx context.Context, kinds ...Kind) <-chan Snapshot

	// Write does the changes, durably when it returns. Each stands for itself: the objects that it returns are what
	// became of each, the zero Object for one that was deleted or not done; the errors of those not done are joined, each
	// a *ChangeError. Many changes in one call cost little more than one.
	Write(ctx context.Context, changes ...Change) ([]Object, error)

	// Close ends all use.
	Close() error
}

// Kind is a kind of object.
type Kind string

// The kinds of objects that a host keeps.
const (
	Network Kind = "network" // by name: model.Network
	Forward Kind = "forward" // by model.Forward.Name: the standing ones
	Sysctl  Kind = "sysctl"  // by name: the value that a host-wide sysctl had before us, for uninstall
	Sticky  Kind = "sticky"  // by StickyName: the addresses that a workload had last on a network
	Meta    Kind = "meta"    // one, MetaName: facts of the installation
)

// Version is one state of one object, opaque. As what a Change is based on, New and Any stand beside those read.
type Version string

// Before reports whether something was written before something else of the same cluster.
func (v Version) Before(w Version) bool {
	return cmp.Or(cmp.Compare(len(v), len(w)), cmp.Compare(v, w)) < 0 // numbers, of which the shorter is the smaller
}

// What a change may be based on beside a version that was read.
const (
	New Version = ""  // the object must not exist
	Any Version = "*" // whatever there is, also nothing
)

// Object is one stored value.
type Object struct {
	Kind    Kind
	Name    string
	Version Version
	Data    []byte // JSON as the codec writes it; not to be changed
}

// Change is one object to put or delete.
type Change struct {
	Kind   Kind
	Name   string
	Base   Version // what the object must be at: else the change is not done
	Data   []byte  // of a put
	Delete bool
	err    error // of making the change, told when it is written
}

// Delete takes an object away. With Any it is no error when there is none.
func Delete(kind Kind, name string, base Version) Change {
	return Change{Kind: kind, Name: name, Base: base, Delete: true}
}

// Snapshot is everything at one moment. Its maps are shared and never written again.
type Snapshot struct {
	Token   string // names the moment; equal tokens of one store are equal snapshots
	Objects map[Kind]map[string]Object
}

// Names are those of a kind, ordered.
func (s Snapshot) Names(kind Kind) []string { return slices.Sorted(maps.Keys(s.Objects[kind])) }

// Version is that of an object; New when there is none, which is what a change that creates it is based on.
func (s Snapshot) Version(kind Kind, name string) Version { return s.Objects[kind][name].Version }

// The reasons why a change is not done.
var (
	ErrExists   = errors.New("it exists already")
	ErrNotFound = errors.New("there is none")
	ErrConflict = errors.New("it was changed meanwhile")
	ErrClosed   = errors.New("the store is closed")
)

// ChangeError says which change was not done; it wraps one of the errors above, or what the medium said.
type ChangeError struct {
	Kind   Kind
	Name   string
	Delete bool
	Err    error
}

func (e *ChangeError) Error() string {
	verb := "put"
	if e.Delete {
		verb = "delete"
	}
	return fmt.Sprintf("store: %s %s %q: %s", verb, e.Kind, e.Name, e.Err)
}

func (e *ChangeError) Unwrap() error { return e.Err }

// Fail is the error of a change.
func (c Change) Fail(err error) error {
	return &ChangeError{Kind: c.Kind, Name: c.Name, Delete: c.Delete, Err: err}
}
