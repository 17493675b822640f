package lab

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// DefaultDir is where labs are, each in a directory of its name.
const DefaultDir = "/run/flatnet-lab"

// MaxHosts is how many hosts a lab may have: their addresses end with their number, or that and MaxHosts, and .254 is the
// router's.
const MaxHosts = 100

// Static is the word in the place of a backend for hosts that know nothing of each other: each has a routed network, and
// the lab writes the routes between them by hand. That is what a cluster is to be compared with.
const Static = "static"

// None is the word in the place of a backend for hosts that are left alone: flatnetd runs on each, with its network default.
const None = "none"

// Spec says what a lab is to be. The zero Spec is two hosts with two workloads each.
type Spec struct {
	Name           string     `json:"name,omitempty"`           // default: two-hosts, by their number
	Hosts          []HostSpec `json:"hosts,omitempty"`          // default: Hosts(2)
	Backend        string     `json:"backend,omitempty"`        // default: vxlan; or what net set --backend takes, or Static, or None
	Init           []string   `json:"init,omitempty"`           // further arguments of flatnet init: --pool fd00:90::/48
	RoutedUnderlay bool       `json:"routedUnderlay,omitempty"` // two LANs with a router between; hosts without a LAN of their own take turns

	Dir  string `json:"-"` // where labs are; default: DefaultDir
	Bin  string `json:"-"` // the directory of flatnetd, and of flatnet
	Tell Tell   `json:"-"` // what is told while it is done; default: nothing
	Deaf bool   `json:"-"` // it is up also when pairs don't answer, for tests of what doesn't work
}

// Tell is called with each line for people, without its newline.
type Tell func(format string, args ...any)

// HostSpec is one host.
type HostSpec struct {
	Name      string   `json:"name"`
	LAN       int      `json:"lan,omitempty"` // 1 or 2; 0: any
	Workloads []string `json:"workloads,omitempty"`
}

// Hosts are n hosts h1, h2, … with two workloads each: web1 and web2, db1 and db2, ….
func Hosts(n int) []HostSpec {
	roles := []string{"web", "db", "app", "job"}
	hosts := make([]HostSpec, n)
	for i := range hosts {
		role, round := roles[i%len(roles)], i/len(roles)
		hosts[i] = HostSpec{Name: fmt.Sprintf("h%d", i+1),
			Workloads: []string{fmt.Sprintf("%s%d", role, 2*round+1), fmt.Sprintf("%s%d", role, 2*round+2)}}
	}
	return hosts
}

// ReadSpec reads what a file of YAML says of a lab.
func ReadSpec(file string) (s Spec, err error) {
	err = api.ReadYAML(file, &s)
	return s, err
}

// defaultName is a lab's name by the number of its hosts.
func defaultName(hosts int) string {
	words := []string{"no", "one", "two", "three", "four", "five", "six", "seven", "eight"}
	switch {
	case hosts == 1:
		return "one-host"
	case hosts < len(words):
		return words[hosts] + "-hosts"
	}
	return fmt.Sprintf("%d-hosts", hosts)
}

// complete fills in the defaults and refuses what cannot be.
func (s Spec) complete() (Spec, error) {
	if len(s.Hosts) == 0 {
		s.Hosts = Hosts(2)
	}
	if s.Name == "" {
		s.Name = defaultName(len(s.Hosts))
	}
	if s.Backend == "" {
		s.Backend = "vxlan"
	}
	s.Deaf = s.Deaf || s.Backend == None
	if s.Dir == "" {
		s.Dir = DefaultDir
	}
	for _, dir := range []*string{&s.Dir, &s.Bin} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return s, err
		}
		*dir = abs
	}
	if s.Tell == nil {
		s.Tell = func(string, ...any) {}
	}
	s.Hosts = slices.Clone(s.Hosts)
	for i := range s.Hosts {
		switch {
		case !s.RoutedUnderlay:
			s.Hosts[i].LAN = 1
		case s.Hosts[i].LAN == 0:
			s.Hosts[i].LAN = i%2 + 1
		}
	}
	return s, s.validate()
}

// names are short enough for a link's name with a prefix, and are host names.
var names = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,9}[a-z0-9])?$`)

var labNames = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

func (s Spec) validate() error {
	if !labNames.MatchString(s.Name) {
		return Refused("name", s.Name, "a lab's name has at most 32 small letters, digits and dashes")
	}
	if len(s.Hosts) > MaxHosts {
		return Refused("hosts", len(s.Hosts), fmt.Sprintf("a lab has at most %d hosts", MaxHosts))
	}
	if s.RoutedUnderlay && s.Backend == "host-gw" && !s.Deaf {
		return Refused("backend", s.Backend, "its routes lead to hosts on the same LAN, and with a routed underlay there are two")
	}
	seen := map[string]bool{lanName: true}
	for i, h := range s.Hosts {
		at := fmt.Sprintf("hosts[%d]", i)
		for _, name := range append([]string{h.Name}, h.Workloads...) {
			if !names.MatchString(name) {
				return Refused(at, name, "names of hosts and workloads begin with a letter and have at most 11 small letters, digits and dashes")
			}
			if seen[name] {
				return Refused(at, name, "each name is given once")
			}
			seen[name] = true
		}
		if h.LAN != 1 && h.LAN != 2 {
			return Refused(at+".lan", h.LAN, "with a routed underlay there are LAN 1 and LAN 2")
		}
	}
	return nil
}

// Refused is the error for what a lab cannot be.
func Refused(path string, got any, rule string) error {
	return model.Problem{Code: codeSpec, Path: path, Reason: fmt.Sprintf("%v cannot be: %s", got, rule)}
}

// dir is the lab's own directory.
func (s Spec) dir() string { return filepath.Join(s.Dir, s.Name) }

// lans is how many there are.
func (s Spec) lans() int {
	if s.RoutedUnderlay {
		return 2
	}
	return 1
}

// lanPrefixes are the subnets of a LAN, addresses kept free for documentation.
func lanPrefixes(lan int) []netip.Prefix {
	if lan == 2 {
		return []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:2::/64")}
	}
	return []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/64")}
}

// routerPlace is the number of the router in each LAN.
const routerPlace = 254

// internet is an address behind the router.
const internet = "203.0.113.80"

// onLAN is the address of a number in each subnet of a LAN.
func onLAN(lan, number int) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range lanPrefixes(lan) {
		bytes := p.Addr().AsSlice()
		bytes[len(bytes)-1] = byte(number)
		addr, _ := netip.AddrFromSlice(bytes)
		all = append(all, netip.PrefixFrom(addr, p.Bits()))
	}
	return all
}

// blockOf is the subnet of a host's workloads where nobody else gives it one.
func blockOf(host int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(host + 1), 0}), 24)
}
