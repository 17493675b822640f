package kernel

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// noMaster in IFLA_MASTER asks for links without one (net/core/rtnetlink.c, link_master_filtered; Linux 5.16).
const noMaster = 0xffffffff

// glance is links with less to read. Of a host's links nearly all are ports of bridges, and a link's own message takes the
// kernel long: 15 µs, and for a veth it also looks through all namespaces that links lead to (net/core/net_namespace.c,
// __peernet2id), so that a thousand take 30 ms. The bridge's message about a port takes 5 µs. It lacks the alias and the
// kind, which are as they were told. What stays unclear is asked for by itself. It reports false when the kernel is too old.
func (o *observation) glance(c *netlink.Conn, t *told) (bool, error) {
	o.reset()
	o.ours = make([]link, 0, t.len())
	var unclear []int
	err := dumpPorts(c, func() { o.reset(); unclear = nil }, func(l link) {
		if t.complete(&l) && len(o.sysctls.links[l.Name]) == 0 {
			o.take(l)
		} else {
			unclear = append(unclear, l.index)
		}
	})
	if err != nil {
		return false, err
	}
	ports, sawLoopback := *o, false
	err = dumpLinksOf(c, noMaster, func() { o.backTo(&ports); sawLoopback = false }, func(l link) {
		o.take(l)
		sawLoopback = sawLoopback || l.loopback
	})
	if err != nil || !sawLoopback { // there is one in every namespace
		return false, err
	}
	return true, o.ask(c, append(unclear, o.unseen(t)...))
}

// unseen are links that were in neither dump and matter: ours, of which a dump of ports misses one when another goes
// meanwhile, and those with sysctls, which may be ports of something else. The names of all others are kept.
func (o *observation) unseen(t *told) (indexes []int) {
	t.each(func(index int, l toldLink) {
		if _, seen := o.names[index]; seen {
			return
		}
		o.names[index] = l.name
		if l.marked || len(o.sysctls.links[l.name]) > 0 {
			indexes = append(indexes, index)
		}
	})
	return indexes
}

// ask reads single links; those that are gone are no error.
func (o *observation) ask(c *netlink.Conn, indexes []int) error {
	var b netlink.Batch
	for len(indexes) > 0 {
		n := min(len(indexes), netlink.MaxBatch)
		b.Reset()
		for _, index := range indexes[:n] {
			b.Begin(unix.RTM_GETLINK, 0)
			b.Raw(infoMsg(index, 0, 0))
			b.Uint32(unix.IFLA_EXT_MASK, extSkipStats)
		}
		errs := c.Do(&b, func(_ int, m netlink.Message) {
			if l, ok := parseLink(m.Data); ok {
				o.take(l)
			}
		})
		for _, err := range errs {
			if err = ignoring(err, unix.ENODEV); err != nil {
				return err
			}
		}
		indexes = indexes[n:]
	}
	return nil
}

// dumpPorts yields the ports of all bridges, as the bridges see them: without alias and kind.
func dumpPorts(c *netlink.Conn, restart func(), each func(link)) error {
	var b netlink.Batch
	b.Begin(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	header := infoMsg(0, 0, 0)
	header[0] = unix.AF_BRIDGE
	b.Raw(header)
	err := c.Dump(&b, restart, func(m netlink.Message) error {
		if l, ok := parseLink(m.Data); ok && m.Type == unix.RTM_NEWLINK && l.master != 0 {
			each(l)
		}
		return nil
	})
	return ignoringNoBridges(err)
}

// ignoringNoBridges is for kernels without any.
func ignoringNoBridges(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}
