package flannel

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Env is /run/flannel/subnet.env: what the node's CNI plugin, and Docker by a script, make their bridge from.
type Env struct {
	Network, IPv6Network netip.Prefix // of all nodes; zero: none of that family
	Subnet, IPv6Subnet   netip.Prefix // of this node, with the bridge's address: the first one
	MTU                  int          // bytes, of the workloads' links
	IPMasq               bool         // whether what leaves to the LAN is masqueraded without the bridge plugin's doing
}

// String is the file, byte for byte as flanneld writes it.
func (e Env) String() string {
	var b strings.Builder
	if e.Network.IsValid() {
		fmt.Fprintf(&b, "FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s\n", e.Network, e.Subnet)
	}
	if e.IPv6Network.IsValid() {
		fmt.Fprintf(&b, "FLANNEL_IPV6_NETWORK=%s\nFLANNEL_IPV6_SUBNET=%s\n", e.IPv6Network, e.IPv6Subnet)
	}
	fmt.Fprintf(&b, "FLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n", e.MTU, e.IPMasq)
	return b.String()
}

// Env is the file of a node that holds a subnet.
func (c Config) Env(s Subnet, mtu int, masq bool) Env {
	e := Env{Network: c.V4.Network, Subnet: first(s.V4), MTU: mtu, IPMasq: masq}
	if s.V6.IsValid() {
		e.IPv6Network, e.IPv6Subnet = c.V6.Network, first(s.V6)
	}
	return e
}

// first is the first address of a prefix that a host can have, with the prefix's length.
func first(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(p.Addr().Next(), p.Bits()) }

// ParseEnv reads the file. Of lists of networks the first counts; lines that are of no use to us are passed over.
func ParseEnv(data []byte) (Env, error) {
	var e Env
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		key = strings.TrimSpace(strings.TrimPrefix(key, "export "))
		if err := e.set(key, strings.Trim(strings.TrimSpace(value), `"'`)); err != nil {
			return Env{}, fmt.Errorf("%s: %w", clip(key), err)
		}
	}
	return e, nil
}

func (e *Env) set(key, value string) (err error) {
	head, _, _ := strings.Cut(value, ",")
	switch key {
	case "FLANNEL_NETWORK":
		e.Network, err = parseOf(head, false)
	case "FLANNEL_SUBNET":
		e.Subnet, err = parseOf(head, false)
	case "FLANNEL_IPV6_NETWORK":
		e.IPv6Network, err = parseOf(head, true)
	case "FLANNEL_IPV6_SUBNET":
		e.IPv6Subnet, err = parseOf(head, true)
	case "FLANNEL_MTU":
		e.MTU, err = strconv.Atoi(value)
	case "FLANNEL_IPMASQ":
		e.IPMasq, err = strconv.ParseBool(value)
	}
	return err
}

func parseOf(s string, v6 bool) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err == nil && (p.Addr().Is6() != v6 || p.Addr().Is4In6()) {
		err = fmt.Errorf("%s is of the wrong family", p)
	}
	return p, err
}

// Held is the subnet that the file says the node had.
func (e Env) Held() Subnet { return Subnet{V4: e.Subnet.Masked(), V6: e.IPv6Subnet.Masked()} }
