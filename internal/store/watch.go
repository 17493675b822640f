package store

import (
	"context"
	"slices"
	"sync"
)

// Watchers wakes those who watch a store. Its zero value is ready.
type Watchers struct {
	mu     sync.Mutex
	all    map[*watcher]struct{}
	closed bool
}

type watcher struct {
	kinds []Kind
	wake  chan struct{} // holds one
}

// Watch runs one watcher until ctx ends or Close; load is the store's Load.
func (ws *Watchers) Watch(ctx context.Context, kinds []Kind, load func(context.Context, ...Kind) (Snapshot, error)) <-chan Snapshot {
	w := &watcher{kinds: slices.Clone(kinds), wake: make(chan struct{}, 1)}
	w.wake <- struct{}{}
	out := make(chan Snapshot)
	if !ws.add(w) {
		close(out)
		return out
	}
	go func() {
		defer close(out)
		defer ws.remove(w)
		for w.next(ctx) {
			snap, err := load(ctx, w.kinds...)
			if err != nil || !w.send(ctx, out, snap, load) {
				return
			}
		}
	}()
	return out
}

// next waits for a change.
func (w *watcher) next(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case _, open := <-w.wake:
		return open
	}
}

// send offers a snapshot, and a newer one when that comes before it is taken.
func (w *watcher) send(ctx context.Context, out chan<- Snapshot, snap Snapshot, load func(context.Context, ...Kind) (Snapshot, error)) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case out <- snap:
			return true
		case _, open := <-w.wake:
			newer, err := load(ctx, w.kinds...)
			if !open || err != nil {
				return false
			}
			snap = newer
		}
	}
}

func (ws *Watchers) add(w *watcher) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.closed {
		return false
	}
	if ws.all == nil {
		ws.all = map[*watcher]struct{}{}
	}
	ws.all[w] = struct{}{}
	return true
}

func (ws *Watchers) remove(w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.all, w)
}

// Changed wakes who watches one of the kinds. It never blocks.
func (ws *Watchers) Changed(kinds map[Kind]bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.all {
		if len(w.kinds) == 0 && len(kinds) > 0 || slices.ContainsFunc(w.kinds, func(k Kind) bool { return kinds[k] }) {
			select {
			case w.wake <- struct{}{}:
			default:
			}
		}
	}
}

// Close ends all watching.
func (ws *Watchers) Close() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.closed {
		return
	}
	ws.closed = true
	for w := range ws.all {
		close(w.wake)
	}
	ws.all = nil
}
