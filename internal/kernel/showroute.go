package kernel

import (
	"cmp"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

func listRoutes(c *netlink.Conn, names map[int]string) ([]RouteInfo, error) {
	var list []RouteInfo
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		var found []RouteInfo
		var b netlink.Batch
		b.Begin(unix.RTM_GETROUTE, unix.NLM_F_DUMP)
		header := make([]byte, unix.SizeofRtMsg)
		header[0] = family
		b.Raw(header)
		err := c.Dump(&b, func() { found = nil }, func(m netlink.Message) error {
			if m.Type == unix.RTM_NEWROUTE {
				found = append(found, parseListedRoute(m.Data, names)...)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	return list, nil
}

// parseListedRoute reads a route into one line for each next hop.
func parseListedRoute(p []byte, names map[int]string) []RouteInfo {
	r, ok := parseRoute(p)
	if !ok || r.cloned {
		return nil
	}
	info := RouteInfo{
		Dest: r.dest, Type: word(routeTypes, int(r.kind)), Source: r.source, Proto: protoName(r.proto), Table: tableName(r.table), MTU: r.mtu,
	}
	if p[0] == unix.AF_INET {
		info.Scope = word(scopes, int(p[6]))
	}
	for typ, a := range netlink.Attrs(p[unix.SizeofRtMsg:]) {
		if typ == unix.RTA_PRIORITY {
			info.Metric = a.Uint32() // parseRoute takes IPv6's default away
		}
	}
	flags := hopFlags(p)
	var list []RouteInfo
	for i, h := range r.hops {
		one := info
		one.Via, one.Link, one.State = h.via, names[h.index], hopState(flags[min(i, len(flags)-1)])
		list = append(list, one)
	}
	return list
}

// hopFlags are RTNH_F_… of each next hop: of a route with one in its own header, else in those of the array RTA_MULTIPATH.
func hopFlags(p []byte) []uint32 {
	flags := []uint32{binary.NativeEndian.Uint32(p[8:])}
	for typ, hops := range netlink.Attrs(p[unix.SizeofRtMsg:]) {
		if typ != unix.RTA_MULTIPATH {
			continue
		}
		flags = flags[:0]
		for len(hops) >= unix.SizeofRtNexthop {
			n := int(binary.NativeEndian.Uint16(hops))
			if n < unix.SizeofRtNexthop || n > len(hops) {
				break
			}
			flags = append(flags, uint32(hops[2]))
			hops = hops[min((n+3)&^3, len(hops)):]
		}
	}
	if len(flags) == 0 {
		return []uint32{0}
	}
	return flags
}

func hopState(flags uint32) (words []string) {
	for _, f := range []struct {
		bit  uint32
		name string
	}{{unix.RTNH_F_DEAD, "dead"}, {unix.RTNH_F_ONLINK, "onlink"}, {unix.RTNH_F_LINKDOWN, "linkdown"}} {
		if flags&f.bit != 0 {
			words = append(words, f.name)
		}
	}
	return words
}

// routeTypes are iproute2's words for RTN_… (linux/rtnetlink.h).
var routeTypes = []string{"none", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit", "throw", "nat", "xresolve"}

// scopes are iproute2's words for RT_SCOPE_… (etc/iproute2/rt_scopes).
var scopes = []string{0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}

func word(words []string, n int) string {
	if n < len(words) && words[n] != "" {
		return words[n]
	}
	return strconv.Itoa(n)
}

func tableName(table int) string {
	switch table {
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}
	return strconv.Itoa(table)
}

// Of linux/neighbour.h; golang.org/x/sys has the states and flags only.
const (
	sizeofNdMsg = 12
	ndaDst      = 1
	ndaLLAddr   = 2
	ndaProtocol = 12
)

func listNeighbours(c *netlink.Conn, names map[int]string) ([]NeighbourInfo, error) {
	var list []NeighbourInfo
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, flags := range []uint8{0, unix.NTF_PROXY} {
			found, err := dumpNeighbours(c, family, flags, names)
			if err != nil {
				return nil, err
			}
			list = append(list, found...)
		}
	}
	slices.SortStableFunc(list, func(a, b NeighbourInfo) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), a.Addr.Compare(b.Addr))
	})
	return list, nil
}

// dumpNeighbours lists one family; proxies come only when they are asked for, and then alone.
func dumpNeighbours(c *netlink.Conn, family, flags uint8, names map[int]string) ([]NeighbourInfo, error) {
	var found []NeighbourInfo
	var b netlink.Batch
	b.Begin(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
	header := make([]byte, sizeofNdMsg)
	header[0], header[10] = family, flags
	b.Raw(header)
	err := c.Dump(&b, func() { found = nil }, func(m netlink.Message) error {
		if n, ok := parseNeighbour(m.Data, names); ok && m.Type == unix.RTM_NEWNEIGH {
			found = append(found, n)
		}
		return nil
	})
	return found, err
}

// parseNeighbour reads struct ndmsg with its attributes. An entry in no state at all, or in one that needs no resolving, is none.
func parseNeighbour(p []byte, names map[int]string) (n NeighbourInfo, ok bool) {
	if len(p) < sizeofNdMsg {
		return NeighbourInfo{}, false
	}
	state, flags := binary.NativeEndian.Uint16(p[8:]), p[10]
	n.Link = names[int(binary.NativeEndian.Uint32(p[4:]))]
	n.Router, n.Proxy = flags&unix.NTF_ROUTER != 0, flags&unix.NTF_PROXY != 0
	for typ, a := range netlink.Attrs(p[sizeofNdMsg:]) {
		switch typ {
		case ndaDst:
			n.Addr, _ = netip.AddrFromSlice(a)
		case ndaLLAddr:
			n.MAC = net.HardwareAddr(a).String()
		case ndaProtocol:
			n.Proto = protoName(a.Uint8())
		}
	}
	if !n.Proxy {
		n.State = neighbourState(state)
	}
	return n, n.Addr.IsValid() && (n.Proxy || n.State != "" && state&unix.NUD_NOARP == 0)
}

// neighbourState is NUD_… of linux/neighbour.h in ip's words.
func neighbourState(state uint16) string {
	for _, s := range []struct {
		bit  uint16
		name string
	}{
		{unix.NUD_INCOMPLETE, "INCOMPLETE"}, {unix.NUD_REACHABLE, "REACHABLE"}, {unix.NUD_STALE, "STALE"}, {unix.NUD_DELAY, "DELAY"},
		{unix.NUD_PROBE, "PROBE"}, {unix.NUD_FAILED, "FAILED"}, {unix.NUD_NOARP, "NOARP"}, {unix.NUD_PERMANENT, "PERMANENT"},
	} {
		if state&s.bit != 0 {
			return s.name
		}
	}
	return ""
}
