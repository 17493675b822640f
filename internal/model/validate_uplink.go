package model

import (
	"fmt"
	"net/netip"
	"strings"
)

// uplink checks the link that the network leaves by, or is put on.
func (c *networkCheck) uplink() {
	n := c.net
	if n.Uplink == "" {
		return
	}
	if !n.Routes() && n.Mode != Bridged {
		c.add(Problem{Code: CodeUplink, Path: "spec.uplink", Reason: fmt.Sprintf("mode %s does not leave the host, so it has no uplink", n.Mode),
			Fix: "leave it out, or use mode nat"})
		return
	}
	l, ok := c.view.Node.Link(n.Uplink)
	if !ok || l.Loopback {
		c.add(Problem{Code: CodeUplink, Path: "spec.uplink", Reason: fmt.Sprintf("uplink %s is not a link of this host", quote(n.Uplink)),
			Fix: c.links(func(l HostLink) bool { return true })})
		return
	}
	if n.Mode == Bridged {
		c.nic(l)
		return
	}
	c.port(l)
}

// port refuses to leave by a port of a bridge: the host's addresses and routes are on the bridge.
func (c *networkCheck) port(l HostLink) {
	if l.Master == "" || l.Master == c.net.BridgeName() {
		return
	}
	p := Problem{Code: CodeUplink, Path: "spec.uplink", Reason: fmt.Sprintf("%s is a port of %s: the host sends and gets nothing by it itself", l.Name, l.Master), Owner: describeLink(l)}
	if bridge, ok := c.view.Node.Link(l.Master); ok && bridge.Bridge {
		p.Fix, p.Example = "the uplink is the bridge, which has the addresses and routes", "--uplink "+l.Master
		c.add(p)
		return
	}
	for _, other := range c.others() {
		if other.HasBridge() && other.BridgeName() == l.Master {
			p.Owner, p.Fix = fmt.Sprintf("network %q", other.Name), "attach the workloads to that network, or take another link. "+c.links(func(l HostLink) bool { return l.Master == "" })
			c.add(p)
		}
	}
}

// links names the host's links that would do.
func (c *networkCheck) links(fit func(HostLink) bool) string {
	var names []string
	for _, l := range c.view.Node.Links {
		if !l.Loopback && fit(l) {
			names = append(names, l.Name)
		}
	}
	if len(names) == 0 {
		return "the host has no such link"
	}
	return "links: " + strings.Join(names, ", ")
}

// nic checks a link that is to become a port of a bridged network's bridge. One with addresses is the host's own way to the LAN: in
// a bridge they would answer no more.
func (c *networkCheck) nic(l HostLink) {
	p := Problem{Code: CodeBridgedUplink, Path: "spec.uplink", Owner: describeLink(l)}
	proxied := fmt.Sprintf("%s --mode routed --proxy-arp --uplink %s", c.command(), l.Name)
	if lan, _ := around(l, netip.PrefixFrom(netip.IPv4Unspecified(), 32)); lan.IsValid() {
		proxied += " --subnet " + partOf(lan).String() + c.renumber()
	}
	switch {
	case l.IPOnly:
		p.Reason = fmt.Sprintf("%s carries IP packets, not Ethernet frames, so nothing can be bridged to it", l.Name)
		p.Fix, p.Example = "a network that is routed to it, or leaves by it with the host's address (mode nat)", fmt.Sprintf("%s --mode routed --uplink %s", c.command(), l.Name)
	case l.Wireless:
		p.Reason = fmt.Sprintf("%s is a Wi-Fi link: its access point takes only frames with the link's own MAC (IEEE 802.11), so nothing can be bridged to it", l.Name)
		p.Fix, p.Example = "addresses of the LAN without a bridge: routed with proxy ARP", proxied
	case l.Bridge:
		p.Reason, p.Fix = fmt.Sprintf("%s is a bridge already", l.Name), "name it as the bridge, and no uplink"
		p.Example = fmt.Sprintf("%s --mode bridged --bridge %s", c.command(), l.Name)
	case l.Master != "" && l.Master != c.net.BridgeName():
		p.Reason, p.Fix = fmt.Sprintf("%s is a port of %s", l.Name, l.Master), "a link belongs to one bridge; name that bridge instead"
		p.Example = fmt.Sprintf("%s --mode bridged --bridge %s", c.command(), l.Master)
	case len(c.view.Node.Uplinks()) == 1 && c.view.Node.Uplinks()[0].Name == l.Name:
		p.Reason = fmt.Sprintf("%s is the only way out of this host: bridging it would cut the host off", l.Name)
		p.Fix, p.Example = "another NIC, or addresses of the LAN without a bridge: routed with proxy ARP", proxied
	case len(globalAddrs(l)) > 0:
		p.Reason = fmt.Sprintf("%s has addresses of the host, which would not answer any more once it is in a bridge", l.Name)
		p.Fix = fmt.Sprintf("take them off %s, or make a bridge that has them and name it with --bridge", l.Name)
		p.Example = proxied
	case c.view.Node.routesBy(l.Name) != "":
		p.Reason = fmt.Sprintf("%s carries routes of the host, which would lead nowhere once it is in a bridge", l.Name)
		p.Owner, p.Fix = c.view.Node.routesBy(l.Name), "take them away, or make a bridge that has them and name it with --bridge"
	default:
		c.nicTaken(l)
		return
	}
	c.add(p)
}

// routesBy describes a route over a router that somebody set on a link.
func (n Node) routesBy(link string) string {
	for _, r := range n.Routes {
		if r.Link == link && r.Via.IsValid() {
			return r.describe()
		}
	}
	return ""
}

// globalAddrs are a link's addresses but the link-local ones that every link has.
func globalAddrs(l HostLink) []netip.Prefix {
	var all []netip.Prefix
	for _, a := range l.Addrs {
		if !a.Addr().IsLinkLocalUnicast() {
			all = append(all, a)
		}
	}
	return all
}

func (c *networkCheck) nicTaken(l HostLink) {
	for _, other := range c.others() {
		if other.Uplink != l.Name {
			continue
		}
		p := Problem{Code: CodeBridgedUplink, Path: "spec.uplink", Reason: fmt.Sprintf("%s is in the bridge of another network", l.Name),
			Owner: fmt.Sprintf("network %q", other.Name), Fix: "attach the workloads to that network"}
		if other.Mode != Bridged {
			p.Reason, p.Fix = fmt.Sprintf("%s is the uplink of another network, which could not leave by it any more", l.Name), "give that network another uplink first"
		}
		c.add(p)
	}
}

// borrowed checks the bridge of others that a bridged network is to use.
func (c *networkCheck) borrowed() {
	n := c.net
	bridges := c.links(func(l HostLink) bool { return l.Bridge })
	if n.Bridge == "" {
		c.add(Problem{Code: CodeBridgedUplink, Path: "spec.uplink", Reason: "mode bridged needs a NIC or a bridge of this host",
			Fix: "--uplink NIC puts a NIC into a bridge of its own; --bridge NAME uses one that is there. " + c.links(func(HostLink) bool { return true }), Example: "--uplink eth1"})
		return
	}
	if l, ok := c.view.Node.Link(n.Bridge); !ok || !l.Bridge {
		c.add(Problem{Code: CodeBridgedUplink, Path: "spec.bridge", Reason: fmt.Sprintf("%s is not a bridge of this host", quote(n.Bridge)), Fix: bridges,
			Example: "--uplink eth1"})
	} else if n.MTU != 0 && n.MTU < l.MTU {
		c.add(Problem{Code: CodeMTU, Path: "spec.mtu", Reason: fmt.Sprintf("MTU %d is less than that of %s: the kernel would lower the bridge's to that of its smallest port", n.MTU, l.Name),
			Owner: describeLink(l), Fix: fmt.Sprintf("0 follows the bridge, which has %d", l.MTU)})
	}
}

// routing checks what only routed networks have.
func (c *networkCheck) routing() {
	n := c.net
	if n.Masquerade && n.Mode != Routed {
		p := Problem{Code: CodeMasquerade, Path: "spec.masquerade", Reason: fmt.Sprintf("mode %s has no masquerade to switch", n.Mode), Fix: "leave it out, or use mode routed"}
		if n.Mode == NAT {
			p.Reason = "mode nat always masquerades"
		}
		c.add(p)
	}
	if n.ProxyARP {
		c.proxyARP()
	}
}

func (c *networkCheck) proxyARP() {
	n := c.net
	bad := func(path, reason, fix, example string) {
		c.add(Problem{Code: CodeProxyARP, Path: path, Reason: reason, Fix: fix, Example: example})
	}
	if n.Mode != Routed {
		bad("spec.proxyARP", fmt.Sprintf("mode %s needs no proxy ARP", n.Mode), "leave it out, or use mode routed", "")
		return
	}
	l, ok := c.view.Node.Link(n.Uplink)
	if !ok {
		bad("spec.proxyARP", "proxy ARP needs the link on whose LAN the addresses are", "name it as the uplink", "--uplink eth0")
		return
	}
	for i, s := range n.Subnets {
		path := fmt.Sprintf("spec.subnets[%d].subnet", i)
		lan, found := around(l, s.Prefix)
		router := c.view.Node.routerIn(s.Prefix)
		switch {
		case !s.Prefix.IsValid():
		case router.IsValid():
			bad(path, fmt.Sprintf("%s holds %s, the router of this host: it would be taken over", s.Prefix, router),
				fmt.Sprintf("a part of %s that nobody on the LAN uses: its DHCP server must not give it out", lan.Masked()), partOf(lan).String())
		case found:
		case !lan.IsValid():
			bad(path, fmt.Sprintf("%s has no %s address, so there is no LAN to be on", l.Name, family(s.Prefix.Addr().Is6())), "leave the subnet out", "")
		default:
			bad(path, fmt.Sprintf("%s is no part of the LAN on %s", s.Prefix, l.Name),
				fmt.Sprintf("a part of %s that nobody on the LAN uses: its DHCP server must not give it out", lan.Masked()), partOf(lan).String())
		}
	}
}

// routerIn is a next hop of the host's routes that lies in a prefix.
func (n Node) routerIn(p netip.Prefix) netip.Addr {
	for _, r := range n.Routes {
		if r.Via.IsValid() && p.Contains(r.Via) {
			return r.Via
		}
	}
	return netip.Addr{}
}

// around returns the range of a link that holds p and more, or else one that p's family could be a part of.
func around(l HostLink, p netip.Prefix) (lan netip.Prefix, found bool) {
	for _, a := range globalAddrs(l) {
		if a.Addr().Is6() != p.Addr().Is6() {
			continue
		}
		lan = a
		if a.Bits() < p.Bits() && a.Masked().Contains(p.Addr()) {
			return a, true
		}
	}
	return lan, false
}

// partOf is a sixteenth of a range, from its upper end: routers and DHCP pools are rather at the lower.
func partOf(lan netip.Prefix) netip.Prefix {
	bits := min(lan.Bits()+4, lan.Addr().BitLen()-2)
	return netip.PrefixFrom(LastAddr(lan.Masked()), bits).Masked()
}
