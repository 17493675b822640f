package kernel

import (
	"encoding/binary"
	"math"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// Of linux/pkt_sched.h, linux/pkt_cls.h and linux/tc_act/tc_mirred.h; golang.org/x/sys lacks most of it.
const (
	handleRoot     = 0xffffffff // TC_H_ROOT
	handleClsact   = 0xffff0000 // clsact, and ingress, which has its first half
	parentClsact   = 0xfffffff1 // TC_H_CLSACT
	parentIngress  = 0xfffffff2 // what comes in: TC_H_CLSACT's major with TC_H_MIN_INGRESS
	parentEgress   = 0xfffffff3 // what leaves: with TC_H_MIN_EGRESS
	handleShaper   = dataplane.ShaperHandle << 16
	filterInfo     = dataplane.RedirectPriority << 16 // tcm_info: priority, and below it the protocol
	sizeofTcMsg    = 20                               // struct tcmsg
	sizeofTBF      = 36                               // struct tc_tbf_qopt
	sizeofU32Sel   = 16                               // struct tc_u32_sel without keys …
	sizeofU32Key   = 16                               // … and struct tc_u32_key
	sizeofMirred   = 28                               // struct tc_mirred
	tbfParms       = 1                                // TCA_TBF_PARMS
	tbfRate64      = 4                                // TCA_TBF_RATE64
	u32Sel         = 5                                // TCA_U32_SEL
	u32Act         = 7                                // TCA_U32_ACT
	actKind        = 1                                // TCA_ACT_KIND
	actOptions     = 2                                // TCA_ACT_OPTIONS
	mirredParms    = 2                                // TCA_MIRRED_PARMS
	linkEthernet   = 1                                // TC_LINKLAYER_ETHERNET
	u32Terminal    = 1                                // TC_U32_TERMINAL
	actStolen      = 4                                // TC_ACT_STOLEN
	mirredRedirect = 1                                // TCA_EGRESS_REDIR
)

// kinds of qdiscs and filters.
const (
	kindTBF    = "tbf"
	kindClsact = "clsact"
	kindU32    = "u32"
	kindMirred = "mirred"
)

// control is a qdisc or a filter as the kernel tells it, whosever.
type control struct {
	index        int // of the link
	handle       uint32
	parent, info uint32
	kind         string
	options      netlink.Attr
}

// parseControl reads a message about a qdisc or a filter; ok is false when it is too short.
func parseControl(p []byte) (c control, ok bool) {
	if len(p) < sizeofTcMsg {
		return control{}, false
	}
	c.index = int(binary.NativeEndian.Uint32(p[4:]))
	c.handle = binary.NativeEndian.Uint32(p[8:])
	c.parent = binary.NativeEndian.Uint32(p[12:])
	c.info = binary.NativeEndian.Uint32(p[16:])
	for typ, a := range netlink.Attrs(p[sizeofTcMsg:]) {
		switch typ {
		case unix.TCA_KIND:
			c.kind = a.String()
		case unix.TCA_OPTIONS:
			c.options = a
		}
	}
	return c, true
}

// isShaper reports whether it is the root qdisc that we gave a link.
func (c *control) isShaper() bool {
	return c.parent == handleRoot && c.handle == handleShaper && c.kind == kindTBF
}

// isRedirect reports whether it is our filter of what comes in. The kernel tells a link's filters with the qdisc's own handle, or the hook's.
func (c *control) isRedirect() bool {
	return (c.parent == parentIngress || c.parent == handleClsact) && c.info>>16 == dataplane.RedirectPriority
}

// isTable reports whether it is no filter, but what a filter of kind u32 is in.
func (c *control) isTable() bool { return c.kind == kindU32 && c.handle&0xfffff == 0 }

// shaper is the qdisc as a value of the dataplane. One with settings that a dataplane.Shaper has no words for is told without its rate, so that
// it differs from every one that is wanted.
func (c *control) shaper(link string) dataplane.Shaper {
	s := dataplane.Shaper{Link: link}
	var rate uint64
	var ticks uint32
	plain := false
	for typ, a := range netlink.Attrs(c.options) {
		switch {
		case typ == tbfParms && len(a) >= sizeofTBF:
			overhead, mpu, peak := a[2:4], a[6:8], a[20:24]
			plain = netlink.Attr(overhead).Uint16()|netlink.Attr(mpu).Uint16() == 0 && netlink.Attr(peak).Uint32() == 0
			rate = max(rate, uint64(a[8:].Uint32()))
			s.Queue, ticks = a[24:].Uint32(), a[28:].Uint32()
		case typ == tbfRate64 && len(a) >= 8:
			rate = binary.NativeEndian.Uint64(a)
		}
	}
	if plain {
		s.Rate, s.Burst = rate, dataplane.BurstOf(rate, ticks)
	}
	return s
}

// redirect is the filter as a value of the dataplane. One that does anything else is told without Via.
func (c *control) redirect(link string, names map[int]string) dataplane.Redirect {
	r := dataplane.Redirect{Link: link}
	everything, to := false, 0
	for typ, a := range netlink.Attrs(c.options) {
		switch {
		case typ == u32Sel && len(a) >= sizeofU32Sel+sizeofU32Key:
			const keys = 2
			mask := a[sizeofU32Sel:].Uint32()
			everything = a[keys] == 1 && mask == 0 && a[0]&u32Terminal != 0
		case typ == u32Act:
			to = redirectTo(a)
		}
	}
	if everything && c.kind == kindU32 && c.info&0xffff == allPackets() {
		r.Via = names[to]
	}
	return r
}

// redirectTo is the index of the link to which a list of actions redirects; 0 if it is not just that.
func redirectTo(actions netlink.Attr) (index int) {
	many := 0
	for _, action := range netlink.Attrs(actions) {
		many++
		kind := ""
		for typ, a := range netlink.Attrs(action) {
			switch {
			case typ == actKind:
				kind = a.String()
			case typ == actOptions && kind == kindMirred:
				index = mirredTo(a)
			}
		}
	}
	if many != 1 {
		return 0
	}
	return index
}

func mirredTo(options netlink.Attr) (index int) {
	for typ, a := range netlink.Attrs(options) {
		if typ == mirredParms && len(a) >= sizeofMirred && a[20:].Uint32() == mirredRedirect {
			index = int(a[24:].Uint32())
		}
	}
	return index
}

// allPackets is the protocol of a filter for all of them, in network byte order as struct tcmsg has it.
func allPackets() uint32 { return asLoaded16(unix.ETH_P_ALL) }

// controlMsg is struct tcmsg.
func controlMsg(index int, handle, parent, info uint32) []byte {
	p := make([]byte, sizeofTcMsg)
	putIndex(p, index)
	binary.NativeEndian.PutUint32(p[8:], handle)
	binary.NativeEndian.PutUint32(p[12:], parent)
	binary.NativeEndian.PutUint32(p[16:], info)
	return p
}

// qdiscs observes shapers and redirects. A link is asked for its own only if it may have one: for it to be known which do, one of them has a
// root qdisc that is no default, is of kind IFB or belongs to the same endpoint as one that is, or was given one by us.
func (o *observation) qdiscs(c *netlink.Conn, m *memory) error {
	if o.netns != dataplane.HostNetns {
		return nil
	}
	some := o.shaped(m)
	if len(some) == 0 {
		return nil
	}
	for links := range slices.Chunk(some, netlink.MaxBatch) {
		if err := o.shapers(c, links); err != nil {
			return err
		}
	}
	for _, l := range some {
		if l.Kind == dataplane.IFB {
			continue
		}
		var found []dataplane.Object
		err := dumpFilters(c, l.index, parentIngress, func() { found = nil }, func(f control) {
			if f.isRedirect() && !f.isTable() {
				found = append(found, f.redirect(l.Name, o.names))
			}
		})
		if err = ignoring(err, unix.ENODEV); err != nil {
			return err
		}
		if len(found) > 1 { // somebody made another of our priority
			found = []dataplane.Object{dataplane.Redirect{Link: l.Name}}
		}
		o.others = append(o.others, found...)
	}
	m.with(o.netns, func(r *remembered) {
		for _, l := range some {
			r.shaped[l.Name] = true
		}
	})
	return nil
}

// shaped are our links that may have something of the kind.
func (o *observation) shaped(m *memory) (some []*link) {
	owners := map[string]bool{}
	for i := range o.ours {
		if l := &o.ours[i]; l.Kind == dataplane.IFB {
			owners[l.Owner] = true
		}
	}
	m.with(o.netns, func(r *remembered) {
		if len(owners)+len(r.shaped) == 0 && o.short {
			return
		}
		for i := range o.ours {
			if l := &o.ours[i]; l.shaped || owners[l.Owner] || r.shaped[l.Name] {
				some = append(some, l)
			}
		}
	})
	return some
}

// shapers reads the root qdiscs of links.
func (o *observation) shapers(c *netlink.Conn, links []*link) error {
	var b netlink.Batch
	for _, l := range links {
		b.Begin(unix.RTM_GETQDISC, unix.NLM_F_ECHO) // without which kernels before 6.0 do not answer who asked, but the group
		b.Raw(controlMsg(l.index, 0, handleRoot, 0))
	}
	errs := c.Do(&b, func(i int, m netlink.Message) {
		if q, ok := parseControl(m.Data); ok && q.isShaper() {
			o.others = append(o.others, q.shaper(links[i].Name))
		}
	})
	for _, err := range errs {
		if err = ignoringGone(err); err != nil {
			return err
		}
	}
	return nil
}

// dumpFilters yields the filters of one of a link's hooks, none if it has no qdisc for them.
func dumpFilters(c *netlink.Conn, index int, hook uint32, restart func(), each func(control)) error {
	var b netlink.Batch
	b.Begin(unix.RTM_GETTFILTER, unix.NLM_F_DUMP)
	b.Raw(controlMsg(index, 0, hook, 0))
	return c.Dump(&b, restart, func(m netlink.Message) error {
		if f, ok := parseControl(m.Data); ok && m.Type == unix.RTM_NEWTFILTER {
			each(f)
		}
		return nil
	})
}

// encodeShaper appends a message that gives a link its root qdisc, in the place of any other.
func encodeShaper(b *netlink.Batch, s dataplane.Shaper, index int) {
	b.Begin(unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	b.Raw(controlMsg(index, handleShaper, handleRoot, 0))
	b.String(unix.TCA_KIND, kindTBF)
	options := b.Nest(unix.TCA_OPTIONS)
	p := make([]byte, sizeofTBF)
	p[1] = linkEthernet
	binary.NativeEndian.PutUint32(p[8:], uint32(min(s.Rate, math.MaxUint32)))
	binary.NativeEndian.PutUint32(p[24:], s.Queue)
	binary.NativeEndian.PutUint32(p[28:], s.Ticks())
	b.Bytes(tbfParms, p)
	if s.Rate > math.MaxUint32 {
		b.Bytes(tbfRate64, binary.NativeEndian.AppendUint64(nil, s.Rate))
	}
	b.End(options)
}

// encodeRootGone appends a message that takes a link's root qdisc away: only ours, or with a handle of 0 any.
func encodeRootGone(b *netlink.Batch, index int, handle uint32) {
	b.Begin(unix.RTM_DELQDISC, 0)
	b.Raw(controlMsg(index, handle, handleRoot, 0))
}

func encodeClsact(b *netlink.Batch, typ, flags uint16, index int) {
	b.Begin(typ, flags)
	b.Raw(controlMsg(index, handleClsact, parentClsact, 0))
	if typ == unix.RTM_NEWQDISC {
		b.String(unix.TCA_KIND, kindClsact)
	}
}

// encodeRedirect appends a message that makes the filter: all packets match, and leave by the link.
func encodeRedirect(b *netlink.Batch, index, via int) {
	b.Begin(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	b.Raw(controlMsg(index, 0, parentIngress, filterInfo|allPackets()))
	b.String(unix.TCA_KIND, kindU32)
	options := b.Nest(unix.TCA_OPTIONS)
	sel := make([]byte, sizeofU32Sel+sizeofU32Key) // one key, of an empty mask
	sel[0], sel[2] = u32Terminal, 1
	b.Bytes(u32Sel, sel)
	actions := b.Nest(u32Act)
	first := b.Nest(1)
	b.String(actKind, kindMirred)
	act := b.Nest(actOptions)
	p := make([]byte, sizeofMirred)
	binary.NativeEndian.PutUint32(p[8:], actStolen)
	binary.NativeEndian.PutUint32(p[20:], mirredRedirect)
	binary.NativeEndian.PutUint32(p[24:], uint32(via))
	b.Bytes(mirredParms, p)
	b.End(act)
	b.End(first)
	b.End(actions)
	b.End(options)
}

// encodeRedirectGone appends a message that takes away the filter, and what others made of the same priority for whatever protocol.
func encodeRedirectGone(b *netlink.Batch, index int) {
	b.Begin(unix.RTM_DELTFILTER, 0)
	b.Raw(controlMsg(index, 0, parentIngress, filterInfo))
}
