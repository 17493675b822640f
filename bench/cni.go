package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	cniSpare = 64                    // containers that come and go, in namespaces that stay
	oursDir  = "/run/cni-bin"        // where flatnet's plugin has the name that configurations know it by
	settling = 20 * time.Millisecond // after an ADD or DEL, in which daemon and kernel end what they left for later
)

// cniPeers are the ways of attaching a container that are compared: flatnet's, each with what it is measured against.
type cniPeers struct {
	floor         contender
	plain, ported *chain // flatnet
	bridge        *chain // plain's rival
	portmap       *chain // ported's rival
}

// cniAgainstBridge adds and deletes containers through libcni: by flatnet's plugin, by the plugins bridge and host-local, by
// these with portmap; and makes the same kernel objects as flatnet by the floor.
func cniAgainstBridge(ctx context.Context, b *bench) error {
	if _, err := os.Stat(filepath.Join(pluginsDir, "bridge")); err != nil {
		return fmt.Errorf("what flatnet is compared with is not there; install containernetworking-plugins and iptables: %w", err)
	}
	peers, err := newCNIPeers(ctx, b)
	if err != nil {
		return err
	}
	defer peers.stop()
	rounds, populations := 100, []int{1, 100, 500}
	if b.quick {
		rounds, populations = 3, []int{1, 10}
	}
	printTollHead()
	var missed []string
	for _, n := range populations {
		if err := peers.populate(ctx, n); err != nil {
			return err
		}
		tolls, err := peers.raceOneByOne(ctx, rounds)
		if err != nil {
			return err
		}
		missed = append(missed, printTolls(n, tolls)...)
	}
	printCrowdHead()
	for _, ways := range []int{10, 16} {
		crowds, err := peers.raceTogether(ctx, ways, b.quick)
		if err != nil {
			return err
		}
		missed = append(missed, printCrowds(populations[len(populations)-1], ways, crowds)...)
	}
	printMissed(missed)
	return nil
}

func newCNIPeers(ctx context.Context, b *bench) (p cniPeers, err error) {
	if err := linkOurs(b); err != nil {
		return p, err
	}
	if p.floor, err = newFloorHost("fl", labView(lab4)); err != nil {
		return p, err
	}
	if p.plain, err = newOurChain(ctx, b, "flatnet", "fn", false); err != nil {
		return p, err
	}
	if p.ported, err = newOurChain(ctx, b, "flatnet, a port", "fnp", true); err != nil {
		return p, err
	}
	if p.bridge, err = newChain("bridge, host-local", "br", false, bridgePlugin("br")); err != nil {
		return p, err
	}
	p.portmap, err = newChain("bridge, h.-l., portmap", "brp", true, bridgePlugin("brp"), portmapPlugin())
	return p, err
}

// linkOurs gives the plugin beside the daemon the name of its type.
func linkOurs(b *bench) error {
	plugin := filepath.Join(filepath.Dir(b.daemon), "flatnet-cni")
	if _, err := os.Stat(plugin); err != nil {
		return fmt.Errorf("build it first: %w", err)
	}
	return errors.Join(os.MkdirAll(oursDir, 0o755), os.Symlink(plugin, filepath.Join(oursDir, "flatnet")))
}

func (p cniPeers) stop() {
	for _, c := range []*chain{p.plain, p.ported} {
		if c != nil {
			c.daemon.stop()
		}
	}
}

func (p cniPeers) all() []contender {
	return []contender{p.floor, p.plain, p.bridge, p.ported, p.portmap}
}

func (p cniPeers) populate(ctx context.Context, n int) error {
	for _, c := range p.all() {
		if err := c.populate(ctx, n); err != nil {
			return fmt.Errorf("%s: %w", c.name(), err)
		}
	}
	return nil
}

// raceOneByOne lets each add and delete a container in turn.
func (p cniPeers) raceOneByOne(ctx context.Context, rounds int) ([]verbs, error) {
	all := p.all()
	took := make([]verbs, len(all))
	for i, c := range all {
		took[i] = p.goals(c)
	}
	const warm = 2 // rounds that do not count
	for round := range warm + rounds {
		for i, c := range all {
			add, err := weigh(ctx, c, func(ctx context.Context) error { return c.attach(ctx, round%spare) })
			if err != nil {
				return nil, fmt.Errorf("%s: ADD: %w", c.name(), err)
			}
			del, err := weigh(ctx, c, func(ctx context.Context) error { return c.detach(ctx, round%spare) })
			if err != nil {
				return nil, fmt.Errorf("%s: DEL: %w", c.name(), err)
			}
			if round >= warm {
				took[i].add, took[i].del = append(took[i].add, add), append(took[i].del, del)
			}
		}
	}
	return took, nil
}

// goals are what a way is compared with, and no measure yet.
func (p cniPeers) goals(c contender) verbs {
	v := verbs{by: c.name()}
	switch c {
	case p.plain:
		v.rival, v.goal = p.bridge.name(), cniGoal{cpu: 4, times: 3.5}
	case p.ported:
		v.rival, v.goal = p.portmap.name(), cniGoal{cpu: 4.5, times: 15}
	}
	return v
}

// crowd is what many at a time came to.
type crowd struct {
	by       string
	ours     bool
	adds     float64 // a second
	dels     float64
	failed   int
	add, del time.Duration // CPU of each, daemon and plugins
}

func (p cniPeers) raceTogether(ctx context.Context, ways int, quick bool) ([]crowd, error) {
	rounds := 5
	if quick {
		rounds = 1
	}
	var crowds []crowd
	for _, c := range []*chain{p.plain, p.bridge, p.ported, p.portmap} {
		sum := crowd{by: c.name(), ours: c.daemon != nil}
		for range rounds {
			one, err := c.crowd(ctx, ways)
			if err != nil {
				return nil, err
			}
			sum.adds, sum.dels, sum.failed = sum.adds+one.adds/float64(rounds), sum.dels+one.dels/float64(rounds), sum.failed+one.failed
			sum.add, sum.del = sum.add+one.add/time.Duration(rounds), sum.del+one.del/time.Duration(rounds)
		}
		crowds = append(crowds, sum)
	}
	return crowds, nil
}

// crowd adds and then deletes all spare containers, so many at a time.
func (c *chain) crowd(ctx context.Context, ways int) (crowd, error) {
	var result crowd
	addFailed, add, err := c.together(ctx, ways, c.attach)
	if err != nil {
		return result, err
	}
	delFailed, del, err := c.together(ctx, ways, c.detach)
	result.failed = addFailed + delFailed
	result.adds, result.dels = cniSpare/add.wall.Seconds(), cniSpare/del.wall.Seconds()
	result.add, result.del = (add.plugins+add.daemon)/cniSpare, (del.plugins+del.daemon)/cniSpare
	return result, err
}

func (c *chain) together(ctx context.Context, ways int, do func(context.Context, int) error) (failed int, t toll, err error) {
	failures := make([]error, cniSpare)
	t, err = weigh(ctx, c, func(context.Context) error {
		var g errgroup.Group
		g.SetLimit(ways)
		for i := range cniSpare {
			g.Go(func() error {
				failures[i] = within(c.host(), func() error { return do(ctx, i) })
				return nil
			})
		}
		return g.Wait()
	})
	for _, failure := range failures {
		if failure != nil {
			failed++
		}
	}
	return failed, t, err
}
