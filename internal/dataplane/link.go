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
	VXLAN    LinkKind = "vxlan"
	IFB      LinkKind = "ifb"      // see Redirect
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
	Uplink    string // bridge: the link of others that is its port by our doing, see Port; kept in the alias
	Peer      string // veth: the other end's name …
	PeerNetns string // … and the path of its namespace; kept in the alias too, as the kernel tells neither
	Tunnel    Tunnel // VXLAN: the rest of it
	Isolated  bool   // bridge port: no frames to other isolated ports
	Hairpin   bool   // bridge port: frames may leave by the port they came in
	Quiet     bool   // far end of a veth: gives itself no IPv6 address when it is set up, and asks for no router (addr_gen_mode none)
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
	if l.Kind == Bridge || l.Kind == Veth || l.Kind == IFB {
		fmt.Fprintf(&b, " type %s", l.Kind)
	}
	if l.Kind == VXLAN {
		fmt.Fprintf(&b, " type vxlan %s", l.Tunnel)
	}
	if l.Peer != "" {
		b.WriteString(" peer name " + l.Peer)
		if l.PeerNetns != "" {
			b.WriteString(" netns " + l.PeerNetns)
		}
	}
	if l.Uplink != "" {
		b.WriteString(" uplink " + l.Uplink)
	}
	if l.Isolated {
		b.WriteString(" isolated on")
	}
	if l.Hairpin {
		b.WriteString(" hairpin on")
	}
	if l.Quiet {
		b.WriteString(" addrgenmode none")
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

// Becomes reports whether the kernel can make the link what to says in place. One that must be made anew loses all that is on it.
func (l Link) Becomes(to Link) bool {
	old, now := l.Tunnel, to.Tunnel
	if old.Local.Is4() == now.Local.Is4() && old.Local.IsValid() == now.Local.IsValid() {
		old.Local = now.Local
	}
	if l.Kind == IFB && l.MAC != to.MAC {
		return false
	}
	return l.Kind == to.Kind && l.Peer == to.Peer && l.PeerNetns == to.PeerNetns && old == now
}

// Snoops reports whether a bridge is made to listen which multicast groups are where. Without somebody on the segment who asks for them it
// gains nothing by that: it floods all the same (net/bridge/br_input.c, br_multicast_querier_exists), and pays for it with each port that
// comes or goes. Where there are only workloads there is nobody, but on a LAN there may be. Afterwards it is nothing of ours.
func (l Link) Snoops() bool { return l.Uplink != "" }

// Alias is what the link's alias (IFLA_IFALIAS, at most 255 bytes) must be; ParseAlias reads it back.
func (l Link) Alias() string {
	if l.Owner == "" {
		return ""
	}
	s := "flatnet " + l.Owner
	if l.Uplink != "" {
		s += " uplink " + l.Uplink
	}
	if l.Peer != "" {
		s += " peer " + l.Peer + " netns " + l.PeerNetns
	}
	return s
}

// ParseAlias returns a Link with the fields that Link.Alias had put into an alias; ok is false when the alias is not one of ours.
func ParseAlias(alias string) (l Link, ok bool) {
	rest, ok := strings.CutPrefix(alias, "flatnet ")
	if !ok || rest == "" {
		return Link{}, false
	}
	rest, peer, _ := strings.Cut(rest, " peer ")
	l.Owner, l.Uplink, _ = strings.Cut(rest, " uplink ")
	l.Peer, l.PeerNetns, _ = strings.Cut(peer, " netns ")
	return l, true
}

// Port is the membership of a link that is not ours in a bridge of ours: a NIC in the bridge of a bridged network. The link is
// up as long, and free and as it was when the Port is deleted.
type Port struct {
	Link   string // identity
	Master string // a bridge of ours whose Uplink is the link
}

// Key is the link's name.
func (p Port) Key() Key { return Port{Link: p.Link} }

func (p Port) kind() kind { return kindPort }

func (p Port) String() string { return fmt.Sprintf("port %s master %s", p.Link, p.Master) }

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
