package store

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/flatnet/flatnet/internal/model"
)

// Tenure is what has become of a node's claim to a block.
type Tenure string

// The states of a claim.
const (
	Secure  Tenure = "held"    // nobody else can have the block
	Overdue Tenure = "overdue" // the last renewal is older than the grace: another node may have it by now. Stop using it
	Lost    Tenure = "lost"    // the store says that the node does not hold it: claim it again, or stop using it
)

// Keeper keeps a node's claims: it renews them, says that the node is alive, and tells when a block must not be used any
// more. Whether the store answers or not, the telling is on time.
type Keeper struct {
	deps    KeeperDeps
	kick    chan struct{} // holds one: a look before the next tick is due
	renewal task
	beating task

	mu   sync.Mutex
	held map[model.LeaseKey]tenure
}

type tenure struct {
	held Held
	is   Tenure
}

// KeeperDeps is what a Keeper needs.
type KeeperDeps struct {
	Cluster Cluster
	Node    string
	Renew   time.Duration // between renewals: a small part of the grace
	Beat    time.Duration // between heartbeats: a third of what Cluster counts as alive
	Timeout time.Duration // of one call to the store
	Now     func() time.Duration
	Tell    func(model.Lease, Tenure) // on every change, also of what the store knew from before. One call at a time; it must not call the Keeper
	Failed  func(error)               // a heartbeat or renewal was not done; it is tried again
}

// NewKeeper holds nothing yet. The intervals that are zero are those of a grace of a day.
func NewKeeper(deps KeeperDeps) *Keeper {
	deps.Renew = cmp.Or(deps.Renew, time.Minute)
	deps.Beat = cmp.Or(deps.Beat, 10*time.Second)
	deps.Timeout = cmp.Or(deps.Timeout, 5*time.Second)
	if deps.Now == nil {
		deps.Now = Boottime
	}
	if deps.Failed == nil {
		deps.Failed = func(error) {}
	}
	k := &Keeper{deps: deps, kick: make(chan struct{}, 1), held: map[model.LeaseKey]tenure{}}
	k.renewal.every, k.renewal.do = deps.Renew, k.renew
	k.beating.every, k.beating.do = deps.Beat, k.beat
	return k
}

// Claim is Cluster.Claim; what it gets is kept.
func (k *Keeper) Claim(ctx context.Context, l model.Lease) error {
	held, err := k.deps.Cluster.Claim(ctx, l)
	if err != nil {
		return err
	}
	k.set(held, Secure)
	k.look()
	return nil
}

// Release is Cluster.Release. The block is not kept any more, whatever the store says.
func (k *Keeper) Release(ctx context.Context, l model.Lease) error {
	k.mu.Lock()
	delete(k.held, l.Key())
	k.mu.Unlock()
	return k.deps.Cluster.Release(ctx, l)
}

// Holds reports whether a block may be used now.
func (k *Keeper) Holds(l model.Lease) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	t, ok := k.held[l.Key()]
	return ok && t.is == Secure && k.deps.Now() < t.held.Until
}

// Until is how long a block may be used if no renewal succeeds, on the keeper's clock; zero when it is not kept.
func (k *Keeper) Until(l model.Lease) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held[l.Key()].held.Until
}

// set notes a lease, and tells when that is new.
func (k *Keeper) set(held Held, is Tenure) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.note(held, is)
}

func (k *Keeper) note(held Held, is Tenure) {
	was := k.held[held.Lease.Key()].is
	if is == Lost {
		delete(k.held, held.Lease.Key())
	} else {
		k.held[held.Lease.Key()] = tenure{held, is}
	}
	if was != is {
		k.deps.Tell(held.Lease, is)
	}
}

// longestSleep bounds the time between two looks at the clock: Go's timers stand still while a machine sleeps.
const longestSleep = 10 * time.Second

// Run renews and beats until ctx ends. It tells of what the node holds from before as soon as the store answers.
func (k *Keeper) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { _ = k.deps.Cluster.Watch(ctx, k.compare) })
	defer watching.Wait()
	defer stop()
	var calls sync.WaitGroup
	defer calls.Wait()
	for {
		k.overdue()
		now := k.deps.Now()
		next := min(k.renewal.run(ctx, &calls, k, now), k.beating.run(ctx, &calls, k, now), k.nextUntil(now), longestSleep)
		timer := time.NewTimer(max(next, time.Millisecond))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-k.kick:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// task is something done again and again, beside the loop, so that a store that does not answer never delays the telling.
type task struct {
	every time.Duration
	do    func(context.Context) error

	mu      sync.Mutex
	running bool
	failed  int           // times in a row
	due     time.Duration // on the keeper's clock
}

// run starts the task when it is due, and says in how long to look again.
func (t *task) run(ctx context.Context, calls *sync.WaitGroup, k *Keeper, now time.Duration) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running {
		return longestSleep
	}
	if now < t.due {
		return t.due - now
	}
	t.running = true
	calls.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, k.deps.Timeout)
		defer cancel()
		err := t.do(ctx)
		if err != nil && !errors.Is(err, context.Canceled) {
			k.deps.Failed(err)
		}
		t.ended(k.deps.Now(), err)
		k.look()
	})
	return longestSleep
}

// ended settles when the task is due next: after an error soon, and then later and later, at random, so that the nodes of
// a large cluster do not all come at once to a store that is just back.
func (t *task) ended(now time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running = false
	if err == nil {
		t.failed = 0
		t.due = now + t.every - rand.N(t.every/8+1)
		return
	}
	t.failed = min(t.failed+1, 6)
	t.due = now + t.every>>(6-t.failed)/2 + rand.N(t.every>>(6-t.failed)/2+1)
}

// soon makes the task due, unless it fails these days: then it has its own pace.
func (t *task) soon() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == 0 {
		t.due = 0
	}
}

func (k *Keeper) beat(ctx context.Context) error {
	return k.deps.Cluster.Heartbeat(ctx, k.deps.Node)
}

// renew asks the store what the node holds; what it does not name is lost.
func (k *Keeper) renew(ctx context.Context) error {
	before := k.all()
	held, err := k.deps.Cluster.Renew(ctx, k.deps.Node)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	named := map[model.LeaseKey]bool{}
	for _, h := range held {
		named[h.Lease.Key()] = true
		if have, ok := k.held[h.Lease.Key()]; !ok && before[h.Lease.Key()] {
			continue // released meanwhile
		} else if ok && have.held.Until > h.Until {
			continue // claimed meanwhile
		}
		k.note(h, Secure)
	}
	for key := range before {
		if t, ok := k.held[key]; ok && !named[key] {
			k.note(t.held, Lost)
		}
	}
	return nil
}

// all are the keys of what is kept.
func (k *Keeper) all() map[model.LeaseKey]bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	keys := make(map[model.LeaseKey]bool, len(k.held))
	for key := range k.held {
		keys[key] = true
	}
	return keys
}

// compare looks whether a snapshot has what the node holds; the store is asked when not, as a snapshot may be older than
// a claim.
func (k *Keeper) compare(s ClusterSnapshot) {
	if !s.Live {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for key, t := range k.held {
		if s.Leases[key] != t.held.Lease {
			k.renewal.soon()
			k.look()
			return
		}
	}
}

// overdue tells of what was not renewed in time.
func (k *Keeper) overdue() {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.deps.Now()
	for _, t := range k.held {
		if t.held.Until <= now {
			k.note(t.held, Overdue)
		}
	}
}

// nextUntil is in how long the next lease is overdue.
func (k *Keeper) nextUntil(now time.Duration) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := longestSleep
	for _, t := range k.held {
		if t.is == Secure {
			next = min(next, t.held.Until-now)
		}
	}
	return next
}

func (k *Keeper) look() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// SortHeld orders leases by network and block.
func SortHeld(held []Held) {
	slices.SortFunc(held, func(a, b Held) int {
		return cmp.Or(cmp.Compare(a.Lease.Network, b.Lease.Network), a.Lease.Block.Addr().Compare(b.Lease.Block.Addr()), cmp.Compare(a.Lease.Block.Bits(), b.Lease.Block.Bits()))
	})
}
