package etcd

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// Config is how to reach an etcd. Endpoints are needed; what else is zero has its default. Who we are is told by a
// certificate only: with passwords the servers would have to hash one at each authentication.
type Config struct {
	Endpoints []string      // URLs
	TLS       *tls.Config   // the certificate's common name is the user that etcd sees
	Root      string        // default Root; ends with a slash
	Cluster   string        // what Found wrote; an etcd that has something else, or nothing, is never live. Empty: not looked at
	Grace     time.Duration // default 24 h: how long a claim outlives its last renewal; whole seconds, rounded up
	Alive     time.Duration // default 30 s: how long a heartbeat counts
	Probe     time.Duration // default 5 s: how often an idle watch is asked for a sign of life; after twice that without any etcd is away
}

func (c Config) withDefaults() Config {
	c.Root = cmp.Or(c.Root, Root)
	c.Grace = cmp.Or(c.Grace, 24*time.Hour)
	c.Alive = cmp.Or(c.Alive, 30*time.Second)
	c.Probe = cmp.Or(c.Probe, 5*time.Second)
	return c
}

// Client is one node's way to the cluster's store. It is a store.Cluster.
type Client struct {
	config   Config
	etcd     *clientv3.Client
	board    *store.Board
	instance string // tells this process from another that says it is the same node
	stop     context.CancelFunc
	done     sync.WaitGroup
	feed     *feed

	connections *connections

	claiming sync.Mutex // one claim, release or renewal at a time: each relies on what it has seen

	mu       sync.Mutex
	closed   bool
	beating  map[string]int64        // node → etcd lease of its alive key, as last heard
	sessions map[string]session      // node → the etcd lease that its claims get
	beats    map[string]beat         // node → our own heartbeat
	given    map[model.LeaseKey]bool // release was begun, and may still be on its way
}

var _ store.Cluster = (*Client)(nil)

// Stats is what has happened since Open.
type Stats struct {
	Reads     int // of everything
	Watches   int // begun
	Compacted int // watches that came too late for the history
	Silences  int // etcd gave no sign of life for too long
	Events    int
	Bytes     int64 // of keys and values read
	Last      error // why etcd was last away
}

// session is an etcd lease, and until when it is sure to live: see store.Held.
type session struct {
	id    clientv3.LeaseID
	until time.Duration
}

// keepAlive is how often a connection that nothing is heard of is tried. Servers refuse less than 5 s (embed.DefaultGRPCKeepAliveMinTime).
const keepAlive = 6 * time.Second

// Open begins to follow an etcd, whether or not it answers yet.
func Open(c Config) (*Client, error) {
	c = c.withDefaults()
	ctx, stop := context.WithCancel(context.Background())
	links := &connections{}
	e, err := dial(ctx, c, links)
	if err != nil {
		stop()
		return nil, err
	}
	client := &Client{config: c, etcd: e, connections: links, board: store.NewBoard(), instance: rand.Text(), stop: stop,
		beating: map[string]int64{}, sessions: map[string]session{}, beats: map[string]beat{}, given: map[model.LeaseKey]bool{}}
	client.feed = &feed{etcd: e, root: c.Root, landmark: founded, pace: c.Probe, to: client}
	client.done.Go(func() { client.feed.run(ctx) })
	return client, nil
}

// Watch is store.Cluster's.
func (c *Client) Watch(ctx context.Context, each func(store.ClusterSnapshot)) error {
	return c.board.Watch(ctx, each)
}

// dial makes a client of etcd's own.
func dial(ctx context.Context, c Config, links *connections) (*clientv3.Client, error) {
	e, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints, TLS: c.TLS, Context: ctx, Logger: zap.NewNop(), DialOptions: []grpc.DialOption{grpc.WithContextDialer(links.dial)},
		DialKeepAliveTime: keepAlive, DialKeepAliveTimeout: 3 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("store: etcd: %w", err)
	}
	return e, nil
}

// Stats tells what has happened.
func (c *Client) Stats() Stats { return c.feed.told() }

// Close is store.Cluster's.
func (c *Client) Close() error {
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if closed {
		return nil
	}
	c.board.Close()
	c.stop()
	c.done.Wait()
	if err := c.etcd.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("store: etcd: close: %w", err)
	}
	return nil
}

func (c *Client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// fail words an error of etcd's.
func (c *Client) fail(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case c.isClosed():
		return store.ErrClosed
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return fmt.Errorf("store: etcd: %s: %w", doing, store.ErrDenied)
	case errors.Is(err, context.DeadlineExceeded) || !c.board.Snapshot().Live && !errors.Is(err, context.Canceled):
		return fmt.Errorf("store: etcd: %s: %w: %w", doing, store.ErrAway, err)
	}
	return fmt.Errorf("store: etcd: %s: %w", doing, err)
}

// seconds is what etcd counts leases in.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
