package etcd

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/storetest"
)

// history is who used which block when, by the clock of this machine.
type history struct {
	mu     sync.Mutex
	spans  []span
	claims int
	fences int
}

type span struct {
	lease      model.Lease
	start, end time.Duration
	why        string // it ended
}

// user is one node as it runs between two crashes: it may use what its keeper says it holds.
type user struct {
	history *history
	node    string
	client  *watchful
	keeper  *store.Keeper
	stop    context.CancelFunc
	ended   chan error

	mu    sync.Mutex
	since map[model.LeaseKey]time.Duration
}

// watchful remembers until when leases were promised.
type watchful struct {
	store.Cluster
	mu    sync.Mutex
	until map[model.LeaseKey]time.Duration
}

func (w *watchful) note(held ...store.Held) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range held {
		w.until[h.Lease.Key()] = max(w.until[h.Lease.Key()], h.Until)
	}
}

func (w *watchful) Claim(ctx context.Context, l model.Lease) (store.Held, error) {
	held, err := w.Cluster.Claim(ctx, l)
	if err == nil {
		w.note(held)
	}
	return held, err
}

func (w *watchful) Renew(ctx context.Context, node string) ([]store.Held, error) {
	held, err := w.Cluster.Renew(ctx, node)
	w.note(held...)
	return held, err
}

func startUser(t *testing.T, h *history, node string, config Config) *user {
	t.Helper()
	c, err := Open(config)
	if err != nil {
		t.Fatal(err)
	}
	u := &user{history: h, node: node, client: &watchful{Cluster: c, until: map[model.LeaseKey]time.Duration{}}, ended: make(chan error, 1), since: map[model.LeaseKey]time.Duration{}}
	u.keeper = store.NewKeeper(store.KeeperDeps{Cluster: u.client, Node: node, Renew: config.Grace / 5, Beat: config.Alive / 3, Timeout: config.Grace / 4, Tell: u.tell})
	ctx, stop := context.WithCancel(t.Context())
	u.stop = stop
	go func() { u.ended <- u.keeper.Run(ctx) }()
	return u
}

func (u *user) tell(l model.Lease, is store.Tenure) {
	if is == store.Secure {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.since[l.Key()] = store.Boottime()
		return
	}
	u.end(l, store.Boottime(), string(is))
}

// end notes that a block is not used any more.
func (u *user) end(l model.Lease, at time.Duration, why string) {
	u.mu.Lock()
	start, used := u.since[l.Key()]
	delete(u.since, l.Key())
	u.mu.Unlock()
	u.history.mu.Lock()
	defer u.history.mu.Unlock()
	for i, s := range u.history.spans { // that of a crash is ended by the process that came after
		if s.lease == l && s.why == "crash" {
			u.history.spans[i].end = min(s.end, at)
		}
	}
	if used {
		u.history.spans = append(u.history.spans, span{l, start, at, why})
		if why == string(store.Overdue) {
			u.history.fences++
		}
	}
}

// crash ends the node's process. What it used goes on being used by the kernel, for as long as it was promised.
func (u *user) crash() {
	u.stop()
	<-u.ended
	u.client.Close()
	u.mu.Lock()
	var keys []model.LeaseKey
	for key := range u.since {
		keys = append(keys, key)
	}
	u.mu.Unlock()
	for _, key := range keys {
		u.end(model.Lease{Network: key.Network, Block: key.Block, Node: u.node}, u.client.until[key], "crash")
	}
}

// live claims and gives back blocks until ctx ends, and crashes now and then.
func live(t *testing.T, ctx context.Context, h *history, node string, config Config, rnd *rand.Rand) {
	u := startUser(t, h, node, config)
	for ctx.Err() == nil {
		l := storetest.Lease(rnd.IntN(3), node)
		one, cancel := context.WithTimeout(ctx, config.Grace/2)
		switch rnd.IntN(12) {
		case 0:
			u.crash()
			u = startUser(t, h, node, config)
		case 1, 2, 3:
			u.end(l, store.Boottime(), "released")
			_ = u.keeper.Release(one, l)
		default:
			if u.keeper.Claim(one, l) == nil {
				h.mu.Lock()
				h.claims++
				h.mu.Unlock()
			}
		}
		cancel()
		time.Sleep(time.Duration(rnd.IntN(150)) * time.Millisecond)
	}
	u.crash()
}

// Whatever happens to the network, the servers and the nodes' processes: no block is used by two nodes at once. Who was cut
// off has stopped using a block before another gets it, or, when it was dead, its promise was over.
func TestNoBlockEverHasTwoUsers(t *testing.T) {
	t.Parallel()
	duration := 6 * time.Second
	if s, err := strconv.Atoi(os.Getenv("HISTORY_SECONDS")); err == nil {
		duration = time.Duration(s) * time.Second
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	servers := cluster(t, 3)
	h := &history{}
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	var proxies []*proxy
	var wg sync.WaitGroup
	for i := range 4 {
		var mine []string
		for _, m := range servers {
			p := newProxy(t, m.client)
			proxies = append(proxies, p)
			mine = append(mine, p.url)
		}
		wg.Go(func() {
			live(t, ctx, h, fmt.Sprint("n", i), quick(Root, mine...), rand.New(rand.NewPCG(seed, uint64(i))))
		})
	}
	torment(ctx, servers, proxies, rand.New(rand.NewPCG(seed, 99)))
	wg.Wait()
	check(t, h)
}

// torment partitions nodes, freezes and kills servers, one thing at a time, some for longer than the grace.
func torment(ctx context.Context, servers []*machine, proxies []*proxy, rnd *rand.Rand) {
	pause := func(most int) {
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(rnd.IntN(most)) * time.Millisecond):
		}
	}
	for ctx.Err() == nil {
		pause(500)
		switch m := servers[rnd.IntN(len(servers))]; rnd.IntN(5) {
		case 0:
			m.freeze()
			pause(1500)
			m.thaw()
		case 1:
			m.kill()
			pause(1000)
			m.start()
		default: // a node loses every server
			node := rnd.IntN(len(proxies) / len(servers))
			mine := proxies[node*len(servers) : (node+1)*len(servers)]
			for _, p := range mine {
				p.hold(true)
			}
			pause(3500)
			for _, p := range mine {
				if rnd.IntN(2) == 0 {
					p.cut()
				}
				p.hold(false)
			}
		}
	}
}

func check(t *testing.T, h *history) {
	t.Helper()
	byBlock := map[model.LeaseKey][]span{}
	for _, s := range h.spans {
		byBlock[s.lease.Key()] = append(byBlock[s.lease.Key()], s)
	}
	for key, spans := range byBlock {
		slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.start, b.start) })
		last := spans[0]
		for _, s := range spans[1:] {
			if s.start < last.end && s.lease.Node != last.lease.Node {
				t.Errorf("%v is used by %s from %v to %v (%s), and by %s from %v (%s)", key.Block, last.lease.Node, last.start, last.end, last.why, s.lease.Node, s.start, s.why)
			}
			if s.end > last.end {
				last = s
			}
		}
	}
	t.Logf("%d spans, %d claims, %d fenced", len(h.spans), h.claims, h.fences)
	if h.claims < 10 {
		t.Errorf("only %d claims succeeded", h.claims)
	}
}
