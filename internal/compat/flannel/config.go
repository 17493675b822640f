package flannel

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/flatnet/flatnet/internal/model"
)

// Config is what stands below PREFIX/config: flannel's net-conf.json, with what is left out filled in.
type Config struct {
	V4, V6   Range // of a family that is not enabled: zero
	NFTables bool  // flanneld makes nft tables instead of iptables rules; nothing to us
	Backend  Backend
}

// Range is the range of one family, cut into subnets of one size.
type Range struct {
	Network  netip.Prefix
	Bits     int        // the length of its subnets
	Min, Max netip.Addr // the first and last subnet that are given out
}

// Backend is how flannel's nodes send to each other. Only what the type has is set.
type Backend struct {
	Type          string // in lower case: vxlan, host-gw, udp, and those that we do not speak
	VNI           uint32 // vxlan
	Port          uint16 // vxlan, udp
	MTU           int    // vxlan: of the underlay, in bytes; 0: that of its link
	GBP           bool   // vxlan: group policy bits in the header
	Learning      bool   // vxlan
	DirectRouting bool   // vxlan: plain routes to nodes on a common link
}

// The types of backend that flatnet knows by name. flannel takes udp where a configuration says nothing, whatever its manual says.
const (
	VXLAN  = "vxlan"
	HostGW = "host-gw"
	UDP    = "udp"
)

// udpPort is where flanneld's proxy listens.
const udpPort = 8285

// netConf is the JSON. encoding/json does not regard case, as flannel does not.
type netConf struct {
	EnableIPv4, EnableIPv6, EnableNFTables    *bool
	Network, SubnetMin, SubnetMax             string
	IPv6Network, IPv6SubnetMin, IPv6SubnetMax string
	SubnetLen, IPv6SubnetLen                  uint
	Backend                                   json.RawMessage
}

// family are flannel's limits for one of the two.
type family struct {
	v6       bool
	prefix   string // of the keys
	usual    int    // length of a subnet where nothing is said
	longest  int    // of a subnet
	smallest int    // network, where no length is said
}

var (
	ipv4 = family{usual: 24, longest: 30, smallest: 28}
	ipv6 = family{v6: true, prefix: "IPv6", usual: 64, longest: 126, smallest: 124}
)

// ParseConfig reads a configuration, and refuses what flanneld would refuse in etcd mode.
func ParseConfig(data []byte) (Config, error) {
	var raw netConf
	if err := json.Unmarshal(data, &raw); err != nil {
		return Config{}, plain(err)
	}
	c := Config{NFTables: is(raw.EnableNFTables, false)}
	if !is(raw.EnableIPv4, true) {
		return Config{}, errors.New("EnableIPv4 is false: flannel's keys in etcd have no form without IPv4")
	}
	var err error
	if c.V4, err = ipv4.parse(raw.Network, raw.SubnetLen, raw.SubnetMin, raw.SubnetMax); err != nil {
		return Config{}, err
	}
	if is(raw.EnableIPv6, false) {
		if c.V6, err = ipv6.parse(raw.IPv6Network, raw.IPv6SubnetLen, raw.IPv6SubnetMin, raw.IPv6SubnetMax); err != nil {
			return Config{}, err
		}
	}
	c.Backend, err = parseBackend(raw.Backend)
	return c, err
}

func is(b *bool, otherwise bool) bool {
	if b == nil {
		return otherwise
	}
	return *b
}

// parse reads the keys of one family.
func (f family) parse(network string, length uint, least, most string) (Range, error) {
	net, err := f.network(network)
	if err != nil {
		return Range{}, err
	}
	r := Range{Network: net}
	if r.Bits, err = f.length(net, length); err != nil {
		return Range{}, err
	}
	pool := r.Pool()
	if r.Min, err = f.bound("SubnetMin", least, pool, pool.Block(1).Addr()); err != nil { // flannel never gives the first subnet
		return Range{}, err
	}
	if r.Max, err = f.bound("SubnetMax", most, pool, lastBlock(pool)); err != nil {
		return Range{}, err
	}
	if r.Max.Less(r.Min) {
		return Range{}, fmt.Errorf("%sSubnetMin %s lies behind %sSubnetMax %s", f.prefix, r.Min, f.prefix, r.Max)
	}
	return r, nil
}

func (f family) network(s string) (netip.Prefix, error) {
	key := f.prefix + "Network"
	if s == "" {
		return netip.Prefix{}, fmt.Errorf("%s is missing", key)
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("%s: %w", key, err)
	case p.Addr().Is6() != f.v6 || p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%s: %s is of the other family", key, p)
	case p.Bits() == 0:
		return netip.Prefix{}, fmt.Errorf("%s: %s is every address there is", key, p)
	}
	return p.Masked(), nil
}

// length is that of the subnets. A network must have room for four: the first is not used, and a node needs two addresses and more.
func (f family) length(net netip.Prefix, said uint) (int, error) {
	switch least := net.Bits() + 2; {
	case said > uint(f.longest):
		return 0, fmt.Errorf("%sSubnetLen %d is more than %d", f.prefix, said, f.longest)
	case said > 0 && int(said) < least:
		return 0, fmt.Errorf("%sSubnetLen %d leaves no room for four subnets in %s: at least %d", f.prefix, said, net, least)
	case said > 0:
		return int(said), nil
	case net.Bits() > f.smallest:
		return 0, fmt.Errorf("%sNetwork %s is too small: at most /%d", f.prefix, net, f.smallest)
	default:
		return max(f.usual, least), nil
	}
}

// bound reads one end of what is given out. The zero address is none, as in flannel.
func (f family) bound(key, s string, pool model.BlockPool, otherwise netip.Addr) (netip.Addr, error) {
	if s == "" {
		return otherwise, nil
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%s%s: %w", f.prefix, key, err)
	case a.IsUnspecified() && a.Is6() == f.v6:
		return otherwise, nil
	}
	if _, ok := pool.Index(netip.PrefixFrom(a, pool.Bits)); !ok {
		return netip.Addr{}, fmt.Errorf("%s%s: %s is not where a /%d of %s begins", f.prefix, key, a, pool.Bits, pool.Prefix)
	}
	return a, nil
}

// lastBlock is where the last block of a pool begins, however many there are.
func lastBlock(p model.BlockPool) netip.Addr {
	a := p.Prefix.Addr().AsSlice()
	for bit := p.Prefix.Bits(); bit < p.Bits; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(a)
	return last
}

// Pool is the range as a pool of blocks; one without blocks when the family is not enabled.
func (r Range) Pool() model.BlockPool { return model.BlockPool{Prefix: r.Network, Bits: r.Bits} }

// Gives reports whether a node may take a subnet.
func (r Range) Gives(subnet netip.Prefix) bool {
	_, ok := r.Pool().Index(subnet)
	return ok && !subnet.Addr().Less(r.Min) && !r.Max.Less(subnet.Addr())
}

func parseBackend(raw json.RawMessage) (Backend, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return Backend{Type: UDP, Port: udpPort}, nil
	}
	var b struct {
		Type                         string
		VNI, Port                    *int
		MTU                          int
		GBP, Learning, DirectRouting bool
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return Backend{}, fmt.Errorf("key Backend: %w", plain(err))
	}
	switch kind := strings.ToLower(b.Type); kind {
	case "":
		return Backend{}, errors.New("key Backend has no Type")
	case VXLAN:
		vni, err1 := within("VNI", b.VNI, model.DefaultVNI, 1, 1<<24-1)
		port, err2 := within("Port", b.Port, 0, 0, 65535)
		if port == 0 {
			port = model.DefaultVXLANPort // the kernel's own
		}
		mtu, err3 := within("MTU", &b.MTU, 0, 0, 65535)
		return Backend{Type: kind, VNI: uint32(vni), Port: uint16(port), MTU: mtu, GBP: b.GBP, Learning: b.Learning, DirectRouting: b.DirectRouting},
			errors.Join(err1, err2, err3)
	case UDP:
		port, err := within("Port", b.Port, udpPort, 1, 65535)
		return Backend{Type: kind, Port: uint16(port)}, err
	default:
		return Backend{Type: kind}, nil
	}
}

func within(key string, n *int, otherwise, least, most int) (int, error) {
	if n == nil {
		return otherwise, nil
	}
	if *n < least || *n > most {
		return 0, fmt.Errorf("key Backend: %s %d is not one of %d to %d", key, *n, least, most)
	}
	return *n, nil
}

// plain words an error of encoding/json without naming our types.
func plain(err error) error {
	var kind *json.UnmarshalTypeError
	switch {
	case !errors.As(err, &kind):
		return err
	case kind.Field == "":
		return fmt.Errorf("it is no JSON object but a JSON %s", kind.Value)
	}
	return fmt.Errorf("%s: a JSON %s cannot be there", kind.Field, kind.Value)
}
