package membership

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/internal/model"
)

// underlay is where the other nodes reach this host: at most one address of each family, all on one link.
type underlay struct {
	addrs []netip.Addr
	link  string
	mtu   int
	why   string
}

// choose picks the underlay. What was asked for holds; else it is where the host stands towards peer, a server of the cluster; else, without a
// peer, the link of the default route.
func choose(node model.Node, asked []string, toward func() (netip.Addr, netip.Addr)) (underlay, error) {
	if len(asked) > 0 {
		return chosen(node, asked)
	}
	if toward != nil {
		from, peer := toward()
		if link, ok := node.Has(from); ok {
			return completed(node, link, from, fmt.Sprintf("%s is reached by %s", peer, link)), nil
		}
		return underlay{}, noUnderlay(node, fmt.Sprintf("there is no route to %s", peer))
	}
	for _, l := range node.Uplinks() {
		for _, v6 := range []bool{false, true} {
			if a := node.AddrOn(l.Name, v6); a.IsValid() {
				return completed(node, l.Name, a, "the default route is by "+l.Name), nil
			}
		}
	}
	if l, ok := onlyLink(node); ok {
		for _, v6 := range []bool{false, true} {
			if a := node.AddrOn(l.Name, v6); a.IsValid() {
				return completed(node, l.Name, a, l.Name+" is the only link with an address"), nil
			}
		}
	}
	return underlay{}, noUnderlay(node, "there is no default route, and more than one link with an address, or none")
}

// chosen is what somebody asked for: the name of a link, or addresses.
func chosen(node model.Node, asked []string) (underlay, error) {
	if len(asked) == 1 {
		if l, ok := node.Link(asked[0]); ok {
			if l.Loopback {
				return underlay{}, noUnderlay(node, fmt.Sprintf("%s leads to nobody but this host", l.Name))
			}
			for _, v6 := range []bool{false, true} {
				if a := node.AddrOn(l.Name, v6); a.IsValid() {
					return completed(node, l.Name, a, "it was asked for"), nil
				}
			}
			return underlay{}, noUnderlay(node, fmt.Sprintf("link %s has no address that others could reach", l.Name))
		}
	}
	u := underlay{why: "it was asked for"}
	for _, word := range asked {
		a, err := netip.ParseAddr(word)
		if err != nil {
			return u, noUnderlay(node, noAddress(node, word))
		}
		if a.IsLoopback() {
			return u, noUnderlay(node, fmt.Sprintf("%s leads to nobody but this host", a))
		}
		link, ok := node.Has(a)
		if !ok {
			return u, noUnderlay(node, fmt.Sprintf("%s is not an address of this host", a))
		}
		if u.link != "" && (u.link != link || len(u.addrs) > 1 || u.addrs[0].Is6() == a.Is6()) {
			return u, noUnderlay(node, "an underlay is one address of each family, both on one link")
		}
		u.link, u.addrs = link, append(u.addrs, a)
	}
	l, _ := node.Link(u.link)
	u.mtu = l.MTU
	return sorted(u), nil
}

// noAddress says what a word is that is no address.
func noAddress(node model.Node, word string) string {
	if _, ok := node.Link(word); ok {
		return fmt.Sprintf("%s is a link, which is named alone: an underlay is one link, or one address of each family", word)
	}
	if strings.HasPrefix(word, "fn-") || strings.HasPrefix(word, "fx-") {
		return fmt.Sprintf("%s is named as the links that flatnet makes, which lie on an underlay and cannot be one", word)
	}
	return fmt.Sprintf("%q is neither a link of this host nor an address", word)
}

// completed adds the address of the other family when the link has one that is not to be mistaken.
func completed(node model.Node, link string, a netip.Addr, why string) underlay {
	l, _ := node.Link(link)
	u := underlay{addrs: []netip.Addr{a}, link: link, mtu: l.MTU, why: why}
	var others []netip.Addr
	for _, p := range l.Addrs {
		if o := p.Addr(); o.Is6() != a.Is6() && !o.IsLinkLocalUnicast() && o.IsGlobalUnicast() {
			others = append(others, o)
		}
	}
	if len(others) == 1 {
		u.addrs = append(u.addrs, others[0])
	}
	return sorted(u)
}

// sorted has IPv4 first.
func sorted(u underlay) underlay {
	slices.SortFunc(u.addrs, netip.Addr.Compare)
	return u
}

func onlyLink(node model.Node) (only model.HostLink, ok bool) {
	for _, l := range node.Links {
		if l.Loopback || !node.AddrOn(l.Name, false).IsValid() && !node.AddrOn(l.Name, true).IsValid() {
			continue
		}
		if ok {
			return l, false
		}
		only, ok = l, true
	}
	return only, ok
}

func noUnderlay(node model.Node, why string) error {
	var have []string
	for _, l := range node.Links {
		for _, p := range l.Addrs {
			if !l.Loopback && !p.Addr().IsLinkLocalUnicast() {
				have = append(have, l.Name+" "+p.Addr().String())
			}
		}
	}
	p := model.Problem{Code: model.CodeUnderlay, Path: "underlay", Reason: "no underlay address can be used: " + why, Fix: "name one with --underlay"}
	if len(have) > 0 {
		p.Owner = "this host has " + strings.Join(have, ", ")
	}
	return p
}

// toward asks the kernel how the host stands towards an address, as route(8) get does: a UDP socket is connected, which sends nothing.
func toward(peer netip.Addr) func() (netip.Addr, netip.Addr) {
	return func() (netip.Addr, netip.Addr) {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(peer, clientPort)))
		if err != nil {
			return netip.Addr{}, peer
		}
		defer c.Close()
		return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone(""), peer
	}
}

// hostPart is the address of HOST:PORT; zero when it is a name.
func hostPart(addr string) netip.Addr {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(host)
	return a
}

// member is the host as the others are to know it.
func (r record) member(u underlay, version string) model.Member {
	m := model.Member{ID: r.ID, Name: r.Name, MTU: u.mtu, Version: version, Schema: schema}
	for _, a := range u.addrs {
		if a.Is6() {
			m.Underlay6 = a
		} else {
			m.Underlay4 = a
		}
	}
	return m
}

// hostName makes a name for the cluster of the host's own.
func hostName(asked string, node model.Node) (string, error) {
	if asked != "" {
		if p, bad := model.CheckName("host", asked); bad {
			p.Path = "name"
			return "", p
		}
		return asked, nil
	}
	name, _, _ := strings.Cut(node.Name, ".")
	if _, bad := model.CheckName("host", name); bad {
		return unnamedHost, nil
	}
	return name, nil
}
