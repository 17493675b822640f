package kernel

import (
	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// portOf returns what Port a link of others is by what is known of its master; the zero Port is none.
func (w *watcher) portOf(l link) dataplane.Port {
	master := w.links[l.master]
	if l.master == 0 || master == nil || !master.marked {
		return dataplane.Port{}
	}
	p, _ := w.k.borrowed.portOf(&l, master.Link)
	return p
}

// portWas tells what became of a link of others as a port of ours.
func (w *watcher) portWas(before *watchedLink, now dataplane.Port) {
	if before != nil && before.port.Link != now.Link && before.port.Link != "" {
		w.news.add(before.port, true)
	}
	if now.Link != "" {
		w.news.add(now, false)
	}
}

// routeRule takes a rule of ours. One that replaces another comes before that one goes.
func (w *watcher) routeRule(m netlink.Message) {
	r, ok := parseRouteRule(m.Data)
	if !ok || !r.ours() {
		return
	}
	key := r.Key()
	switch {
	case m.Type == unix.RTM_NEWRULE:
		w.rules[key] = r.RouteRule
		w.news.add(r.RouteRule, false)
	case w.rules[key] == r.RouteRule:
		delete(w.rules, key)
		w.news.add(r.RouteRule, true)
	}
}
