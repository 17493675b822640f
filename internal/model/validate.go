package model

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Validate says what is wrong with a network that is to stand in a View. A network of the same name in the View is the
// one it replaces. Defaults are filled in already: see WithDefaults.
func Validate(v View, n Network) Problems {
	c := networkCheck{view: v, net: n}
	if n := len(n.Subnets); n > MaxSubnets {
		c.add(Problem{Code: CodeTooLarge, Path: "spec.subnets", Reason: fmt.Sprintf("%d subnets are too many", n), Fix: fmt.Sprintf("at most %d", MaxSubnets)})
		return c.problems
	}
	c.name()
	if c.mode() {
		c.bridge()
		c.subnets()
		c.adapter()
		c.uplink()
		c.snat()
		c.routing()
		c.cluster()
	}
	c.mtu()
	c.dns()
	c.problems = append(c.problems, checkLabels(n.Labels)...)
	return c.problems
}

// MaxSubnets bounds what one request costs: each subnet is held against all others.
const MaxSubnets = 64

type networkCheck struct {
	view     View
	net      Network
	problems Problems
}

func (c *networkCheck) add(p Problem) { c.problems = append(c.problems, p) }

func (c *networkCheck) name() {
	if p, bad := CheckName("network", c.net.Name); bad {
		c.add(p)
		return
	}
	if slices.Contains([]string{"none", "host"}, c.net.Name) {
		c.add(Problem{Code: CodeName, Path: "metadata.name", Reason: fmt.Sprintf("network name %q is built in", c.net.Name),
			Fix: "none and host mean no network and the host's own", Example: "lab"})
	}
}

// CheckName judges the name of a network or workload, by docker's rule and at most 63 bytes, which also fit a DNS label.
func CheckName(what, name string) (Problem, bool) {
	ok := len(name) >= 1 && len(name) <= maxName && isAlnum(name[0])
	for i := 0; ok && i < len(name); i++ {
		ok = isAlnum(name[i]) || strings.IndexByte("_.-", name[i]) >= 0
	}
	if ok {
		return Problem{}, false
	}
	return Problem{Code: CodeName, Path: "metadata.name", Reason: fmt.Sprintf("%s name %s cannot be used", what, quote(name)),
		Fix: "1 to 63 of A-Z a-z 0-9 _ . - and the first a letter or digit", Example: "web-1"}, true
}

const maxName = 63 // RFC 1035 section 2.3.4

func isAlnum(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9'
}

// quote shows any input in one short line.
func quote(s string) string {
	if len(s) > 80 {
		return fmt.Sprintf("%q… (%d bytes)", s[:64], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// mode reports whether the mode is known: most other checks hang on it.
func (c *networkCheck) mode() bool {
	n := c.net
	modes := []Mode{NAT, Routed, Bridged, HostOnly, Isolated, Cable, Cluster}
	if slices.Contains(modes, n.Mode) {
		return true
	}
	p := Problem{Code: CodeMode, Path: "spec.mode", Reason: "mode " + quote(string(n.Mode)) + " is not known",
		Fix: "modes: nat, routed, bridged, host-only, isolated, cable, cluster", Example: "nat"}
	if meant, remark := meantMode(string(n.Mode)); meant != "" {
		p.Fix, p.Example = fmt.Sprintf("did you mean %s%s? %s", meant, remark, p.Fix), string(meant)
	}
	c.add(p)
	return false
}

func (c *networkCheck) bridge() {
	n := c.net
	if n.Bridge != "" {
		if !n.HasBridge() {
			c.add(Problem{Code: CodeLinkName, Path: "spec.bridge", Reason: "a cable has no bridge to be named", Fix: "leave it out"})
			return
		}
		if p, bad := checkLinkName("spec.bridge", n.Bridge); bad {
			c.add(p)
			return
		}
		if p, bad := c.workloadsLink(n.Bridge); bad {
			c.add(p)
			return
		}
	}
	if !n.HasBridge() {
		return
	}
	name := n.BridgeName()
	for _, other := range c.others() {
		if other.HasBridge() && other.BridgeName() == name && !n.SharesBridge(other) {
			c.add(Problem{Code: CodeBridgeTaken, Path: "spec.bridge", Reason: fmt.Sprintf("bridge %s belongs to another network", name),
				Owner: fmt.Sprintf("network %q", other.Name), Fix: "give one of them another bridge name", Example: "br0"})
		}
	}
	if n.ShareBridge {
		c.shared()
	}
	if n.BorrowsBridge() {
		c.borrowed()
	} else if l, ok := c.view.Node.Link(name); ok && !(n.ForeignBridge() && l.Bridge) {
		c.add(Problem{Code: CodeLinkTaken, Path: "spec.bridge", Reason: fmt.Sprintf("the host has a link %s that flatnet did not make", l.Name),
			Owner: describeLink(l), Fix: "choose another bridge name, or remove the link", Example: "fn-br0"})
	}
}

// shared checks that the network can stand on a bridge that another program made: the host is on it with the network's gateways.
func (c *networkCheck) shared() {
	n := c.net
	p := Problem{Code: CodeShareBridge, Path: "spec.shareBridge"}
	if n.Bridge == "" || !n.NeedsSubnet() || n.Mode == Cluster || n.NoHostAdapter {
		p.Reason, p.Fix = "a bridge that others may be on is one with a name, of a network that the host is on", "name the bridge, in mode nat, routed or host-only"
		c.add(p)
		return
	}
	l, there := c.view.Node.Link(n.Bridge)
	if !there || !l.Bridge {
		return
	}
	for _, s := range n.Subnets {
		if has := netip.PrefixFrom(s.Gateway, s.Prefix.Bits()); s.Gateway.IsValid() && !slices.Contains(l.Addrs, has) {
			p.Reason, p.Owner = fmt.Sprintf("bridge %s does not have the address %s, which is to be the gateway", n.Bridge, has), describeLink(l)
			p.Fix, p.Example = "name the gateway that it has, or give it that address", fmt.Sprintf("ip address add %s dev %s", has, n.Bridge)
			c.add(p)
		}
	}
}

// workloadsLink refuses the names that workloads' links have or would get: see HostLinkName and LimitLinkName.
func (c *networkCheck) workloadsLink(bridge string) (Problem, bool) {
	if kept := []string{"fv-", "fv.", "fi-", "fi."}; !slices.ContainsFunc(kept, func(p string) bool { return strings.HasPrefix(bridge, p) }) {
		return Problem{}, false
	}
	for _, name := range slices.Sorted(maps.Keys(c.view.Workloads)) {
		for _, e := range c.view.Workloads[name].Endpoints {
			if HostLinkName(name, e.IfName) == bridge {
				return Problem{Code: CodeLinkTaken, Path: "spec.bridge", Reason: fmt.Sprintf("link %s belongs to a workload", bridge),
					Owner: fmt.Sprintf("workload %q", name), Fix: "choose another bridge name", Example: "fn-br0"}, true
			}
		}
	}
	return Problem{Code: CodeLinkName, Path: "spec.bridge", Reason: fmt.Sprintf("link name %s is kept for a workload's link", quote(bridge)),
		Fix: "a name that begins with none of fv-, fv., fi-, fi.", Example: "fn-br0"}, true
}

func describeLink(l HostLink) string {
	s := "link " + l.Name
	for _, a := range l.Addrs {
		s += " " + a.String()
	}
	return s + linkOwner(l.Name)
}

// others are the View's networks but this one, by name.
func (c *networkCheck) others() []Network {
	var all []Network
	for _, name := range slices.Sorted(maps.Keys(c.view.Networks)) {
		if name != c.net.Name {
			all = append(all, c.view.Networks[name])
		}
	}
	return all
}

// checkLinkName is dev_valid_name of the kernel, and what we'd stumble over ourselves: sysctl has directories all and
// default beside those of links, and % makes the kernel count.
func checkLinkName(path, name string) (Problem, bool) {
	why := ""
	switch {
	case name == "":
		why = "is empty"
	case len(name) > maxLinkName:
		why = fmt.Sprintf("has %d bytes", len(name))
	case name == "." || name == ".." || name == "lo" || name == "all" || name == "default":
		why = "has a meaning of its own"
	case strings.ContainsAny(name, "/:%"):
		why = "has one of / : %"
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }):
		why = "has a space or a character outside ASCII"
	default:
		return Problem{}, false
	}
	return Problem{Code: CodeLinkName, Path: path, Reason: fmt.Sprintf("link name %s %s", quote(name), why),
		Fix: "1 to 15 printable ASCII characters without space / : %", Example: "br0"}, true
}

func (c *networkCheck) adapter() {
	if c.net.NoHostAdapter && !c.net.NeedsSubnet() {
		c.add(Problem{Code: CodeHostAdapter, Path: "spec.hostAdapter",
			Reason: fmt.Sprintf("mode %s has no host adapter to take away", c.net.Mode), Fix: "leave it out; it belongs to nat, routed and host-only"})
	}
}

func (c *networkCheck) mtu() {
	const (
		least = 1280  // RFC 8200 section 5; below it the kernel takes IPv6 off a link, and with it settings that are kept there (addrconf_notify)
		most  = 65535 // ETH_MAX_MTU
	)
	if m := c.net.MTU; m != 0 && (m < least || m > most) {
		c.add(Problem{Code: CodeMTU, Path: "spec.mtu", Reason: fmt.Sprintf("MTU %d is out of bounds", m),
			Fix: fmt.Sprintf("%d to %d bytes, or 0 (--mtu auto) to follow the uplink", least, most), Example: "1450"})
	}
}

func (c *networkCheck) snat() {
	seen := map[bool]netip.Addr{}
	for i, a := range c.net.SNAT {
		p := Problem{Code: CodeSNAT, Path: fmt.Sprintf("spec.snatIPs[%d]", i), Fix: "one unicast address of each family", Example: "192.0.2.10"}
		first, twice := seen[a.Is6()]
		_, own := c.net.Subnet(a)
		switch {
		case !c.net.Translates():
			p.Reason, p.Fix, p.Example = fmt.Sprintf("mode %s does not translate addresses", c.net.Mode), "leave it out, or use mode nat", ""
		case !isUnicast(a):
			p.Reason = fmt.Sprintf("%s is not an address that others could answer to", a)
		case twice:
			p.Reason = fmt.Sprintf("%s and %s are of one family", first, a)
		case own:
			p.Reason = fmt.Sprintf("%s lies inside the network's own subnet", a)
		default:
			seen[a.Is6()] = a
			continue
		}
		c.add(p)
	}
}

// isUnicast reports whether an address can be a source and a destination beyond one link.
func isUnicast(a netip.Addr) bool {
	_, special := specialRange(netip.PrefixFrom(a, a.BitLen()))
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() && !special
}

func (c *networkCheck) dns() {
	const most = 3 // MAXNS of resolv.conf(5)
	if len(c.net.DNS) > most {
		c.add(Problem{Code: CodeDNS, Path: "spec.dns", Reason: fmt.Sprintf("%d resolvers are too many", len(c.net.DNS)), Fix: "at most 3: programs read no more"})
	}
	for i, a := range c.net.DNS {
		if isUnicast(a) {
			continue
		}
		p := Problem{Code: CodeDNS, Path: fmt.Sprintf("spec.dns[%d]", i), Reason: fmt.Sprintf("%s cannot be asked", a),
			Fix: "a unicast address that workloads can reach", Example: "9.9.9.9"}
		switch {
		case !a.IsValid():
			p.Reason = "the resolver is no address"
		case a.IsLoopback():
			p.Reason = fmt.Sprintf("%s is the workload's own loopback there, not the host's", a)
		}
		c.add(p)
	}
}

// checkLabels is docker's habit with bounds: free values, keys that survive every file format and Kubernetes.
func checkLabels(labels map[string]string) Problems {
	const (
		mostKey   = 253 + 1 + 63 // a Kubernetes key: DNS name, slash, name
		mostValue = 1024
		most      = 64
	)
	var ps Problems
	if len(labels) > most {
		ps = append(ps, Problem{Code: CodeLabel, Path: "metadata.labels", Reason: fmt.Sprintf("%d labels are too many", len(labels)), Fix: "at most 64"})
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		p := Problem{Code: CodeLabel, Path: "metadata.labels[" + quote(k) + "]", Example: "example.com/team=web"}
		val := labels[k]
		switch {
		case k == "" || len(k) > mostKey || !isAlnum(k[0]) || strings.ContainsFunc(k, notInKey):
			p.Reason, p.Fix = "label key "+quote(k)+" cannot be used", "1 to 317 of A-Z a-z 0-9 _ . / - and the first a letter or digit"
		case len(val) > mostValue:
			p.Reason, p.Fix = fmt.Sprintf("label value has %d bytes", len(val)), "at most 1024"
		case !utf8.ValidString(val) || strings.ContainsFunc(val, unicode.IsControl):
			p.Reason, p.Fix = "label value has control characters", "printable UTF-8"
		default:
			continue
		}
		ps = append(ps, p)
	}
	return ps
}

func notInKey(r rune) bool {
	return r > '~' || !isAlnum(byte(r)) && !strings.ContainsRune("_./-", r)
}
