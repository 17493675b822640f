package model

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// ValidateWorkload says what is wrong with a workload that is to stand in a View. A workload of the same name in the View
// is the one it replaces. A zero MAC and missing addresses are no problems: they are filled in later.
func ValidateWorkload(v View, w Workload) Problems {
	c := workloadCheck{view: v, workload: w}
	if p, bad := CheckName("workload", w.Name); bad {
		p.Path = "name"
		c.add(p)
	}
	c.sharing()
	c.netns()
	for i, e := range w.Endpoints {
		c.problems = append(c.problems, c.endpoint(i, e).Under(fmt.Sprintf("endpoints[%d]", i))...)
	}
	for i, f := range w.Forwards {
		c.forward(i, f)
	}
	for _, p := range checkLabels(w.Labels) {
		p.Path = strings.TrimPrefix(p.Path, "metadata.")
		c.add(p)
	}
	return c.problems
}

type workloadCheck struct {
	view     View
	workload Workload
	problems Problems
}

func (c *workloadCheck) add(p Problem) { c.problems = append(c.problems, p) }

func (c *workloadCheck) sharing() {
	w := c.workload
	bad := func(reason, fix string) {
		c.add(Problem{Code: CodeSharing, Path: "sharing", Reason: reason, Fix: fix, Example: "container:web"})
	}
	switch w.Sharing {
	case Own:
		if w.Join != "" {
			bad("a workload with a namespace of its own joins no other", "leave the other's name out")
		}
		return
	case Host:
	case Joined:
		c.join(bad)
	default:
		bad("sharing "+quote(string(w.Sharing))+" is not known", "own (empty), none, host, container:NAME")
		return
	}
	if len(w.Endpoints) > 0 {
		bad("a workload without a namespace of its own has no endpoints", "leave out the networks, or the sharing")
	}
	if len(w.Forwards) > 0 {
		bad("a workload without a namespace of its own publishes no ports", "publish them on the workload that it joins")
	}
}

func (c *workloadCheck) join(bad func(reason, fix string)) {
	w := c.workload
	other, ok := c.view.Workloads[w.Join]
	switch {
	case w.Join == w.Name:
		bad("a workload cannot join itself", "name another")
	case !ok:
		c.add(Problem{Code: CodeNotFound, Path: "sharing", Reason: "there is no workload " + quote(w.Join), Fix: knownNames("workloads", c.view.Workloads)})
	case other.Sharing != Own:
		bad(fmt.Sprintf("workload %q has no namespace of its own to join", w.Join), "join the one it shares")
	}
}

// knownNames lists what could have been meant.
func knownNames[V any](what string, m map[string]V) string {
	const most = 8
	names := slices.Sorted(maps.Keys(m))
	switch {
	case len(names) == 0:
		return "there are no " + what
	case len(names) > most:
		return what + ": " + strings.Join(names[:most], ", ") + ", …"
	}
	return what + ": " + strings.Join(names, ", ")
}

// The link's alias holds 255 bytes (IFALIASZ 256): what is left beside the longest owner and peer name.
const maxNetnsPath = 255 - len("flatnet ep/") - maxName - len("/") - maxLinkName - len(" peer ") - maxLinkName - len(" netns ")

func (c *workloadCheck) netns() {
	path := c.workload.Netns
	if path == "" {
		return
	}
	p := Problem{Code: CodeNetns, Path: "netns", Fix: fmt.Sprintf("an absolute path of at most %d bytes without spaces", maxNetnsPath), Example: "/run/netns/web"}
	switch {
	case c.workload.Sharing != Own:
		p.Reason, p.Fix, p.Example = "a workload that shares a namespace has no path of its own", "leave it out", ""
	case !strings.HasPrefix(path, "/") || strings.Contains(path, "/../") || strings.HasSuffix(path, "/.."):
		p.Reason = "namespace path " + quote(path) + " is not absolute"
	case len(path) > maxNetnsPath:
		p.Reason = fmt.Sprintf("namespace path has %d bytes, which don't fit a link's alias", len(path))
	case strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		p.Reason = "namespace path " + quote(path) + " has a space or control character"
	default:
		return
	}
	c.add(p)
}

func (c *workloadCheck) endpoint(i int, e Endpoint) Problems {
	var ps Problems
	if p, bad := checkLinkName("ifName", e.IfName); bad {
		p.Example = "eth0"
		ps = append(ps, p)
	}
	for _, other := range c.workload.Endpoints[:i] {
		if other.IfName == e.IfName {
			ps = append(ps, Problem{Code: CodeIfName, Path: "ifName", Reason: fmt.Sprintf("the workload has a link %s already", e.IfName), Example: "eth1"})
		}
		if other.Network == e.Network {
			ps = append(ps, Problem{Code: CodeAttachedTwice, Path: "network", Reason: fmt.Sprintf("workload %q is on network %q already", c.workload.Name, e.Network),
				Owner: "its endpoint " + other.IfName})
		}
	}
	n, ok := c.view.Networks[e.Network]
	if !ok {
		return append(ps, noNetwork("network", e.Network, c.view))
	}
	if p, bad := c.mac(n, e); bad {
		ps = append(ps, p)
	}
	ps = append(ps, c.addrs(n, e)...)
	ps = append(ps, rangesAndAliases(n, e)...)
	ps = append(ps, bandwidth(n, e.Bandwidth)...)
	if n.Mode == Cable {
		ps = append(ps, c.cable(n)...)
	}
	return ps
}

// noNetwork is the problem of a network that is not there. Whoever named none and lacks the default one can make it again.
func noNetwork(path, name string, v View) Problem {
	p := Problem{Code: CodeNotFound, Path: path, Reason: "there is no network " + quote(name), Fix: knownNames("networks", v.Networks)}
	if name == DefaultNetwork {
		p.Example = "flatnet net create " + DefaultNetwork
	}
	return p
}

func (c *workloadCheck) mac(n Network, e Endpoint) (Problem, bool) {
	if e.MAC == (MAC{}) {
		return Problem{}, false
	}
	if p, bad := checkMAC(e.MAC); bad {
		p.Path = "mac"
		return p, true
	}
	taken := func(owner string) (Problem, bool) {
		return Problem{Code: CodeMACTaken, Path: "mac", Reason: fmt.Sprintf("MAC %s is in use on network %q", e.MAC, n.Name), Owner: owner,
			Fix: "leave it out to have one derived"}, true
	}
	if n.HasBridge() && e.MAC == BridgeMAC(n.Name) {
		return taken("bridge " + n.BridgeName())
	}
	if owner, ok := c.otherOn(n.Name, func(o Endpoint) bool { return o.MAC == e.MAC }); ok {
		return taken(owner)
	}
	return Problem{}, false
}

// checkMAC judges a MAC by itself; the zero one is not asked about.
func checkMAC(m MAC) (Problem, bool) {
	p := Problem{Code: CodeMAC, Fix: "an address of one station: the first octet even, and not fe", Example: exampleMAC}
	switch {
	case m[0]&1 != 0:
		p.Reason = fmt.Sprintf("MAC %s is of a group, not of one station", m)
	case m[0] == 0xfe:
		p.Reason = fmt.Sprintf("MAC %s begins as those of the host's ends of endpoints do", m)
	default:
		return Problem{}, false
	}
	return p, true
}

// otherOn finds an endpoint of another workload on a network.
func (c *workloadCheck) otherOn(network string, match func(Endpoint) bool) (owner string, ok bool) {
	for name, w := range c.view.Workloads {
		if name == c.workload.Name {
			continue
		}
		for _, e := range w.Endpoints {
			if e.Network == network && match(e) {
				return fmt.Sprintf("workload %q %s", name, e.IfName), true
			}
		}
	}
	return "", false
}

func (c *workloadCheck) addrs(n Network, e Endpoint) Problems {
	var ps Problems
	given := map[netip.Prefix]netip.Addr{}
	for i, a := range e.Addrs {
		path := fmt.Sprintf("ips[%d]", i)
		s, p, bad := CheckAddress(n, a)
		if bad {
			p.Path = path
			ps = append(ps, c.whoseBlock(n, a, p))
			continue
		}
		if i := slices.IndexFunc(e.Addrs[:i], func(o netip.Addr) bool { return o.Is6() == a.Is6() }); i >= 0 && n.Mode == Cluster && !s.Prefix.Contains(e.Addrs[i]) {
			ps = append(ps, Problem{Code: CodeAddress, Path: path, Reason: fmt.Sprintf("%s and %s are of one family", e.Addrs[i], a), Fix: "one address of each family, in whichever of this host's blocks"})
		}
		if first, twice := given[s.Prefix]; twice {
			ps = append(ps, Problem{Code: CodeAddress, Path: path, Reason: fmt.Sprintf("%s and %s are of one subnet", first, a), Fix: "one address in each subnet"})
		}
		given[s.Prefix] = a
		if link, own := c.view.Node.Has(a); own && n.Mode == Bridged {
			ps = append(ps, Problem{Code: CodeAddressTaken, Path: path, Reason: fmt.Sprintf("%s is this host's own", a), Owner: "link " + link,
				Fix: "leave it out to have a free one"})
		}
		if owner, ok := c.otherOn(n.Name, func(o Endpoint) bool { return containsAddr(o.Addrs, a) }); ok {
			ps = append(ps, Problem{Code: CodeAddressTaken, Path: path, Reason: fmt.Sprintf("%s is in use on network %q", a, n.Name), Owner: owner,
				Fix: "leave it out to have a free one"})
		}
	}
	return ps
}

// whoseBlock adds to the refusal of an address of a cluster's network who holds it: addresses stay on the host whose block they are of.
func (c *workloadCheck) whoseBlock(n Network, a netip.Addr, p Problem) Problem {
	if _, here := n.Subnet(a); n.Mode != Cluster || here {
		return p
	}
	p.Fix = "this host has no block of the network yet"
	if len(n.Subnets) > 0 {
		p.Fix = "of this host's blocks: " + subnetList(n)
	}
	pool, ok := n.Cluster.Pool(a)
	if !ok {
		p.Reason = fmt.Sprintf("%s is in no pool of network %q", a, n.Name)
		return p
	}
	p.Reason = fmt.Sprintf("%s is not of a block that this host holds of network %q", a, n.Name)
	block, _ := pool.BlockOf(a)
	l, held := c.view.Leases[LeaseKey{n.Name, block}]
	holder := c.view.Members[l.Node].Name
	switch {
	case !held:
		p.Owner = fmt.Sprintf("block %s is nobody's", block)
	case holder == "":
		p.Owner = fmt.Sprintf("block %s is of host %s", block, l.Node)
	default:
		p.Owner = fmt.Sprintf("block %s is of host %s", block, holder)
	}
	return p
}

// rangesAndAliases judges where automatic addresses are to come from, and further names.
func rangesAndAliases(n Network, e Endpoint) Problems {
	var ps Problems
	within := make([]netip.Prefix, 0, len(n.Subnets)+len(n.Cluster.Pools))
	for _, s := range n.Subnets {
		within = append(within, s.Prefix)
	}
	for _, p := range n.Cluster.Pools {
		within = append(within, p.Prefix)
	}
	for i, r := range e.Ranges {
		if !slices.ContainsFunc(within, func(p netip.Prefix) bool { return p.Contains(r.First) && p.Contains(r.Last) }) {
			ps = append(ps, Problem{Code: CodeRange, Path: fmt.Sprintf("ipRanges[%d]", i), Reason: fmt.Sprintf("%s is in no subnet of network %q", r, n.Name), Fix: "subnets: " + subnetList(n)})
		}
	}
	for i, alias := range e.Aliases {
		if p, bad := CheckName("alias", alias); bad {
			p.Path = fmt.Sprintf("aliases[%d]", i)
			ps = append(ps, p)
		}
	}
	return ps
}

// CheckAddress judges an address that somebody asks to have on a network, and returns its subnet. A reserved address may
// be asked for: it is only never given unasked.
func CheckAddress(n Network, a netip.Addr) (Subnet, Problem, bool) {
	p := Problem{Code: CodeAddress}
	s, inside := n.Subnet(a)
	if inside {
		p.Fix = fmt.Sprintf("%s to %s", FirstAddr(s.Prefix), lastUsable(s.Prefix))
	}
	switch {
	case len(n.Subnets) == 0:
		p.Reason = fmt.Sprintf("network %q has no subnet: its workloads number themselves", n.Name)
		p.Fix = "leave the address out, or make the network with the subnet that its workloads have addresses of"
	case !inside:
		p.Reason = fmt.Sprintf("%s is in no subnet of network %q", a, n.Name)
		p.Fix = "subnets: " + subnetList(n)
	case !s.Usable(a):
		p.Reason = fmt.Sprintf("%s is the %s address of %s", a, edgeName(s, a), s.Prefix)
	case a == s.Gateway:
		p.Reason = fmt.Sprintf("%s is the gateway of %s", a, s.Prefix)
	default:
		return s, Problem{}, false
	}
	return s, p, true
}

func subnetList(n Network) string {
	words := make([]string, len(n.Subnets))
	for i, s := range n.Subnets {
		words[i] = s.Prefix.String()
	}
	return strings.Join(words, ", ")
}

// cable holds two endpoints of any workloads.
func (c *workloadCheck) cable(n Network) Problems {
	var ends []string
	for _, name := range slices.Sorted(maps.Keys(c.view.Workloads)) {
		if _, ok := c.view.Workloads[name].Endpoint(n.Name); ok && name != c.workload.Name {
			ends = append(ends, fmt.Sprintf("workload %q", name))
		}
	}
	if len(ends) < 2 {
		return nil
	}
	return Problems{{Code: CodeCableFull, Path: "network", Reason: fmt.Sprintf("cable %q has two ends already", n.Name), Owner: strings.Join(ends, ", "),
		Fix: "a network of mode isolated joins more than two"}}
}

// forward checks one published with the workload, which need not stand in the View yet.
func (c *workloadCheck) forward(i int, f Forward) {
	path := fmt.Sprintf("publish[%d]", i)
	if f.Workload != c.workload.Name {
		c.add(Problem{Code: CodeForwardTarget, Path: path, Reason: fmt.Sprintf("the forward goes to workload %q, not to %q", f.Workload, c.workload.Name)})
		return
	}
	for _, other := range c.workload.Forwards[:i] {
		if other.Clashes(f) {
			c.add(clashProblem(f, other).at(path))
		}
	}
	fc := forwardCheck{view: c.view, target: c.workload, found: true, publishing: true}
	for _, p := range fc.check(f) {
		c.add(p.at(path))
	}
}

func (p Problem) at(path string) Problem {
	p.Path = path
	return p
}
