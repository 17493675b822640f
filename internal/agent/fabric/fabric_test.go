package fabric_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/agent/fabric"
	"github.com/flatnet/flatnet/internal/join"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// clock is one that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Duration
}

func (c *clock) Now() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	c.now += d
	c.mu.Unlock()
}

const grace, alive = time.Hour, time.Minute

// world is a hub with one network of a few blocks, and nodes on it.
type world struct {
	*testing.T
	hub   *store.Hub
	clock *clock // of the hub
	wall  time.Time
	dir   string
	here  []netip.Addr // of the nodes' workloads
}

func newWorld(t *testing.T, pool string) *world {
	w := &world{T: t, clock: &clock{now: 1000 * time.Hour}, wall: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), dir: t.TempDir()}
	w.hub = store.NewHub(grace, alive, w.clock.Now)
	n := model.Network{Name: "pods", Mode: model.Cluster, Active: true, Autostart: true, Cluster: model.Overlay{Backend: model.VXLAN, VNI: 1, Port: 8472,
		Pools: []model.BlockPool{{Prefix: netip.MustParsePrefix(pool), Bits: 24}}}}
	if _, err := w.hub.Client().Write(t.Context(), store.PutNetwork(n, store.New)); err != nil {
		t.Fatal(err)
	}
	return w
}

// node is one life of a node.
type node struct {
	*fabric.Fabric
	w      *world
	id     string
	client *store.HubClient
	clock  *clock
	stop   context.CancelFunc
	ended  chan error
	once   sync.Once

	mu    sync.Mutex
	shown fabric.Picture
	bare  bool // a picture that the store confirms was shown without a block of the node's own
	told  []string
}

// start begins a life; boot names the machine's.
func (w *world) start(n int, boot string, away bool, c *clock) *node {
	return w.startAt(n, n, boot, away, c)
}

// startAt is start at another address than the node usually has.
func (w *world) startAt(n, at int, boot string, away bool, c *clock) *node {
	x := &node{w: w, id: fmt.Sprintf("n-%d", n), client: w.hub.Client(), clock: c, ended: make(chan error, 1)}
	x.client.Cut(away)
	member := model.Member{ID: x.id, Name: x.id, Underlay4: netip.AddrFrom4([4]byte{192, 0, 2, byte(at)}), MTU: 1500, Schema: 1}
	x.Fabric = fabric.New(fabric.Deps{
		Cluster: x.client, Self: x.id, Now: c.Now, Member: func() (model.Member, error) { return member, nil },
		Here: func(string) []netip.Addr { return w.here },
		Show: func(p fabric.Picture) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.shown, x.bare = p, x.bare || p.Live && len(p.Blocks("pods")) == 0
		},
		Tell:  func(typ, object, text string) { x.mu.Lock(); x.told = append(x.told, typ+": "+text); x.mu.Unlock() },
		Cache: &fabric.Cache{Folder: join.Folder(filepath.Join(w.dir, x.id)), BootID: boot, Wall: func() time.Time { w.clock.mu.Lock(); defer w.clock.mu.Unlock(); return w.wall }},
	})
	x.shown = x.Last()
	ctx, stop := context.WithCancel(context.Background())
	x.stop = stop
	go func() { x.ended <- x.Run(ctx) }()
	w.Cleanup(x.kill)
	return x
}

// kill ends a life as a crash does.
func (x *node) kill() {
	x.once.Do(func() {
		x.stop()
		<-x.ended
		_ = x.client.Close()
	})
}

// uses are the blocks that the node may use now.
func (x *node) uses() []netip.Prefix { return x.Last().Blocks("pods") }

func (x *node) heard(words string) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, t := range x.told {
		if strings.Contains(t, words) {
			return true
		}
	}
	return false
}

func (w *world) eventually(what string, is func() bool) {
	w.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("never: %s", what)
		}
	}
}

func (w *world) hasBlock(x *node) netip.Prefix {
	w.Helper()
	w.eventually(x.id+" has a block", func() bool { return len(x.uses()) == 1 })
	return x.uses()[0]
}

// cached waits until a node's file has its block.
func (w *world) cached(x *node, block netip.Prefix) {
	w.Helper()
	w.eventually("the file is written", func() bool {
		again := fabric.New(fabric.Deps{Cluster: w.hub.Client(), Self: x.id, Now: x.clock.Now, Show: func(fabric.Picture) {}, Cache: &fabric.Cache{Folder: join.Folder(filepath.Join(w.dir, x.id)), BootID: "1", Wall: func() time.Time { return w.wall }}})
		return len(again.Last().Blocks("pods")) == 1 && again.Last().Blocks("pods")[0] == block
	})
}

// The ways to all other nodes name an address in the node's own block: they wait for it, whether the store answers at once or later.
func TestNothingIsShownBeforeTheOwnBlock(t *testing.T) {
	for _, away := range []bool{false, true} {
		for range 20 {
			w := newWorld(t, "10.244.0.0/16")
			x := w.start(1, "1", away, &clock{now: time.Hour})
			x.client.Cut(false)
			w.hasBlock(x)
			w.eventually("it is shown", func() bool { x.mu.Lock(); defer x.mu.Unlock(); return len(x.shown.Blocks("pods")) == 1 })
			if x.kill(); x.bare {
				t.Fatalf("away at first %v: a picture without a block of its own was shown", away)
			}
		}
	}
}

// A node that can have no block has its ways to the others all the same.
func TestWithoutAFreeBlockTheOthersAreShown(t *testing.T) {
	w := newWorld(t, "10.244.0.0/24")
	w.hasBlock(w.start(1, "1", false, &clock{now: time.Hour}))
	x := w.start(2, "1", false, &clock{now: time.Hour}) // its clock stands still: it is not waited for time to pass
	w.eventually("the other's block is shown", func() bool { x.mu.Lock(); defer x.mu.Unlock(); return x.shown.Live && len(x.shown.Leases) == 1 })
}

// What an earlier life knew of the node's own block is not held against what the store says of it.
func TestABlockOfAnEarlierLifeIsShownGone(t *testing.T) {
	w := newWorld(t, "10.244.0.0/24")
	x := w.start(1, "1", false, w.clock)
	block := w.hasBlock(x)
	w.cached(x, block)
	x.kill()
	stranger := w.hub.Client()
	if err := stranger.Release(t.Context(), model.Lease{Network: "pods", Block: block, Node: x.id}); err != nil {
		t.Fatal(err)
	}
	y := w.start(2, "1", false, w.clock)
	w.hasBlock(y)
	x = w.start(1, "1", true, &clock{now: w.clock.Now()})
	w.eventually("the earlier life's is shown", func() bool { x.mu.Lock(); defer x.mu.Unlock(); return len(x.shown.Blocks("pods")) == 1 })
	x.client.Cut(false)
	w.eventually("it is shown gone", func() bool { x.mu.Lock(); defer x.mu.Unlock(); return x.shown.Live && len(x.shown.Blocks("pods")) == 0 })
}

// A right that could not be renewed for the grace is fenced, whether or not the daemon was restarted meanwhile, and is back when the
// store answers, if nobody else has the block.
func TestOverdueBlocksAreFencedAndComeBack(t *testing.T) {
	w := newWorld(t, "10.244.0.0/16")
	c := w.clock
	x := w.start(1, "1", false, c)
	block := w.hasBlock(x)
	w.cached(x, block)
	x.client.Cut(true)
	c.advance(grace / 2)
	x.kill()
	x = w.start(1, "1", true, c)
	if got := x.uses(); len(got) != 1 || got[0] != block {
		t.Fatalf("restarted without the store it uses %v", got)
	}
	c.advance(grace / 2)
	if got := x.uses(); len(got) != 0 || len(x.Last().Leases) != 0 {
		t.Fatalf("past the grace it uses %v, %v", got, x.Last().Leases)
	}
	x.client.Cut(false)
	w.eventually("the block is back", func() bool {
		c.advance(100 * time.Millisecond) // after calls that failed it waits
		return len(x.uses()) == 1 && x.uses()[0] == block
	})
}

// After a reboot the wall's clock says how long a right lasts; one that was set back says nothing, and one that was set forward too much.
func TestClockStepsAfterABootFence(t *testing.T) {
	for _, step := range []struct {
		by   time.Duration
		uses int
	}{{10 * time.Minute, 1}, {24 * time.Hour, 0}, {-24 * time.Hour, 0}, {-time.Second, 0}} {
		w := newWorld(t, "10.244.0.0/16")
		x := w.start(1, "1", false, w.clock)
		block := w.hasBlock(x)
		w.cached(x, block)
		x.kill()
		w.wall = w.wall.Add(step.by)
		x = w.start(1, "2", true, &clock{now: 10 * time.Second})
		if got := x.uses(); len(got) != step.uses {
			t.Errorf("the clock %v later: it uses %v", step.by, got)
		}
		x.client.Cut(false)
		w.eventually("the store answers, and the block is back", func() bool {
			x.clock.advance(100 * time.Millisecond) // after calls that failed it waits
			return len(x.uses()) == 1 && x.uses()[0] == block && x.Last().Live
		})
		x.kill()
	}
}

// A claim that was deleted is claimed again; one that another node took meanwhile is given up, said so, and another block taken.
func TestLostClaims(t *testing.T) {
	w := newWorld(t, "10.244.0.0/16")
	x := w.start(1, "1", false, &clock{now: time.Hour})
	block := w.hasBlock(x)
	stranger := w.hub.Client()
	if err := stranger.Release(t.Context(), model.Lease{Network: "pods", Block: block, Node: x.id}); err != nil {
		t.Fatal(err)
	}
	w.eventually("it is claimed again", func() bool {
		return x.heard("asked for again") && len(x.uses()) == 1 && x.uses()[0] == block && x.Last().Leases[model.LeaseKey{Network: "pods", Block: block}].Node == x.id
	})

	x.client.Cut(true)
	if err := stranger.Release(t.Context(), model.Lease{Network: "pods", Block: block, Node: x.id}); err != nil {
		t.Fatal(err)
	}
	y := w.start(2, "1", false, &clock{now: time.Hour})
	w.hasBlock(y)
	if _, err := stranger.Claim(t.Context(), model.Lease{Network: "pods", Block: block, Node: y.id}); err != nil {
		t.Fatal(err)
	}
	x.client.Cut(false)
	w.eventually("the block is given up, and another one taken", func() bool {
		return x.heard("node n-2 holds it now") && len(x.uses()) == 1 && x.uses()[0] != block
	})
}

// A node that has left and joins again takes the blocks that its workloads, which ran on, have addresses in; one that somebody else has by
// then it takes as soon as it is free.
func TestANodeComesBackToWhereItsWorkloadsAre(t *testing.T) {
	w := newWorld(t, "10.244.0.0/16")
	stranger := w.hub.Client()
	other := model.Lease{Network: "pods", Block: netip.MustParsePrefix("10.244.9.0/24"), Node: "n-9"}
	if _, err := stranger.Claim(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	w.here = []netip.Addr{netip.MustParseAddr("10.244.7.3"), netip.MustParseAddr("10.244.9.3"), netip.MustParseAddr("10.244.7.4"), netip.MustParseAddr("10.244.5.3")}
	x := w.start(1, "1", false, &clock{now: time.Hour})
	has := func(want string) {
		t.Helper()
		w.eventually("it has "+want, func() bool { return fmt.Sprint(x.uses()) == want })
	}
	has("[10.244.5.0/24 10.244.7.0/24]")
	if err := stranger.Release(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	has("[10.244.5.0/24 10.244.7.0/24 10.244.9.0/24]")
}

// Who asks for a block while the node's first one is on its way gets that one, and not another; who found it full gets one more, and so do
// all who found it full, together.
func TestOneBlockUnlessItIsFull(t *testing.T) {
	w := newWorld(t, "10.244.0.0/16")
	x := w.start(1, "1", false, &clock{now: time.Hour})
	grow := func(full []netip.Prefix) {
		errs := make(chan error)
		for range 8 {
			go func() { errs <- x.Grow(t.Context(), "pods", full) }()
		}
		for range 8 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
	}
	grow(nil)
	first := x.uses()
	grow(nil) // who asks late, with what it saw early
	if got := x.uses(); len(got) != 1 || len(first) != 1 {
		t.Fatalf("it has %v, then %v", first, got)
	}
	grow(first)
	grow(first)
	if got := x.uses(); len(got) != 2 {
		t.Fatalf("with the first one full it has %v", got)
	}
}

// Two machines with one node ID: the first one says so and is silent then, the second one is known where it is; and the first one is again
// when the second one is gone.
func TestTwins(t *testing.T) {
	w := newWorld(t, "10.244.0.0/16")
	c := &clock{now: time.Hour}
	x := w.start(1, "1", false, c)
	w.hasBlock(x)
	y := w.startAt(1, 7, "1", false, c)
	w.eventually("the first one knows of the second one", func() bool { c.advance(time.Second); return x.Last().Twin && x.heard("two machines have one host ID") })
	at := netip.AddrFrom4([4]byte{192, 0, 2, 7})
	w.eventually("the second one is where it is", func() bool { return x.Last().Members["n-1"].Underlay4 == at })
	if y.Last().Twin {
		t.Error("the second one takes itself for the twin")
	}
	y.kill()
	w.clock.advance(2 * alive)
	w.eventually("the first one is known again", func() bool {
		c.advance(time.Second)
		return !x.Last().Twin && x.Last().Members["n-1"].Underlay4 == netip.AddrFrom4([4]byte{192, 0, 2, 1})
	})
}

// When all blocks are taken the next node is told so, and gets one when another leaves.
func TestMoreNodesThanBlocks(t *testing.T) {
	w := newWorld(t, "10.244.0.0/21") // eight
	var nodes []*node
	for n := 1; n <= 8; n++ {
		nodes = append(nodes, w.start(n, "1", false, &clock{now: time.Hour}))
	}
	held := map[netip.Prefix]string{}
	for _, x := range nodes {
		block := w.hasBlock(x)
		if other, taken := held[block]; taken {
			t.Errorf("%s is used by %s and %s", block, other, x.id)
		}
		held[block] = x.id
	}
	last := w.start(9, "1", false, &clock{now: time.Hour})
	w.eventually("it says why it has none", func() bool { return strings.Contains(last.Why("pods"), "no block is free") })
	if err := nodes[3].Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	nodes[3].kill()
	w.hasBlock(last)
	w.eventually("it says no more that it has none", func() bool { return last.Why("pods") == "" })
}

// At no time do two nodes use one block, whatever is cut off, killed, started again with what it knew, or deleted, and however the clocks
// go on. But one: a node whose claim somebody deletes uses the block on while it asks for it again, as long as it knows of nobody else's claim.
func TestTwoNodesNeverUseOneBlock(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t, "10.244.0.0/22") // four blocks, five nodes
	c := w.clock                      // one for all: machines' clocks do not run apart here
	const count = 5
	nodes := make([]*node, count)
	cut := make([]bool, count)
	for i := range nodes {
		nodes[i] = w.start(i+1, "1", false, c)
	}
	for range 400 {
		i := r.IntN(count)
		switch r.IntN(6) {
		case 0:
			cut[i] = !cut[i]
			nodes[i].client.Cut(cut[i])
		case 1:
			nodes[i].kill()
			nodes[i] = w.start(i+1, "1", cut[i], c)
		case 2:
			c.advance(time.Duration(r.Int64N(int64(grace / 3))))
		case 3:
			if !cut[i] && r.IntN(3) == 0 {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				_ = nodes[i].Leave(ctx)
				cancel()
				nodes[i].kill()
				nodes[i] = w.start(i+1, "1", cut[i], c)
			}
		default:
			time.Sleep(time.Duration(r.IntN(8)) * time.Millisecond)
		}
		w.oneUserEach(nodes)
	}
	for i, x := range nodes {
		x.client.Cut(false)
		cut[i] = false
	}
	c.advance(2 * grace)
	w.eventually("four have a block", func() bool {
		held := 0
		for _, x := range nodes {
			held += len(x.uses())
		}
		return held == 4
	})
}

// oneUserEach looks whether two nodes use one block at one moment: the first one still does when the second was seen to.
func (w *world) oneUserEach(nodes []*node) {
	w.Helper()
	users := map[netip.Prefix]*node{}
	for _, x := range nodes {
		for _, block := range x.uses() {
			other := users[block]
			if users[block] = x; other != nil && slices.Contains(other.uses(), block) && slices.Contains(x.uses(), block) {
				w.Fatalf("%s is used by %s and %s, which heard\n%s\nand\n%s", block, other.id, x.id, other.words(), x.words())
			}
		}
	}
}

func (x *node) words() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return strings.Join(x.told, "\n")
}
