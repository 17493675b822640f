package kernel

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// proxy is a proxied neighbour as the kernel tells it, ours or not.
type proxy struct {
	addr  netip.Addr
	index int // of its link
	proto uint8
}

func (p proxy) ours() bool { return p.proto == dataplane.RouteProtocol }

// parseProxy reads struct ndmsg with its attributes; what is no proxied neighbour of IP is not ok.
func parseProxy(p []byte) (x proxy, ok bool) {
	if len(p) < unix.SizeofNdMsg || p[10]&unix.NTF_PROXY == 0 || p[0] != unix.AF_INET && p[0] != unix.AF_INET6 {
		return proxy{}, false
	}
	x.index = int(int32(netlink.Attr(p[4:]).Uint32()))
	for typ, a := range netlink.Attrs(p[unix.SizeofNdMsg:]) {
		switch typ {
		case unix.NDA_DST:
			x.addr, _ = netip.AddrFromSlice(a)
		case ndaProtocol:
			x.proto = a.Uint8()
		}
	}
	return x, x.addr.IsValid()
}

func encodeProxy(b *netlink.Batch, typ, flags uint16, addr netip.Addr, index int) {
	b.Begin(typ, flags)
	header := make([]byte, unix.SizeofNdMsg)
	header[0], header[10] = family(addr), unix.NTF_PROXY
	putIndex(header, index)
	b.Raw(header)
	b.Bytes(unix.NDA_DST, addr.AsSlice())
	if typ == unix.RTM_NEWNEIGH {
		b.Uint8(ndaProtocol, dataplane.RouteProtocol)
	}
}

// dumpProxies yields all proxied neighbours.
func dumpProxies(c *netlink.Conn, restart func(), each func(proxy)) error {
	var b netlink.Batch
	b.Begin(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
	header := make([]byte, unix.SizeofNdMsg)
	header[10] = unix.NTF_PROXY
	b.Raw(header)
	return c.Dump(&b, restart, func(m netlink.Message) error {
		if p, ok := parseProxy(m.Data); ok && m.Type == unix.RTM_NEWNEIGH {
			each(p)
		}
		return nil
	})
}

// proxies observes ours, and remembers them for Watch: the kernel tells nobody when one goes.
func (o *observation) proxies(c *netlink.Conn, m *memory) error {
	var found []dataplane.Object
	known := map[string]addrSet{}
	err := dumpProxies(c, func() { found = nil; clear(known) }, func(p proxy) {
		if p.ours() {
			one := dataplane.ProxyNeighbour{Link: o.names[p.index], Addr: p.addr}
			found = append(found, one)
			addProxy(known, one)
		}
	})
	o.others = append(o.others, found...)
	if err == nil && o.netns == dataplane.HostNetns {
		m.with(o.netns, func(r *remembered) { r.proxies = known })
	}
	return err
}

// lookUpProxies finds what proxied neighbours are there already: the kernel would take over another's without a word.
func (j *job) lookUpProxies(tasks []*task) {
	var b netlink.Batch
	var asked []*task
	ask := func() {
		errs := j.space.conn.Do(&b, func(i int, m netlink.Message) {
			if p, ok := parseProxy(m.Data); ok {
				asked[i].proxy = p
			}
		})
		for i, err := range errs {
			asked[i].err = ignoringGone(err)
		}
		b.Reset()
		asked = asked[:0]
	}
	for _, t := range tasks {
		p, ok := t.Object.(dataplane.ProxyNeighbour)
		if !ok {
			continue
		}
		index, err := linkIndex(j.space.conn, p.Link)
		if err != nil {
			continue // so it has none
		}
		encodeProxy(&b, unix.RTM_GETNEIGH, 0, p.Addr, index)
		asked = append(asked, t)
		if b.Len() == netlink.MaxBatch {
			ask()
		}
	}
	ask()
}

func (j *job) encodeProxy(t *task, p dataplane.ProxyNeighbour) error {
	foreign := t.proxy.addr.IsValid() && !t.proxy.ours()
	index, err := j.indexOf(p.Link)
	switch {
	case t.Op == dataplane.Del && (err != nil || foreign):
		return ignoringGone(err)
	case err != nil:
		return err
	case foreign:
		return fmt.Errorf("a proxy for that address %w", ErrNotOurs)
	case t.Op == dataplane.Del:
		encodeProxy(&j.batch, unix.RTM_DELNEIGH, 0, p.Addr, index)
	default:
		encodeProxy(&j.batch, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, p.Addr, index)
	}
	return nil
}

func (j *job) settleProxy(t *task, p dataplane.ProxyNeighbour) {
	if t.err != nil || j.space.path != dataplane.HostNetns {
		return
	}
	j.k.memory.with(j.space.path, func(r *remembered) {
		if t.Op == dataplane.Del {
			delete(r.proxies[p.Link], p.Addr)
			return
		}
		addProxy(r.proxies, p)
	})
	j.k.proxied.ring()
}
