package kernel

import (
	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// A bridge with many ports is slow where the kernel looks at all of them for each: for every port that begins to work while the bridge
// is up, the timers of every port's multicast snooping are set anew (net/bridge/br_stp.c, br_port_state_selection). Putting a thousand
// ports into a bridge that is up takes it 530 ms, into one that is down 240; to set it up then takes 260 with snooping and 60 without
// (6.18, measured). So a bridge goes up after its ports are in it, and does not snoop meanwhile: its groups it has forgotten anyway.

// upLast has bridges go up after the ports that the plan puts into them, by a task of its own. A crash in between leaves a bridge that is
// down, which the next pass finds.
func (j *job) upLast() {
	last := map[string]*task{} // of the ports of a bridge
	for _, t := range j.steps {
		if l, ok := t.Object.(dataplane.Link); ok && l.Master != "" && t.Op != dataplane.Del {
			last[l.Master] = t
		}
	}
	if len(last) == 0 {
		return
	}
	rising := map[*task]*task{} // by the last port
	for _, t := range j.steps {
		l, ok := t.Object.(dataplane.Link)
		if ok && l.Kind == dataplane.Bridge && l.Up && t.Op != dataplane.Del && last[l.Name] != nil && !j.isUp(t, l) {
			t.how = down
			rising[last[l.Name]] = &task{Step: t.Step, how: up, first: t}
		}
	}
	var steps []*task
	for _, t := range j.steps {
		steps = append(steps, t)
		if r := rising[t]; r != nil {
			steps = append(steps, r)
		}
	}
	j.steps = steps
}

// isUp reports whether a link is up already and stays so.
func (j *job) isUp(t *task, l dataplane.Link) bool {
	return t.seen != nil && t.seen.Up && t.seen.Becomes(l)
}

// encodeUp appends the messages that set a bridge up whose first task has left it down.
func (j *job) encodeUp(t *task, l dataplane.Link) error {
	if t.first.err != nil {
		return t.first.err
	}
	index, err := j.indexOf(l.Name)
	if err != nil {
		return err
	}
	snoops := l.Snoops()
	if made := t.first.index != 0; !made {
		snoops = t.first.seen.willSnoop(l)
	}
	encodeBridgeUp(&j.batch, index, l, snoops)
	return nil
}

// willSnoop reports whether a bridge snoops when it has become what l says: as it does, unless the difference is in what that goes by.
func (was *link) willSnoop(l dataplane.Link) bool {
	if l.Snoops() != was.Snoops() {
		return l.Snoops()
	}
	return was.snoops
}

// encodeBridgeUp appends messages that the kernel takes up in one system call, so that no crash leaves the bridge without snooping.
func encodeBridgeUp(b *netlink.Batch, index int, l dataplane.Link, snoops bool) {
	if snoops {
		encodeSnooping(b, index, false)
	}
	b.Begin(unix.RTM_NEWLINK, 0)
	b.Raw(infoMsg(index, linkFlags(l), unix.IFF_UP|unix.IFF_NOARP))
	if snoops {
		encodeSnooping(b, index, true)
	}
}

func encodeSnooping(b *netlink.Batch, index int, on bool) {
	b.Begin(unix.RTM_NEWLINK, 0)
	b.Raw(infoMsg(index, 0, 0))
	info := b.Nest(unix.IFLA_LINKINFO)
	b.String(unix.IFLA_INFO_KIND, string(dataplane.Bridge))
	data := b.Nest(unix.IFLA_INFO_DATA)
	b.Uint8(unix.IFLA_BR_MCAST_SNOOPING, flag(on))
	b.End(data)
	b.End(info)
}

// parseBridge reads IFLA_INFO_DATA of a bridge.
func (l *link) parseBridge(data netlink.Attr) {
	for typ, a := range netlink.Attrs(data) {
		if typ == unix.IFLA_BR_MCAST_SNOOPING {
			l.snoops = a.Uint8() != 0
		}
	}
}

// encodePortUpdate appends the settings of a port, in a message of the bridge's own: an ordinary one is told as a change of the link, for
// which the kernel walks through all IPv6 routes there are (net/ipv6/route.c, rt6_sync_up).
func encodePortUpdate(b *netlink.Batch, index int, l dataplane.Link) {
	b.Begin(unix.RTM_SETLINK, 0)
	header := infoMsg(index, 0, 0)
	header[0] = unix.AF_BRIDGE
	b.Raw(header)
	info := b.Nest(unix.IFLA_PROTINFO)
	b.Uint8(unix.IFLA_BRPORT_ISOLATED, flag(l.Isolated))
	b.Uint8(unix.IFLA_BRPORT_MODE, flag(l.Hairpin))
	b.End(info)
}
