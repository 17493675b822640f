package kernel

import (
	"context"
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/netlink"
	"github.com/flatnet/flatnet/internal/model"
)

// Space is what a network namespace holds, ours or not, as far as a diagnosis needs it.
type Space struct {
	Links      []LinkInfo
	Neighbours []NeighbourInfo
	Defaults   []DefaultRoute
	ByRules    []DefaultRoute // of other tables than main: rules lead there

	BadChecksums uint64 // UDP packets dropped for their checksum since the namespace was made, IPv4 and IPv6
}

// DefaultRoute is a default route of the main table. Two of one metric are two routes, of which IPv4 uses the first; one with
// several hops uses them all.
type DefaultRoute struct {
	V6     bool
	Hops   []DefaultHop
	Metric int // IPv6's usual 1024 is 0
	Proto  string
}

// DefaultHop is where a default route leads.
type DefaultHop struct {
	Via  netip.Addr // zero: on-link
	Link string
}

// Survey reads a namespace ("" is the host's). When it is gone the error is fs.ErrNotExist.
func (k *Kernel) Survey(ctx context.Context, netns string) (Space, error) {
	var s Space
	err := k.list(ctx, netns, "all", func(c *netlink.Conn) (err error) {
		if s.Links, err = listLinks(c); err != nil {
			return err
		}
		names := map[int]string{}
		for _, l := range s.Links {
			names[l.Index] = l.Name
		}
		if s.Neighbours, err = listNeighbours(c, names); err != nil {
			return err
		}
		s.Defaults, s.ByRules, err = listDefaults(c, names)
		s.BadChecksums = badChecksums("/proc/thread-self/net") // that of the namespace that the thread is in
		return err
	})
	return s, err
}

// badChecksums reads InCsumErrors and Udp6InCsumErrors (net/ipv4/proc.c, net/ipv6/proc.c); what cannot be read is none.
func badChecksums(dir string) (sum uint64) {
	if text, err := os.ReadFile(filepath.Join(dir, "snmp")); err == nil {
		var names []string
		for line := range strings.Lines(string(text)) {
			fields := strings.Fields(line)
			if len(fields) == 0 || fields[0] != "Udp:" {
				continue
			}
			if i := slices.Index(names, "InCsumErrors"); i >= 0 && i < len(fields) {
				n, _ := strconv.ParseUint(fields[i], 10, 64)
				sum += n
			}
			names = fields
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "snmp6")); err == nil {
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "Udp6InCsumErrors" {
				n, _ := strconv.ParseUint(fields[1], 10, 64)
				sum += n
			}
		}
	}
	return sum
}

// DefaultRoutes returns those of the host's main table, in the order in which the kernel asks them.
func (k *Kernel) DefaultRoutes(ctx context.Context) ([]DefaultRoute, error) {
	var list []DefaultRoute
	err := k.list(ctx, "", "default routes", func(c *netlink.Conn) error {
		names, err := linkNames(c)
		if err != nil {
			return err
		}
		list, _, err = listDefaults(c, names)
		return err
	})
	return list, err
}

func listDefaults(c *netlink.Conn, names map[int]string) (main, others []DefaultRoute, err error) {
	err = dumpRoutes(c, 0, func() { main, others = nil, nil }, func(r route) {
		if r.dest.Bits() != 0 || r.kind != unix.RTN_UNICAST || r.cloned {
			return
		}
		d := DefaultRoute{V6: r.dest.Addr().Is6(), Metric: r.metric, Proto: protoName(r.proto)}
		for _, h := range r.hops {
			d.Hops = append(d.Hops, DefaultHop{h.via, names[h.index]})
		}
		if r.table == unix.RT_TABLE_MAIN {
			main = append(main, d)
		} else {
			others = append(others, d)
		}
	})
	return main, others, err
}

// Attachment is a veth of the host whose other end is in a namespace that somebody keeps by name.
type Attachment struct {
	Link  string // on the host
	Netns string // path
	Inner int    // index of the other end there
}

// Attached finds the namespaces kept in a directory (`ip netns` has /run/netns) that hold the other end of a veth of the host.
func (k *Kernel) Attached(ctx context.Context, dir string) ([]Attachment, error) {
	var all []Attachment
	err := k.list(ctx, "", "attached namespaces", func(c *netlink.Conn) error {
		ends, err := listFarEnds(c)
		if err != nil || len(ends) == 0 {
			return err
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			return ignoring(err, os.ErrNotExist)
		}
		all = nil
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			for _, end := range ends[namespaceID(c, path)] {
				end.Netns = path
				all = append(all, end)
			}
		}
		return nil
	})
	return all, err
}

// listFarEnds are the veths of the host by the number that their other end's namespace has here.
func listFarEnds(c *netlink.Conn) (map[int][]Attachment, error) {
	ends := map[int][]Attachment{}
	var b netlink.Batch
	b.Begin(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	b.Raw(infoMsg(0, 0, 0))
	b.Uint32(unix.IFLA_EXT_MASK, extSkipStats)
	err := c.Dump(&b, func() { clear(ends) }, func(m netlink.Message) error {
		l, ok := parseLink(m.Data)
		if !ok || l.Kind != "veth" || l.marked {
			return nil
		}
		for typ, a := range netlink.Attrs(m.Data[unix.SizeofIfInfomsg:]) {
			if id := int(int32(a.Uint32())); typ == unix.IFLA_LINK_NETNSID && id != noNamespace {
				ends[id] = append(ends[id], Attachment{Link: l.Name, Inner: l.peer})
			}
		}
		return nil
	})
	return ends, err
}

// Of linux/net_namespace.h.
const (
	nsaNSID = 1
	nsaFD   = 3
)

// noNamespace is what the kernel says of a namespace that has no number here.
const noNamespace = -1

// namespaceID is the number that the namespace at path has in that of the connection.
func namespaceID(c *netlink.Conn, path string) int {
	f, err := os.Open(path)
	if err != nil {
		return noNamespace
	}
	defer f.Close()
	var b netlink.Batch
	b.Begin(unix.RTM_GETNSID, 0)
	b.Raw(make([]byte, 4)) // struct rtgenmsg, padded
	b.Uint32(nsaFD, uint32(f.Fd()))
	id := noNamespace
	c.Do(&b, func(_ int, m netlink.Message) {
		if len(m.Data) < 4 {
			return
		}
		for typ, a := range netlink.Attrs(m.Data[4:]) {
			if typ == nsaNSID {
				id = int(int32(a.Uint32()))
			}
		}
	}) // an error leaves it without a number
	return id
}

// Switches are what the kernel settles for the host's links one by one.
type Switches struct {
	Forwards map[string]bool                 // net.ipv4.conf.LINK.forwarding, by link
	Ports    map[string]map[model.MAC]string // by bridge: at which port a MAC was seen lately
}

// Switches reads those of the host.
func (k *Kernel) Switches(ctx context.Context) (Switches, error) {
	s := Switches{Forwards: map[string]bool{}, Ports: map[string]map[model.MAC]string{}}
	err := k.list(ctx, "", "switches", func(c *netlink.Conn) error {
		names := map[int]string{}
		err := dumpLinks(c, func() { clear(s.Forwards); clear(names) }, func(l link) {
			names[l.index] = l.Name
			if v, ok := l.conf.v4.Uint32At(confPlaces4["forwarding"]); ok {
				s.Forwards[l.Name] = v != 0
			}
		})
		if err != nil {
			return err
		}
		return s.listPorts(c, names)
	})
	return s, err
}

const ndaMaster = 9 // NDA_MASTER of linux/neighbour.h

// listPorts reads the tables of all bridges, without the ports' own addresses.
func (s *Switches) listPorts(c *netlink.Conn, names map[int]string) error {
	var b netlink.Batch
	b.Begin(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
	header := make([]byte, sizeofNdMsg)
	header[0] = unix.AF_BRIDGE
	b.Raw(header)
	return c.Dump(&b, func() { clear(s.Ports) }, func(m netlink.Message) error {
		if len(m.Data) < sizeofNdMsg || binary.NativeEndian.Uint16(m.Data[8:])&unix.NUD_PERMANENT != 0 {
			return nil
		}
		var mac model.MAC
		bridge := ""
		for typ, a := range netlink.Attrs(m.Data[sizeofNdMsg:]) {
			switch {
			case typ == ndaLLAddr && len(a) == len(mac):
				mac = model.MAC(a)
			case typ == ndaMaster:
				bridge = names[int(a.Uint32())]
			}
		}
		if s.Ports[bridge] == nil {
			s.Ports[bridge] = map[model.MAC]string{}
		}
		s.Ports[bridge][mac] = names[int(binary.NativeEndian.Uint32(m.Data[4:]))]
		return nil
	})
}
