package model

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The length of subnets that are chosen automatically.
const (
	autoBits4 = 24
	autoBits6 = 64 // what SLAAC needs: RFC 4291 section 2.5.1
)

// Pools are where automatic subnets come from, in order; seed is random and kept for the life of an installation.
//
// IPv4 keeps away from what others take by habit: Docker (172.17–172.29 first, then 192.168.0.0 upwards), Podman
// (10.88), libvirt (192.168.122), k3s (10.42, 10.43), flannel (10.244), Weave (10.32), Kubernetes services (10.96–10.111),
// OpenShift (10.128–10.131), OpenVPN (10.8), home routers (192.168.0, .1, .178, 10.0, 10.1), Tailscale and carriers
// (100.64). Two pools lie outside 10.0.0.0/8, as company VPNs like to route all of that.
func Pools(seed [5]byte) []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("10.66.0.0/16"),
		netip.MustParsePrefix("10.67.0.0/16"),
		netip.MustParsePrefix("10.68.0.0/16"),
		netip.MustParsePrefix("172.30.0.0/16"),
		netip.MustParsePrefix("192.168.208.0/20"),
		ULAPool(seed),
	}
}

// ULAPool is the unique local /48 of an installation: fd and 40 random bits (RFC 4193 section 3.2).
func ULAPool(seed [5]byte) netip.Prefix {
	a := [16]byte{0: 0xfd}
	copy(a[1:], seed[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), 48)
}

// FreeSubnets returns at most count subnets of one family, bits long, that overlap neither a network nor the host; bits 0
// stands for 24 or 64. They come from the pools in order; a pool smaller than bits is passed over.
func FreeSubnets(v View, pools []netip.Prefix, v6 bool, bits, count int) []netip.Prefix {
	if bits == 0 {
		bits = autoBits4
		if v6 {
			bits = autoBits6
		}
	}
	taken := v.taken()
	var free []netip.Prefix
	for _, pool := range pools {
		if pool.Addr().Is6() == v6 && bits >= pool.Bits() && bits <= pool.Addr().BitLen() {
			free = appendFree(free, taken, pool, bits, count)
		}
	}
	return free
}

// appendFree jumps behind whatever stands in the way, so it costs no more than what is taken, not what the pool holds.
func appendFree(free, taken []netip.Prefix, pool netip.Prefix, bits, count int) []netip.Prefix {
	at := pool.Masked().Addr()
	for len(free) < count && pool.Contains(at) {
		p := netip.PrefixFrom(at, bits)
		behind := p
		if owner, ok := overlapping(taken, p); ok {
			if owner.Bits() < bits {
				behind = owner
			}
		} else {
			free = append(free, p)
		}
		at = LastAddr(behind).Next()
	}
	return free
}

func overlapping(taken []netip.Prefix, p netip.Prefix) (netip.Prefix, bool) {
	for _, t := range taken {
		if t.Overlaps(p) {
			return t, true
		}
	}
	return netip.Prefix{}, false
}

// taken is every prefix that a new subnet may not touch.
func (v View) taken() []netip.Prefix {
	var all []netip.Prefix
	for _, n := range v.Networks {
		all = append(all, n.Ranges()...)
	}
	for _, r := range v.Node.Routes {
		if !isDefault(r.Dest) {
			all = append(all, r.Dest)
		}
	}
	for _, l := range v.Node.Links {
		for _, a := range l.Addrs {
			all = append(all, a.Masked())
		}
	}
	return all
}

// Overlap says which route or address of the host stands in the way of a network's subnet. On a bridged network the subnet is the
// LAN's own, and nothing does; with ProxyARP that of which it is a part does not.
func (n Network) Overlap(node Node, p netip.Prefix) (owner string, ok bool) {
	if n.Mode == Bridged {
		return "", false
	}
	if n.Mode == Cluster && n.Cluster.Inherited {
		node = node.withoutOverlay(n)
	}
	if n.ShareBridge {
		node = node.withoutLink(n.BridgeName())
	}
	if n.ProxyARP {
		node = node.without(n.Uplink, p)
	}
	return Overlaps(node, p)
}

// withoutLink leaves out a link, with what leads by it to its own subnets.
func (n Node) withoutLink(name string) Node {
	n.Routes = slices.DeleteFunc(slices.Clone(n.Routes), func(r HostRoute) bool { return r.Link == name && !r.Via.IsValid() })
	n.Links = slices.DeleteFunc(slices.Clone(n.Links), func(l HostLink) bool { return l.Name == name })
	return n
}

// without leaves out the on-link ranges of a link that are larger than p and hold it, with the addresses that are beside p.
func (n Node) without(link string, p netip.Prefix) Node {
	around := func(r netip.Prefix) bool { return r.Bits() < p.Bits() && r.Masked().Overlaps(p) }
	routes, links := n.Routes, n.Links
	n.Routes, n.Links = nil, nil
	for _, r := range routes {
		if r.Link != link || r.Via.IsValid() || !around(r.Dest) {
			n.Routes = append(n.Routes, r)
		}
	}
	for _, l := range links {
		if l.Name == link {
			l.Addrs = slices.DeleteFunc(slices.Clone(l.Addrs), func(a netip.Prefix) bool { return around(a) && !p.Contains(a.Addr()) })
		}
		n.Links = append(n.Links, l)
	}
	return n
}

// withoutOverlay leaves out what another program left of a cluster network: its bridge and tunnel, and routes to single blocks.
func (n Node) withoutOverlay(net Network) Node {
	own := func(link string) bool { return link == net.BridgeName() || link == net.TunnelName() }
	n.Routes = slices.DeleteFunc(slices.Clone(n.Routes), func(r HostRoute) bool {
		pool, _ := net.Cluster.Pool(r.Dest.Addr())
		_, block := pool.Index(r.Dest)
		return block || own(r.Link)
	})
	n.Links = slices.DeleteFunc(slices.Clone(n.Links), func(l HostLink) bool { return own(l.Name) })
	return n
}

// Overlaps says which route or address of the host a prefix collides with, and guesses whose it is. Default routes don't
// count, also not the halves of one that VPNs set.
func Overlaps(n Node, p netip.Prefix) (owner string, ok bool) {
	for _, r := range n.Routes {
		if !isDefault(r.Dest) && r.Dest.Overlaps(p) {
			return r.describe() + linkOwner(r.Link), true
		}
	}
	for _, l := range n.Links {
		for _, a := range l.Addrs {
			if a.Masked().Overlaps(p) {
				return fmt.Sprintf("address %s dev %s", a, l.Name) + linkOwner(l.Name), true
			}
		}
	}
	return "", false
}

// isDefault knows the prefixes that mean "everything": OpenVPN sets 0.0.0.0/1 and 128.0.0.0/1 beside the default route
// and leaves that one alone; 2000::/3 is all that IANA gives out.
func isDefault(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return p.Bits() <= 1
	}
	return p.Bits() <= 3
}

func (r HostRoute) describe() string {
	s := r.Dest.String()
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	if r.Link != "" {
		s += " dev " + r.Link
	}
	if r.Proto != "" {
		s += "  proto " + r.Proto
	}
	return s
}

// linkOwner guesses from a link's name who made it.
func linkOwner(link string) string {
	guesses := []struct{ prefix, owner string }{
		{"tailscale", "looks like a VPN, Tailscale"},
		{"tun", "looks like a VPN"},
		{"tap", "looks like a VPN or a virtual machine"},
		{"wg", "looks like a VPN, WireGuard"},
		{"ppp", "looks like a VPN or a dial-up line"},
		{"ipsec", "looks like a VPN, IPsec"},
		{"docker", "Docker"},
		{"virbr", "libvirt"},
		{"podman", "Podman"},
		{"cni-podman", "Podman"},
		{"lxcbr", "LXC"},
		{"lxdbr", "LXD"},
		{"incusbr", "Incus"},
		{"vmnet", "VMware"},
		{"vboxnet", "VirtualBox"},
		{"flannel", "flannel"},
		{"cni", "a CNI plugin"},
		{"cali", "Calico"},
		{"cilium", "Cilium"},
		{"zt", "looks like a VPN, ZeroTier"},
	}
	for _, g := range guesses {
		if strings.HasPrefix(link, g.prefix) {
			return "  (owner: " + g.owner + ")"
		}
	}
	if hex, ok := strings.CutPrefix(link, "br-"); ok && len(hex) == 12 && isHex(hex) {
		return "  (owner: Docker)"
	}
	return ""
}

// LastAddr is the last address of a prefix: the broadcast address of IPv4.
func LastAddr(p netip.Prefix) netip.Addr {
	a := p.Addr().AsSlice()
	for i := range a {
		switch keep := p.Bits() - 8*i; {
		case keep >= 8:
		case keep <= 0:
			a[i] = 0xff
		default:
			a[i] |= 0xff >> keep
		}
	}
	last, _ := netip.AddrFromSlice(a)
	return last
}

// Usable reports whether a host can have the address in the subnet: it is neither the network's address, which in IPv6 is
// every router's (RFC 4291 section 2.6.1), nor IPv4's broadcast address.
func (s Subnet) Usable(a netip.Addr) bool {
	return s.Prefix.Contains(a) && a != s.Prefix.Masked().Addr() && (a.Is6() || a != LastAddr(s.Prefix))
}

// FirstAddr is the first usable address of a prefix, where a gateway stands unless something else is said.
func FirstAddr(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// WithDefaults fills what follows from the rest: mode nat, and the first address as gateway of every subnet of a mode
// that has one.
func (n Network) WithDefaults() Network {
	if n.Mode == "" {
		n.Mode = NAT
	}
	if !n.NeedsSubnet() {
		return n
	}
	subnets := make([]Subnet, len(n.Subnets))
	for i, s := range n.Subnets {
		if !s.Gateway.IsValid() && s.Prefix.IsValid() {
			s.Gateway = FirstAddr(s.Prefix)
		}
		subnets[i] = s
	}
	n.Subnets = subnets
	return n
}
