package kernel

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// watcher turns notifications of rtnetlink into events. It keeps all links, as messages name them by index, and our routes,
// as the kernel does not tell which IPv4 routes go with a link.
type watcher struct {
	k      *Kernel
	news   news
	links  map[int]*watchedLink // by index
	names  map[int]string
	told   map[int]toldLink // what became of links, by index, until it is put down
	routes map[routeID]dataplane.Route
	rules  map[dataplane.Key]dataplane.RouteRule

	lookAtProxies bool            // a link that has some has changed
	lookAtRoutes  map[string]bool // by links that have changed
}

// watchedLink is a link as it was last told.
type watchedLink struct {
	dataplane.Link
	marked bool
	fact   hostFact
	port   dataplane.Port // of others, in a bridge of ours
}

// routeID is a route's key as a value of its own: there may be ten thousand, and an interface is slower to look up.
type routeID struct {
	dest          netip.Prefix
	table, metric int
}

func idOf(r dataplane.Route) routeID { return routeID{r.Dest, r.Table, r.Metric} }

// hostFact is what Node tells of a link; other changes of foreign links are of no interest.
type hostFact struct {
	name     string
	mtu      int
	up       bool
	acceptRA int
	master   int // index
}

// resync reads the tables anew and has everything observed.
func (w *watcher) resync() error {
	links, names, told := map[int]*watchedLink{}, map[int]string{}, map[int]toldLink{}
	var foreignPorts []link
	err := dumpLinks(w.k.host, func() { clear(links); clear(names); clear(told); foreignPorts = nil }, func(l link) {
		if l.master != 0 && !l.marked {
			foreignPorts = append(foreignPorts, l)
		}
		names[l.index] = l.Name
		links[l.index] = &watchedLink{Link: l.object(names), marked: l.marked, fact: factOf(l)}
		told[l.index] = toldOf(&l)
	})
	for index, l := range links {
		if err == nil && l.marked && l.Kind == dataplane.VXLAN {
			err = w.k.ear.admit(index)
		}
	}
	if err != nil {
		return err
	}
	routes := map[routeID]dataplane.Route{}
	err = dumpRoutes(w.k.host, dataplane.RouteProtocol, func() {}, func(r route) {
		if r.ours() {
			o := r.object(names)
			routes[idOf(o)] = o
		}
	})
	if err != nil {
		return err
	}
	rules := map[dataplane.Key]dataplane.RouteRule{}
	err = dumpRouteRules(w.k.host, func() { clear(rules) }, func(r dataplane.RouteRule) { rules[r.Key()] = r })
	if err != nil {
		return err
	}
	w.links, w.names, w.routes, w.rules = links, names, routes, rules
	for _, l := range foreignPorts {
		links[l.index].port = w.portOf(l)
	}
	w.k.told.begin(told)
	w.told = map[int]toldLink{} // what is not put down yet
	w.news.resync, w.news.foreign = true, true
	return nil
}

func factOf(l link) hostFact {
	return hostFact{name: l.Name, mtu: l.MTU, up: l.Up, acceptRA: l.conf.acceptRA(), master: l.master}
}

// message takes one notification.
func (w *watcher) message(m netlink.Message) error {
	switch m.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return w.link(m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		w.address(m)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		w.route(m)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		w.entry(m)
	case unix.RTM_NEWNETCONF:
		w.sysctl(m)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		w.routeRule(m)
	case unix.RTM_NEWQDISC, unix.RTM_DELQDISC, unix.RTM_NEWTFILTER, unix.RTM_DELTFILTER:
		w.control(m)
	}
	return nil
}

func (w *watcher) link(m netlink.Message) error {
	l, ok := parseLink(m.Data)
	switch {
	case !ok:
		return nil
	case m.Data[0] == unix.AF_BRIDGE:
		w.port(m, l)
		return nil
	case m.Type == unix.RTM_DELLINK:
		w.linkGone(l)
		return nil
	}
	return w.linkIs(l)
}

func (w *watcher) linkIs(l link) error {
	before := w.links[l.index]
	w.names[l.index] = l.Name
	now := &watchedLink{Link: l.object(w.names), marked: l.marked, fact: factOf(l)}
	w.told[l.index] = toldOf(&l)
	w.links[l.index] = now
	w.linkOfProxies(l.Name)
	if !l.marked {
		now.port = w.portOf(l)
		w.portWas(before, now.port)
	}
	switch {
	case l.marked:
		if before != nil && before.marked && before.Name != l.Name { // renamed
			w.news.add(w.asWanted(before.Link), true)
		}
		w.news.add(w.asWanted(now.Link), false)
		w.wasMade(l)
		if !l.Up {
			w.lookAtRoutes[l.Name] = true
		}
		return w.admitTunnel(l)
	case before != nil && before.marked: // its alias was changed
		w.news.add(w.asWanted(before.Link), true)
		w.news.foreign = true
	case w.isBeingMade(l):
	case before == nil || before.fact != now.fact:
		w.news.foreign = true
		if !l.Up {
			w.lookAtRoutes[l.Name] = true
		}
	}
	return nil
}

func (w *watcher) linkGone(l link) {
	before := w.links[l.index]
	delete(w.links, l.index)
	w.k.ear.forget(l.index)
	w.told[l.index] = toldLink{}
	delete(w.names, l.index)
	w.linkOfProxies(l.Name)
	w.portWas(before, dataplane.Port{})
	switch {
	case before != nil && before.marked:
		w.news.add(w.asWanted(before.Link), true)
		w.lookAtRoutes[before.Name] = true
	case !w.isBeingMade(l):
		w.news.foreign = true
		w.lookAtRoutes[l.Name] = true
	}
}

// checkRoutes looks which of our routes by some links are still there: the kernel does not tell of the IPv4 routes that go with
// a link, with its going down, or with its last address.
func (w *watcher) checkRoutes() error {
	missing := map[routeID]dataplane.Route{}
	for key, r := range w.routes {
		if w.lookAtRoutes[r.Link] {
			missing[key] = r
		}
	}
	clear(w.lookAtRoutes)
	if len(missing) == 0 {
		return nil
	}
	if err := w.k.awaitLinks(); err != nil {
		return err
	}
	err := dumpRoutes(w.k.host, dataplane.RouteProtocol, func() {}, func(r route) {
		if r.ours() {
			delete(missing, idOf(r.object(nil)))
		}
	})
	for key, r := range missing {
		delete(w.routes, key)
		w.news.add(r, true)
	}
	return err
}

// awaitLinks returns when a change of links or addresses that the kernel is telling of is done. It tells of it first and takes away what goes
// with it then (net/ipv4/devinet.c, __inet_del_ifa; net/core/dev.c, __dev_notify_flags; Linux 6.18), under the lock that a change of nothing
// waits for and a dump does not.
func (k *Kernel) awaitLinks() error {
	const loopback = 1 // its index in every namespace (include/net/flow.h, LOOPBACK_IFINDEX)
	var b netlink.Batch
	b.Begin(unix.RTM_NEWLINK, 0)
	b.Raw(infoMsg(loopback, 0, 0))
	return errors.Join(k.host.Do(&b, nil)...)
}

// port takes the settings of a bridge port, which are told in messages of the bridge's own.
func (w *watcher) port(m netlink.Message, l link) {
	known := w.links[l.index]
	if known == nil || !known.marked || m.Type == unix.RTM_DELLINK {
		return
	}
	for typ, a := range netlink.Attrs(m.Data[unix.SizeofIfInfomsg:]) {
		if typ == unix.IFLA_PROTINFO {
			was := link{Link: known.Link}
			was.parsePort(a)
			known.Link = was.Link
			w.news.add(w.asWanted(known.Link), false)
		}
	}
}

func (w *watcher) asWanted(l dataplane.Link) (o dataplane.Link) {
	w.k.memory.with(dataplane.HostNetns, func(r *remembered) { o = r.asWanted(l) })
	return o
}

// isBeingMade reports whether a link without a mark is one that we make: its mark comes with the next message.
func (w *watcher) isBeingMade(l link) (is bool) {
	w.k.memory.with(dataplane.HostNetns, func(r *remembered) { is = r.made[l.Name] == l.index })
	return is
}

// wasMade ends that.
func (w *watcher) wasMade(l link) {
	w.k.memory.with(dataplane.HostNetns, func(r *remembered) {
		if r.made[l.Name] == l.index {
			delete(r.made, l.Name)
		}
	})
}

// isOurs reports whether the link of that index is ours, or going to be.
func (w *watcher) isOurs(index int) bool {
	l := w.links[index]
	return l != nil && (l.marked || w.isBeingMade(link{Link: l.Link, index: index}))
}

func (w *watcher) address(m netlink.Message) {
	a, ok := parseAddress(m.Data)
	name, known := w.names[a.index]
	switch {
	case !ok:
	case a.ours() && known:
		gone := m.Type == unix.RTM_DELADDR
		w.news.add(dataplane.Address{Link: name, Prefix: a.prefix}, gone)
		if gone {
			w.lookAtRoutes[name] = true
		}
	case !w.isOurs(a.index): // others' addresses on our links are no facts of the node
		w.news.foreign = true
		if m.Type == unix.RTM_DELADDR && known { // our routes to other nodes lead by links of others
			w.lookAtRoutes[name] = true
		}
	}
}

func (w *watcher) route(m netlink.Message) {
	r, ok := parseRoute(m.Data)
	if !ok || r.cloned {
		return
	}
	o := r.object(w.names)
	id := idOf(o)
	known, isKnown := w.routes[id]
	switch {
	case r.ours() && m.Type == unix.RTM_NEWROUTE:
		w.routes[id] = o
		w.news.add(o, false)
	case r.ours():
		delete(w.routes, id)
		w.news.add(o, true)
	case r.isFact() && !w.allOurs(r.hops):
		w.news.foreign = true
	case m.Type == unix.RTM_DELROUTE:
		w.connectedGone(r)
	}
	if !r.ours() && isKnown { // it may have replaced ours
		w.lookAtRoutes[known.Link] = true
	}
}

func (w *watcher) allOurs(hops []hop) bool {
	for _, h := range hops {
		if !w.isOurs(h.index) {
			return false
		}
	}
	return true
}
