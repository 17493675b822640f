package main

import (
	"context"
	"io"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// netSet changes single settings of a network while workloads are on it.
type netSet struct {
	app     *app
	change  change
	consent consent

	mode, uplink, bridge                              string
	subnets, gateways, ranges, reserved               []string
	snat, dns, labels                                 []string
	mtu                                               mtu
	intern                                            bool
	masquerade, proxyARP                              onOff
	nat, hostAdapter, guard, isolate, ipv6, autostart onOff
	cluster                                           clusterFlags
	given                                             func(flag string) bool
}

func newNetSet(a *app) *cobra.Command {
	c := &netSet{app: a}
	cmd := command(a, "set NAME [flags]", "change a network while workloads are on it",
		"flatnet net set lab --mtu 1400 --dns 9.9.9.9\nflatnet net set lab --nat on\nflatnet net set lab --subnet 10.9.0.0/24 --renumber --explain\nflatnet net set cluster --backend host-gw", cobra.ExactArgs(1), c.run)
	cmd.Long = "What is not named stays. A switch without a word means on: --masquerade, --masquerade off. Workloads keep their connections on the network, through any change of its mode but to or from cable.\n\n" +
		"  --nat on    a host-only network shares the host's connection (it becomes nat); a routed one masquerades\n" +
		"  --nat off   the NAT device is taken away: nat becomes host-only, a routed network leaves with its own addresses\n\n" +
		"What follows from a mode comes and goes by itself: a gateway, a subnet where none was, an uplink. The word none takes a list or name\n" +
		"away. A subnet takes the place of the one of its family; addresses that do not fit any more need --renumber, published ports that the\n" +
		"new mode cannot have --force. Of a network of the cluster pools may be added, and the backend changes without a packet lost; another\n" +
		"VNI, port or underlay interrupts it while the hosts follow. On a terminal the plan is shown and asked about; -y answers, --explain only shows it."
	cmd.Args = oneName
	f := cmd.Flags()
	c.given = f.Changed
	f.StringVar(&c.mode, "mode", "", "nat, routed, bridged, host-only or isolated")
	switchFlag(cmd, &c.nat, "nat", "share the host's connection, or not")
	switchFlag(cmd, &c.masquerade, "masquerade", "routed: leave with the host's address; off: with their own")
	switchFlag(cmd, &c.proxyARP, "proxy-arp", "routed: the host answers ARP for the subnet on the uplink's LAN; off: no more")
	switchFlag(cmd, &c.hostAdapter, "host-adapter", "the host itself is on the network")
	f.Var(listed{&c.subnets}, "subnet", "instead of those of its family: 10.9.0.0/24, auto, auto4 or auto6 (another one); may be repeated")
	f.Var(listed{&c.gateways}, "gateway", "of the subnet that holds it; may be repeated")
	f.Var(listed{&c.ranges}, "ip-range", "automatic addresses come from here, from now on: a prefix, or its first-last; may be repeated")
	f.Var(listed{&c.reserved}, "reserve", "addresses never given automatically; cluster: all the blocks that no node gets, or BLOCK=NODE")
	switchFlag(cmd, &c.ipv6, "ipv6", "with an IPv6 subnet, or without")
	f.Var(&c.mtu, "mtu", mtuUsage)
	f.StringVar(&c.uplink, "uplink", "", "leave by this link only; bridged: the NIC that is put into the bridge")
	f.Var(listed{&c.snat}, "snat-ip", "source address of what leaves; one for each family")
	f.Var(listed{&c.dns}, "dns", "resolvers for the workloads")
	f.StringArrayVar(&c.labels, "label", nil, "key=value, or key- to take it away; may be repeated")
	f.StringVar(&c.bridge, "bridge", "", "name of the bridge link; bridged: an existing bridge")
	switchFlag(cmd, &c.guard, "guard", "endpoints may use only their own addresses")
	switchFlag(cmd, &c.isolate, "isolate-ports", "endpoints reach the gateway but not each other")
	switchFlag(cmd, &c.autostart, "autostart", "start with the daemon")
	f.BoolVar(&c.intern, "internal", false, "docker's word for --mode host-only")
	switchFlag(cmd, opposite{&c.hostAdapter}, "no-host-adapter", "net create's word for --host-adapter off")
	switchFlag(cmd, opposite{&c.guard}, "no-guard", "net create's word for --guard off")
	switchFlag(cmd, opposite{&c.ipv6}, "no-ipv6", "net create's word for --ipv6 off")
	for _, hidden := range []string{"internal", "no-host-adapter", "no-guard", "no-ipv6"} {
		_ = f.MarkHidden(hidden)
	}
	c.cluster.flags(cmd, a)
	c.consent.flags(cmd)
	c.change.flags(cmd)
	cmd.ValidArgsFunction = a.completeEach(networkNames)
	_ = cmd.RegisterFlagCompletionFunc("mode", words("nat", "routed", "bridged", "host-only", "isolated"))
	for _, name := range []string{"nat", "masquerade", "proxy-arp", "host-adapter", "ipv6", "guard", "isolate-ports", "autostart"} {
		_ = cmd.RegisterFlagCompletionFunc(name, words("on", "off"))
	}
	return cmd
}

func (c *netSet) run(ctx context.Context, args []string, stdout io.Writer) error {
	old, err := c.app.client().Network(ctx, args[0])
	if err != nil {
		return err
	}
	e, err := c.edit(old)
	if err != nil {
		return err
	}
	if reflect.DeepEqual(e, api.NetworkEdit{}) {
		return badUsage("what is to change? say it with a flag, or in an editor: flatnet net edit %s", old.Name)
	}
	return namingFlags(c.consent.editNetwork(ctx, c.app, c.change, old, e, stdout))
}

// edit says with the flags what is to be changed.
func (c *netSet) edit(old api.Network) (api.NetworkEdit, error) {
	e := api.NetworkEdit{NAT: c.nat.is, HostAdapter: c.hostAdapter.is, Guard: c.guard.is, IsolatePorts: c.isolate.is, Autostart: c.autostart.is,
		Masquerade: c.masquerade.is, ProxyARP: c.proxyARP.is}
	var err error
	if c.mode, err = modeOf(c.mode, c.intern); err != nil {
		return e, err
	}
	given := func(flag string, set func()) {
		if c.given(flag) {
			set()
		}
	}
	if c.given("mode") || c.intern {
		e.Mode = &c.mode
	}
	given("mtu", func() { e.MTU = (*int)(&c.mtu) })
	given("uplink", func() { e.Uplink = unlessNone(c.uplink) })
	given("bridge", func() { e.Bridge = unlessNone(c.bridge) })
	given("snat-ip", func() { e.SNATIPs = listUnlessNone(c.snat) })
	given("dns", func() { e.DNS = listUnlessNone(c.dns) })
	if old.Spec.Mode == modeCluster {
		if len(c.subnets) > 0 {
			return e, badUsage("--subnet %s: a network of the cluster has pools, which its hosts share; all of them: --pool …", c.subnets[0])
		}
		if e.Cluster, err = c.cluster.edit(c.reserved); err != nil {
			return e, err
		}
	} else if flag := c.cluster.given(); flag != "" {
		return e, badUsage("--%s is for networks of mode cluster, and %s is %s", flag, old.Name, old.Spec.Mode)
	} else if c.given("subnet") || c.given("gateway") || c.given("ip-range") || c.given("reserve") || c.ipv6.is != nil {
		if e.Subnets, err = c.subnetSpecs(old.Spec.Subnets); err != nil {
			return e, err
		}
	}
	for _, l := range c.labels {
		switch k, v, hasValue := strings.Cut(l, "="); {
		case hasValue && k != "":
			if e.Labels == nil {
				e.Labels = map[string]string{}
			}
			e.Labels[k] = v
		case !hasValue && len(k) > 1 && strings.HasSuffix(k, "-"):
			e.DropLabels = append(e.DropLabels, strings.TrimSuffix(k, "-"))
		default:
			return e, badUsage("--label %q: want key=value, or key- to take it away", l)
		}
	}
	return e, nil
}

// none takes away what a flag would set.
const none = "none"

func unlessNone(s string) *string {
	if s == none {
		s = ""
	}
	return &s
}

func listUnlessNone(list []string) []string {
	if len(list) == 1 && list[0] == none {
		return []string{}
	}
	return list
}

// subnetSpecs puts what the flags say into the subnets that there are.
func (c *netSet) subnetSpecs(old []api.SubnetSpec) ([]api.SubnetSpec, error) {
	if len(c.subnets) == 1 && c.subnets[0] == none {
		return []api.SubnetSpec{}, nil
	}
	given := make([]string, len(c.subnets))
	for i, s := range c.subnets {
		var err error
		if given[i], err = withBits("--subnet", s); err != nil {
			return nil, err
		}
	}
	specs := replaceSubnets(old, given)
	if (c.given("mode") || c.intern) && !c.given("gateway") { // another mode's may be somebody else: the daemon knows what is to stay
		for i := range specs {
			specs[i].Gateway = ""
		}
	}
	if on := c.ipv6.is; on != nil {
		has := slices.ContainsFunc(specs, func(s api.SubnetSpec) bool { return isIPv6(s.Subnet) })
		switch {
		case *on && !has:
			specs = append(specs, api.SubnetSpec{Subnet: "auto6"})
		case !*on:
			specs = slices.DeleteFunc(specs, func(s api.SubnetSpec) bool { return isIPv6(s.Subnet) })
		}
	}
	for _, p := range []struct {
		flag   string
		values []string
		set    func(*api.SubnetSpec, string)
	}{
		{"--gateway", c.gateways, func(s *api.SubnetSpec, v string) { s.Gateway = v }},
		{"--ip-range", c.ranges, func(s *api.SubnetSpec, v string) { s.IPRange = v }},
		{"--reserve", c.reserved, func(s *api.SubnetSpec, v string) { s.Reserved = append(s.Reserved, v) }},
	} {
		values := listUnlessNone(p.values)
		for i := range specs {
			if p.values != nil && (len(values) == 0 || p.flag == "--reserve") {
				clearField(&specs[i], p.flag)
			}
		}
		for _, v := range values {
			s, err := holder(specs, p.flag, v)
			if err != nil {
				return nil, err
			}
			if p.flag == "--ip-range" {
				if v, err = rangePrefix(*s, v); err != nil {
					return nil, err
				}
			}
			p.set(s, v)
		}
	}
	return specs, nil
}

func clearField(s *api.SubnetSpec, flag string) {
	switch flag {
	case "--gateway":
		s.Gateway = ""
	case "--ip-range":
		s.IPRange = ""
	case "--reserve":
		s.Reserved = nil
	}
}

// replaceSubnets puts subnets in the place of those of their families; one that is there already stays as it is.
func replaceSubnets(old []api.SubnetSpec, now []string) []api.SubnetSpec {
	specs := []api.SubnetSpec{}
	for _, v6 := range []bool{false, true} {
		var given []string
		for _, s := range now {
			if isIPv6(s) == v6 {
				given = append(given, s)
			}
		}
		for _, s := range old {
			if isIPv6(s.Subnet) == v6 && given == nil {
				specs = append(specs, s)
			}
		}
		for _, s := range given {
			i := slices.IndexFunc(old, func(o api.SubnetSpec) bool { return o.Subnet == s })
			if i >= 0 {
				specs = append(specs, old[i])
			} else {
				specs = append(specs, api.SubnetSpec{Subnet: s})
			}
		}
	}
	return specs
}

// isIPv6 reports whether a subnet is of IPv6; what cannot be read is the daemon's to judge.
func isIPv6(subnet string) bool {
	p, err := netip.ParsePrefix(subnet)
	return subnet == "auto6" || err == nil && p.Addr().Is6()
}
