package kernel

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// LinkInfo is a link as `ip link` lists it, ours or not.
type LinkInfo struct {
	Index    int
	Name     string
	Kind     string   // IFLA_INFO_KIND: bridge, veth, …; empty for hardware and lo
	Flags    []string // in the words and the order of `ip link`
	State    string   // operational state (RFC 2863) in ip's words: UP, DOWN, UNKNOWN, LOWERLAYERDOWN
	MTU      int      // bytes
	MAC      string   // whatever length the link layer has; empty when it has none
	Master   string   // name
	Peer     string   // the link below or at the other end: its name, or ifINDEX in a namespace that is not this one
	Qdisc    string
	Alias    string
	Loopback bool
	Addrs    []netip.Prefix // ordered
	BridgeID string         // of a bridge: priority and MAC, as brctl prints them: 8000.0211223344ff
	STP      bool           // of a bridge
	VNI      uint32         // of a VXLAN link
	Port     uint16         // UDP, of a VXLAN link
}

// RouteInfo is one next hop of a route, as `ip route` lists it, ours or not. What a route has several of comes several times.
type RouteInfo struct {
	Dest   netip.Prefix
	Type   string // RTN_…: unicast, local, broadcast, blackhole, …
	Via    netip.Addr
	Link   string // empty: none, as of a blackhole
	Source netip.Addr
	Proto  string // iproute2's word, or the number
	Scope  string // global, site, link, host, nowhere; empty for IPv6, which has none
	Metric uint32
	Table  string   // main, local, default, or the number
	State  []string // of the next hop: dead, linkdown, onlink
	MTU    int      // bytes; 0: the link's
}

// NeighbourInfo is an entry of the neighbour table as `ip neighbour` lists it, ours or not.
type NeighbourInfo struct {
	Addr   netip.Addr
	Link   string
	MAC    string // empty while it is not known
	State  string // NUD_…: REACHABLE, STALE, FAILED, PERMANENT, …; empty for a proxy
	Router bool
	Proxy  bool // the host answers for the address
	Proto  string
}

// ListLinks returns all links of a namespace ("" is the host's) in the order of their indexes, with their addresses. When the
// namespace is gone the error is fs.ErrNotExist.
func (k *Kernel) ListLinks(ctx context.Context, netns string) ([]LinkInfo, error) {
	var list []LinkInfo
	err := k.list(ctx, netns, "links", func(c *netlink.Conn) (err error) {
		list, err = listLinks(c)
		return err
	})
	return list, err
}

// ListRoutes returns the routes of all tables in a namespace, in the kernel's order: IPv4 first. What the kernel keeps for
// itself of IPv6, cached clones, is left out.
func (k *Kernel) ListRoutes(ctx context.Context, netns string) ([]RouteInfo, error) {
	var list []RouteInfo
	err := k.list(ctx, netns, "routes", func(c *netlink.Conn) error {
		names, err := linkNames(c)
		if err != nil {
			return err
		}
		list, err = listRoutes(c, names)
		return err
	})
	return list, err
}

// ListNeighbours returns the neighbours in a namespace by link and address, proxies too. Multicast and broadcast addresses,
// which need no resolving, are left out, as `ip neighbour` does.
func (k *Kernel) ListNeighbours(ctx context.Context, netns string) ([]NeighbourInfo, error) {
	var list []NeighbourInfo
	err := k.list(ctx, netns, "neighbours", func(c *netlink.Conn) error {
		names, err := linkNames(c)
		if err != nil {
			return err
		}
		list, err = listNeighbours(c, names)
		return err
	})
	return list, err
}

func (k *Kernel) list(ctx context.Context, netns, what string, read func(*netlink.Conn) error) error {
	s, err := k.enter(netns)
	if err != nil {
		return fmt.Errorf("list %s: %w", what, err)
	}
	defer s.leave()
	if err := k.steadily(func() error { return read(s.conn) }); err != nil {
		return fmt.Errorf("list %s: %w", what, err)
	}
	return ctx.Err()
}

func linkNames(c *netlink.Conn) (map[int]string, error) {
	names := map[int]string{}
	err := dumpLinks(c, func() { clear(names) }, func(l link) { names[l.index] = l.Name })
	return names, err
}

// listedLink is a LinkInfo with the indexes that become names once all links are known.
type listedLink struct {
	LinkInfo
	master, peer int
	elsewhere    bool // the peer is in another namespace
	up           bool
}

func listLinks(c *netlink.Conn) ([]LinkInfo, error) {
	var found []listedLink
	known, addrs := map[int]listedLink{}, map[int][]netip.Prefix{}
	var b netlink.Batch
	b.Begin(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	b.Raw(infoMsg(0, 0, 0))
	b.Uint32(unix.IFLA_EXT_MASK, extSkipStats)
	err := c.Dump(&b, func() { found = nil; clear(known) }, func(m netlink.Message) error {
		if l, ok := parseListedLink(m.Data); ok && m.Type == unix.RTM_NEWLINK {
			found = append(found, l)
			known[l.Index] = l
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = dumpAddresses(c, 0, func() { clear(addrs) }, func(a address) { addrs[a.index] = append(addrs[a.index], a.prefix) })
	if err != nil {
		return nil, err
	}
	list := make([]LinkInfo, len(found))
	for i, l := range found {
		list[i] = l.among(known)
		list[i].Addrs = addrs[l.Index]
		slices.SortFunc(list[i].Addrs, netip.Prefix.Compare)
	}
	slices.SortFunc(list, func(a, b LinkInfo) int { return cmp.Compare(a.Index, b.Index) })
	return list, nil
}

// among turns indexes into names. A link whose peer here is not up has a flag more, as `ip link` has it.
func (l listedLink) among(known map[int]listedLink) LinkInfo {
	l.Master = known[l.master].Name
	switch peer, here := known[l.peer]; {
	case l.peer == 0:
	case l.elsewhere || !here:
		l.Peer = "if" + strconv.Itoa(l.peer)
	default:
		l.Peer = peer.Name
		if !peer.up {
			l.Flags = append(l.Flags, "M-DOWN")
		}
	}
	return l.LinkInfo
}

// Of linux/if_link.h: the numbers inside IFLA_INFO_DATA of a bridge.
const (
	brSTPState = 5  // IFLA_BR_STP_STATE
	brBridgeID = 11 // IFLA_BR_BRIDGE_ID: struct ifla_bridge_id, two bytes of priority and six of MAC
)

func parseListedLink(p []byte) (l listedLink, ok bool) {
	if len(p) < unix.SizeofIfInfomsg {
		return listedLink{}, false
	}
	flags := binary.NativeEndian.Uint32(p[8:])
	l.Index = int(binary.NativeEndian.Uint32(p[4:]))
	l.Flags, l.up = flagNames(flags), flags&unix.IFF_UP != 0
	l.Loopback = flags&unix.IFF_LOOPBACK != 0
	l.State = operState(0)
	for typ, a := range netlink.Attrs(p[unix.SizeofIfInfomsg:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.Name = a.String()
		case unix.IFLA_ADDRESS:
			l.MAC = net.HardwareAddr(a).String()
		case unix.IFLA_MTU:
			l.MTU = int(a.Uint32())
		case unix.IFLA_MASTER:
			l.master = int(a.Uint32())
		case unix.IFLA_LINK:
			l.peer = int(a.Uint32())
		case unix.IFLA_LINK_NETNSID:
			l.elsewhere = true
		case unix.IFLA_OPERSTATE:
			l.State = operState(a.Uint8())
		case unix.IFLA_QDISC:
			l.Qdisc = a.String()
		case unix.IFLA_IFALIAS:
			l.Alias = a.String()
		case unix.IFLA_LINKINFO:
			l.parseInfo(a)
		}
	}
	return l, true
}

func (l *listedLink) parseInfo(info netlink.Attr) {
	for typ, a := range netlink.Attrs(info) {
		switch typ {
		case unix.IFLA_INFO_KIND:
			l.Kind = a.String()
		case unix.IFLA_INFO_DATA:
			if l.Kind == "bridge" { // the kernel tells the kind first
				l.parseBridge(a)
			}
			if l.Kind == "vxlan" {
				l.parseVXLAN(a)
			}
		}
	}
}

func (l *listedLink) parseVXLAN(data netlink.Attr) {
	var told link
	told.parseTunnel(data)
	l.VNI, l.Port = told.Tunnel.VNI, told.Tunnel.Port
}

func (l *listedLink) parseBridge(data netlink.Attr) {
	for typ, a := range netlink.Attrs(data) {
		switch {
		case typ == brSTPState:
			l.STP = a.Uint32() != 0
		case typ == brBridgeID && len(a) >= 8:
			l.BridgeID = fmt.Sprintf("%x.%x", []byte(a[:2]), []byte(a[2:8])) // an Attr by itself would print as text
		}
	}
}

// flagNames are a link's flags as `ip link` writes them: without RUNNING, but with NO-CARRIER where it is missing.
func flagNames(flags uint32) []string {
	var names []string
	if flags&unix.IFF_UP != 0 && flags&unix.IFF_RUNNING == 0 {
		names = append(names, "NO-CARRIER")
	}
	for _, f := range []struct {
		bit  uint32
		name string
	}{
		{unix.IFF_LOOPBACK, "LOOPBACK"}, {unix.IFF_BROADCAST, "BROADCAST"}, {unix.IFF_POINTOPOINT, "POINTOPOINT"}, {unix.IFF_MULTICAST, "MULTICAST"},
		{unix.IFF_NOARP, "NOARP"}, {unix.IFF_ALLMULTI, "ALLMULTI"}, {unix.IFF_PROMISC, "PROMISC"}, {unix.IFF_MASTER, "MASTER"}, {unix.IFF_SLAVE, "SLAVE"},
		{unix.IFF_DEBUG, "DEBUG"}, {unix.IFF_DYNAMIC, "DYNAMIC"}, {unix.IFF_AUTOMEDIA, "AUTOMEDIA"}, {unix.IFF_PORTSEL, "PORTSEL"},
		{unix.IFF_NOTRAILERS, "NOTRAILERS"}, {unix.IFF_UP, "UP"}, {unix.IFF_LOWER_UP, "LOWER_UP"}, {unix.IFF_DORMANT, "DORMANT"}, {unix.IFF_ECHO, "ECHO"},
	} {
		if flags&f.bit != 0 {
			names = append(names, f.name)
		}
	}
	return names
}

// operState is IF_OPER_… of linux/if.h in ip's words.
func operState(state uint8) string {
	names := [...]string{"UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP"}
	if int(state) < len(names) {
		return names[state]
	}
	return strconv.Itoa(int(state))
}
