package kernel

import (
	"context"
	"net/netip"
	"time"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// proxyPoll is how often the proxied neighbours are looked at while there are some. The kernel tells nobody when somebody deletes one
// (net/core/neighbour.c pneigh_delete); what goes with its link is looked for when the link is told of.
const proxyPoll = time.Second

type addrSet map[netip.Addr]bool

func addProxy(to map[string]addrSet, p dataplane.ProxyNeighbour) {
	if to[p.Link] == nil {
		to[p.Link] = addrSet{}
	}
	to[p.Link][p.Addr] = true
}

// bell wakes one who waits; rung before, it does so at once.
type bell chan struct{}

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default:
	}
}

// watchProxies tells of proxied neighbours that went.
func (k *Kernel) watchProxies(ctx context.Context, tell func(Event)) error {
	for {
		var tick <-chan time.Time
		if k.memory.hasProxies() {
			tick = time.After(proxyPoll)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-k.proxied: // there is one now
			continue
		case <-tick:
		}
		k.busy.Lock()
		gone, err := k.goneProxies()
		k.busy.Unlock()
		if err != nil {
			return err
		}
		for _, p := range gone {
			tell(Event{Object: p, Gone: true})
		}
	}
}

func (m *memory) hasProxies() (has bool) {
	m.with(dataplane.HostNetns, func(r *remembered) {
		for _, addrs := range r.proxies {
			has = has || len(addrs) > 0
		}
	})
	return has
}

// goneProxies forgets and returns those of the host that are not there any more.
func (k *Kernel) goneProxies() (gone []dataplane.ProxyNeighbour, err error) {
	there := map[proxyKey]bool{}
	err = dumpProxies(k.host, func() { clear(there) }, func(p proxy) {
		if p.ours() {
			there[proxyKey{p.index, p.addr}] = true
		}
	})
	if err != nil {
		return nil, err
	}
	k.memory.with(dataplane.HostNetns, func(r *remembered) {
		for link, addrs := range r.proxies {
			index, _ := linkIndex(k.host, link) // 0 when the link is gone: no proxy has that
			for a := range addrs {
				if !there[proxyKey{index, a}] {
					delete(addrs, a)
					gone = append(gone, dataplane.ProxyNeighbour{Link: link, Addr: a})
				}
			}
		}
	})
	return gone, nil
}

type proxyKey struct {
	index int
	addr  netip.Addr
}

// linkOfProxies notes that proxied neighbours may have gone with a change of their link: going down is enough, before kernel 6.17
// losing the carrier too.
func (w *watcher) linkOfProxies(name string) {
	w.k.memory.with(dataplane.HostNetns, func(r *remembered) {
		w.lookAtProxies = w.lookAtProxies || len(r.proxies[name]) > 0
	})
}

func (w *watcher) checkProxies() error {
	if !w.lookAtProxies {
		return nil
	}
	w.lookAtProxies = false
	if err := w.k.awaitLinks(); err != nil {
		return err
	}
	gone, err := w.k.goneProxies()
	for _, p := range gone {
		w.news.add(p, true)
	}
	return err
}
