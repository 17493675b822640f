package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// feed reads everything below a root once, then follows the changes from that revision on, and comes back by itself when
// etcd was away.
type feed struct {
	etcd     *clientv3.Client
	root     string        // ends with a slash
	landmark string        // a key below the root that tells one etcd from another
	pace     time.Duration // how often an idle watch is asked for a sign of life
	to       listener
	identity identity // run's own

	mu    sync.Mutex
	seen  int64 // revision up to which the listener knows everything; 0: nothing was read yet
	stats Stats
}

// listener is told what a feed hears, one call at a time. It calls reached once it has taken in what it was told, and before it
// tells others.
type listener interface {
	ours(kvs []*mvccpb.KeyValue) error // whether this is the right etcd, by its landmark at least
	everything(kvs []*mvccpb.KeyValue, revision int64)
	changed(events []*clientv3.Event) // none: a sign of life
	away()
}

// The reasons why a watch is given up.
var (
	errSilent  = errors.New("no sign of life")
	errRewound = errors.New("this etcd has an older state or is another one: it was restored or made anew")
)

const (
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
)

// run follows etcd until ctx ends, and begins anew whenever that fails: the first time soon, then later and later, and at
// random, so that the nodes of a large cluster do not all come at once.
func (f *feed) run(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		heard, err := f.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		f.away(err)
		if heard {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(pause*2, longestPause)
		f.etcd.ActiveConnection().ResetConnectBackoff() // gRPC's own would grow to two minutes
	}
}

// away notes why etcd does not answer.
func (f *feed) away(err error) {
	f.mu.Lock()
	f.stats.Last = err
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		f.stats.Compacted++
		f.seen = 0 // read everything again
	case errors.Is(err, errRewound):
		f.seen = 0
	case errors.Is(err, errSilent):
		f.stats.Silences++
	}
	f.mu.Unlock()
	f.to.away()
}

// follow reads what there is, unless that was done, and then every change, until there is no sign of life. heard tells
// whether etcd answered at all.
func (f *feed) follow(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	var probing sync.WaitGroup
	defer probing.Wait()
	defer cancel()
	seen := f.revision()
	if seen == 0 {
		if seen, err = f.readAll(ctx); err != nil {
			return false, err
		}
		heard = true
	} else if err = f.sameStore(ctx); err != nil {
		return false, err
	}
	f.count(func(s *Stats) { s.Watches++ })
	changes := f.etcd.Watch(ctx, f.root, clientv3.WithPrefix(), clientv3.WithRev(seen+1), clientv3.WithCreatedNotify(), clientv3.WithFragment())
	probing.Go(func() { f.probe(ctx) })
	silence := time.NewTimer(2 * f.pace)
	defer silence.Stop()
	for {
		select {
		case <-ctx.Done():
			return heard, ctx.Err()
		case <-silence.C:
			return heard, errSilent
		case resp, ok := <-changes:
			if !ok {
				return heard, errors.New("the watch ended")
			}
			if err := f.take(resp, changes); err != nil {
				return heard, err
			}
			heard = true
			silence.Reset(2 * f.pace)
		}
	}
}

// probe asks for a sign of life on the watch's own stream.
func (f *feed) probe(ctx context.Context) {
	ticker := time.NewTicker(f.pace)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			one, cancel := context.WithTimeout(ctx, f.pace)
			_ = f.etcd.RequestProgress(one) // silence tells
			cancel()
		}
	}
}

func (f *feed) revision() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen
}

// told is what has happened.
func (f *feed) told() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

func (f *feed) count(add func(*Stats)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	add(&f.stats)
}

// readAll reads everything in one call.
func (f *feed) readAll(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*f.pace)
	defer cancel()
	resp, err := f.etcd.Get(ctx, f.root, clientv3.WithPrefix())
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", f.root, err)
	}
	if err := f.to.ours(resp.Kvs); err != nil {
		return 0, err
	}
	revision := resp.Header.Revision
	f.count(func(s *Stats) {
		s.Reads++
		for _, kv := range resp.Kvs {
			s.Bytes += sizeOf(kv)
		}
	})
	f.identity = identity{resp.Header.ClusterId, resp.Header.RaftTerm}
	f.to.everything(resp.Kvs, revision)
	return revision, nil
}

func sizeOf(kv *mvccpb.KeyValue) int64 { return int64(len(kv.Key) + len(kv.Value)) }

// take tells what a response of the watch brought, and those that have come since with it: a burst is told as one.
func (f *feed) take(resp clientv3.WatchResponse, more clientv3.WatchChan) error {
	var events []*clientv3.Event
	var failed error
	live := false
	for {
		if failed = resp.Err(); failed != nil {
			break
		}
		live = true
		events = append(events, resp.Events...)
		var ok bool
		if resp, ok = next(more); !ok {
			break
		}
	}
	if live {
		f.count(func(s *Stats) {
			s.Events += len(events)
			for _, e := range events {
				s.Bytes += sizeOf(e.Kv)
			}
		})
		f.to.changed(events)
	}
	return failed
}

func next(more clientv3.WatchChan) (clientv3.WatchResponse, bool) {
	select {
	case resp, ok := <-more:
		return resp, ok
	default:
		return clientv3.WatchResponse{}, false
	}
}

// reached notes up to where the listener knows everything.
func (f *feed) reached(revision int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = revision
}

// reachedBy notes the same of events.
func (f *feed) reachedBy(events []*clientv3.Event) {
	if n := len(events); n > 0 {
		f.reached(events[n-1].Kv.ModRevision)
	}
}

// identity tells one etcd from another that has taken its place.
type identity struct {
	cluster uint64
	term    uint64 // of its elections; only grows
}

// sameStore makes sure that the watch may go on where it ended. An etcd that was restored from a copy, or begun anew, would
// keep silent until it comes to that revision, and then tell of other changes.
func (f *feed) sameStore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*f.pace)
	defer cancel()
	resp, err := f.etcd.Get(ctx, f.root+f.landmark)
	if err != nil {
		return fmt.Errorf("read %s: %w", f.root, err)
	}
	if err := f.to.ours(resp.Kvs); err != nil {
		return err
	}
	h := resp.Header
	if h.ClusterId != f.identity.cluster || h.RaftTerm < f.identity.term || h.Revision < f.revision() {
		return errRewound
	}
	f.identity.term = h.RaftTerm
	return nil
}
