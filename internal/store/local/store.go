package local

import (
	"context"
	"errors"
	"fmt"
	"sync"

	bolt "go.etcd.io/bbolt"

	"github.com/flatnet/flatnet/internal/store"
)

// Store is a store.Store.
type Store struct {
	path     string
	watchers store.Watchers

	writing sync.Mutex // held over the disk's work; taken before mu
	db      *bolt.DB

	mu     sync.Mutex
	table  *store.Table // what is on the disk; replaced, never changed
	closed bool
}

var _ store.Store = (*Store)(nil)

// Load is store.Store's. It never waits for the disk.
func (s *Store) Load(ctx context.Context, kinds ...store.Kind) (store.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.Snapshot{}, store.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return store.Snapshot{}, err
	}
	return s.table.Snapshot(kinds...), nil
}

// Watch is store.Store's.
func (s *Store) Watch(ctx context.Context, kinds ...store.Kind) <-chan store.Snapshot {
	return s.watchers.Watch(ctx, kinds, s.Load)
}

// Write is store.Store's. All changes of a call are one transaction on the disk.
func (s *Store) Write(ctx context.Context, changes ...store.Change) ([]store.Object, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	next, err := s.draft(ctx)
	if err != nil {
		return nil, err
	}
	objects := make([]store.Object, len(changes))
	touched := map[store.Kind]bool{}
	var todo []store.Change
	var errs []error
	for i, c := range changes {
		o, done, err := next.Do(c)
		errs = append(errs, err)
		objects[i] = o
		if done {
			todo = append(todo, c)
			touched[c.Kind] = true
		}
	}
	if len(todo) > 0 {
		if err := s.commit(next, todo); err != nil {
			for _, c := range todo {
				errs = append(errs, c.Fail(err))
			}
			return make([]store.Object, len(changes)), errors.Join(errs...)
		}
		s.publish(next)
		s.watchers.Changed(touched)
	}
	return objects, errors.Join(errs...)
}

// draft is a copy of the table to try changes on.
func (s *Store) draft(ctx context.Context) (*store.Table, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, store.ErrClosed
	}
	return s.table.Copy(), ctx.Err()
}

func (s *Store) publish(next *store.Table) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table = next
}

// commit writes what became of the changes, synced when it returns.
func (s *Store) commit(next *store.Table, changes []store.Change) error {
	return guarded(s.path, func() error {
		return s.db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket(bucket)
			if b == nil {
				return fmt.Errorf("bucket %q is gone", bucket)
			}
			for _, c := range changes {
				if err := write(b, next, c); err != nil {
					return err
				}
			}
			return b.SetSequence(next.Revision())
		})
	})
}

// write brings one object's record to what the table has: an object may be changed twice in one call.
func write(b *bolt.Bucket, next *store.Table, c store.Change) error {
	key := recordKey(c.Kind, c.Name)
	o, ok := next.Get(c.Kind, c.Name)
	if !ok {
		return b.Delete(key)
	}
	record, err := encode(key, o)
	if err != nil {
		return err
	}
	return b.Put(key, record)
}

// Close is store.Store's. It waits for a change that is under way.
func (s *Store) Close() error {
	s.watchers.Close()
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	if err := guarded(s.path, s.db.Close); err != nil {
		return fmt.Errorf("store %s: close: %w", s.path, err)
	}
	return nil
}
