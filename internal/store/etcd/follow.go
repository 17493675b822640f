package etcd

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/flatnet/flatnet/internal/store"
)

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
	return fmt.Sprintf(`{"schema":%d,"value":{"ID":%q}}`, keysSchema, cluster)
}

// everything makes a reading the board.
func (c *Client) everything(kvs []*mvccpb.KeyValue, revision int64) {
	c.board.Edit(func(e *store.BoardEdit) {
		e.Reset()
		c.forget()
		for _, kv := range kvs {
			c.put(e, kv)
		}
		c.feed.reached(revision)
		e.Publish(token(revision), true)
	})
}

// changed puts a burst on the board, as one.
func (c *Client) changed(events []*clientv3.Event) {
	c.board.Edit(func(e *store.BoardEdit) {
		for _, event := range events {
			c.apply(e, event)
		}
		c.feed.reachedBy(events)
		e.Publish(token(c.feed.revision()), true)
	})
}

// away says on the board that etcd does not answer.
func (c *Client) away() { c.board.Edit((*store.BoardEdit).Away) }

func token(revision int64) string { return strconv.FormatInt(revision, 10) }

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
