package etcd

import (
	"context"
	"errors"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/flatnet/flatnet/internal/store"
)

// Write is store.Cluster's.
func (c *Client) Write(ctx context.Context, changes ...store.Change) ([]store.Object, error) {
	objects := make([]store.Object, len(changes))
	if c.isClosed() {
		return objects, store.ErrClosed
	}
	var errs []error
	schema := c.schema()
	for i, change := range changes {
		change = change.As(schema)
		if err := change.ForCluster(); err != nil {
			errs = append(errs, err)
			continue
		}
		o, err := c.write(ctx, change)
		objects[i] = o
		errs = append(errs, err)
	}
	return objects, errors.Join(errs...)
}

// schema is what all nodes of the cluster read.
func (c *Client) schema() int { return store.SchemaFor(c.board.Snapshot().Members) }

// write does one change to what is there, as often as something else is there by then; whether the change may be done at
// all is judged anew each time.
func (c *Client) write(ctx context.Context, change store.Change) (store.Object, error) {
	key := c.config.Root + objectKey(change.Kind, change.Name)
	for {
		have, exists, err := c.get(ctx, change, key)
		if err != nil {
			return store.Object{}, change.Fail(c.fail("read", err))
		}
		data, todo, err := change.Against(have, exists)
		if err != nil {
			return store.Object{}, err
		}
		if !todo {
			return have, nil
		}
		op := clientv3.OpPut(key, string(data))
		if change.Delete {
			op = clientv3.OpDelete(key)
		}
		unchanged := clientv3.Compare(clientv3.ModRevision(key), "=", revisionOf(have))
		resp, err := c.etcd.Txn(ctx).If(unchanged).Then(op).Commit()
		switch {
		case err != nil:
			return store.Object{}, change.Fail(c.fail("write", err))
		case resp.Succeeded && change.Delete:
			return store.Object{}, nil
		case resp.Succeeded:
			return store.Object{Kind: change.Kind, Name: change.Name, Version: store.Version(token(resp.Header.Revision)), Data: data}, nil
		}
	}
}

func (c *Client) get(ctx context.Context, change store.Change, key string) (store.Object, bool, error) {
	resp, err := c.etcd.Get(ctx, key)
	if err != nil || len(resp.Kvs) == 0 {
		return store.Object{}, false, err
	}
	kv := resp.Kvs[0]
	return store.Object{Kind: change.Kind, Name: change.Name, Version: store.Version(token(kv.ModRevision)), Data: kv.Value}, true, nil
}
