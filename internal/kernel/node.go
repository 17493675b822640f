package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// Node returns the facts of the host apart from what is ours: its links with their addresses, and its routes of all tables
// but local. Routes by our links are left out: they come with our addresses.
func (k *Kernel) Node(ctx context.Context) (model.Node, error) {
	n := nodeReader{names: map[int]string{}, at: map[int]int{}, ours: map[int]bool{}, radios: k.radios}
	if err := (&space{ns: k.hostNS}).do(n.strictness); err != nil {
		return model.Node{}, fmt.Errorf("node: %w", err)
	}
	if err := k.steadily(func() error { return n.read(k) }); err != nil {
		return model.Node{}, fmt.Errorf("node: %w", err)
	}
	name, err := os.Hostname()
	if err != nil {
		return model.Node{}, fmt.Errorf("node: %w", err)
	}
	slices.SortFunc(n.links, func(a, b model.HostLink) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(n.routes, compareHostRoutes)
	return model.Node{Name: name, Links: n.links, Routes: n.routes}, ctx.Err()
}

type nodeReader struct {
	names  map[int]string
	at     map[int]int // places in links, by index
	ours   map[int]bool
	radios *radios
	ports  map[int]int // masters' indexes by the links'
	links  []model.HostLink
	routes []model.HostRoute

	rpFilter int // of all links together
}

// strictness reads how all links check where packets come from. A kernel without IPv4 has no such thing.
func (n *nodeReader) strictness() error {
	value, err := readSysctl("net/ipv4/conf/all/rp_filter")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		n.rpFilter, err = strconv.Atoi(value)
	}
	return err
}

func (n *nodeReader) read(k *Kernel) error {
	err := dumpLinks(k.host, func() { clear(n.at); clear(n.ours); n.links, n.ports = nil, map[int]int{} }, n.link)
	if err != nil {
		return err
	}
	addrs := map[int][]netip.Prefix{}
	err = dumpAddresses(k.host, 0, func() { clear(addrs) }, func(a address) {
		addrs[a.index] = append(addrs[a.index], a.prefix)
	})
	if err != nil {
		return err
	}
	for index, at := range n.at {
		n.links[at].Master = n.names[n.ports[index]]
		n.links[at].Addrs = addrs[index]
		slices.SortFunc(n.links[at].Addrs, netip.Prefix.Compare)
	}
	return dumpRoutes(k.host, 0, func() { n.routes = nil }, n.route)
}

func (n *nodeReader) link(l link) {
	n.names[l.index] = l.Name
	if l.marked {
		n.ours[l.index] = true
		return
	}
	n.at[l.index] = len(n.links)
	n.links = append(n.links, model.HostLink{
		Name: l.Name, MTU: l.MTU, Up: l.Up, Loopback: l.loopback, AcceptRA: l.conf.acceptRA(),
		RPFilter: max(n.rpFilter, l.conf.rpFilter()),
		Bridge:   l.Kind == dataplane.Bridge, Wireless: n.radios.wireless(&l), IPOnly: !l.ether && !l.loopback,
	})
	if l.master != 0 {
		n.ports[l.index] = l.master
	}
}

func (n *nodeReader) route(r route) {
	if !r.isFact() || r.ours() {
		return
	}
	for _, h := range r.hops {
		if !n.ours[h.index] {
			n.routes = append(n.routes, model.HostRoute{
				Dest: r.dest, Via: h.via, Link: n.names[h.index], Proto: protoName(r.proto), Metric: r.metric,
			})
		}
	}
}

// isFact reports whether a route says where addresses are: not the local table, not what the kernel keeps for broadcast and
// the like, not a default route to nowhere.
func (r *route) isFact() bool {
	switch r.kind {
	case unix.RTN_UNICAST:
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT:
		if r.dest.Bits() == 0 {
			return false
		}
	default:
		return false
	}
	return r.table != unix.RT_TABLE_LOCAL && !r.cloned && !r.dest.Addr().IsMulticast()
}

func compareHostRoutes(a, b model.HostRoute) int {
	return cmp.Or(a.Dest.Compare(b.Dest), cmp.Compare(a.Metric, b.Metric), cmp.Compare(a.Link, b.Link), a.Via.Compare(b.Via))
}

// protoNames are iproute2's words for routing protocols (etc/iproute2/rt_protos).
var protoNames = map[uint8]string{
	0: "unspec", 1: "redirect", 2: "kernel", 3: "boot", 4: "static", 8: "gated", 9: "ra", 10: "mrt", 11: "zebra", 12: "bird",
	13: "dnrouted", 14: "xorp", 15: "ntk", 16: "dhcp", 18: "keepalived", 42: "babel", 99: "openr", 186: "bgp", 187: "isis",
	188: "ospf", 189: "rip", 192: "eigrp",
}

func protoName(proto uint8) string {
	if name, ok := protoNames[proto]; ok {
		return name
	}
	return strconv.Itoa(int(proto))
}
