package dataplane

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Command is what one would type in a shell to do the step by hand in the namespace at path netns ("" is the host's): ip,
// sysctl and nft in the versions of Debian 12 and later. Several commands are joined by &&.
func (s Step) Command(netns string) string {
	var commands []string
	for _, c := range s.commands() {
		commands = append(commands, enter(netns, c))
	}
	return strings.Join(commands, " && ")
}

// enter prefixes a command so that it runs in the namespace.
func enter(netns, command string) string {
	if netns == HostNetns {
		return command
	}
	if dir, name := path.Split(netns); dir == "/run/netns/" || dir == "/var/run/netns/" {
		if rest, ok := strings.CutPrefix(command, "ip "); ok {
			return "ip -n " + name + " " + rest
		}
		return "ip netns exec " + name + " " + command
	}
	return "nsenter --net=" + netns + " " + command
}

func (s Step) commands() []string {
	switch o := s.Object.(type) {
	case Link:
		if s.Anew {
			return append(o.commands(Del), o.commands(Add)...)
		}
		return o.commands(s.Op)
	case Address:
		return []string{o.command(s.Op)}
	case Route:
		return []string{o.command(s.Op)}
	case RouteRule:
		return o.commands(s.Op)
	case ProxyNeighbour:
		return []string{o.command(s.Op)}
	case Port:
		return []string{o.command(s.Op)}
	case Neighbour:
		return []string{o.command(s.Op)}
	case Shaper:
		return []string{o.command(s.Op)}
	case Redirect:
		return o.commands(s.Op)
	case FDB:
		return []string{o.command(s.Op)}
	case Netns:
		verb := "add"
		if s.Op == Del {
			verb = "del"
		}
		return []string{fmt.Sprintf("ip netns %s %s", verb, path.Base(o.Path))}
	case Sysctl:
		if s.Op == Del {
			return []string{fmt.Sprintf("true # %s gets back the value that it had before flatnet", o.Name)}
		}
		return []string{fmt.Sprintf("sysctl -qw %s=%s", o.Name, o.Value)}
	}
	return s.nftCommands()
}

func (l Link) commands(op Op) []string {
	if op == Del {
		return []string{"ip link del dev " + l.Name}
	}
	set := fmt.Sprintf("ip link set dev %s %s", l.Name, strings.Join(l.params(), " "))
	if l.Owner != "" {
		set += fmt.Sprintf(" alias %q", l.Alias())
	}
	commands := []string{set}
	if op == Add && l.Kind == Bridge {
		commands = []string{fmt.Sprintf("ip link add name %s type bridge", l.Name), set}
		if !l.Snoops() {
			commands[0] += " mcast_snooping 0"
		}
	}
	if l.Kind == IFB { // has its address for life
		address := " address " + l.MAC.String()
		commands = []string{strings.Replace(set, address, "", 1)}
		if op == Add {
			commands = []string{fmt.Sprintf("ip link add name %s%s type ifb", l.Name, address), commands[0]}
		}
	}
	if op == Add && l.Kind == VXLAN {
		commands = []string{fmt.Sprintf("ip link add name %s type vxlan %s", l.Name, l.Tunnel), set}
	}
	if op == Add && l.Peer != "" {
		peer := "ip link add name " + l.Name + " type veth peer name " + l.Peer
		if l.PeerNetns != "" {
			peer += " netns " + netnsArg(l.PeerNetns)
		}
		commands = []string{peer, set}
	}
	if l.Quiet { // the kernel would set it up first
		commands = slices.Insert(commands, 0, "ip link set dev "+l.Name+" addrgenmode none")
	}
	if l.Isolated || l.Hairpin || op == Replace && l.Master != "" {
		commands = append(commands, fmt.Sprintf("ip link set dev %s type bridge_slave isolated %s hairpin %s", l.Name, onOff(l.Isolated), onOff(l.Hairpin)))
	}
	return commands
}

func netnsArg(p string) string {
	if dir, name := path.Split(p); dir == "/run/netns/" || dir == "/var/run/netns/" {
		return name
	}
	return p
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func (a Address) command(op Op) string {
	if op == Del {
		return fmt.Sprintf("ip address del %s dev %s", a.Prefix, a.Link)
	}
	c := fmt.Sprintf("ip address replace %s dev %s", a.Prefix, a.Link)
	if a.Prefix.Addr().Is6() {
		c += " nodad"
	}
	return c
}

func (r Route) command(op Op) string {
	v6 := ""
	if r.Dest.Addr().Is6() {
		v6 = "-6 "
	}
	verb := "replace"
	if op == Del {
		verb = "del"
	}
	dest := r.Dest.String()
	if r.Dest.Bits() == 0 {
		dest = "default"
	}
	return fmt.Sprintf("ip %sroute %s %s%s proto %d", v6, verb, dest, r.path(), RouteProtocol)
}

// commands of a rule: one that sends elsewhere now is deleted and added, as ip has no word for changing it.
func (r RouteRule) commands(op Op) []string {
	v6 := ""
	if r.From.Is6() {
		v6 = "-6 "
	}
	del := fmt.Sprintf("ip %srule del priority %d from %s", v6, r.Priority, r.From)
	add := fmt.Sprintf("ip %srule add priority %d from %s lookup %d protocol %d", v6, r.Priority, r.From, r.Table, RouteProtocol)
	switch op {
	case Add:
		return []string{add}
	case Del:
		return []string{del}
	}
	return []string{del, add}
}

func (p ProxyNeighbour) command(op Op) string {
	verb, proto := "replace", fmt.Sprintf(" protocol %d", RouteProtocol)
	if op == Del {
		verb, proto = "del", ""
	}
	return fmt.Sprintf("ip neigh %s proxy %s dev %s%s", verb, p.Addr, p.Link, proto)
}

func (p Port) command(op Op) string {
	if op == Del {
		return fmt.Sprintf("ip link set dev %s nomaster", p.Link)
	}
	return fmt.Sprintf("ip link set dev %s master %s up", p.Link, p.Master)
}

// nftCommands are for objects of our tables. A rule has no name of its own: changing one means to write its chain again.
func (s Step) nftCommands() []string {
	verb := "add"
	if s.Op == Del {
		verb = "delete"
	}
	switch o := s.Object.(type) {
	case Table:
		return []string{fmt.Sprintf("nft %s table %s %s", verb, o.Family, TableName)}
	case Chain:
		if s.Op == Del {
			return []string{fmt.Sprintf("nft delete chain %s %s %s", o.Family, TableName, o.Name)}
		}
		return []string{"nft add " + quoteBody(o.String())}
	case Set:
		if s.Op == Del {
			return []string{fmt.Sprintf("nft delete set %s %s %s", o.Family, TableName, o.Name)}
		}
		return []string{"nft add " + quoteBody(o.String())}
	case Element:
		del, add := "nft delete "+quoteBody(o.keyText()), "nft add "+quoteBody(o.String())
		switch s.Op {
		case Add:
			return []string{add}
		case Del:
			return []string{del}
		}
		return []string{del, add}
	case Rule:
		if s.Op == Add {
			return []string{"nft add " + o.shell()}
		}
		return []string{fmt.Sprintf("nft flush chain %s %s %s # and written again without or with the changed rule: %s", o.Family, TableName, o.Chain, s)}
	}
	return []string{"true # " + s.String()}
}

func (e Element) keyText() string {
	set := e.Set()
	return fmt.Sprintf("element %s %s %s { %s }", set.Family, TableName, set.Name, e.Is().Text(set.Type))
}

// shell is the rule with what a shell would take apart in quotes.
func (r Rule) shell() string {
	return fmt.Sprintf("rule %s %s %s '%s'", r.Family, TableName, r.Chain, strings.ReplaceAll(r.text(), "'", `'\''`))
}

// quoteBody puts a definition's braces in quotes.
func quoteBody(s string) string {
	if i := strings.IndexByte(s, '{'); i >= 0 {
		return s[:i] + "'" + s[i:] + "'"
	}
	return s
}
