package kernel

import (
	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// control takes what is told of qdiscs and filters of our links. With the qdisc that they are in go filters, of which nothing is told.
func (w *watcher) control(m netlink.Message) {
	c, ok := parseControl(m.Data)
	l := w.links[c.index]
	if !ok || l == nil || !l.marked {
		return
	}
	switch {
	case m.Type == unix.RTM_DELQDISC && c.handle == handleClsact:
		w.news.add(dataplane.Redirect{Link: l.Name}, true)
	case m.Type == unix.RTM_NEWQDISC || m.Type == unix.RTM_DELQDISC:
		if c.isShaper() {
			w.news.add(c.shaper(l.Name), m.Type == unix.RTM_DELQDISC)
		}
	case c.isRedirect() && !(c.isTable() && m.Type == unix.RTM_NEWTFILTER):
		w.news.add(c.redirect(l.Name, w.names), m.Type == unix.RTM_DELTFILTER)
	}
}
