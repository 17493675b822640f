package flannel

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Subnet is what a node holds: a prefix of IPv4, and one of IPv6 where flannel has both. It is the name of a key below PREFIX/subnets/:
//
//	10.5.52.0-24
//	10.5.52.0-24&fc00:0:0:1::-64
type Subnet struct {
	V4 netip.Prefix
	V6 netip.Prefix // zero: none
}

// String is the key's name.
func (s Subnet) String() string {
	name := strings.Replace(s.V4.String(), "/", "-", 1)
	if s.V6.IsValid() {
		name += "&" + strings.Replace(s.V6.String(), "/", "-", 1)
	}
	return name
}

// ParseSubnet reads a key's name. What is not exactly as it would be written is refused, so that there is one key for one subnet.
func ParseSubnet(name string) (Subnet, error) {
	first, second, dual := strings.Cut(name, "&")
	v4, err := parseDashed(first, false)
	if err != nil {
		return Subnet{}, err
	}
	s := Subnet{V4: v4}
	if dual {
		if s.V6, err = parseDashed(second, true); err != nil {
			return Subnet{}, err
		}
	}
	if s.String() != name {
		return Subnet{}, fmt.Errorf("it would be written %s", s)
	}
	return s, nil
}

func parseDashed(s string, v6 bool) (netip.Prefix, error) {
	at := strings.LastIndexByte(s, '-')
	if at < 0 {
		return netip.Prefix{}, errors.New("not ADDRESS-LENGTH")
	}
	p, err := netip.ParsePrefix(s[:at] + "/" + s[at+1:])
	switch {
	case err != nil:
		return netip.Prefix{}, errors.New("not ADDRESS-LENGTH")
	case p.Addr().Is6() != v6 || p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%s is of the wrong family", p)
	case p != p.Masked():
		return netip.Prefix{}, fmt.Errorf("%s has bits set behind its length", p)
	}
	return p, nil
}

// Prefixes are the one or two.
func (s Subnet) Prefixes() []netip.Prefix {
	if s.V6.IsValid() {
		return []netip.Prefix{s.V4, s.V6}
	}
	return []netip.Prefix{s.V4}
}
