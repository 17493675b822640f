package model

import (
	"fmt"
	"net/netip"
	"strings"
)

func (c *networkCheck) subnets() {
	n := c.net
	if len(n.Subnets) == 0 && n.NeedsSubnet() && n.Mode != Cluster {
		c.add(Problem{Code: CodeNoSubnet, Path: "spec.subnets", Reason: fmt.Sprintf("mode %s needs a subnet", n.Mode),
			Fix: "give one, or auto", Example: "--subnet auto"})
	}
	for i, s := range n.Subnets {
		path := fmt.Sprintf("spec.subnets[%d]", i)
		p, bad := checkPrefix(s.Prefix)
		if bad {
			p.Path = path + ".subnet"
			c.add(p)
			continue
		}
		c.ownOverlap(i, path+".subnet")
		c.networkOverlap(s.Prefix, path+".subnet")
		c.hostOverlap(s.Prefix, path+".subnet")
		c.gateway(s, path)
		c.addressRange(s, path)
		c.reserved(s, path)
	}
}

// checkPrefix judges a subnet's prefix by itself.
func checkPrefix(p netip.Prefix) (Problem, bool) {
	bad := func(code, reason, fix, example string) (Problem, bool) {
		return Problem{Code: code, Reason: reason, Fix: fix, Example: example}, true
	}
	const example4, example6 = "10.66.0.0/24", "fd00:66::/64"
	if !p.IsValid() {
		return bad(CodeSubnet, "the subnet is no prefix", "an address, a slash and a number of bits", example4)
	}
	least, most, example := 8, 30, example4
	if p.Addr().Is6() {
		least, most, example = 8, 126, example6
	}
	if word, ok := specialRange(p); ok {
		return bad(CodeSubnetSpecial, fmt.Sprintf("%s has %s", p, word), "a private range is the usual choice", example)
	}
	bounds := fmt.Sprintf("/%d to /%d", least, most)
	if p.Bits() < least {
		return bad(CodeSubnet, fmt.Sprintf("%s is too large", p), bounds, example)
	}
	if p.Bits() > most {
		return bad(CodeSubnet, fmt.Sprintf("%s has no room for a gateway and a workload", p), bounds, example)
	}
	if p != p.Masked() {
		return bad(CodeSubnet, fmt.Sprintf("%s has bits set behind the prefix length", p), "the prefix would be "+p.Masked().String(), p.Masked().String())
	}
	return Problem{}, false
}

// specialRange names the meaning of a range that no network of ours can have (RFC 6890).
func specialRange(p netip.Prefix) (string, bool) {
	ranges := []struct {
		prefix string
		word   string
	}{
		{"0.0.0.0/8", "unspecified addresses"},
		{"127.0.0.0/8", "loopback addresses"},
		{"169.254.0.0/16", "link-local addresses"},
		{"224.0.0.0/4", "multicast addresses"},
		{"240.0.0.0/4", "reserved addresses"},
		{"::1/128", "loopback addresses"},
		{"::/8", "unspecified addresses"},
		{"fe80::/10", "link-local addresses"},
		{"ff00::/8", "multicast addresses"},
	}
	if !p.IsValid() {
		return "", false
	}
	for _, r := range ranges {
		if netip.MustParsePrefix(r.prefix).Overlaps(p) {
			return r.word, true
		}
	}
	return "", false
}

func (c *networkCheck) ownOverlap(i int, path string) {
	p := c.net.Subnets[i].Prefix
	for j, other := range c.net.Subnets[:i] {
		if other.Prefix.IsValid() && other.Prefix.Overlaps(p) {
			c.add(Problem{Code: CodeSubnetTwice, Path: path, Reason: fmt.Sprintf("%s overlaps another subnet of the network", p),
				Owner: fmt.Sprintf("spec.subnets[%d] %s", j, other.Prefix), Fix: c.choices(p), Example: c.retry(p)})
			return
		}
	}
}

func (c *networkCheck) networkOverlap(p netip.Prefix, path string) {
	for _, other := range c.others() {
		for _, r := range other.Ranges() {
			if r.Overlaps(p) && c.shareNodes(other) {
				c.add(Problem{Code: CodeOverlapNetwork, Path: path, Reason: fmt.Sprintf("%s overlaps another network", p),
					Owner: fmt.Sprintf("%s of network %q", r, other.Name), Fix: c.choices(p), Example: c.retry(p)})
				return
			}
		}
	}
}

func (c *networkCheck) hostOverlap(p netip.Prefix, path string) {
	owner, ok := c.net.Overlap(c.view.Node, p)
	if !ok {
		return
	}
	what := "a route"
	if strings.HasPrefix(owner, "address ") {
		what = "an address"
	}
	c.add(Problem{Code: CodeOverlapHost, Path: path, Reason: fmt.Sprintf("%s overlaps %s on this host", p, what),
		Owner: owner, Fix: c.choices(p), Example: c.retry(p)})
}

// choices are two free subnets of the length asked for, or of the usual one.
func (c *networkCheck) choices(p netip.Prefix) string {
	if p.Addr().Is6() {
		return "auto takes a free one" // its pool hangs on the installation's seed, which is no business of this package
	}
	view := c.view
	view.Networks = map[string]Network{"": c.net}
	for _, n := range c.others() {
		view.Networks[n.Name] = n
	}
	pools := Pools([5]byte{})
	free := FreeSubnets(view, pools, false, p.Bits(), 2)
	if len(free) == 0 {
		free = FreeSubnets(view, pools, false, 0, 2)
	}
	if len(free) == 0 {
		return "no subnet is free in the pools"
	}
	words := make([]string, len(free))
	for i, f := range free {
		words[i] = f.String()
	}
	return "free choices: " + strings.Join(words, "  ")
}

// retry is the command line that would do what was asked with a free subnet.
func (c *networkCheck) retry(taken netip.Prefix) string {
	if c.net.Mode == Cluster {
		return "" // a range for all nodes is for people to choose
	}
	auto := " --subnet auto"
	old, exists := c.view.Networks[c.net.Name]
	if exists && taken.Addr().Is6() {
		auto += "6" // auto takes the place of the IPv4 subnet
	}
	if exists && old.Mode != c.net.Mode {
		auto = fmt.Sprintf(" --mode %s%s", c.net.Mode, auto)
	}
	return c.command() + auto + c.renumber()
}

// renumber is the flag for a change of subnets that moves addresses of workloads.
func (c *networkCheck) renumber() string {
	for _, w := range c.view.Workloads {
		if e, ok := w.Endpoint(c.net.Name); ok && len(e.Addrs) > 0 {
			return " --renumber"
		}
	}
	return ""
}

// command begins a command line that makes the network, or changes it when there is one.
func (c *networkCheck) command() string {
	if _, exists := c.view.Networks[c.net.Name]; exists {
		return "flatnet net set " + c.net.Name
	}
	return "flatnet net create " + c.net.Name
}

func (c *networkCheck) gateway(s Subnet, path string) {
	n := c.net
	p := Problem{Code: CodeGateway, Path: path + ".gateway", Example: FirstAddr(s.Prefix).String(),
		Fix: fmt.Sprintf("%s to %s", FirstAddr(s.Prefix), lastUsable(s.Prefix))}
	switch {
	case n.Mode == Bridged && !s.Gateway.IsValid():
		return // a LAN without a router, or one that workloads find by themselves
	case !n.NeedsSubnet() && n.Mode != Bridged:
		if s.Gateway.IsValid() {
			p.Reason, p.Fix, p.Example = fmt.Sprintf("mode %s has no gateway: the host is not on the network", n.Mode), "leave it out", ""
			c.add(p)
		}
		return
	case !s.Gateway.IsValid():
		p.Reason = fmt.Sprintf("%s has no gateway", s.Prefix)
	case !s.Prefix.Contains(s.Gateway):
		p.Reason = fmt.Sprintf("gateway %s is not in %s", s.Gateway, s.Prefix)
	case !s.Usable(s.Gateway):
		p.Reason = fmt.Sprintf("gateway %s is the %s address of %s", s.Gateway, edgeName(s, s.Gateway), s.Prefix)
	case containsAddr(s.Reserved, s.Gateway):
		p.Reason = fmt.Sprintf("gateway %s is among the reserved addresses", s.Gateway)
	default:
		return
	}
	c.add(p)
}

func containsAddr(addrs []netip.Addr, a netip.Addr) bool {
	for _, b := range addrs {
		if a == b {
			return true
		}
	}
	return false
}

// edgeName says why an address of a subnet is not usable.
func edgeName(s Subnet, a netip.Addr) string {
	switch {
	case a.Is4() && a == LastAddr(s.Prefix):
		return "broadcast"
	case a.Is6():
		return "subnet-router anycast"
	}
	return "network"
}

func lastUsable(p netip.Prefix) netip.Addr {
	if p.Addr().Is4() {
		return LastAddr(p).Prev()
	}
	return LastAddr(p)
}

func (c *networkCheck) addressRange(s Subnet, path string) {
	r := s.Range
	if r == (netip.Prefix{}) {
		return
	}
	p := Problem{Code: CodeRange, Path: path + ".ipRange", Fix: "a prefix inside " + s.Prefix.String(), Example: s.Prefix.String()}
	switch {
	case !r.IsValid() || r.Addr().Is4() != s.Prefix.Addr().Is4() || r.Bits() < s.Prefix.Bits() || !s.Prefix.Contains(r.Addr()):
		p.Reason = fmt.Sprintf("range %s is not inside %s", r, s.Prefix)
	case r != r.Masked():
		p.Reason, p.Example = fmt.Sprintf("range %s has bits set behind the prefix length", r), r.Masked().String()
	case r.IsSingleIP() && (!s.Usable(r.Addr()) || r.Addr() == s.Gateway):
		p.Reason = fmt.Sprintf("range %s has no address to give", r)
	default:
		return
	}
	c.add(p)
}

func (c *networkCheck) reserved(s Subnet, path string) {
	for i, a := range s.Reserved {
		if !s.Prefix.Contains(a) { // the zero address is nowhere
			c.add(Problem{Code: CodeReserved, Path: fmt.Sprintf("%s.reserved[%d]", path, i), Reason: fmt.Sprintf("reserved address %s is not in %s", a, s.Prefix),
				Fix: fmt.Sprintf("%s to %s", FirstAddr(s.Prefix), lastUsable(s.Prefix))})
		}
	}
}
