package dataplane

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/flatnet/flatnet/internal/model"
)

// LinkKind is the kernel's name of a kind of link (IFLA_INFO_KIND).
type LinkKind string

// The kinds of links we make or set. A veth without a Peer is the far end of one made from elsewhere: it is
// configured where it stands and never created or deleted by itself.
const (
	Bridge   LinkKind = "bridge"
	Veth     LinkKind = "veth"
	Loopback LinkKind = "loopback" // lo: only Up is set, and it is never deleted
)

// Link is a network link.
type Link struct {
	Name      string // identity
	Kind      LinkKind
	Owner     string // what it is for, as net/NAME or ep/WORKLOAD/IFNAME; kept in the link's alias, and what tells ours from others'
	MAC       model.MAC
	MTU       int // bytes; 0 leaves the kernel's
	Up        bool
	NoARP     bool
	Master    string // the bridge it is a port of
	Peer      string // veth: the other end's name …
	PeerNetns string // … and the path of its namespace; kept in the alias too, as the kernel tells neither
	Isolated  bool   // bridge port: no frames to other isolated ports
	Hairpin   bool   // bridge port: frames may leave by the port they came in
}

// Key is the link's name.
func (l Link) Key() Key { return Link{Name: l.Name} }

func (l Link) kind() kind {
	if l.Kind == Bridge {
		return kindBridge
	}
	return kindLink
}

func (l Link) String() string {
	var b strings.Builder
	b.WriteString("link " + l.Name)
	for _, p := range l.params() {
		b.WriteString(" " + p)
	}
	if l.Kind == Bridge || l.Kind == Veth {
		fmt.Fprintf(&b, " type %s", l.Kind)
	}
	if l.Peer != "" {
		b.WriteString(" peer name " + l.Peer)
		if l.PeerNetns != "" {
			b.WriteString(" netns " + l.PeerNetns)
		}
	}
	if l.Isolated {
		b.WriteString(" isolated on")
	}
	if l.Hairpin {
		b.WriteString(" hairpin on")
	}
	return b.String()
}

// params are the attributes that `ip link set` takes, in its words.
func (l Link) params() []string {
	var p []string
	if l.MAC != (model.MAC{}) {
		p = append(p, "address "+l.MAC.String())
	}
	if l.MTU != 0 {
		p = append(p, fmt.Sprintf("mtu %d", l.MTU))
	}
	if l.NoARP {
		p = append(p, "arp off")
	}
	if l.Master != "" {
		p = append(p, "master "+l.Master)
	}
	if l.Up {
		p = append(p, "up")
	}
	return p
}

// Alias is what the link's alias (IFLA_IFALIAS, at most 255 bytes) must be; ParseAlias reads it back.
func (l Link) Alias() string {
	if l.Owner == "" {
		return ""
	}
	s := "flatnet " + l.Owner
	if l.Peer != "" {
		s += " peer " + l.Peer + " netns " + l.PeerNetns
	}
	return s
}

// ParseAlias returns what Link.Alias had put into an alias; ok is false when the alias is not one of ours.
func ParseAlias(alias string) (owner, peer, peerNetns string, ok bool) {
	rest, ok := strings.CutPrefix(alias, "flatnet ")
	if !ok || rest == "" {
		return "", "", "", false
	}
	owner, rest, _ = strings.Cut(rest, " peer ")
	peer, peerNetns, _ = strings.Cut(rest, " netns ")
	return owner, peer, peerNetns, true
}

// Address is an address on a link of ours.
type Address struct {
	Link   string       // identity
	Prefix netip.Prefix // identity: the address with its prefix length, not masked
}

// Key is the whole address.
func (a Address) Key() Key { return a }

func (a Address) kind() kind { return kindAddress }

func (a Address) String() string {
	s := fmt.Sprintf("address %s dev %s", a.Prefix, a.Link)
	if a.Prefix.Addr().Is6() {
		s += " nodad"
	}
	return s
}

// Route is a route with our protocol number.
type Route struct {
	Dest   netip.Prefix // identity; 0.0.0.0/0 or ::/0 is the default route
	Table  int          // identity; 0 is main
	Metric int          // identity
	Via    netip.Addr   // zero: on-link
	Link   string
	Source netip.Addr // preferred source address
	MTU    int        // bytes
}

// Key is destination, table and metric.
func (r Route) Key() Key { return Route{Dest: r.Dest, Table: r.Table, Metric: r.Metric} }

func (r Route) kind() kind { return kindRoute }

func (r Route) String() string {
	var b strings.Builder
	dest := r.Dest.String()
	if r.Dest.Bits() == 0 {
		dest = "default"
	}
	b.WriteString("route " + dest)
	b.WriteString(r.path())
	return b.String()
}

func (r Route) path() string {
	var b strings.Builder
	if r.Via.IsValid() {
		fmt.Fprintf(&b, " via %s", r.Via)
	}
	if r.Link != "" {
		b.WriteString(" dev " + r.Link)
	}
	if r.Source.IsValid() {
		fmt.Fprintf(&b, " src %s", r.Source)
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.Table != 0 {
		fmt.Fprintf(&b, " table %d", r.Table)
	}
	if r.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", r.MTU)
	}
	return b.String()
}

// RouteProtocol marks our routes (rtm_protocol) and addresses (IFA_PROTO, kernel 5.18): a number that
// /etc/iproute2/rt_protos leaves free.
const RouteProtocol = 157

// Netns is a network namespace that we make and remove.
type Netns struct {
	Path string // identity
}

// Key is the path.
func (n Netns) Key() Key { return n }

func (n Netns) kind() kind { return kindNetns }

func (n Netns) String() string { return "netns " + n.Path }

// Sysctl is one value under /proc/sys.
type Sysctl struct {
	Name  string // identity; with slashes, as below /proc/sys: net/ipv4/conf/br0/arp_ignore
	Link  string // identity; the link of ours that the value belongs to and vanishes with; empty for others
	Value string
}

// Key is the name.
func (s Sysctl) Key() Key { return Sysctl{Name: s.Name, Link: s.Link} }

func (s Sysctl) kind() kind {
	if s.Link == "" {
		return kindHostSysctl
	}
	return kindLinkSysctl
}

func (s Sysctl) String() string { return fmt.Sprintf("sysctl %s=%s", s.Name, s.Value) }
