package agent

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// sticky remembers the addresses that workloads had on networks, so that a name gets its own back. It is a preference, never
// a claim, so it is saved behind the change, in batches: an attachment waits for no disk.
type sticky struct {
	last    map[string][]netip.Addr          // by store.StickyName
	owner   map[string]map[netip.Addr]string // by network and address: the workload that had it
	unsaved map[string]bool                  // names the store does not know yet
	failing bool                             // the store could not be written last time
}

// keepDelay gathers what is to be saved.
const keepDelay = 2 * time.Second

// mostSticky bounds what is remembered of workloads with made-up names that never come back.
const mostSticky = 20_000

func newSticky() sticky {
	return sticky{last: map[string][]netip.Addr{}, owner: map[string]map[netip.Addr]string{}, unsaved: map[string]bool{}}
}

// load takes what was stored.
func (s *sticky) load(stored map[string][]netip.Addr) {
	for name, addrs := range stored {
		network, workload, _ := strings.Cut(name, "/")
		s.set(network, workload, addrs)
	}
	clear(s.unsaved)
}

// set remembers, or without addresses forgets.
func (s *sticky) set(network, workload string, addrs []netip.Addr) {
	name := store.StickyName(network, workload)
	if slices.Equal(s.last[name], addrs) || len(s.last) >= mostSticky && len(addrs) > 0 {
		return
	}
	for _, a := range s.last[name] {
		drop(s.owner, network, a)
	}
	delete(s.last, name)
	if len(addrs) > 0 {
		s.last[name] = addrs
	}
	for _, a := range addrs {
		put(s.owner, network, a, workload)
	}
	s.unsaved[name] = true
}

// remember keeps the addresses of a workload's endpoints; those that CNI runtimes made have names that do not come back.
func (s *sticky) remember(w model.Workload) {
	for _, e := range w.Endpoints {
		if len(e.Addrs) > 0 && e.Attachment == (model.Attachment{}) {
			s.set(e.Network, w.Name, e.Addrs)
		}
	}
}

// had is the address that the workload had in the subnet, or the zero Addr.
func (s *sticky) had(network, workload string, subnet netip.Prefix) netip.Addr {
	for _, a := range s.last[store.StickyName(network, workload)] {
		if subnet.Contains(a) {
			return a
		}
	}
	return netip.Addr{}
}

// follow moves what is remembered to the subnets that came instead of others.
func (s *sticky) follow(c change) {
	successors := successorsOf(c.old, c.net)
	if len(successors) == 0 {
		return
	}
	for name, addrs := range s.last {
		network, workload, _ := strings.Cut(name, "/")
		if network != c.net.Name {
			continue
		}
		var moved []netip.Addr
		for _, a := range addrs {
			was, _ := c.old.Subnet(a)
			if to, ok := successors[was.Prefix]; ok {
				a, _ = hostPart(a, was.Prefix, to.Prefix)
			}
			if a.IsValid() {
				moved = append(moved, a)
			}
		}
		s.set(network, workload, moved)
	}
}

// forOther reports whether another workload would like the address back.
func (s *sticky) forOther(network, workload string, a netip.Addr) bool {
	owner, ok := s.owner[network][a]
	return ok && owner != workload
}

func (s *sticky) changes() []store.Change {
	var changes []store.Change
	for name := range s.unsaved {
		network, workload, _ := strings.Cut(name, "/")
		if addrs := s.last[name]; len(addrs) > 0 {
			changes = append(changes, store.PutSticky(network, workload, addrs))
		} else {
			changes = append(changes, store.Delete(store.Sticky, name, store.Any))
		}
	}
	return changes
}

// forgetSticky forgets all workloads' addresses on a network that is gone.
func (a *Agent) forgetSticky(network string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name := range a.sticky.last {
		if n, workload, _ := strings.Cut(name, "/"); n == network {
			a.sticky.set(n, workload, nil)
		}
	}
}

// keepRecords saves now and then what changed, and once more at the end; and puts back files that somebody removed.
func (a *Agent) keepRecords(ctx context.Context) error {
	tick := time.NewTicker(keepDelay)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			a.saveSticky(ctx)
			a.restoreFiles(ctx)
		case <-ctx.Done():
			last, cancel := detached(ctx)
			defer cancel()
			a.saveSticky(last)
			return nil
		}
	}
}

func (a *Agent) saveSticky(ctx context.Context) {
	select {
	case <-a.leave:
		return // the store is gone
	default:
	}
	a.mu.Lock()
	changes := a.sticky.changes()
	clear(a.sticky.unsaved)
	a.mu.Unlock()
	if len(changes) == 0 {
		return
	}
	_, err := a.deps.Store.Write(ctx, changes...)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && !a.sticky.failing {
		a.deps.Log.Warn("remember addresses; will be tried again", "err", err)
	}
	a.sticky.failing = err != nil
	for _, c := range changes {
		if err != nil {
			a.sticky.unsaved[c.Name] = true
		}
	}
}
