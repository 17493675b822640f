package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/flatnet/flatnet/internal/model"
)

// Board is the copy of a cluster's store that its readers are served from: what every implementation of Cluster keeps,
// fills with what it hears, and publishes. Only what changed is decoded and copied, whatever the size of the rest.
type Board struct {
	mu     sync.Mutex
	state  boardState
	snap   ClusterSnapshot
	wake   chan struct{} // closed when snap is replaced
	closed bool
}

// boardState is what has been heard, published or not.
type boardState struct {
	versions map[Kind]*shared[string, Version]
	networks shared[string, model.Network]
	members  shared[string, model.Member]
	leases   shared[model.LeaseKey, model.Lease]
	alive    shared[string, bool]
	unread   shared[string, error]
	claims   map[model.LeaseKey][]BoardClaim // by Order: the first is the holder
}

// BoardClaim is a node's wish to hold a block. Of several the one that came first has it.
type BoardClaim struct {
	Node  string
	Order int64 // of its arrival at the store
	Ref   int64 // the store's own
}

// NewBoard has an empty snapshot without a token.
func NewBoard() *Board { return &Board{wake: make(chan struct{}), state: newBoardState()} }

func newBoardState() boardState {
	return boardState{versions: map[Kind]*shared[string, Version]{Network: {}, Member: {}}, claims: map[model.LeaseKey][]BoardClaim{}}
}

// Edit changes the board and publishes it, when publish does, as one. It must not block.
func (b *Board) Edit(edit func(*BoardEdit)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	edit(&BoardEdit{board: b})
}

// BoardEdit is the board in the hands of who changes it.
type BoardEdit struct{ board *Board }

// Reset forgets everything, before it is read anew. What was published stands.
func (e *BoardEdit) Reset() { e.board.state = newBoardState() }

// Put takes an object in. What cannot be read is told in the snapshot instead of what it was; key is how a person finds it.
func (e *BoardEdit) Put(o Object, key string) {
	s := &e.board.state
	s.unread.delete(key)
	s.versions[o.Kind].set(o.Name, o.Version)
	var err error
	switch o.Kind {
	case Network:
		err = putDecoded(&s.networks, o)
	case Member:
		err = putDecoded(&s.members, o)
	}
	if err != nil {
		e.Unread(key, fmt.Errorf("stored %s %q: %w", o.Kind, o.Name, err))
	}
}

func putDecoded[T any](into *shared[string, T], o Object) error {
	v, err := decode[T](o.Data)
	if err != nil {
		into.delete(o.Name)
		return err
	}
	into.set(o.Name, v)
	return nil
}

// Drop takes an object out.
func (e *BoardEdit) Drop(kind Kind, name, key string) {
	s := &e.board.state
	s.unread.delete(key)
	s.versions[kind].delete(name)
	switch kind {
	case Network:
		s.networks.delete(name)
	case Member:
		s.members.delete(name)
	}
}

// Unread tells of something that could not be read; nil: it is gone.
func (e *BoardEdit) Unread(key string, err error) {
	if err == nil {
		e.board.state.unread.delete(key)
		return
	}
	e.board.state.unread.set(key, err)
}

// Claim takes a claim in, or what has changed of it.
func (e *BoardEdit) Claim(key model.LeaseKey, c BoardClaim) {
	claims := slices.DeleteFunc(slices.Clone(e.board.state.claims[key]), func(o BoardClaim) bool { return o.Node == c.Node })
	at, _ := slices.BinarySearchFunc(claims, c, func(a, b BoardClaim) int { return int(a.Order - b.Order) })
	e.setClaims(key, slices.Insert(claims, at, c))
}

// Unclaim takes a claim out.
func (e *BoardEdit) Unclaim(key model.LeaseKey, node string) {
	e.setClaims(key, slices.DeleteFunc(slices.Clone(e.board.state.claims[key]), func(o BoardClaim) bool { return o.Node == node }))
}

func (e *BoardEdit) setClaims(key model.LeaseKey, claims []BoardClaim) {
	s := &e.board.state
	if len(claims) == 0 {
		delete(s.claims, key)
		s.leases.delete(key)
		return
	}
	s.claims[key] = claims
	l := model.Lease{Network: key.Network, Block: key.Block, Node: claims[0].Node}
	if have, ok := s.leases.get(key); !ok || have != l {
		s.leases.set(key, l)
	}
}

// Alive says whether a node has beaten of late.
func (e *BoardEdit) Alive(node string, alive bool) {
	if alive {
		e.board.state.alive.set(node, true)
	} else {
		e.board.state.alive.delete(node)
	}
}

// Publish makes what was taken in the snapshot that readers get.
func (e *BoardEdit) Publish(token string, live bool) {
	s := &e.board.state
	versions := map[Kind]map[string]Version{}
	for k, of := range s.versions {
		versions[k] = of.share()
	}
	e.replace(ClusterSnapshot{Token: token, Live: live, Networks: s.networks.share(), Members: s.members.share(),
		Leases: s.leases.share(), Alive: s.alive.share(), Unread: s.unread.share(), versions: versions})
}

// Show publishes a snapshot that was put together elsewhere, by a store whose keys are not ours. A board is either shown snapshots or told
// what to make them of.
func (e *BoardEdit) Show(s ClusterSnapshot) { e.replace(s) }

// Away says that the store does not answer; what was published stands.
func (e *BoardEdit) Away() {
	if snap := e.board.snap; snap.Live || snap.Networks == nil {
		snap.Live = false
		if snap.Networks == nil {
			snap = ClusterSnapshot{Networks: map[string]model.Network{}, Members: map[string]model.Member{}, Leases: map[model.LeaseKey]model.Lease{}}
		}
		e.replace(snap)
	}
}

func (e *BoardEdit) replace(snap ClusterSnapshot) {
	e.board.snap = snap
	close(e.board.wake)
	e.board.wake = make(chan struct{})
}

// Snapshot is what was published last.
func (b *Board) Snapshot() ClusterSnapshot {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.snap
}

// Claims are those of a block, the holder's first.
func (b *Board) Claims(key model.LeaseKey) []BoardClaim {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state.claims[key]
}

// ClaimsOf are a node's: those with which it holds a block, and those that others were faster with.
func (b *Board) ClaimsOf(node string) (holds, waits map[model.LeaseKey]BoardClaim) {
	b.mu.Lock()
	defer b.mu.Unlock()
	holds, waits = map[model.LeaseKey]BoardClaim{}, map[model.LeaseKey]BoardClaim{}
	for key, claims := range b.state.claims {
		for i, c := range claims {
			switch {
			case c.Node == node && i == 0:
				holds[key] = c
			case c.Node == node:
				waits[key] = c
			}
		}
	}
	return holds, waits
}

// Wait waits until reached is true of what was heard. It is looked at again whenever something is published.
func (b *Board) Wait(ctx context.Context, reached func() bool) error {
	for {
		b.mu.Lock()
		wake, closed := b.wake, b.closed
		b.mu.Unlock()
		if closed {
			return ErrClosed
		}
		if reached() {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		}
	}
}

// Watch is Cluster's, once something was published.
func (b *Board) Watch(ctx context.Context, each func(ClusterSnapshot)) error {
	for {
		b.mu.Lock()
		snap, wake, closed := b.snap, b.wake, b.closed
		b.mu.Unlock()
		switch {
		case closed:
			return ErrClosed
		case ctx.Err() != nil:
			return ctx.Err()
		case snap.Networks != nil:
			each(snap)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		}
	}
}

// Close ends all watching.
func (b *Board) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		close(b.wake)
		b.wake = make(chan struct{})
	}
}

// shared is a map that is copied before a write when a snapshot has it.
type shared[K comparable, V any] struct {
	values map[K]V
	lent   bool
}

func (s *shared[K, V]) get(k K) (V, bool) {
	v, ok := s.values[k]
	return v, ok
}

func (s *shared[K, V]) set(k K, v V) {
	s.own()
	s.values[k] = v
}

func (s *shared[K, V]) delete(k K) {
	if _, ok := s.values[k]; ok {
		s.own()
		delete(s.values, k)
	}
}

func (s *shared[K, V]) share() map[K]V {
	if s.values == nil {
		s.values = map[K]V{}
	}
	s.lent = true
	return s.values
}

func (s *shared[K, V]) own() {
	if s.lent || s.values == nil {
		s.values, s.lent = maps.Clone(s.values), false
		if s.values == nil {
			s.values = map[K]V{}
		}
	}
}
