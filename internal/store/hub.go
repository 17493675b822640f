package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/flatnet/flatnet/internal/model"
)

// Hub is a cluster's store in memory, for tests: several nodes of one process share it, each by a client of its own, which
// can be cut off.
type Hub struct {
	grace time.Duration
	alive time.Duration
	now   func() time.Duration

	mu      sync.Mutex
	table   *Table
	claims  map[model.LeaseKey]string // block → holder
	held    map[string]time.Duration  // node → when its grace is over
	beats   map[string]beat
	order   int64
	clients map[*HubClient]bool
}

type beat struct {
	by    *HubClient
	until time.Duration
}

// NewHub is empty. A node that has not renewed for the grace loses its blocks; one that has not beaten for alive is not.
// now is Boottime, or a test's.
func NewHub(grace, alive time.Duration, now func() time.Duration) *Hub {
	return &Hub{grace: grace, alive: alive, now: now, table: NewTable(0, nil), claims: map[model.LeaseKey]string{},
		held: map[string]time.Duration{}, beats: map[string]beat{}, clients: map[*HubClient]bool{}}
}

// HubClient is one node's way to a Hub. It is a Cluster.
type HubClient struct {
	hub   *Hub
	board *Board
	// the hub's mutex guards these
	cut    bool
	closed bool
	beaten bool
}

var _ Cluster = (*HubClient)(nil)

// Client is a new way to the hub.
func (h *Hub) Client() *HubClient {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &HubClient{hub: h, board: NewBoard()}
	h.clients[c] = true
	h.fill(c)
	return c
}

// Cut takes the client off the hub, or puts it back.
func (c *HubClient) Cut(cut bool) {
	h := c.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.closed || c.cut == cut {
		return
	}
	c.cut = cut
	if cut {
		c.board.Edit((*BoardEdit).Away)
	} else {
		h.expire()
		h.fill(c)
	}
}

// fill writes all there is to a client's board.
func (h *Hub) fill(c *HubClient) {
	c.board.Edit(func(e *BoardEdit) {
		e.Reset()
		for kind, objects := range h.table.Snapshot().Objects {
			for name, o := range objects {
				e.Put(o, hubKey(kind, name))
			}
		}
		for key, node := range h.claims {
			e.Claim(key, BoardClaim{Node: node})
		}
		for node := range h.beats {
			e.Alive(node, true)
		}
		e.Publish(h.token(), true)
	})
}

func (h *Hub) token() string { return fmt.Sprint(h.order) }

func hubKey(kind Kind, name string) string { return string(kind) + "/" + name }

// tell makes a change on every board that is not cut off.
func (h *Hub) tell(edit func(*BoardEdit)) {
	h.order++
	for c := range h.clients {
		if !c.cut {
			c.board.Edit(func(e *BoardEdit) {
				edit(e)
				e.Publish(h.token(), true)
			})
		}
	}
}

// expire takes away what is over.
func (h *Hub) expire() {
	now := h.now()
	for node, until := range h.held {
		if until <= now {
			delete(h.held, node)
			for key, holder := range maps.Clone(h.claims) {
				if holder == node {
					h.unclaim(key, node)
				}
			}
		}
	}
	for node, b := range h.beats {
		if b.until <= now {
			delete(h.beats, node)
			h.tell(func(e *BoardEdit) { e.Alive(node, false) })
		}
	}
}

func (h *Hub) unclaim(key model.LeaseKey, node string) {
	delete(h.claims, key)
	h.tell(func(e *BoardEdit) { e.Unclaim(key, node) })
}

// later has expire run when something is over by then.
func (h *Hub) later(after time.Duration) {
	time.AfterFunc(after+time.Millisecond, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.expire()
	})
}

// enter is how every call begins; the hub is locked when there is no error.
func (c *HubClient) enter(ctx context.Context) error {
	c.hub.mu.Lock()
	err := ctx.Err()
	switch {
	case c.closed:
		err = ErrClosed
	case err == nil && c.cut:
		err = ErrAway
	}
	if err != nil {
		c.hub.mu.Unlock()
		return err
	}
	c.hub.expire()
	return nil
}

// Watch is Cluster's.
func (c *HubClient) Watch(ctx context.Context, each func(ClusterSnapshot)) error {
	return c.board.Watch(ctx, each)
}

// Write is Cluster's.
func (c *HubClient) Write(ctx context.Context, changes ...Change) ([]Object, error) {
	if err := c.enter(ctx); err != nil {
		return make([]Object, len(changes)), err
	}
	h := c.hub
	defer h.mu.Unlock()
	objects := make([]Object, len(changes))
	var errs []error
	for i, change := range changes {
		if err := change.ForCluster(); err != nil {
			errs = append(errs, err)
			continue
		}
		o, done, err := h.table.Do(change)
		objects[i] = o
		errs = append(errs, err)
		if done {
			h.tell(func(e *BoardEdit) {
				if change.Delete {
					e.Drop(change.Kind, change.Name, hubKey(change.Kind, change.Name))
				} else {
					e.Put(o, hubKey(change.Kind, change.Name))
				}
			})
		}
	}
	return objects, errors.Join(errs...)
}

// Claim is Cluster's.
func (c *HubClient) Claim(ctx context.Context, l model.Lease) (Held, error) {
	if err := c.enter(ctx); err != nil {
		return Held{}, err
	}
	h := c.hub
	defer h.mu.Unlock()
	switch holder, taken := h.claims[l.Key()]; {
	case taken && holder != l.Node:
		return Held{}, &TakenError{Lease: l, Holder: holder}
	case !taken:
		h.claims[l.Key()] = l.Node
		h.tell(func(e *BoardEdit) { e.Claim(l.Key(), BoardClaim{Node: l.Node}) })
	}
	return Held{Lease: l, Until: h.prolong(l.Node)}, nil
}

// prolong gives a node a whole grace from now, and says what the node may count on.
func (h *Hub) prolong(node string) time.Duration {
	h.held[node] = h.now() + h.grace
	h.later(h.grace)
	return h.held[node] - Margin(h.grace)
}

// Renew is Cluster's.
func (c *HubClient) Renew(ctx context.Context, node string) ([]Held, error) {
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	h := c.hub
	defer h.mu.Unlock()
	if _, ok := h.held[node]; !ok {
		return nil, nil
	}
	until := h.prolong(node)
	var held []Held
	for key, holder := range h.claims {
		if holder == node {
			held = append(held, Held{Lease: model.Lease{Network: key.Network, Block: key.Block, Node: node}, Until: until})
		}
	}
	SortHeld(held)
	return held, nil
}

// Release is Cluster's.
func (c *HubClient) Release(ctx context.Context, l model.Lease) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.hub.mu.Unlock()
	if c.hub.claims[l.Key()] == l.Node {
		c.hub.unclaim(l.Key(), l.Node)
	}
	return nil
}

// Heartbeat is Cluster's.
func (c *HubClient) Heartbeat(ctx context.Context, node string) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	h := c.hub
	defer h.mu.Unlock()
	last, alive := h.beats[node]
	if alive && last.by != c && c.beaten {
		return ErrTwin
	}
	c.beaten = true
	h.beats[node] = beat{by: c, until: h.now() + h.alive}
	h.later(h.alive)
	if !alive {
		h.tell(func(e *BoardEdit) { e.Alive(node, true) })
	}
	return nil
}

// Close is Cluster's.
func (c *HubClient) Close() error {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	c.closed = true
	delete(c.hub.clients, c)
	c.board.Close()
	return nil
}
