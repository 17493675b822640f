package flannel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/etcd"
)

// mostTries bounds how often a key is written anew because somebody else was faster.
const mostTries = 10

var (
	errLost        = errors.New("the key is not ours any more")
	errUnpublished = errors.New("this node has not said yet where it is")
)

// Claim is store.Cluster's. Of two families' subnets, which flannel keeps at one key, the claim of one brings the other.
func (c *Cluster) Claim(ctx context.Context, l model.Lease) (store.Held, error) {
	c.claiming.Lock()
	defer c.claiming.Unlock()
	if err := c.ready(ctx); err != nil {
		return store.Held{}, c.fail(l, err)
	}
	name, err := c.target(l)
	if err != nil {
		return store.Held{}, err
	}
	until, err := c.hold(ctx, name, true)
	if errors.Is(err, errLost) {
		return store.Held{}, &store.TakenError{Lease: l, Holder: c.holder(name)}
	}
	if err != nil {
		return store.Held{}, c.fail(l, err)
	}
	l.MAC = c.leaseMAC(l)
	return store.Held{Lease: l, Until: until}, nil
}

func (c *Cluster) fail(l model.Lease, err error) error {
	if errors.Is(err, store.ErrClosed) {
		return err
	}
	return fmt.Errorf("flannel: claim %s of %q: %w", l.Block, l.Network, err)
}

// target is the name of the key that a claim is about.
func (c *Cluster) target(l model.Lease) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.world
	if w.id == "" || l.Node != w.id {
		return "", c.fail(l, errUnpublished)
	}
	v6 := l.Block.Addr().Is6()
	r, name := w.config.V4, w.names.Network
	if v6 {
		r, name = w.config.V6, w.names.Network+V6Suffix
	}
	if l.Network != name || !r.Network.IsValid() {
		return "", c.fail(l, errors.New("there is no such network"))
	}
	good, _ := w.sound()
	for _, e := range good {
		if !slices.Contains(e.subnet.Prefixes(), l.Block) {
			continue
		}
		if owner := w.owner(e); owner != w.id {
			return "", &store.TakenError{Lease: l, Holder: owner}
		}
		return e.name, nil
	}
	if !r.Gives(l.Block) {
		return "", &store.TakenError{Lease: l, Holder: fmt.Sprintf("nobody: flannel gives out %s to %s in /%d", r.Min, r.Max, r.Bits)}
	}
	s := Subnet{V4: l.Block}
	switch dual := w.config.V6.Network.IsValid(); {
	case v6:
		s = Subnet{V4: w.choice.V4, V6: l.Block}
	case dual:
		s.V6 = w.choice.V6
	}
	if !s.V4.IsValid() || w.config.fitsSubnet(s) != nil {
		return "", c.fail(l, errors.New("no subnet of the other family is free"))
	}
	return s.String(), nil
}

// holder is who has a key, for a person.
func (c *Cluster) holder(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.world.entries[name]; ok && e.err == nil {
		return c.world.owner(e)
	}
	return "of key " + c.root + subnetsDir + name
}

func (c *Cluster) leaseMAC(l model.Lease) model.MAC { return c.board.Snapshot().Leases[l.Key()].MAC }

// hold makes the key say that this node holds the subnet, and makes sure that it lives on. It may make the key only when claimed: what was
// deleted by somebody else is lost first.
func (c *Cluster) hold(ctx context.Context, name string, claimed bool) (time.Duration, error) {
	for range mostTries {
		have, want, err := c.seen(name, claimed)
		if err != nil {
			return 0, err
		}
		if !claimed && have.Modified == 0 {
			return 0, errLost
		}
		until, done, err := c.holdOnce(ctx, have, want)
		if err != nil || done {
			return until, err
		}
	}
	return 0, errors.New("others write the key all the time")
}

// seen is the key as it is known to be, and as it should be. An error says why it is not ours to write.
func (c *Cluster) seen(name string, claimed bool) (have, want etcd.KV, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.world
	e, there := w.entries[name]
	if there && (e.err != nil || w.owner(e) != w.id) {
		delete(w.held, name)
		return have, want, errLost
	}
	value, err := w.value()
	if err != nil {
		return have, want, err
	}
	if there {
		have = e.kv
	}
	want = etcd.KV{Key: c.root + subnetsDir + name, Value: value.Bytes(), Lease: have.Lease}
	if claimed || there {
		w.held[name] = grip{value: string(want.Value), lease: want.Lease}
	}
	return have, want, nil
}

// value is what stands at a key of ours. The tunnel link keeps the MAC that it has by our oldest key, and when that is deleted, too: others
// know it by that.
func (w *world) value() (Value, error) {
	if w.id == "" {
		return Value{}, errUnpublished
	}
	v := Value{PublicIP: w.self.Underlay4, Type: w.config.Backend.Type}
	dual := w.config.V6.Network.IsValid()
	if dual {
		if v.PublicIPv6 = w.self.Underlay6; !v.PublicIPv6.IsValid() {
			return Value{}, errors.New("this node has no IPv6 underlay address, and flannel's IPv6 is enabled")
		}
	}
	if v.Type != VXLAN {
		return v, nil
	}
	if w.vtep == (VTEP{}) {
		w.vtep, w.vtep6 = w.vteps()
	}
	if v.VTEP = w.vtep; dual {
		v.VTEPv6 = w.vtep6
	}
	return v, nil
}

// vteps are the node's ends of its tunnels: as our oldest key has them, else derived.
func (w *world) vteps() (four, six VTEP) {
	good, _ := w.sound()
	for _, e := range good {
		if w.owner(e) == w.id {
			return e.value.VTEP, e.value.VTEPv6
		}
	}
	vni := w.config.Backend.VNI
	return VTEP{vni, model.TunnelMAC(w.names.Network, w.id)}, VTEP{vni, model.TunnelMAC(w.names.Network+V6Suffix, w.id)}
}

// holdOnce does one attempt. Not done without an error: something has changed; it is known now.
func (c *Cluster) holdOnce(ctx context.Context, have, want etcd.KV) (until time.Duration, done bool, err error) {
	there := have.Modified != 0
	switch {
	case there && have.Lease != 0:
		until, err = c.raw.Prolong(ctx, have.Lease)
		if errors.Is(err, etcd.ErrNoLease) {
			return 0, false, c.look(ctx, want.Key) // it ended, and the key with it
		} else if err != nil {
			return 0, false, err
		}
		if string(have.Value) == string(want.Value) {
			return until, true, nil
		}
	case there: // a reservation: it lives as long as nobody deletes it
		sent := store.Boottime()
		until = sent + c.grace - store.Margin(c.grace)
		if string(have.Value) == string(want.Value) {
			kv, ok, err := c.raw.Get(ctx, want.Key)
			if err != nil {
				return 0, false, err
			}
			c.note(kv, want.Key, ok)
			return until, ok && kv.Modified == have.Modified, nil
		}
	default:
		if want.Lease, until, err = c.raw.Grant(ctx, c.grace); err != nil {
			return 0, false, err
		}
		c.willHave(want)
	}
	now, done, err := c.raw.Put(ctx, want, have.Modified)
	if !there && (err == nil && !done || errors.Is(err, etcd.ErrNoLease)) {
		_ = c.raw.Revoke(ctx, want.Lease) // else it would lie about for a day
	}
	switch {
	case errors.Is(err, etcd.ErrNoLease):
		return 0, false, c.look(ctx, want.Key)
	case err != nil:
		return 0, false, err
	case done && there:
		now.Created = have.Created
	case done:
		now.Created = now.Modified
	}
	c.note(now, want.Key, !now.Deleted)
	return until, done, nil
}

// willHave notes with which etcd lease a key of ours is about to be written.
func (c *Cluster) willHave(want etcd.KV) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.world.held[want.Key[len(c.root+subnetsDir):]] = grip{value: string(want.Value), lease: want.Lease}
}

// look reads one key anew.
func (c *Cluster) look(ctx context.Context, key string) error {
	kv, ok, err := c.raw.Get(ctx, key)
	if err != nil {
		return err
	}
	c.note(kv, key, ok)
	return nil
}

// note takes in what an answer says of a key, before the watch does.
func (c *Cluster) note(kv etcd.KV, key string, there bool) {
	c.edit(func(w *world) bool {
		if !there {
			return w.forget(key[len(c.root+subnetsDir):])
		}
		return w.take(kv, c.root)
	})
}

// Renew is store.Cluster's.
func (c *Cluster) Renew(ctx context.Context, node string) ([]store.Held, error) {
	c.claiming.Lock()
	defer c.claiming.Unlock()
	if err := c.ready(ctx); err != nil {
		return nil, err
	}
	var held []store.Held
	for _, name := range c.ours(node) {
		until, err := c.hold(ctx, name, false)
		if errors.Is(err, errLost) {
			c.drop(name)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("flannel: renew %s: %w", name, err)
		}
		for _, l := range c.leasesOf(name) {
			held = append(held, store.Held{Lease: l, Until: until})
		}
	}
	store.SortHeld(held)
	return held, nil
}

// ours are the names of the keys that this node holds.
func (c *Cluster) ours(node string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if node != c.world.id {
		return nil
	}
	return slices.Sorted(maps.Keys(c.world.held))
}

func (c *Cluster) drop(name string) {
	c.edit(func(w *world) bool {
		delete(w.held, name)
		return true
	})
}

func (c *Cluster) leasesOf(name string) []model.Lease {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.world.entries[name]
	if !ok || e.err != nil {
		return nil
	}
	return c.world.leases(e, c.world.id)
}

// Release is store.Cluster's. Both families' subnets go with their key.
func (c *Cluster) Release(ctx context.Context, l model.Lease) error {
	c.claiming.Lock()
	defer c.claiming.Unlock()
	if err := c.open(); err != nil {
		return err
	}
	name, ok := c.nameOf(l)
	if !ok {
		return nil
	}
	c.drop(name)
	key := c.root + subnetsDir + name
	for range mostTries {
		kv, there, err := c.raw.Get(ctx, key)
		if err != nil {
			return fmt.Errorf("flannel: release %s of %q: %w", l.Block, l.Network, err)
		}
		if e := read(name, kv); !there || e.err != nil || !c.isMine(e) {
			return nil
		}
		if done, err := c.raw.Delete(ctx, key, kv.Modified); err != nil || done {
			return err
		}
	}
	return fmt.Errorf("flannel: release %s of %q: others write the key all the time", l.Block, l.Network)
}

func (c *Cluster) isMine(e *entry) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.world.mine(e)
}

// nameOf is the key of ours that has a block.
func (c *Cluster) nameOf(l model.Lease) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.Node != c.world.id {
		return "", false
	}
	for name := range c.world.held {
		if s, err := ParseSubnet(name); err == nil && slices.Contains([]netip.Prefix{s.V4, s.V6}, l.Block) {
			return name, true
		}
	}
	return "", false
}
