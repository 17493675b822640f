package flannel

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/etcd"
)

// What flannel has where nothing else is said.
const (
	DefaultPrefix  = "/coreos.com/network"
	DefaultNetwork = "flannel"
	DefaultBridge  = "cni0"
	grace          = 24 * time.Hour
)

// Settings say which flannel to join.
type Settings struct {
	Endpoints []string      // of etcd: URLs
	TLS       *tls.Config   // nil: what the URLs say
	Probe     time.Duration // see etcd.Config
	Prefix    string        // default DefaultPrefix
	Names     Names         // default DefaultNetwork, DefaultBridge
	Hint      Subnet        // what the node held before: see Env.Held
	Grace     time.Duration
	Member    model.Member // what this node says of itself; the zero Member: it is told by Write

	// ForeignBridge has the node's bridge and workloads be those of flannel's CNI plugin.
	ForeignBridge bool
}

// Cluster is one node's way to flannel's keys. It is a store.Cluster: the configuration is one network, or one of each family, and each
// subnet's key is a lease of the node that its PublicIP names. A node is known by that address, so its id is MemberID of it.
//
// What flannel has no keys for is not there: nobody is seen to be alive or dead beyond its lease, networks cannot be changed from here,
// and of other nodes nothing is known but addresses.
type Cluster struct {
	root  string
	grace time.Duration
	raw   *etcd.Raw
	board *store.Board

	claiming sync.Mutex // one claim, release or renewal at a time

	mu     sync.Mutex
	world  *world
	closed bool
}

var _ store.Cluster = (*Cluster)(nil)

// Open begins to follow flannel's keys, whether or not etcd answers yet.
func Open(s Settings) (*Cluster, error) {
	s.Names.Network = cmp.Or(s.Names.Network, DefaultNetwork)
	s.Names.Bridge = cmp.Or(s.Names.Bridge, DefaultBridge)
	c := &Cluster{root: strings.TrimRight(cmp.Or(s.Prefix, DefaultPrefix), "/") + "/", grace: cmp.Or(s.Grace, grace), board: store.NewBoard(),
		world: newWorld(s)}
	config := etcd.Config{Endpoints: s.Endpoints, TLS: s.TLS, Probe: s.Probe, Root: c.root}
	c.mu.Lock() // until raw is there
	defer c.mu.Unlock()
	var err error
	if c.raw, err = etcd.OpenRaw(config, configKey, hearer{c}); err != nil {
		return nil, err
	}
	return c, nil
}

// hearer takes in what etcd tells.
type hearer struct{ c *Cluster }

func (h hearer) All(kvs []etcd.KV, revision int64) {
	h.c.edit(func(w *world) bool {
		w.readAll(kvs, h.c.root, revision)
		return true
	})
}

func (h hearer) Changed(kvs []etcd.KV, revision int64) {
	h.c.edit(func(w *world) bool { return w.changed(kvs, h.c.root, revision) })
}

func (h hearer) Away(error) {
	h.c.edit(func(w *world) bool {
		was := w.live
		w.live = false
		return was
	})
	h.c.board.Edit((*store.BoardEdit).Away)
}

// edit changes the world, and shows it when the change is of interest.
func (c *Cluster) edit(change func(*world) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !change(c.world) {
		return
	}
	snap := c.world.snapshot()
	c.board.Edit(func(e *store.BoardEdit) { e.Show(snap) })
}

// Watch is store.Cluster's.
func (c *Cluster) Watch(ctx context.Context, each func(store.ClusterSnapshot)) error {
	return c.board.Watch(ctx, each)
}

// Stats tells what has happened between here and etcd.
func (c *Cluster) Stats() etcd.Stats { return c.raw.Stats() }

// Close is store.Cluster's.
func (c *Cluster) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.board.Close()
	return c.raw.Close()
}

// open is how calls begin.
func (c *Cluster) open() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return store.ErrClosed
	}
	return nil
}

// ready waits until the configuration was read and this node has said where it is.
func (c *Cluster) ready(ctx context.Context) error {
	if err := c.open(); err != nil {
		return err
	}
	err := c.board.Wait(ctx, func() bool { return c.board.Snapshot().Token != "" && c.published() })
	if errors.Is(err, context.DeadlineExceeded) && !c.published() {
		return errUnpublished
	}
	return err
}

func (c *Cluster) published() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.world.id != ""
}

// Write is store.Cluster's. The one thing that can be written is what this node says of itself: its address goes into the keys of its
// subnets, the rest stays here. All else is refused.
func (c *Cluster) Write(ctx context.Context, changes ...store.Change) ([]store.Object, error) {
	objects := make([]store.Object, len(changes))
	if err := c.open(); err != nil {
		return objects, err
	}
	var errs []error
	for i, change := range changes {
		o, err := c.write(ctx, change)
		objects[i] = o
		errs = append(errs, err)
	}
	return objects, errors.Join(errs...)
}

func (c *Cluster) write(ctx context.Context, change store.Change) (store.Object, error) {
	if err := change.ForCluster(); err != nil {
		return store.Object{}, err
	}
	if change.Delete && change.Kind == store.Member && c.isSelf(change.Name) {
		return store.Object{}, nil // it stands nowhere but in our keys, which are given back by themselves
	}
	if change.Kind != store.Member || change.Delete {
		return store.Object{}, change.Fail(foreign(c.root))
	}
	m, err := change.Member()
	if err != nil {
		return store.Object{}, change.Fail(err)
	}
	moved, err := c.publish(m)
	if err != nil {
		return store.Object{}, change.Fail(err)
	}
	if moved { // etcd may be away; the next renewal writes what is still missing
		_, err = c.Renew(ctx, m.ID)
	}
	return store.Object{Kind: store.Member, Name: m.ID, Version: "1", Data: change.Data}, err
}

func (c *Cluster) isSelf(id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return id == c.world.id
}

// publish notes what this node says of itself, and whether keys of ours say something else.
func (c *Cluster) publish(m model.Member) (moved bool, err error) {
	if p, bad := model.CheckMemberID(m.ID); bad {
		return false, p
	}
	if !m.Underlay4.Is4() {
		return false, model.Problem{Code: model.CodeMember, Path: "underlay", Reason: "the node has no IPv4 underlay address, by which flannel's nodes know each other",
			Fix: "an IPv4 address by which the others reach it"}
	}
	c.edit(func(w *world) bool {
		if w.id != "" && w.id != m.ID {
			err = fmt.Errorf("this node is %s", w.id)
			return false
		}
		moved = w.id != "" && (w.self.Underlay4 != m.Underlay4 || w.self.Underlay6 != m.Underlay6) && len(w.held) > 0
		changed := w.self != m
		w.publish(m)
		return changed
	})
	return moved, err
}

// foreign is why what is flannel's is not changed from here.
func foreign(root string) error {
	return model.Problem{Code: model.CodeCluster, Reason: "this network is flannel's: all its nodes read it from flannel's etcd", Owner: "flannel, " + root + configKey,
		Fix: "change it there, then start flannel's and flatnet's daemons anew", Example: "etcdctl put " + root + configKey + ` '{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}'`}
}

// Heartbeat is store.Cluster's. flannel has none; what can be seen is that somebody else writes this node's keys.
func (c *Cluster) Heartbeat(context.Context, string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return store.ErrClosed
	}
	for name, g := range c.world.held {
		if g.twin {
			return fmt.Errorf("%s%s%s was written by somebody else, perhaps by a flanneld that still runs here: %w", c.root, subnetsDir, name, store.ErrTwin)
		}
	}
	return nil
}
