package kernel

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// Of linux/rtnetlink.h, linux/veth.h and linux/if_link.h; golang.org/x/sys lacks them.
const (
	extSkipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS: two thirds of a link message are counters
	vethInfoPeer = 1      // VETH_INFO_PEER
	addrGenNone  = 1      // IN6_ADDR_GEN_MODE_NONE
)

// link is a link as the kernel tells it, ours or not.
type link struct {
	dataplane.Link // Master is not set: the kernel tells an index
	index          int
	master         int
	group          uint32
	peer           int // index of a veth's other end, in that one's namespace
	loopback       bool
	ether          bool   // speaks Ethernet
	marked         bool   // has our alias
	tunnel                // of a VXLAN link
	snoops         bool   // a bridge: listens which groups are where
	alias          string // any
	shaped         bool   // its root qdisc is of the kind that a Shaper is
	conf           conf
}

// conf holds the values of a link's sysctls, as they came in its message; valid as long as that.
type conf struct {
	v4, v6      netlink.Attr // arrays of 32-bit values: IFLA_INET_CONF, IFLA_INET6_CONF
	addrGenMode netlink.Attr
}

// ours reports whether we may change a link and report it: it has our alias, or it is the loopback of a workload.
func (l *link) ours(netns string) bool {
	return l.marked || l.loopback && netns != dataplane.HostNetns
}

// parseLink reads an RTM_NEWLINK or RTM_DELLINK message; ok is false when it is too short.
func parseLink(p []byte) (l link, ok bool) {
	if len(p) < unix.SizeofIfInfomsg {
		return link{}, false
	}
	flags := binary.NativeEndian.Uint32(p[8:])
	l.index = int(binary.NativeEndian.Uint32(p[4:]))
	l.Up = flags&unix.IFF_UP != 0
	l.NoARP = flags&unix.IFF_NOARP != 0
	l.loopback = flags&unix.IFF_LOOPBACK != 0
	l.ether = binary.NativeEndian.Uint16(p[2:]) == unix.ARPHRD_ETHER
	for typ, a := range netlink.Attrs(p[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.Name = a.String()
		case unix.IFLA_ADDRESS:
			if len(a) == len(l.MAC) {
				copy(l.MAC[:], a)
			}
		case unix.IFLA_MTU:
			l.MTU = int(a.Uint32())
		case unix.IFLA_MASTER:
			l.master = int(a.Uint32())
		case unix.IFLA_QDISC:
			l.shaped = string(a) == kindTBF+"\x00"
		case unix.IFLA_GROUP:
			l.group = a.Uint32()
		case unix.IFLA_LINK:
			l.peer = int(a.Uint32())
		case unix.IFLA_IFALIAS:
			l.alias = a.String()
		case unix.IFLA_LINKINFO:
			l.parseInfo(a)
		case unix.IFLA_PROTINFO:
			if p[0] == unix.AF_BRIDGE {
				l.parsePort(a)
			}
		case unix.IFLA_AF_SPEC:
			l.conf.parse(a)
		}
	}
	l.normalise()
	return l, true
}

func (l *link) parseInfo(info netlink.Attr) {
	for typ, a := range netlink.Attrs(info) {
		switch typ {
		case unix.IFLA_INFO_KIND:
			l.Kind = kindOf(a)
		case unix.IFLA_INFO_DATA: // the kernel tells the kind first
			switch l.Kind {
			case dataplane.VXLAN:
				l.parseTunnel(a)
			case dataplane.Bridge:
				l.parseBridge(a)
			}
		case unix.IFLA_INFO_SLAVE_DATA:
			l.parsePort(a)
		}
	}
}

// kindOf avoids an allocation for each link of the usual kinds.
func kindOf(a netlink.Attr) dataplane.LinkKind {
	switch string(a) {
	case "veth", "veth\x00":
		return dataplane.Veth
	case "bridge", "bridge\x00":
		return dataplane.Bridge
	case "vxlan", "vxlan\x00":
		return dataplane.VXLAN
	case "ifb", "ifb\x00":
		return dataplane.IFB
	}
	return dataplane.LinkKind(a.String())
}

// parsePort reads the attributes of a bridge port. Other kinds of masters use other numbers, but then the link is not ours.
func (l *link) parsePort(data netlink.Attr) {
	for typ, a := range netlink.Attrs(data) {
		switch typ {
		case unix.IFLA_BRPORT_ISOLATED:
			l.Isolated = a.Uint8() != 0
		case unix.IFLA_BRPORT_MODE:
			l.Hairpin = a.Uint8() != 0
		}
	}
}

func (c *conf) parse(spec netlink.Attr) {
	for family, a := range netlink.Attrs(spec) {
		for typ, v := range netlink.Attrs(a) {
			switch {
			case family == unix.AF_INET && typ == unix.IFLA_INET_CONF:
				c.v4 = v
			case family == unix.AF_INET6 && typ == unix.IFLA_INET6_CONF:
				c.v6 = v
			case family == unix.AF_INET6 && typ == unix.IFLA_INET6_ADDR_GEN_MODE:
				c.addrGenMode = v
			}
		}
	}
}

// normalise leaves in a link of ours only what a dataplane.Link of its kind sets.
func (l *link) normalise() {
	if l.loopback {
		l.Link = dataplane.Link{Name: l.Name, Kind: dataplane.Loopback, Up: l.Up, MTU: l.MTU}
	}
	var mark dataplane.Link
	mark, l.marked = dataplane.ParseAlias(l.alias)
	l.Owner, l.Uplink, l.Peer, l.PeerNetns = mark.Owner, mark.Uplink, mark.Peer, mark.PeerNetns
	l.Quiet = isFar(l.Link) && l.conf.quiet()
}

// quiet reports whether a link is not to give itself an IPv6 address. A kernel without IPv6 does not say.
func (c *conf) quiet() bool {
	return len(c.addrGenMode) > 0 && c.addrGenMode.Uint8() == addrGenNone
}

// object is the link as a value of the dataplane.
func (l *link) object(names map[int]string) dataplane.Link {
	o := l.Link
	if l.loopback {
		o.MTU = 0
	}
	o.Tunnel = l.tunnel.asTold(o.Tunnel)
	if l.master != 0 {
		o.Master = names[l.master]
	}
	return o
}

// infoMsg is struct ifinfomsg.
func infoMsg(index int, flags, change uint32) []byte {
	p := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(p[4:], uint32(index))
	binary.NativeEndian.PutUint32(p[8:], flags)
	binary.NativeEndian.PutUint32(p[12:], change)
	return p
}

// encodeCreate appends messages which the kernel takes up in one system call so that no crash comes in between: the first makes the link,
// others mark it as ours, set what can't be set at once, and set it up. The index is ours to choose: if the first message is refused
// because the name is taken, the others find no link of that index and change nothing.
func encodeCreate(b *netlink.Batch, l dataplane.Link, index, master, peerNS int) {
	b.Begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	b.Raw(infoMsg(index, 0, 0))
	b.String(unix.IFLA_IFNAME, l.Name)
	encodeMAC(b, l)
	if mtu := createMTU(l); mtu != 0 {
		b.Uint32(unix.IFLA_MTU, uint32(mtu))
	}
	if master != 0 {
		b.Uint32(unix.IFLA_MASTER, uint32(master))
	}
	if l.Kind == dataplane.Veth {
		encodeOneQueue(b)
	}
	info := b.Nest(unix.IFLA_LINKINFO)
	b.String(unix.IFLA_INFO_KIND, string(l.Kind))
	data := b.Nest(unix.IFLA_INFO_DATA)
	switch l.Kind {
	case dataplane.IFB:
	case dataplane.Bridge:
		b.Uint32(unix.IFLA_BR_STP_STATE, 0)
		b.Uint32(unix.IFLA_BR_FORWARD_DELAY, 0) // without STP a port would still wait this long before it forwards
		b.Uint8(unix.IFLA_BR_MCAST_SNOOPING, flag(l.Snoops()))
	case dataplane.VXLAN:
		encodeTunnel(b, l.Tunnel)
	default:
		encodePeer(b, l, peerNS)
	}
	b.End(data)
	b.End(info)
	if isSilent(l) {
		encodeNoAutoAddress(b, index)
	}

	b.Begin(unix.RTM_NEWLINK, 0)
	b.Raw(infoMsg(index, 0, 0))
	b.String(unix.IFLA_IFALIAS, l.Alias())
	if l.Kind == dataplane.Bridge && l.MTU != 0 {
		b.Uint32(unix.IFLA_MTU, uint32(l.MTU))
	}
	if l.Isolated || l.Hairpin {
		encodePort(b, l)
	}
	encodePromotion(b, l)
	if flags := linkFlags(l); flags != 0 {
		encodeFlags(b, index, flags, flags)
	}
}

// encodeFlags appends a message of its own: what is changed together with the flags of a link that goes up is told a second time, as of one
// that is up, for which the kernel walks through all IPv6 routes there are (net/core/rtnetlink.c, do_setlink; net/ipv6/route.c, rt6_sync_up).
func encodeFlags(b *netlink.Batch, index int, flags, change uint32) {
	b.Begin(unix.RTM_NEWLINK, 0)
	b.Raw(infoMsg(index, flags, change))
}

// createMTU is the MTU to make a link with. A bridge follows its ports until its MTU was once changed by hand, and setting
// the same again is no change (net/bridge/br_device.c br_change_mtu): so it is made one off.
func createMTU(l dataplane.Link) int {
	const most = 65535 // ETH_MAX_MTU
	switch {
	case l.Kind != dataplane.Bridge || l.MTU == 0:
		return l.MTU
	case l.MTU >= most:
		return l.MTU - 1
	}
	return l.MTU + 1
}

// encodeOneQueue asks for one queue each way. Unasked, an end of a veth is made with as many as there are CPUs and all but one are closed, for
// which the kernel waits until no CPU sends by them: for each end, while nobody else may change a link (drivers/net/veth.c
// veth_init_queues, Linux 5.15 to 6.18).
func encodeOneQueue(b *netlink.Batch) {
	b.Uint32(unix.IFLA_NUM_TX_QUEUES, 1)
	b.Uint32(unix.IFLA_NUM_RX_QUEUES, 1)
}

func encodePeer(b *netlink.Batch, l dataplane.Link, peerNS int) {
	peer := b.Nest(vethInfoPeer)
	b.Raw(infoMsg(0, 0, 0))
	b.String(unix.IFLA_IFNAME, l.Peer)
	b.Uint32(unix.IFLA_GROUP, newborn)
	encodeOneQueue(b)
	if peerNS >= 0 {
		b.Uint32(unix.IFLA_NET_NS_FD, uint32(peerNS))
	}
	b.End(peer)
}

// encodeUpdate appends the messages that make a link what l says, in place, and only what of it is not so: each change that is told
// costs the kernel time in proportion to what it has of IPv6. Port settings come in a message of their own: the kernel looks at the
// master that the link has when the message begins. master is 0 when there is none.
func encodeUpdate(b *netlink.Batch, old link, l dataplane.Link, master int) {
	now, was := linkFlags(l), linkFlags(old.Link)
	if l.Kind == dataplane.Bridge && l.Up && !old.Up {
		encodeBridgeUp(b, old.index, l, old.willSnoop(l))
		was = now
	}
	if l.Quiet && !old.Quiet {
		encodeNoAutoAddress(b, old.index)
	}
	if l.Kind != dataplane.Loopback {
		encodeSettings(b, old, l, master)
	}
	if change := now ^ was; change != 0 {
		encodeFlags(b, old.index, now&change, change)
	}
}

func encodeSettings(b *netlink.Batch, old link, l dataplane.Link, master int) {
	b.Begin(unix.RTM_NEWLINK, 0)
	b.Raw(infoMsg(old.index, 0, 0))
	if old.alias != l.Alias() {
		b.String(unix.IFLA_IFALIAS, l.Alias())
	}
	if old.isNewborn() {
		b.Uint32(unix.IFLA_GROUP, 0)
	}
	if l.MAC != old.MAC {
		encodeMAC(b, l)
	}
	if l.MTU != 0 && l.MTU != old.MTU {
		b.Uint32(unix.IFLA_MTU, uint32(l.MTU))
	}
	if master != old.master {
		b.Uint32(unix.IFLA_MASTER, uint32(master))
		old.Isolated, old.Hairpin = false, false // as every new port
	}
	encodePromotion(b, l)
	if l.Kind == dataplane.Bridge && old.willSnoop(l) != old.snoops {
		encodeSnooping(b, old.index, l.Snoops())
	}
	encodeTunnelUpdate(b, old, l)
	if master != 0 && (l.Isolated != old.Isolated || l.Hairpin != old.Hairpin) {
		encodePortUpdate(b, old.index, l)
	}
}

// newborn is the group that far ends are made in, as they cannot be made with a mark, and leave when they get it: "flat".
const newborn = 0x666c6174

// isNewborn reports whether a link is a far end that we have made and not set up yet.
func (l *link) isNewborn() bool {
	return l.Kind == dataplane.Veth && l.alias == "" && l.group == newborn
}

// encodePromotion lets the link of a workload keep its second address of a subnet when the first one goes, as it does when the
// endpoint moves within the subnet: else the kernel takes both away, and with the last address the routes.
func encodePromotion(b *netlink.Batch, l dataplane.Link) {
	const (
		inetConf           = 1  // IFLA_INET_CONF of linux/if_link.h
		promoteSecondaries = 20 // IPV4_DEVCONF_PROMOTE_SECONDARIES of linux/ip.h
	)
	if l.Kind != dataplane.Veth || l.Master != "" {
		return
	}
	spec := b.Nest(unix.IFLA_AF_SPEC)
	inet := b.Nest(unix.AF_INET)
	conf := b.Nest(inetConf)
	b.Uint32(promoteSecondaries, 1)
	b.End(conf)
	b.End(inet)
	b.End(spec)
}

func encodeMAC(b *netlink.Batch, l dataplane.Link) {
	if l.MAC != (dataplane.Link{}).MAC {
		b.Bytes(unix.IFLA_ADDRESS, l.MAC[:])
	}
}

func encodePort(b *netlink.Batch, l dataplane.Link) {
	info := b.Nest(unix.IFLA_LINKINFO)
	b.String(unix.IFLA_INFO_SLAVE_KIND, string(dataplane.Bridge))
	data := b.Nest(unix.IFLA_INFO_SLAVE_DATA)
	b.Uint8(unix.IFLA_BRPORT_ISOLATED, flag(l.Isolated))
	b.Uint8(unix.IFLA_BRPORT_MODE, flag(l.Hairpin))
	b.End(data)
	b.End(info)
}

func encodeDelete(b *netlink.Batch, index int) {
	b.Begin(unix.RTM_DELLINK, 0)
	b.Raw(infoMsg(index, 0, 0))
}

func linkFlags(l dataplane.Link) (flags uint32) {
	if l.Up {
		flags |= unix.IFF_UP
	}
	if l.NoARP {
		flags |= unix.IFF_NOARP
	}
	return flags
}

func flag(on bool) uint8 {
	if on {
		return 1
	}
	return 0
}
