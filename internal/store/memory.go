package store

import (
	"context"
	"errors"
	"sync"
)

// Memory is a store that forgets when it ends: for tests, and the measure of the durable ones.
type Memory struct {
	watchers Watchers

	mu     sync.Mutex
	table  *Table
	closed bool
}

// NewMemory is empty.
func NewMemory() *Memory { return &Memory{table: NewTable(0, nil)} }

// Load is Store's.
func (m *Memory) Load(ctx context.Context, kinds ...Kind) (Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return Snapshot{}, err
	}
	return m.table.Snapshot(kinds...), nil
}

// Watch is Store's.
func (m *Memory) Watch(ctx context.Context, kinds ...Kind) <-chan Snapshot {
	return m.watchers.Watch(ctx, kinds, m.Load)
}

// Write is Store's.
func (m *Memory) Write(ctx context.Context, changes ...Change) ([]Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	objects := make([]Object, len(changes))
	touched := map[Kind]bool{}
	var errs []error
	for i, c := range changes {
		o, done, err := m.table.Do(c)
		objects[i] = o
		if done {
			touched[c.Kind] = true
		}
		errs = append(errs, err)
	}
	m.watchers.Changed(touched)
	return objects, errors.Join(errs...)
}

// Close is Store's.
func (m *Memory) Close() error {
	m.watchers.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

func (m *Memory) usable(ctx context.Context) error {
	if m.closed {
		return ErrClosed
	}
	return ctx.Err()
}
