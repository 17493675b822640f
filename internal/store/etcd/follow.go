package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/flatnet/flatnet/internal/store"
)

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
func (c *Client) run(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		heard, err := c.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		c.away(err)
		if heard {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(pause*2, longestPause)
		c.etcd.ActiveConnection().ResetConnectBackoff() // gRPC's own would grow to two minutes
	}
}

// away notes why etcd does not answer.
func (c *Client) away(err error) {
	c.mu.Lock()
	c.stats.Last = err
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		c.stats.Compacted++
		c.seen = 0 // read everything again
	case errors.Is(err, errRewound):
		c.seen = 0
	case errors.Is(err, errSilent):
		c.stats.Silences++
	}
	c.mu.Unlock()
	c.board.Edit((*store.BoardEdit).Away)
}

// follow reads what there is, unless that was done, and then every change, until there is no sign of life. heard tells
// whether etcd answered at all.
func (c *Client) follow(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	var probing sync.WaitGroup
	defer probing.Wait()
	defer cancel()
	seen := c.revision()
	if seen == 0 {
		if seen, err = c.readAll(ctx); err != nil {
			return false, err
		}
		heard = true
	} else if err = c.sameStore(ctx); err != nil {
		return false, err
	}
	c.count(func(s *Stats) { s.Watches++ })
	changes := c.etcd.Watch(ctx, c.config.Root, clientv3.WithPrefix(), clientv3.WithRev(seen+1), clientv3.WithCreatedNotify(), clientv3.WithFragment())
	probing.Go(func() { c.probe(ctx) })
	silence := time.NewTimer(2 * c.config.Probe)
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
			if err := c.take(resp, changes); err != nil {
				return heard, err
			}
			heard = true
			silence.Reset(2 * c.config.Probe)
		}
	}
}

// probe asks for a sign of life on the watch's own stream.
func (c *Client) probe(ctx context.Context) {
	ticker := time.NewTicker(c.config.Probe)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			one, cancel := context.WithTimeout(ctx, c.config.Probe)
			_ = c.etcd.RequestProgress(one) // silence tells
			cancel()
		}
	}
}

func (c *Client) revision() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

func (c *Client) count(add func(*Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	add(&c.stats)
}

// readAll reads everything in one call and makes it the board.
func (c *Client) readAll(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*c.config.Probe)
	defer cancel()
	resp, err := c.etcd.Get(ctx, c.config.Root, clientv3.WithPrefix())
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", c.config.Root, err)
	}
	if err := c.ours(resp.Kvs); err != nil {
		return 0, err
	}
	c.count(func(s *Stats) { s.Reads++ })
	revision := resp.Header.Revision
	c.identity = identity{resp.Header.ClusterId, resp.Header.RaftTerm}
	c.board.Edit(func(e *store.BoardEdit) {
		e.Reset()
		c.forget()
		for _, kv := range resp.Kvs {
			c.put(e, kv)
		}
		c.reached(revision, len(resp.Kvs), false)
		e.Publish(token(revision), true)
	})
	return revision, nil
}

// identity tells one etcd from another that has taken its place.
type identity struct {
	cluster uint64
	term    uint64 // of its elections; only grows
}

// sameStore makes sure that the watch may go on where it ended. An etcd that was restored from a copy, or begun anew, would
// keep silent until it comes to that revision, and then tell of other changes.
func (c *Client) sameStore(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*c.config.Probe)
	defer cancel()
	resp, err := c.etcd.Get(ctx, c.config.Root+founded)
	if err != nil {
		return fmt.Errorf("read %s: %w", c.config.Root, err)
	}
	if err := c.ours(resp.Kvs); err != nil {
		return err
	}
	h := resp.Header
	if h.ClusterId != c.identity.cluster || h.RaftTerm < c.identity.term || h.Revision < c.revision() {
		return errRewound
	}
	c.identity.term = h.RaftTerm
	return nil
}

// ours makes sure that this is the etcd that the cluster was founded in. One that lost its data looks like a cluster from
// which everything was deleted, and nodes would follow.
func (c *Client) ours(kvs []*mvccpb.KeyValue) error {
	if c.config.Cluster == "" {
		return nil
	}
	for _, kv := range kvs {
		if string(kv.Key) == c.config.Root+founded {
			if string(kv.Value) != foundedValue(c.config.Cluster) {
				return fmt.Errorf("%s says %s: this is the etcd of another cluster than %q", kv.Key, kv.Value, c.config.Cluster)
			}
			return nil
		}
	}
	return fmt.Errorf("there is no %s: this etcd lost its data, or never was that of cluster %q", c.config.Root+founded, c.config.Cluster)
}

// Found writes which cluster this etcd is of, once and for all. It is no error when the same stands there already.
func (c *Client) Found(ctx context.Context, cluster string) error {
	key := c.config.Root + founded
	resp, err := c.etcd.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, foundedValue(cluster))).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return c.fail("found cluster", err)
	}
	if resp.Succeeded {
		return nil
	}
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) != 1 || string(kvs[0].Value) != foundedValue(cluster) {
		return fmt.Errorf("store: etcd: found cluster %q: %w: %s", cluster, store.ErrExists, kvs)
	}
	return nil
}

func foundedValue(cluster string) string {
	return fmt.Sprintf(`{"schema":%d,"value":{"ID":%q}}`, store.Schema, cluster)
}

// take puts a response of the watch on the board, and those that have come since with it: a burst is one snapshot.
func (c *Client) take(resp clientv3.WatchResponse, more clientv3.WatchChan) error {
	var failed error
	c.board.Edit(func(e *store.BoardEdit) {
		live := false
		for {
			if failed = resp.Err(); failed != nil {
				break
			}
			live = true
			for _, event := range resp.Events {
				c.apply(e, event)
			}
			if n := len(resp.Events); n > 0 {
				c.reached(resp.Events[n-1].Kv.ModRevision, n, true)
			}
			var ok bool
			if resp, ok = next(more); !ok {
				break
			}
		}
		if live {
			e.Publish(token(c.revision()), true)
		}
	})
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

func token(revision int64) string { return strconv.FormatInt(revision, 10) }

func (c *Client) reached(revision int64, events int, watched bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = revision
	if watched {
		c.stats.Events += events
	}
}

// forget empties what a reading fills, beside the board.
func (c *Client) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.beating = map[string]int64{}
}

func (c *Client) apply(e *store.BoardEdit, event *clientv3.Event) {
	if event.Type == mvccpb.PUT {
		c.put(e, event.Kv)
		return
	}
	key := string(event.Kv.Key)
	switch p, err := parseKey(strings.TrimPrefix(key, c.config.Root)); {
	case err != nil:
		e.Unread(key, nil)
	case p.founded:
	case p.alive != "":
		e.Alive(p.alive, false)
		c.beaten(p.alive, 0)
	case p.kind != "":
		e.Drop(p.kind, p.name, key)
	default:
		e.Unclaim(p.lease.Key(), p.lease.Node)
	}
}

func (c *Client) put(e *store.BoardEdit, kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	c.count(func(s *Stats) { s.Bytes += int64(len(kv.Key) + len(kv.Value)) })
	switch p, err := parseKey(strings.TrimPrefix(key, c.config.Root)); {
	case err != nil:
		e.Unread(key, err)
	case p.founded:
	case p.alive != "":
		e.Alive(p.alive, true)
		c.beaten(p.alive, kv.Lease)
	case p.kind != "":
		e.Put(store.Object{Kind: p.kind, Name: p.name, Version: store.Version(token(kv.ModRevision)), Data: kv.Value}, key)
	default:
		e.Claim(p.lease.Key(), store.BoardClaim{Node: p.lease.Node, Order: kv.CreateRevision, Ref: kv.Lease})
	}
}

// beaten notes whose heartbeat a node's is.
func (c *Client) beaten(node string, lease int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if lease == 0 {
		delete(c.beating, node)
	} else {
		c.beating[node] = lease
	}
}
