package kernel

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// Observe returns what is ours in a namespace: links with our alias, addresses and routes with our protocol, tracked
// sysctls, all permanent neighbours and FDB entries of our tunnel links, shapers and redirects; on the host also the namespaces we made and all of nft's and BPF's; in others also lo. When the namespace is gone the error
// is fs.ErrNotExist.
func (k *Kernel) Observe(ctx context.Context, netns string) (dataplane.State, error) {
	var state dataplane.State
	err := k.steadily(func() (err error) {
		state, err = k.observe(ctx, netns)
		return err
	})
	return state, err
}

// steadily reads once more without our own changes of the host in between, when they have interrupted all dumps.
func (k *Kernel) steadily(read func() error) error {
	err := read()
	if errors.Is(err, netlink.ErrInterrupted) {
		k.busy.Lock()
		defer k.busy.Unlock()
		return read()
	}
	return err
}

func (k *Kernel) observe(ctx context.Context, netns string) (dataplane.State, error) {
	s, err := k.enter(netns)
	if err != nil {
		return nil, fmt.Errorf("observe: %w", err)
	}
	defer s.leave()
	o := observation{netns: netns, sysctls: newSysctlIndex(k.tracked(netns))}
	for _, part := range []func() error{
		func() error { return k.look(s.conn, &o) },
		func() error { return o.addresses(s.conn, &k.memory) },
		func() error { return o.routes(s.conn) },
		func() error { return o.routeRules(s.conn) },
		func() error { return o.proxies(s.conn, &k.memory) },
		func() error { return o.entries(s.conn) },
		func() error { return o.qdiscs(s.conn, &k.memory) },
		func() error { return o.files(s) },
		func() error { return k.observeHost(ctx, &o) },
		ctx.Err,
	} {
		if err := part(); err != nil {
			return nil, fmt.Errorf("observe: %w", err)
		}
	}
	if netns == dataplane.HostNetns && !o.short {
		k.told.readInFull()
	}
	return k.stateOf(&o), nil
}

// look reads the links, in the shortest way that there is.
func (k *Kernel) look(c *netlink.Conn, o *observation) error {
	if o.short = o.netns == dataplane.HostNetns && k.told.serves(); o.short {
		if done, err := o.glance(c, &k.told); done || err != nil {
			return err
		}
	}
	return o.links(c)
}

// observation is what one Observe has found so far.
type observation struct {
	netns   string
	sysctls sysctlIndex
	short   bool // what is known to be as it was need not be read

	names   map[int]string // links' names by index
	highest int            // index
	ours    []link

	foreignPorts []link // links of others with a master
	others       []dataplane.Object
	confs        []dataplane.Object // sysctls from links' messages
	nft          dataplane.State    // of which there is the most, so that the rest is added to it
}

// links reads all links, as names are needed of those that are not ours too.
func (o *observation) links(c *netlink.Conn) error {
	return dumpLinks(c, o.reset, o.take)
}

// reset forgets the links.
func (o *observation) reset() {
	o.names, o.highest, o.ours, o.foreignPorts, o.confs = map[int]string{}, 0, o.ours[:0], o.foreignPorts[:0], nil
}

// backTo forgets the links that came since then; their names do no harm.
func (o *observation) backTo(then *observation) {
	o.ours, o.foreignPorts, o.confs = then.ours, then.foreignPorts, then.confs
}

// take takes a link; of one that comes twice the second is true.
func (o *observation) take(l link) {
	o.names[l.index] = l.Name
	o.highest = max(o.highest, l.index)
	if l.ours(o.netns) {
		o.ours = append(o.ours, l)
	} else if l.master != 0 {
		o.foreignPorts = append(o.foreignPorts, l)
	}
	o.confs = o.sysctls.appendOf(o.confs, l)
}

// addresses reads those with our mark, and those that we gave a workload and somebody typed again: `ip address` of Debian 12
// knows no mark.
func (o *observation) addresses(c *netlink.Conn, m *memory) error {
	var found []dataplane.Object
	err := dumpAddresses(c, 0, func() { found = nil }, func(a address) {
		one := dataplane.Address{Link: o.names[a.index], Prefix: a.prefix}
		if a.ours() || a.proto == 0 && m.gave(o.netns, one) {
			found = append(found, one)
		}
	})
	if err == nil && o.netns == dataplane.HostNetns && len(found) > 0 {
		found, err = o.withoutBare(c, found)
	}
	o.others = append(o.others, found...)
	return err
}

func (o *observation) routes(c *netlink.Conn) error {
	var found []dataplane.Object
	err := dumpRoutes(c, dataplane.RouteProtocol, func() { found = nil }, func(r route) {
		if r.ours() {
			found = append(found, r.object(o.names))
		}
	})
	o.others = append(o.others, found...)
	return err
}

// files reads the sysctls that no link's message has.
func (o *observation) files(s *space) error {
	if len(o.sysctls.files) == 0 {
		return nil
	}
	return s.do(func() error {
		for _, one := range o.sysctls.files {
			if v, err := readSysctl(one.Name); err == nil { // a link or a protocol that is not there has none
				one.Value = v
				o.others = append(o.others, one)
			}
		}
		return nil
	})
}

func (k *Kernel) observeHost(ctx context.Context, o *observation) error {
	if o.netns != dataplane.HostNetns {
		return nil
	}
	o.ports(k.borrowed)
	for _, path := range k.owned.List() {
		o.others = append(o.others, dataplane.Netns{Path: path})
	}
	if k.nft != nil {
		state, err := k.nft.Observe(ctx, !o.short)
		if err != nil {
			return err
		}
		o.nft = state
	}
	if k.bpf != nil {
		objects, err := k.bpf.Observe(ctx)
		if err != nil {
			return err
		}
		o.others = append(o.others, objects...)
	}
	return nil
}

func (k *Kernel) stateOf(o *observation) dataplane.State {
	state, rest := o.nft, len(o.ours)+len(o.others)+len(o.confs)
	if state == nil || rest > len(state) { // else there is room soon
		state = make(dataplane.State, rest+len(o.nft))
		maps.Copy(state, o.nft)
	}
	k.memory.with(o.netns, func(r *remembered) {
		r.index = max(r.index, o.highest+1)
		for i := range o.ours {
			l := o.ours[i].object(o.names)
			if end, ok := farEndOf(l, o.netns); ok {
				r.far[end] = l.Name
			}
			l = r.asWanted(l)
			state[l.Key()] = l
		}
	})
	for _, group := range [][]dataplane.Object{o.others, o.confs} {
		for _, one := range group {
			state[one.Key()] = one
		}
	}
	return state
}

// sysctlIndex finds the sysctls to observe by the link whose message has their value.
type sysctlIndex struct {
	links map[string][]placedSysctl
	files []dataplane.Sysctl
}

type placedSysctl struct {
	confPlace
	sysctl dataplane.Sysctl
}

func newSysctlIndex(tracked []dataplane.Sysctl) sysctlIndex {
	x := sysctlIndex{links: map[string][]placedSysctl{}}
	for _, s := range tracked {
		link, key, v6, isConf := confName(s.Name)
		place, known := placeOf(key, v6)
		if isConf && known {
			x.links[link] = append(x.links[link], placedSysctl{place, s})
		} else {
			x.files = append(x.files, s)
		}
	}
	return x
}

func (x sysctlIndex) appendOf(to []dataplane.Object, l link) []dataplane.Object {
	for _, p := range x.links[l.Name] {
		if v, ok := l.conf.value(p.confPlace); ok {
			p.sysctl.Value = v
			to = append(to, p.sysctl)
		}
	}
	return to
}

func dumpLinks(c *netlink.Conn, restart func(), each func(link)) error {
	return dumpLinksOf(c, 0, restart, each)
}

// dumpLinksOf yields the links with that master, all when it is 0.
func dumpLinksOf(c *netlink.Conn, master uint32, restart func(), each func(link)) error {
	var b netlink.Batch
	b.Begin(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	b.Raw(infoMsg(0, 0, 0))
	b.Uint32(unix.IFLA_EXT_MASK, extSkipStats)
	if master != 0 {
		b.Uint32(unix.IFLA_MASTER, master)
	}
	return c.Dump(&b, restart, func(m netlink.Message) error {
		if l, ok := parseLink(m.Data); ok && m.Type == unix.RTM_NEWLINK {
			each(l)
		}
		return nil
	})
}

// dumpAddresses yields the addresses of the link with that index, of all links when it is 0.
func dumpAddresses(c *netlink.Conn, index int, restart func(), each func(address)) error {
	var b netlink.Batch
	b.Begin(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	header := make([]byte, unix.SizeofIfAddrmsg)
	putIndex(header, index)
	b.Raw(header)
	return c.Dump(&b, restart, func(m netlink.Message) error {
		if a, ok := parseAddress(m.Data); ok && (index == 0 || a.index == index) {
			each(a)
		}
		return nil
	})
}

// dumpRoutes yields the routes of a protocol (all when it is 0); kernels before 4.20 yield others too.
func dumpRoutes(c *netlink.Conn, proto uint8, restart func(), each func(route)) error {
	restart()
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		var found []route
		var b netlink.Batch
		b.Begin(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
		header := make([]byte, unix.SizeofRtMsg)
		header[0], header[5] = family, proto
		b.Raw(header)
		err := c.Dump(&b, func() { found = found[:0] }, func(m netlink.Message) error {
			if r, ok := parseRoute(m.Data); ok && m.Type == unix.RTM_NEWROUTE {
				found = append(found, r)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, r := range found {
			each(r)
		}
	}
	return nil
}
