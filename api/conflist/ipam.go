package conflist

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
)

// addressing is what an ipam section says.
type addressing struct {
	subnets []api.SubnetSpec
	ips     []string // addresses that are always the same
	leads   bool     // there is a default route
	gateway bool     // somebody is named as the gateway
	none    bool     // nobody gives addresses
}

func (c *conversion) ipam(o object) addressing {
	if len(o.keys) == 0 {
		return addressing{none: true}
	}
	typ := o.text("type")
	var a addressing
	switch typ {
	case "host-local":
		a = c.hostLocal(o)
	case "static":
		a = c.static(o)
	case "dhcp":
		a = addressing{none: true}
		c.note(o.at("type"), "flatnet asks no DHCP server: containers get addresses of a subnet, which the manifest needs, or number themselves")
		o.drop("daemonSocketPath", "request", "provide", "priority")
	case "calico-ipam":
		o.says("assign_ipv4", "the network's subnets say which families there are")
		o.says("assign_ipv6", "the network's subnets say which families there are")
		for _, key := range []string{"ipv4_pools", "ipv6_pools"} {
			o.says(key, "pools are those of the network: cluster.pools")
		}
	case "whereabouts":
		a = c.whereabouts(o)
	default:
		c.note(o.at("type"), "flatnet gives the addresses; nothing is known of what %q does", typ)
		o.keys = nil
		return a
	}
	o.rest()
	return a
}

// hostLocal reads the ranges of the host-local plugin. Each set of ranges is one address a container.
func (c *conversion) hostLocal(o object) addressing {
	var a addressing
	o.says("dataDir", "flatnet keeps its addresses in its journal; those that stand in %s/%s are not given twice only if flatnetd is started with --host-local-dir %s", c.dataDir(o), c.name, c.dataDir(o))
	o.says("resolvConf", "name servers come from the network (dns) or the runtime")
	if o.flag("usePodCidr") {
		c.note(o.at("usePodCidr"), "the node's range is the block that flatnet gives it of cluster.pools")
	}
	if o.keys["subnet"] == "usePodCidr" { // Calico's
		o.drop("subnet")
		c.note(o.at("subnet"), "the node's range is the block that flatnet gives it of cluster.pools")
	}
	return c.hostLocalRanges(o, a)
}

func (c *conversion) dataDir(o object) string {
	dir, _ := o.keys["dataDir"].(string)
	return dir
}

func (c *conversion) hostLocalRanges(o object, a addressing) addressing {
	if o.has("subnet") || o.has("rangeStart") {
		c.subnet(&a, object{o.keys, o.path, o.notes})
	}
	v, _ := o.take("ranges")
	sets, _ := v.([]any)
	for i, set := range sets {
		inner := object{map[string]any{"set": set}, "", o.notes}.objects("set")
		for j := range inner {
			inner[j].path = fmt.Sprintf("%s[%d][%d]", o.at("ranges"), i, j)
			if j == 0 {
				c.subnet(&a, inner[j])
				inner[j].rest()
				continue
			}
			c.note(inner[j].path, "a network has one range of a kind: %s is left out; give that network a larger subnet, or make a second network", inner[j].text("subnet"))
		}
	}
	c.routes(&a, o.objects("routes"))
	return a
}

// subnet reads one range. Its keys are those of the plugin's old form too, in which they stand beside others.
func (c *conversion) subnet(a *addressing, o object) {
	p := o.subnet("subnet")
	first, last, gateway := o.addr("rangeStart"), o.addr("rangeEnd"), o.addr("gateway")
	if !p.IsValid() {
		return
	}
	s := api.SubnetSpec{Subnet: p.String()}
	if gateway.IsValid() {
		a.gateway = true
		if gateway != p.Addr().Next() {
			s.Gateway = gateway.String()
		}
	}
	c.span(&s, p, first, last, o.path)
	a.subnets = append(a.subnets, s)
}

// mostReserved is how many addresses outside a range are named one by one.
const mostReserved = 64

// span makes a range from first to last the smallest prefix that holds both, with what is too much reserved.
func (c *conversion) span(s *api.SubnetSpec, p netip.Prefix, first, last netip.Addr, path string) {
	if !first.IsValid() && !last.IsValid() {
		return
	}
	lowest, highest := p.Addr().Next(), lastOf(p)
	if p.Addr().Is4() {
		highest = highest.Prev() // the broadcast address
	}
	if !first.IsValid() || first.Less(lowest) {
		first = lowest
	}
	if !last.IsValid() || highest.Less(last) {
		last = highest
	}
	if last.Less(first) || first == lowest && last == highest {
		return
	}
	within := p
	for bits := p.Bits() + 1; bits <= first.BitLen(); bits++ {
		smaller := netip.PrefixFrom(first, bits).Masked()
		if !smaller.Contains(last) {
			break
		}
		within = smaller
	}
	var spare []string
	if within != p {
		s.IPRange = within.String()
	}
	for _, side := range []struct{ from, to netip.Addr }{{within.Addr(), first.Prev()}, {last.Next(), lastOf(within)}} {
		for a := side.from; a.IsValid() && !side.to.Less(a) && within.Contains(a); a = a.Next() {
			if usable := !a.Less(lowest) && !highest.Less(a); usable && a.String() != s.Gateway {
				spare = append(spare, a.String())
			}
			if len(spare) > mostReserved {
				c.note(path, "addresses come from %s: a range is a prefix here, and %s to %s is none", within, first, last)
				return
			}
		}
	}
	s.Reserved = spare
}

func lastOf(p netip.Prefix) netip.Addr {
	octets := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < 8*len(octets); bit++ {
		octets[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(octets)
	return a
}

func (c *conversion) routes(a *addressing, routes []object) {
	for _, r := range routes {
		dst, gw := r.text("dst"), r.text("gw")
		for _, key := range []string{"mtu", "advmss", "priority", "table", "scope"} {
			r.says(key, "routes of containers have no such setting here")
		}
		switch {
		case isDefault(dst):
			a.leads = true
			a.gateway = a.gateway || gw != ""
			c.namedGateway(a, r, gw)
		case gw != "":
			c.note(r.path, "%s by %s: containers send all by the network's gateway; put the route there", dst, gw)
		default:
			c.beyond = append(c.beyond, Note{Path: r.path, Text: dst})
		}
		r.rest()
	}
}

// namedGateway is a gateway that only the default route names.
func (c *conversion) namedGateway(a *addressing, r object, text string) {
	gw, err := netip.ParseAddr(text)
	if err != nil {
		return
	}
	for i, s := range a.subnets {
		p, err := netip.ParsePrefix(s.Subnet)
		switch {
		case err != nil || !p.Contains(gw):
		case s.Gateway == "" && gw != p.Addr().Next():
			a.subnets[i].Gateway = gw.String()
			return
		default:
			return
		}
	}
	c.note(r.at("gw"), "%s is in none of the network's subnets; the network's own gateway is used", gw)
}

func isDefault(dst string) bool {
	p, err := netip.ParsePrefix(dst)
	return err == nil && p.Bits() == 0
}

// static reads addresses that are given to whoever comes: one container can have them.
func (c *conversion) static(o object) addressing {
	var a addressing
	for _, entry := range o.objects("addresses") {
		text := entry.text("address")
		p, err := netip.ParsePrefix(text)
		if err != nil {
			c.bad(entry.at("address"), fmt.Sprintf("%q is no address with a prefix length", text), "10.1.0.7/24")
			continue
		}
		s := api.SubnetSpec{Subnet: p.Masked().String()}
		if gw := entry.addr("gateway"); gw.IsValid() {
			a.gateway = true
			if gw != p.Masked().Addr().Next() {
				s.Gateway = gw.String()
			}
		}
		a.subnets, a.ips = append(a.subnets, s), append(a.ips, p.Addr().String())
		entry.rest()
	}
	c.routes(&a, o.objects("routes"))
	c.resolvers(o)
	return a
}

func (c *conversion) whereabouts(o object) addressing {
	var a addressing
	text := o.text("range")
	for i, entry := range o.objects("ipRanges") {
		if i == 0 && text == "" {
			text = entry.text("range")
		} else {
			c.note(entry.path, "a network has one range of a kind: %s is left out", entry.text("range"))
		}
	}
	if first, rest, is := strings.Cut(text, "-"); is {
		last, bits, _ := strings.Cut(rest, "/")
		text = first + "/" + bits
		o.keys["range_start"], o.keys["range_end"] = first, last
	}
	keys := map[string]any{"subnet": text}
	for from, to := range map[string]string{"range_start": "rangeStart", "range_end": "rangeEnd", "gateway": "gateway"} {
		if v, ok := o.take(from); ok {
			keys[to] = v
		}
	}
	c.subnet(&a, object{keys, o.path, o.notes})
	for _, word := range o.words("exclude") {
		c.exclude(&a, o.at("exclude"), word)
	}
	for _, key := range []string{"datastore", "kubernetes", "etcd_host", "etcd_username", "etcd_password", "log_file", "log_level", "configuration_path", "leader_lease_duration", "leader_renew_deadline", "leader_retry_period", "enable_overlapping_ranges", "network_name", "node_slice_size"} {
		o.drop(key)
	}
	c.note(o.at("type"), "each host gives addresses of its own to containers; a range that several hosts share is a network of mode cluster, of which each holds blocks")
	c.routes(&a, o.objects("routes"))
	return a
}

// exclude reserves what is not to be given.
func (c *conversion) exclude(a *addressing, path, word string) {
	p, err := netip.ParsePrefix(word)
	if err != nil {
		addr, err := netip.ParseAddr(word)
		if err != nil {
			c.bad(path, fmt.Sprintf("%q is neither an address nor a prefix", word), "")
			return
		}
		p = netip.PrefixFrom(addr, addr.BitLen())
	}
	if len(a.subnets) == 0 || p.Addr().BitLen()-p.Bits() > 6 { // 64 addresses
		c.note(path, "%s is given too: only single addresses are reserved here; take an ipRange without it", word)
		return
	}
	s := &a.subnets[0]
	for addr := p.Masked().Addr(); addr.IsValid() && p.Contains(addr); addr = addr.Next() {
		if !slices.Contains(s.Reserved, addr.String()) {
			s.Reserved = append(s.Reserved, addr.String())
		}
	}
}
