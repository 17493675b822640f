package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/flatnet/flatnet/internal/store"
)

// Raw is a client of an etcd in which the keys are somebody else's: flannel's. It follows them as Client follows ours, and writes
// only what is still as it was seen.
type Raw struct {
	feed *feed
	to   Hearer
	live atomic.Bool
	stop context.CancelFunc
	done sync.WaitGroup
	once sync.Once
	end  error
}

// KV is one key as etcd has it.
type KV struct {
	Key      string
	Value    []byte // of a deleted key: nil
	Lease    int64  // the etcd lease that it ends with; 0: it stays
	Created  int64  // revisions
	Modified int64  // of a deleted key: of its deletion
	Deleted  bool
}

// Hearer is told what a Raw hears, one call at a time. It must not block.
type Hearer interface {
	All(kvs []KV, revision int64)     // everything, read anew
	Changed(kvs []KV, revision int64) // since, in order; none: a sign of life
	Away(why error)                   // etcd does not answer; what was heard stands
}

// ErrNoLease is an etcd lease that is over.
var ErrNoLease = errors.New("the etcd lease is over")

// OpenRaw begins to follow the keys below c.Root, which ends with a slash; landmark is one of them that is always there: an etcd without
// it lost its data, or never was the one, and is taken for away. Of the configuration Cluster, Grace and Alive do not count.
func OpenRaw(c Config, landmark string, to Hearer) (*Raw, error) {
	c.Probe = cmp.Or(c.Probe, 5*time.Second)
	ctx, stop := context.WithCancel(context.Background())
	e, err := dial(ctx, c, &connections{})
	if err != nil {
		stop()
		return nil, err
	}
	r := &Raw{to: to, stop: stop}
	r.feed = &feed{etcd: e, root: c.Root, landmark: landmark, pace: c.Probe, to: rawListener{r}}
	r.done.Go(func() { r.feed.run(ctx) })
	return r, nil
}

// Close ends all use.
func (r *Raw) Close() error {
	r.once.Do(func() {
		r.stop()
		r.done.Wait()
		if err := r.feed.etcd.Close(); err != nil && !errors.Is(err, context.Canceled) {
			r.end = fmt.Errorf("store: etcd: close: %w", err)
		}
	})
	return r.end
}

// Stats tells what has happened.
func (r *Raw) Stats() Stats { return r.feed.told() }

// rawListener turns etcd's values into ours.
type rawListener struct{ raw *Raw }

// ours makes sure that the landmark is there.
func (l rawListener) ours(kvs []*mvccpb.KeyValue) error {
	key := l.raw.feed.root + l.raw.feed.landmark
	for _, kv := range kvs {
		if string(kv.Key) == key {
			return nil
		}
	}
	return fmt.Errorf("there is no %s", key)
}

func (l rawListener) everything(kvs []*mvccpb.KeyValue, revision int64) {
	all := make([]KV, len(kvs))
	for i, kv := range kvs {
		all[i] = plainKV(kv, false)
	}
	l.raw.live.Store(true)
	l.raw.to.All(all, revision)
	l.raw.feed.reached(revision)
}

func (l rawListener) changed(events []*clientv3.Event) {
	all := make([]KV, len(events))
	revision := l.raw.feed.revision()
	for i, event := range events {
		all[i] = plainKV(event.Kv, event.Type == mvccpb.DELETE)
		revision = event.Kv.ModRevision
	}
	l.raw.live.Store(true)
	l.raw.to.Changed(all, revision)
	l.raw.feed.reached(revision)
}

func (l rawListener) away() {
	l.raw.live.Store(false)
	l.raw.to.Away(l.raw.Stats().Last)
}

func plainKV(kv *mvccpb.KeyValue, deleted bool) KV {
	return KV{Key: string(kv.Key), Value: kv.Value, Lease: kv.Lease, Created: kv.CreateRevision, Modified: kv.ModRevision, Deleted: deleted}
}

// Get reads one key; ok is false when there is none.
func (r *Raw) Get(ctx context.Context, key string) (kv KV, ok bool, err error) {
	resp, err := r.feed.etcd.Get(ctx, key)
	if err != nil || len(resp.Kvs) == 0 {
		return KV{}, false, r.fail("read "+key, err)
	}
	return plainKV(resp.Kvs[0], false), true, nil
}

// Put writes a key, its value and etcd lease, if it still is at the revision base; 0: if there is none. It returns what stands there
// afterwards, and whether that is what was put.
func (r *Raw) Put(ctx context.Context, kv KV, base int64) (now KV, done bool, err error) {
	var opts []clientv3.OpOption
	if kv.Lease != 0 {
		opts = append(opts, clientv3.WithLease(clientv3.LeaseID(kv.Lease)))
	}
	resp, err := r.feed.etcd.Txn(ctx).If(unchanged(kv.Key, base)).Then(clientv3.OpPut(kv.Key, string(kv.Value), opts...)).Else(clientv3.OpGet(kv.Key)).Commit()
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return KV{}, false, fmt.Errorf("store: etcd: put %s: %w", kv.Key, ErrNoLease)
	case err != nil:
		return KV{}, false, r.fail("put "+kv.Key, err)
	case resp.Succeeded:
		kv.Modified = resp.Header.Revision
		return kv, true, nil
	}
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) == 1 {
		return plainKV(kvs[0], false), false, nil
	}
	return KV{Key: kv.Key, Modified: resp.Header.Revision, Deleted: true}, false, nil
}

// Delete takes a key away if it still is at the revision base, and says whether.
func (r *Raw) Delete(ctx context.Context, key string, base int64) (bool, error) {
	resp, err := r.feed.etcd.Txn(ctx).If(unchanged(key, base)).Then(clientv3.OpDelete(key)).Commit()
	if err != nil {
		return false, r.fail("delete "+key, err)
	}
	return resp.Succeeded, nil
}

func unchanged(key string, base int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(key), "=", base)
}

// Grant makes an etcd lease, and says until when it is sure to live, on the clock of store.Boottime.
func (r *Raw) Grant(ctx context.Context, ttl time.Duration) (id int64, until time.Duration, err error) {
	sent := store.Boottime()
	resp, err := r.feed.etcd.Grant(ctx, seconds(ttl))
	if err != nil {
		return 0, 0, r.fail("grant a lease", err)
	}
	return int64(resp.ID), sure(sent, resp.TTL), nil
}

// Prolong gives an etcd lease its whole time again. The error is ErrNoLease when it is over.
func (r *Raw) Prolong(ctx context.Context, id int64) (until time.Duration, err error) {
	sent := store.Boottime()
	resp, err := r.feed.etcd.KeepAliveOnce(ctx, clientv3.LeaseID(id))
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return 0, fmt.Errorf("store: etcd: prolong: %w", ErrNoLease)
	case err != nil:
		return 0, r.fail("prolong", err)
	}
	return sure(sent, resp.TTL), nil
}

// Revoke ends an etcd lease, and deletes every key that hangs on it.
func (r *Raw) Revoke(ctx context.Context, id int64) error {
	_, err := r.feed.etcd.Revoke(ctx, clientv3.LeaseID(id))
	return r.fail("revoke", err)
}

// fail words an error of etcd's.
func (r *Raw) fail(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded) || !r.live.Load() && !errors.Is(err, context.Canceled):
		return fmt.Errorf("store: etcd: %s: %w: %w", doing, store.ErrAway, err)
	}
	return fmt.Errorf("store: etcd: %s: %w", doing, err)
}
