package kernel

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
	"github.com/flatnet/flatnet/internal/kernel/nft"
)

// Event is a notification of the kernel about the host. Of our own changes many are told too: who knows what it applied compares
// Object with that and finds nothing new.
type Event struct {
	Object  dataplane.Object // of ours, as it is now or was before it went; nil when Resync or Foreign
	Gone    bool
	Resync  bool   // what is ours may differ in any way: observe it all
	Foreign bool   // something that is not ours changed: what Node said may be stale
	By      string // who did it, as nft[4711], when the kernel tells
	Applied uint64 // what Applied was when Object was so; 0 when that is not known
}

// The groups of notifications about what Observe and Node report.
var watchedGroups = []int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	unix.RTNLGRP_NEIGH, unix.RTNLGRP_TC,
}

// Watch calls each, one call at a time, for what changes on the host, until ctx ends, which it returns as nil. The first
// event is a Resync: what changes after it was called is told. Lost notifications are a Resync too.
func (k *Kernel) Watch(ctx context.Context, each func(Event)) error {
	var listener *netlink.Listener
	err := (&space{ns: k.hostNS}).do(func() (err error) {
		listener, err = netlink.Listen(unix.NETLINK_ROUTE, watchedGroups...)
		return err
	})
	if err != nil {
		return err
	}
	defer listener.Close()
	writer, err := k.host.Port()
	if err != nil {
		return err
	}
	if err := k.ear.begin(listener, writer); err != nil {
		return err
	}
	defer k.ear.end()
	k.wrote.begin()
	defer k.wrote.end()
	var one sync.Mutex
	tell := func(e Event) {
		one.Lock()
		defer one.Unlock()
		each(e)
	}
	w := &watcher{k: k, lookAtRoutes: map[string]bool{}}
	if err := w.resync(); err != nil {
		return err
	}
	defer k.told.begin(nil)
	w.news.tell(tell)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.run(ctx, listener, tell) })
	g.Go(func() error { return k.watchProxies(ctx, tell) })
	if k.nft != nil {
		g.Go(func() error {
			return k.nft.Watch(ctx, func(c nft.Change) { tell(Event{Resync: c.Ours, Foreign: c.Foreign, By: c.By}) })
		})
	}
	if err := g.Wait(); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// run tells of what came since the last time, always after a whole Apply: of each object only what became of it.
func (w *watcher) run(ctx context.Context, l *netlink.Listener, tell func(Event)) error {
	for {
		if err := l.Wait(ctx); err != nil {
			return err
		}
		if err := w.drain(l); err != nil {
			return err
		}
		w.news.tell(tell)
	}
}

func (w *watcher) drain(l *netlink.Listener) error {
	if err := w.k.lockBusy(l.Keep); err != nil {
		return err
	}
	defer w.k.busy.Unlock()
	w.news.applied = w.k.Applied()
	ours := w.k.wrote.take()
	w.wroteRoutes(ours)
	lost, err := l.Drain(w.message)
	w.wroteRoutes(ours) // what others did meanwhile was before or after: what is ours is looked for too often rather than never
	if err == nil && lost {
		err = w.resync()
	}
	w.k.told.take(w.told)
	clear(w.told)
	return errors.Join(err, w.checkRoutes(), w.checkProxies())
}

// keepPause is between two looks at a queue that fills while Apply is at work: with some thousand notifications, where there is room for
// twenty thousand.
const keepPause = 2 * time.Millisecond

// lockBusy waits for Apply to be done, and keeps the queue of what that makes the kernel tell from overflowing.
func (k *Kernel) lockBusy(keep func() error) (err error) {
	if k.busy.TryLock() {
		return nil
	}
	locked := make(chan struct{})
	go func() {
		k.busy.Lock()
		close(locked)
	}()
	for {
		select {
		case <-locked:
			if err != nil {
				k.busy.Unlock()
			}
			return err
		case <-time.After(keepPause):
			err = errors.Join(err, keep())
		}
	}
}

// news is what is to be told: the last event of each object, and whether anything else is to be looked at.
type news struct {
	objects         map[dataplane.Key]Event
	order           []dataplane.Key // of their first events
	resync, foreign bool
	applied         uint64
}

func (n *news) add(o dataplane.Object, gone bool) {
	if n.objects == nil {
		n.objects = map[dataplane.Key]Event{}
	}
	key := o.Key()
	if _, known := n.objects[key]; !known {
		n.order = append(n.order, key)
	}
	n.objects[key] = Event{Object: o, Gone: gone}
}

func (n *news) tell(each func(Event)) {
	if n.resync || n.foreign {
		each(Event{Resync: n.resync, Foreign: n.foreign})
	}
	for _, key := range n.order {
		e := n.objects[key]
		e.Applied = n.applied
		each(e)
	}
	if len(n.order) > mostNews { // not to be held for ever
		*n = news{}
		return
	}
	clear(n.objects)
	*n = news{objects: n.objects, order: n.order[:0]}
}

// mostNews is for how many objects room is kept.
const mostNews = 1000
