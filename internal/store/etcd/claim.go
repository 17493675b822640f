package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// claimValue is what a claim's key has for a value: all there is to say stands in the key. Later versions may say more.
var claimValue = fmt.Sprintf(`{"schema":%d,"value":{}}`, keysSchema)

// errGone is a claim that went away before it was decided.
var errGone = errors.New("the claim was deleted meanwhile")

// Claim is store.Cluster's. It writes the claim, and waits until the watch has brought it: then all earlier ones are known,
// and every node sees the same first.
func (c *Client) Claim(ctx context.Context, l model.Lease) (store.Held, error) {
	c.claiming.Lock()
	defer c.claiming.Unlock()
	doing := fmt.Sprintf("claim %s of %q", l.Block, l.Network)
	if err := c.ready(ctx); err != nil {
		return store.Held{}, c.fail(doing, err)
	}
	if first, ok := c.first(l.Key()); ok && first.Node != l.Node {
		return store.Held{}, &store.TakenError{Lease: l, Holder: first.Node}
	}
	held, err := c.claim(ctx, l)
	var taken *store.TakenError
	if err != nil && !errors.As(err, &taken) {
		err = c.fail(doing, err)
	}
	return held, err
}

// ready waits until everything was read once.
func (c *Client) ready(ctx context.Context) error {
	if c.isClosed() {
		return store.ErrClosed
	}
	return c.board.Wait(ctx, func() bool { return c.board.Snapshot().Token != "" })
}

func (c *Client) first(key model.LeaseKey) (store.BoardClaim, bool) {
	all := c.board.Claims(key)
	if len(all) == 0 {
		return store.BoardClaim{}, false
	}
	return all[0], true
}

func (c *Client) claim(ctx context.Context, l model.Lease) (store.Held, error) {
	s, err := c.session(ctx, l.Node)
	if err != nil {
		return store.Held{}, err
	}
	written, err := c.writeClaim(ctx, l, s.id)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) { // it ended, and its claims with it
		c.setSession(l.Node, session{})
		if s, err = c.session(ctx, l.Node); err == nil {
			written, err = c.writeClaim(ctx, l, s.id)
		}
	}
	if err != nil {
		return store.Held{}, err
	}
	if err := c.decide(ctx, l, written); err != nil {
		return store.Held{}, err
	}
	c.setGiven(l.Key(), false)
	return store.Held{Lease: l, Until: s.until}, nil
}

// writeClaim puts the claim's key, and says at which revision. One that exists is written again, which keeps its place: so
// a deletion that was sent before, and is still on its way, does not find what it is for.
func (c *Client) writeClaim(ctx context.Context, l model.Lease, id clientv3.LeaseID) (int64, error) {
	resp, err := c.etcd.Put(ctx, c.config.Root+claimKey(l), claimValue, clientv3.WithLease(id))
	if err != nil {
		return 0, err
	}
	return resp.Header.Revision, nil
}

// decide waits for what was written, and then for the verdict: nil, or a *store.TakenError after the claim was withdrawn.
func (c *Client) decide(ctx context.Context, l model.Lease, written int64) error {
	for {
		var all []store.BoardClaim
		if err := c.board.Wait(ctx, func() bool {
			there := c.feed.revision() >= written
			all = c.board.Claims(l.Key()) // after the revision was: so it is complete up to that
			return there
		}); err != nil {
			return err
		}
		own := slices.IndexFunc(all, func(b store.BoardClaim) bool { return b.Node == l.Node })
		switch {
		case own < 0:
			return errGone
		case own == 0:
			return nil
		}
		withdrawn, revision, err := c.withdraw(ctx, l, all[own], all[0])
		if err != nil {
			return err
		}
		if withdrawn {
			return &store.TakenError{Lease: l, Holder: all[0].Node}
		}
		written = revision // the holder is gone: look again once that is known here, too
	}
}

// withdraw deletes a claim if another is still before it.
func (c *Client) withdraw(ctx context.Context, l model.Lease, own, before store.BoardClaim) (bool, int64, error) {
	key, holder := c.config.Root+claimKey(l), l
	holder.Node = before.Node
	resp, err := c.etcd.Txn(ctx).If(
		clientv3.Compare(clientv3.CreateRevision(key), "=", own.Order),
		clientv3.Compare(clientv3.CreateRevision(c.config.Root+claimKey(holder)), "=", before.Order),
	).Then(clientv3.OpDelete(key)).Commit()
	if err != nil {
		return false, 0, err
	}
	return resp.Succeeded, resp.Header.Revision, nil
}

// session is the etcd lease that a node's claims hang on. All of them share one, so that one message renews them all; after
// a restart it is found at the claims.
func (c *Client) session(ctx context.Context, node string) (session, error) {
	c.mu.Lock()
	s := c.sessions[node]
	c.mu.Unlock()
	if s.until > store.Boottime() {
		return s, nil
	}
	holds, _ := c.board.ClaimsOf(node)
	for _, id := range append(leasesOf(holds), s.id) {
		if id == 0 {
			continue
		}
		again, err := c.prolong(ctx, id)
		if err == nil {
			c.setSession(node, again)
			return again, nil
		} else if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return session{}, err
		}
	}
	sent := store.Boottime()
	resp, err := c.etcd.Grant(ctx, seconds(c.config.Grace))
	if err != nil {
		return session{}, err
	}
	s = session{id: resp.ID, until: sure(sent, resp.TTL)}
	c.setSession(node, s)
	return s, nil
}

// leasesOf are the etcd leases of claims, each once.
func leasesOf(claims map[model.LeaseKey]store.BoardClaim) []clientv3.LeaseID {
	var ids []clientv3.LeaseID
	for _, claim := range claims {
		ids = append(ids, clientv3.LeaseID(claim.Ref))
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// prolong gives an etcd lease its whole time again.
func (c *Client) prolong(ctx context.Context, id clientv3.LeaseID) (session, error) {
	sent := store.Boottime()
	resp, err := c.etcd.KeepAliveOnce(ctx, id)
	if err != nil {
		return session{}, err
	}
	return session{id: id, until: sure(sent, resp.TTL)}, nil
}

// sure is until when an etcd lease lives for sure.
func sure(sent time.Duration, ttl int64) time.Duration {
	grace := time.Duration(ttl) * time.Second
	return sent + grace - store.Margin(grace)
}

func (c *Client) setSession(node string, s session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sessions[node] = s
}

// Renew is store.Cluster's.
func (c *Client) Renew(ctx context.Context, node string) ([]store.Held, error) {
	c.claiming.Lock()
	defer c.claiming.Unlock()
	if err := c.ready(ctx); err != nil {
		return nil, c.fail("renew", err)
	}
	holds, waits := c.board.ClaimsOf(node)
	until := map[int64]time.Duration{}
	for _, id := range leasesOf(holds) {
		s, err := c.prolong(ctx, id)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			continue
		} else if err != nil {
			return nil, c.fail("renew", err)
		}
		until[int64(id)] = s.until
		c.prolonged(node, s)
	}
	var held []store.Held
	for key, claim := range holds {
		if u, ok := until[claim.Ref]; ok && !c.isGiven(key) {
			held = append(held, store.Held{Lease: model.Lease{Network: key.Network, Block: key.Block, Node: node}, Until: u})
		}
	}
	store.SortHeld(held)
	return held, c.fail("renew", c.withdrawAll(ctx, node, waits))
}

// prolonged notes a renewal of the session.
func (c *Client) prolonged(node string, s session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if have := c.sessions[node]; have.id == s.id || have.id == 0 {
		c.sessions[node] = s
	}
}

// withdrawAll takes back claims that were too late, and that a crash left.
func (c *Client) withdrawAll(ctx context.Context, node string, waits map[model.LeaseKey]store.BoardClaim) error {
	var errs []error
	for key, claim := range waits {
		if first, ok := c.first(key); ok && first.Node != node {
			_, _, err := c.withdraw(ctx, model.Lease{Network: key.Network, Block: key.Block, Node: node}, claim, first)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Release is store.Cluster's. Until the block is claimed again it counts as given back, whether or not etcd has answered.
func (c *Client) Release(ctx context.Context, l model.Lease) error {
	c.claiming.Lock()
	defer c.claiming.Unlock()
	doing := fmt.Sprintf("release %s of %q", l.Block, l.Network)
	if c.isClosed() {
		return store.ErrClosed
	}
	c.setGiven(l.Key(), true)
	key := c.config.Root + claimKey(l)
	resp, err := c.etcd.Get(ctx, key)
	if err != nil {
		return c.fail(doing, err)
	}
	if len(resp.Kvs) == 0 {
		return nil
	}
	unchanged := clientv3.Compare(clientv3.ModRevision(key), "=", resp.Kvs[0].ModRevision)
	_, err = c.etcd.Txn(ctx).If(unchanged).Then(clientv3.OpDelete(key)).Commit()
	return c.fail(doing, err)
}

func (c *Client) setGiven(key model.LeaseKey, given bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if given {
		c.given[key] = true
	} else {
		delete(c.given, key)
	}
}

func (c *Client) isGiven(key model.LeaseKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.given[key]
}

// beat is our own heartbeat of a node.
type beat struct {
	id      clientv3.LeaseID
	written int64 // revision
}

// Heartbeat is store.Cluster's. The first one writes; those that follow only prolong, which no server has to store.
func (c *Client) Heartbeat(ctx context.Context, node string) error {
	if c.isClosed() {
		return store.ErrClosed
	}
	seen := c.feed.revision() // before what was heard is looked at: so that is complete up to it
	c.mu.Lock()
	own, theirs, known := c.beats[node], c.beating[node], seen >= c.beats[node].written
	c.mu.Unlock()
	doing := "heartbeat of " + node
	if own.id != 0 {
		if known && theirs != 0 && theirs != int64(own.id) {
			return store.ErrTwin
		}
		switch _, err := c.prolong(ctx, own.id); {
		case err == nil && (!known || theirs != 0):
			return nil
		case err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound):
			return c.fail(doing, err)
		}
	}
	return c.fail(doing, c.firstBeat(ctx, node))
}

func (c *Client) firstBeat(ctx context.Context, node string) error {
	lease, err := c.etcd.Grant(ctx, seconds(c.config.Alive))
	if err != nil {
		return err
	}
	value := fmt.Sprintf(`{"schema":%d,"value":{"Instance":%q}}`, keysSchema, c.instance)
	resp, err := c.etcd.Put(ctx, c.config.Root+alive+node, value, clientv3.WithLease(lease.ID))
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.beats[node] = beat{id: lease.ID, written: resp.Header.Revision}
	return nil
}

// revisionOf is the revision that a version stands for; 0 of an object that is not there.
func revisionOf(o store.Object) int64 {
	n, _ := strconv.ParseInt(cmp.Or(string(o.Version), "0"), 10, 64)
	return n
}
