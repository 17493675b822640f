package fabric

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flatnet/flatnet/internal/ipam"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// Deps are what a Fabric needs. Of the functions only Show and Member must be there.
type Deps struct {
	Cluster store.Cluster
	Self    string // member ID

	// Member is how the node is to be known now. An error says why it cannot be reached at the moment; what was published stays.
	Member func() (model.Member, error)
	// Used says how much of a block of the node's own is in use, and for how long none of it was.
	Used func(network string, block netip.Prefix) ipam.HeldBlock
	// Here are the addresses that the node's workloads have on a network: after a leave and a join they are of blocks that the node holds no more.
	Here func(network string) []netip.Addr
	// Unfit reports whether a network cannot be on this node: no block of it is claimed.
	Unfit func(network string) bool
	// Show hears each new picture, one call at a time.
	Show func(Picture)
	// Tell hears of what people may want to know: a type of event, what it is about, and a sentence.
	Tell func(typ, object, text string)
	// Cache keeps pictures from one life of the daemon to the next; nil: none.
	Cache *Cache

	Log *slog.Logger
	Now func() time.Duration // store.Boottime, unless it is a test's
}

// Fabric is a node's part in a cluster.
type Fabric struct {
	deps    Deps
	keeper  *store.Keeper
	look    chan struct{} // a new picture may be due
	claim   chan struct{} // blocks may be wanted, or given back
	member  chan struct{} // the node may be reached elsewhere
	changed chan struct{} // something is to be written down

	showing sync.Mutex // held while somebody is told of a picture: none comes after a later one
	shown   *Picture
	found   time.Duration // when the store first answered

	claiming   sync.Mutex // held while blocks are claimed and given back
	publishing sync.Mutex // held while the node is described to the others

	mu      sync.Mutex
	twin    bool         // another flatnetd says that it is this node
	wrote   model.Member // how the node was described by this process the last time
	leaving bool         // nothing is claimed or published any more
	sound   sound
	cached  bool                                     // the picture is from an earlier life, until the store answers
	tenure  map[model.LeaseKey]tenure                // the node's own blocks
	former  map[string][]netip.Prefix                // blocks that the node has held, by network, the latest first
	lost    map[string]int                           // races lost, by network
	wanted  map[string]map[chan error][]netip.Prefix // who waits for one block more, with those found full, by network
	why     map[string]error                         // why a network has no block here, by network
}

// tenure is the node's right to a block.
type tenure struct {
	lease model.Lease
	is    store.Tenure
	until time.Duration // of a right from an earlier life or one that is being asked for again: not longer than this
}

func (t tenure) usable(now time.Duration) bool {
	if t.until != 0 {
		return now < t.until
	}
	return t.is == store.Secure
}

// New has done nothing yet but read what an earlier life knew: Last is that picture.
func New(d Deps) *Fabric {
	if d.Now == nil {
		d.Now = store.Boottime
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Tell == nil {
		d.Tell = func(string, string, string) {}
	}
	if d.Unfit == nil {
		d.Unfit = func(string) bool { return false }
	}
	if d.Here == nil {
		d.Here = func(string) []netip.Addr { return nil }
	}
	if d.Used == nil {
		d.Used = func(_ string, b netip.Prefix) ipam.HeldBlock { return ipam.HeldBlock{Block: b, Size: 1, Used: 0} }
	}
	f := &Fabric{
		deps: d, look: make(chan struct{}, 1), claim: make(chan struct{}, 1), member: make(chan struct{}, 1), changed: make(chan struct{}, 1), tenure: map[model.LeaseKey]tenure{},
		former: map[string][]netip.Prefix{}, lost: map[string]int{}, wanted: map[string]map[chan error][]netip.Prefix{}, why: map[string]error{},
	}
	f.keeper = store.NewKeeper(store.KeeperDeps{Cluster: beating{d.Cluster, f}, Node: d.Self, Now: d.Now, Tell: f.told, Failed: f.failed})
	f.recall()
	return f
}

// Last is what holds now; before Run what is known from an earlier life.
func (f *Fabric) Last() Picture { return f.picture() }

// Run follows the cluster until ctx ends. Nothing is given back by that.
func (f *Fabric) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.deps.Cluster.Watch(ctx, f.saw) })
	g.Go(func() error { return f.keeper.Run(ctx) })
	g.Go(func() error { return f.shows(ctx) })
	g.Go(func() error { return f.claims(ctx) })
	g.Go(func() error { return f.publishes(ctx) })
	if f.deps.Cache != nil {
		g.Go(func() error { return f.keeps(ctx) })
	}
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// saw takes a snapshot over.
func (f *Fabric) saw(snap store.ClusterSnapshot) {
	if snap.Token == "" {
		return // nothing was ever read: what an earlier life knew stands
	}
	f.mu.Lock()
	was := f.sound
	f.mu.Unlock()
	s, ok := judgeChange(was, snap, f.deps.Self)
	if !ok {
		s = judge(snap, f.deps.Self)
	}
	f.mu.Lock()
	f.sound, f.cached = s, false
	for key, t := range f.tenure {
		if _, own := s.own[key]; snap.Live && !own && t.is == store.Secure && t.until != 0 { // of an earlier life, and the store knows nothing of it
			t.is, t.until = store.Lost, min(t.until, f.deps.Now()+reclaim)
			f.tenure[key] = t
		}
	}
	f.mu.Unlock()
	kick(f.look)
	kick(f.claim)
	kick(f.member)
}

// told hears of the node's own blocks. One that the store says is lost is asked for again before it is given up: somebody may
// have deleted it by mistake.
func (f *Fabric) told(l model.Lease, is store.Tenure) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leaving {
		return
	}
	t := tenure{lease: l, is: is}
	if was, ok := f.tenure[l.Key()]; is == store.Lost && ok && was.usable(f.deps.Now()) {
		t.until = f.deps.Now() + reclaim
	}
	f.tenure[l.Key()] = t
	f.remember(l)
	text := map[store.Tenure]string{
		store.Secure:  "this node holds it",
		store.Overdue: "not renewed for the grace: another node may have it by now, so it is not used any more",
		store.Lost:    "the cluster's store says that this node does not hold it any more; it is asked for again",
	}
	f.deps.Tell("lease", "network/"+l.Network, l.Block.String()+": "+text[is])
	kick(f.look)
	kick(f.claim)
}

// reclaim is how long a block that was taken from the node is used on while it is asked for again, unless somebody else has it.
const reclaim = 2 * time.Second

func (f *Fabric) remember(l model.Lease) {
	blocks := []netip.Prefix{l.Block}
	for _, b := range f.former[l.Network] {
		if b != l.Block && len(blocks) < mostFormer {
			blocks = append(blocks, b)
		}
	}
	f.former[l.Network] = blocks
}

// mostFormer is how many blocks a node remembers to have held, of each network.
const mostFormer = 16

func (f *Fabric) failed(err error) { f.deps.Log.Debug("the cluster's store", "err", err) }

func kick(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// shows tells of each new picture, and looks again when the right to a block runs out.
func (f *Fabric) shows(ctx context.Context) error {
	for {
		wait := f.nextEnd()
		if f.show() {
			wait = earlyLook
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-f.look:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// show tells of the picture if it is another one than the last, unless it is too early for that.
func (f *Fabric) show() (early bool) {
	f.showing.Lock()
	defer f.showing.Unlock()
	p := f.picture()
	if f.shown != nil && p.same(*f.shown) {
		return false
	}
	if (f.shown == nil || !f.shown.Known) && f.early(p) {
		return true
	}
	if f.shown == nil || !p.sameHere(*f.shown) {
		f.keep()
	}
	f.deps.Show(p)
	f.shown = &p
	kick(f.changed)
	kick(f.claim)
	return false
}

// early reports whether the node is just about to get its own blocks: the ways to all others name its address in them, and would
// be made twice. That is not waited for long, nor where it gets none.
func (f *Fabric) early(p Picture) bool {
	if !p.Known || f.isCached() {
		return false
	}
	now := f.deps.Now()
	if f.found == 0 {
		f.found = now
	}
	if now-f.found > earlyTime || f.isLeaving() {
		return false
	}
	self := p.Members[p.Self] // may not be published yet
	for name, n := range p.Networks {
		if n.Active && len(p.mine[name]) == 0 && (self.ID == "" || n.Cluster.On(self)) && !f.isFull(name) && !f.deps.Unfit(name) {
			return true
		}
	}
	return false
}

func (f *Fabric) isCached() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cached
}

const (
	earlyTime = time.Second
	earlyLook = 5 * time.Millisecond
)

// nextEnd is in how long a right to a block may run out.
func (f *Fabric) nextEnd() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	next := 10 * time.Second // timers stand still while the machine sleeps
	for _, t := range f.tenure {
		if left := t.until - f.deps.Now(); t.until != 0 && left > 0 {
			next = min(next, left+time.Millisecond)
		}
	}
	return next
}
