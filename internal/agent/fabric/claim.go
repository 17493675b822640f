package fabric

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/flatnet/flatnet/internal/ipam"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// Used says that more or less of the node's blocks is in use.
func (f *Fabric) Used() { kick(f.claim) }

// Grow waits until the node has a block of a network that is not among those that were found full, or ctx ends: of each family that the full
// ones have none of, else of the first. The error may be an *ipam.NoBlockError.
func (f *Fabric) Grow(ctx context.Context, network string, full []netip.Prefix) error {
	c := make(chan error, 1)
	f.mu.Lock()
	if f.wanted[network] == nil {
		f.wanted[network] = map[chan error][]netip.Prefix{}
	}
	f.wanted[network][c] = full
	f.mu.Unlock()
	kick(f.claim)
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.wanted[network], c)
	}()
	select {
	case err := <-c:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// answer tells those who wait for a block that there is none.
func (f *Fabric) answer(network string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.wanted[network] {
		c <- err
		delete(f.wanted[network], c)
	}
}

// answerGrown lets those go on whose block has come, by their own asking or by what was under way when they asked.
func (f *Fabric) answerGrown() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for network, waiting := range f.wanted {
		n, known := f.sound.snap.Networks[network]
		if !known || len(waiting) == 0 {
			continue
		}
		var held []netip.Prefix
		for key, t := range f.tenure {
			if key.Network == network && t.usable(f.deps.Now()) {
				held = append(held, key.Block)
			}
		}
		for c, full := range waiting {
			if !lacks(n, full, held, false) && !lacks(n, full, held, true) {
				c <- nil
				delete(waiting, c)
			}
		}
	}
}

// lacks reports whether who found these blocks full still waits for one of a family, given those that are held.
func lacks(n model.Network, full, held []netip.Prefix, v6 bool) bool {
	of := func(v6 bool) func(netip.Prefix) bool {
		return func(b netip.Prefix) bool { return b.Addr().Is6() == v6 }
	}
	pools := func(v6 bool) bool {
		return slices.ContainsFunc(n.Cluster.Pools, func(p model.BlockPool) bool { return p.Prefix.Addr().Is6() == v6 })
	}
	if !pools(v6) || slices.ContainsFunc(full, of(v6)) && v6 && pools(false) { // an IPv6 block beside an IPv4 one is not what is full
		return false
	}
	if !v6 && slices.ContainsFunc(full, of(false)) && pools(true) && !slices.ContainsFunc(full, of(true)) {
		return false
	}
	return !slices.ContainsFunc(held, func(b netip.Prefix) bool { return of(v6)(b) && !slices.Contains(full, b) })
}

// Why says why the node has no block of a network, when that is so.
func (f *Fabric) Why(network string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.why[network]; err != nil {
		return err.Error()
	}
	return ""
}

// isFull reports whether there was no block to claim the last time.
func (f *Fabric) isFull(network string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	var none *ipam.NoBlockError
	return errors.As(f.why[network], &none)
}

const (
	claimPause = 200 * time.Millisecond // after a claim that failed, and then twice as long each time
	claimMost  = 5 * time.Second
	giveBack   = time.Minute // between two looks whether a block is not needed any more
	emptyFor   = 10 * time.Minute
)

// claims sees to it that the node has blocks of every network that it is on: one at least, more while little is free in them.
func (f *Fabric) claims(ctx context.Context) error {
	pause := claimPause
	for {
		more, err := f.claimDue(ctx)
		wait := giveBack
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			wait, pause = pause, min(pause*2, claimMost)
		case more:
			wait, pause = time.Millisecond, claimPause
		default:
			pause = claimPause
		}
		timer := time.NewTimer(wait)
		if err != nil { // a snapshot after each lost race would make it hot
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-f.claim:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// claimDue makes one claim for each network and family that needs one, and gives back what is not needed. More says that it should
// look again at once.
func (f *Fabric) claimDue(ctx context.Context) (more bool, err error) {
	f.claiming.Lock()
	defer f.claiming.Unlock()
	if f.isLeaving() {
		return false, nil
	}
	f.reclaimDue(ctx)
	f.answerGrown()
	asks, away := f.due()
	var errs []error
	for _, a := range asks {
		block, err := ipam.NextBlock(a)
		if err == nil {
			err = f.claimOne(ctx, model.Lease{Network: a.Network, Block: block, Node: f.deps.Self})
		}
		var taken *store.TakenError
		switch {
		case err == nil:
			more = true
			f.answerGrown()
		case errors.As(err, &taken):
			more = true
			continue
		default:
			errs = append(errs, err)
			f.answer(a.Network, err)
		}
		f.because(a.Network, err)
	}
	for _, l := range away {
		errs = append(errs, f.release(ctx, l))
	}
	return more, errors.Join(errs...)
}

func (f *Fabric) because(network string, err error) {
	was := f.Why(network)
	f.mu.Lock()
	f.why[network] = err
	f.mu.Unlock()
	if err != nil && err.Error() != was {
		f.deps.Tell("error", "network/"+network, "no block: "+err.Error())
	}
}

func (f *Fabric) claimOne(ctx context.Context, l model.Lease) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	err := f.keeper.Claim(ctx, l)
	f.mu.Lock()
	defer f.mu.Unlock()
	var taken *store.TakenError
	if errors.As(err, &taken) {
		f.lost[l.Network]++
	} else if err == nil {
		f.lost[l.Network] = 0
	}
	return err
}

// reclaimDue asks again for what was lost.
func (f *Fabric) reclaimDue(ctx context.Context) {
	f.mu.Lock()
	var lost []model.Lease
	if f.sound.snap.Live {
		for _, t := range f.tenure {
			if t.is == store.Lost {
				lost = append(lost, t.lease)
			}
		}
	}
	f.mu.Unlock()
	for _, l := range lost {
		err := f.claimOne(ctx, l)
		var taken *store.TakenError
		if !errors.As(err, &taken) {
			continue // told has heard of it, or it is tried again
		}
		f.mu.Lock()
		delete(f.tenure, l.Key())
		f.mu.Unlock()
		f.deps.Tell("lost", "network/"+l.Network, fmt.Sprintf("%s: node %s holds it now; this node takes another block", l.Block, taken.Holder))
		kick(f.look)
	}
}

// due is what to claim and what to give back. While the store is away, or says that the node holds what it has not been told of
// yet, there is nothing to decide.
func (f *Fabric) due() (asks []ipam.BlockAsk, away []model.Lease) {
	b := f.books()
	self, known := b.sound.members[f.deps.Self]
	if !b.sound.snap.Live || !known {
		return nil, nil
	}
	for key := range b.sound.own {
		if _, told := b.tenure[key]; !told {
			return nil, nil
		}
	}
	for key, t := range b.tenure {
		if !b.sound.holds(key) {
			away = append(away, t.lease)
		}
	}
	networks := b.sound.snap.Networks
	for _, name := range slices.Sorted(maps.Keys(networks)) {
		n := networks[name]
		if n.Mode != model.Cluster || !n.Active || !n.Cluster.On(self) || len(b.sound.pools[name]) == 0 || f.deps.Unfit(name) {
			continue
		}
		for _, v6 := range []bool{false, true} {
			ask, wants, back := f.dueOf(b, n, v6)
			if wants {
				asks = append(asks, ask)
			}
			away = append(away, back...)
		}
	}
	return asks, away
}

// books are a copy of what the decision hangs on: who is asked for more must not be asked under the lock.
type books struct {
	sound  sound
	tenure map[model.LeaseKey]tenure
	former map[string][]netip.Prefix
	lost   map[string]int
	waited map[string][][]netip.Prefix // blocks that were found full, by network
}

func (f *Fabric) books() books {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := books{sound: f.sound, tenure: maps.Clone(f.tenure), former: maps.Clone(f.former), lost: maps.Clone(f.lost), waited: map[string][][]netip.Prefix{}}
	for network, waiting := range f.wanted {
		b.waited[network] = slices.Collect(maps.Values(waiting))
	}
	return b
}

// holds reports whether there is a network that has the block.
func (s sound) holds(key model.LeaseKey) bool {
	n := s.snap.Networks[key.Network]
	pool, _ := n.Cluster.Pool(key.Block.Addr())
	_, ok := pool.Index(key.Block)
	return n.Mode == model.Cluster && ok
}

func (f *Fabric) dueOf(b books, n model.Network, v6 bool) (ask ipam.BlockAsk, wants bool, away []model.Lease) {
	ask = ipam.BlockAsk{Network: n.Name, Node: f.deps.Self, Last: b.former[n.Name], Lost: b.lost[n.Name], Reserved: map[netip.Prefix]string{}, Taken: b.taken(n.Name)}
	for _, p := range n.Cluster.Pools {
		if p.Prefix.Addr().Is6() == v6 {
			ask.Pools = append(ask.Pools, p)
		}
	}
	if len(ask.Pools) == 0 {
		return ask, false, nil
	}
	for _, r := range n.Cluster.Reserved {
		ask.Reserved[r.Block] = r.Node
	}
	var held []ipam.HeldBlock
	var blocks []netip.Prefix
	for key, t := range b.tenure {
		if key.Network == n.Name && key.Block.Addr().Is6() == v6 && t.is != store.Lost {
			held = append(held, f.deps.Used(n.Name, key.Block))
			blocks = append(blocks, key.Block)
		}
	}
	for _, block := range ipam.Releases(held, emptyFor) {
		away = append(away, model.Lease{Network: n.Name, Block: block, Node: f.deps.Self})
	}
	ask.Here = here(ask.Pools, f.deps.Here(n.Name), blocks)
	waited := slices.ContainsFunc(b.waited[n.Name], func(full []netip.Prefix) bool { return lacks(n, full, blocks, v6) })
	return ask, len(away) == 0 && (ipam.Grows(held) || waited || slices.ContainsFunc(ask.Here, ask.Free)), away
}

// here are the blocks that addresses are in, without those that are held.
func here(pools []model.BlockPool, addrs []netip.Addr, held []netip.Prefix) []netip.Prefix {
	var blocks []netip.Prefix
	for _, p := range pools {
		for _, a := range addrs {
			if b, ok := p.BlockOf(a); ok && !slices.Contains(held, b) {
				blocks = append(blocks, b)
			}
		}
	}
	slices.SortFunc(blocks, netip.Prefix.Compare)
	return slices.Compact(blocks)
}

// taken knows which blocks are held, also those that the node has claimed and not heard of yet.
func (b books) taken(network string) func(netip.Prefix) bool {
	return func(block netip.Prefix) bool {
		key := model.LeaseKey{Network: network, Block: block}
		_, others := b.sound.snap.Leases[key]
		_, mine := b.tenure[key]
		return others || mine
	}
}

// release stops using a block before it is given back.
func (f *Fabric) release(ctx context.Context, l model.Lease) error {
	f.mu.Lock()
	delete(f.tenure, l.Key())
	f.mu.Unlock()
	f.show()
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	err := f.keeper.Release(ctx, l)
	f.deps.Tell("lease", "network/"+l.Network, l.Block.String()+": given back")
	return err
}

// Leave gives all of the node's blocks back, when none is used any more, and takes its description away. Nothing is claimed or published
// after that.
func (f *Fabric) Leave(ctx context.Context) error {
	f.mu.Lock()
	f.leaving = true
	f.mu.Unlock()
	f.claiming.Lock() // a claim that was begun has ended
	defer f.claiming.Unlock()
	f.publishing.Lock()
	defer f.publishing.Unlock()
	f.mu.Lock()
	own := slices.Collect(maps.Values(f.tenure))
	clear(f.tenure)
	f.mu.Unlock()
	f.show()
	var errs []error
	for _, t := range own {
		errs = append(errs, f.keeper.Release(ctx, t.lease))
	}
	_, err := f.deps.Cluster.Write(ctx, store.Delete(store.Member, f.deps.Self, store.Any))
	return errors.Join(append(errs, err)...)
}

func (f *Fabric) isLeaving() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.leaving
}
