package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// The words that stand for a subnet to be chosen.
const (
	autoSubnet  = "auto"
	autoSubnet4 = "auto4"
	autoSubnet6 = "auto6"
)

// networkReader turns a manifest into a network, noting what cannot be read on the way.
type networkReader struct {
	view     model.View
	seed     [5]byte
	old      *model.Network // the network that is changed: its automatic subnets and gateways stay
	fresh    bool           // its automatic subnets are to be others
	problems model.Problems
}

func (r *networkReader) read(meta api.Metadata, spec api.NetworkSpec) model.Network {
	n := model.Network{
		Name: meta.Name, Labels: maps.Clone(meta.Labels), Mode: model.Mode(spec.Mode), Bridge: spec.Bridge, ShareBridge: spec.ShareBridge, Uplink: spec.Uplink, MTU: spec.MTU,
		Masquerade: spec.Masquerade, ProxyARP: spec.ProxyARP,
		NoHostAdapter: isFalse(spec.HostAdapter), NoGuard: isFalse(spec.Guard), IsolatePorts: spec.IsolatePorts,
		Autostart: !isFalse(spec.Autostart), Active: !spec.Inactive,
	}
	if n.Mode == "" {
		n.Mode = model.NAT
	}
	n.SNAT = r.addrs(model.CodeSNAT, "spec.snatIPs", spec.SNATIPs)
	n.DNS = r.addrs(model.CodeDNS, "spec.dns", spec.DNS)
	r.cluster(&n, spec.Cluster)
	r.subnets(&n, spec)
	if n.NeedsSubnet() {
		for i, s := range n.Subnets {
			if !s.Gateway.IsValid() && s.Prefix.IsValid() {
				n.Subnets[i].Gateway = r.gateway(n, s)
			}
		}
	}
	return n.WithDefaults()
}

// gateway is the one that the subnet had, or that of the subnet before in the same place, or the first address that nobody has.
func (r *networkReader) gateway(n model.Network, s model.Subnet) netip.Addr {
	taken := map[netip.Addr]bool{}
	for _, w := range r.view.Workloads {
		if e, on := w.Endpoint(n.Name); on {
			for _, a := range e.Addrs {
				taken[a] = true
			}
		}
	}
	for _, a := range s.Reserved {
		taken[a] = true
	}
	if r.old != nil {
		pairs := successorsOf(*r.old, n)
		for _, was := range r.old.Subnets {
			if was.Prefix != s.Prefix && pairs[was.Prefix].Prefix != s.Prefix || !was.Gateway.IsValid() {
				continue
			}
			if a, ok := hostPart(was.Gateway, was.Prefix, s.Prefix); ok && s.Usable(a) && !taken[a] {
				return a
			}
		}
	}
	for a := model.FirstAddr(s.Prefix); s.Usable(a); a = a.Next() {
		if !taken[a] {
			return a
		}
	}
	return netip.Addr{}
}

func isFalse(b *bool) bool { return b != nil && !*b }

func (r *networkReader) add(p model.Problem) { r.problems = append(r.problems, p) }

func (r *networkReader) subnets(n *model.Network, spec api.NetworkSpec) {
	asked := spec.Subnets
	if len(asked) == 0 && n.NeedsSubnet() && n.Mode != model.Cluster {
		asked = []api.SubnetSpec{{Subnet: autoSubnet4}}
		if !isFalse(spec.IPv6) {
			asked = append(asked, api.SubnetSpec{Subnet: autoSubnet6})
		}
	}
	for i, s := range asked[:min(len(asked), model.MaxSubnets+1)] { // one more is refused
		path := fmt.Sprintf("spec.subnets[%d]", i)
		if subnet, ok := r.subnet(*n, path, s); ok {
			n.Subnets = append(n.Subnets, subnet)
		}
	}
}

func (r *networkReader) subnet(n model.Network, path string, spec api.SubnetSpec) (model.Subnet, bool) {
	s := model.Subnet{
		Prefix:   r.prefix(n, path+".subnet", spec.Subnet),
		Gateway:  r.addr(model.CodeGateway, path+".gateway", spec.Gateway),
		Reserved: r.addrs(model.CodeReserved, path+".reserved", spec.Reserved),
	}
	if spec.IPRange != "" {
		p, err := netip.ParsePrefix(spec.IPRange)
		if err != nil {
			r.add(model.Problem{Code: model.CodeRange, Path: path + ".ipRange", Reason: fmt.Sprintf("%q is not a prefix", short(spec.IPRange)),
				Fix: "an address, a slash and a number of bits", Example: "10.66.0.128/25"})
		}
		s.Range = p
	}
	return s, s.Prefix.IsValid()
}

func (r *networkReader) prefix(n model.Network, path, text string) netip.Prefix {
	switch text {
	case autoSubnet, autoSubnet4, "":
		return r.auto(n, path, false)
	case autoSubnet6:
		return r.auto(n, path, true)
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		r.add(model.Problem{Code: model.CodeSubnet, Path: path, Reason: fmt.Sprintf("%q is not a subnet", short(text)),
			Fix: "an address, a slash and a number of bits; or auto", Example: "10.66.0.0/24"})
	}
	return p
}

// auto is the subnet that the network has already in that place, or the first free one of the pools.
func (r *networkReader) auto(n model.Network, path string, v6 bool) netip.Prefix {
	if r.old != nil && !r.fresh {
		for _, s := range r.old.Subnets {
			_, used := n.Subnet(s.Prefix.Addr())
			if s.Prefix.Addr().Is6() == v6 && !used {
				return s.Prefix
			}
		}
	}
	// What this manifest has taken before counts too.
	v := r.view
	v.Networks = maps.Clone(v.Networks)
	v.Networks["\x00"] = n
	free := model.FreeSubnets(v, model.Pools(r.seed), v6, 0, 1)
	if len(free) == 0 {
		r.add(model.Problem{Code: model.CodePoolsExhausted, Path: path, Reason: "every subnet of the pools overlaps a network or a route of this host",
			Fix: "name a subnet", Example: "192.168.88.0/24"})
		return netip.Prefix{}
	}
	return free[0]
}

func (r *networkReader) addrs(code, path string, texts []string) []netip.Addr {
	var addrs []netip.Addr
	for i, s := range texts {
		if a := r.addr(code, fmt.Sprintf("%s[%d]", path, i), s); a.IsValid() {
			addrs = append(addrs, a)
		} else if s == "" {
			r.add(badAddr(code, fmt.Sprintf("%s[%d]", path, i), s))
		}
	}
	return addrs
}

// addr is the zero Addr for an empty text.
func (r *networkReader) addr(code, path, text string) netip.Addr {
	if text == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		r.add(badAddr(code, path, text))
		return netip.Addr{}
	}
	return a
}

func badAddr(code, path, text string) model.Problem {
	return model.Problem{Code: code, Path: path, Reason: fmt.Sprintf("%q is not an IP address", short(text)), Example: "10.66.0.1"}
}

// short cuts what somebody sent to what fits an error.
func short(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// networkSpec is the manifest's spec that would make the network.
func networkSpec(n model.Network) api.NetworkSpec {
	spec := api.NetworkSpec{
		Mode: string(n.Mode), Bridge: n.Bridge, ShareBridge: n.ShareBridge, Uplink: n.Uplink, MTU: n.MTU, SNATIPs: texts(n.SNAT), DNS: texts(n.DNS),
		Masquerade: n.Masquerade, ProxyARP: n.ProxyARP, IsolatePorts: n.IsolatePorts, Inactive: !n.Active,
	}
	off := func(p **bool, set bool) {
		if set {
			*p = new(bool)
		}
	}
	off(&spec.HostAdapter, n.NoHostAdapter)
	off(&spec.Guard, n.NoGuard)
	off(&spec.Autostart, !n.Autostart)
	if n.Mode == model.Cluster {
		spec.Cluster = clusterSpec(n.Cluster)
		return spec
	}
	for _, s := range n.Subnets {
		spec.Subnets = append(spec.Subnets, api.SubnetSpec{Subnet: s.Prefix.String(), Gateway: text(s.Gateway), IPRange: prefixText(s.Range), Reserved: texts(s.Reserved)})
	}
	return spec
}

func texts(addrs []netip.Addr) []string {
	var list []string
	for _, a := range addrs {
		list = append(list, a.String())
	}
	return list
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func prefixText(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

// sameNetwork reports whether two networks are asked for alike.
func sameNetwork(a, b model.Network) bool {
	return a.Name == b.Name && a.Mode == b.Mode && a.Bridge == b.Bridge && a.ShareBridge == b.ShareBridge && a.NoHostAdapter == b.NoHostAdapter && a.Uplink == b.Uplink &&
		a.Masquerade == b.Masquerade && a.ProxyARP == b.ProxyARP &&
		a.MTU == b.MTU && a.NoGuard == b.NoGuard && a.IsolatePorts == b.IsolatePorts && a.Active == b.Active && a.Autostart == b.Autostart &&
		slices.Equal(a.SNAT, b.SNAT) && slices.Equal(a.DNS, b.DNS) && maps.Equal(a.Labels, b.Labels) && reflect.DeepEqual(a.Cluster, b.Cluster) && slices.EqualFunc(a.Subnets, b.Subnets, sameSubnet)
}

func sameSubnet(a, b model.Subnet) bool {
	return a.Prefix == b.Prefix && a.Gateway == b.Gateway && a.Range == b.Range && slices.Equal(a.Reserved, b.Reserved)
}
