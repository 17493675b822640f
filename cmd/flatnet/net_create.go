package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// netCreate makes a network; define makes one that is not started.
type netCreate struct {
	app    *app
	change change
	define bool

	mode, uplink, bridge, driver             string
	subnets, gateways, ranges, reserved, aux []string
	snat, dns, labels, opts                  []string
	mtu                                      mtu
	intern, attachable                       bool
	hostAdapter, ipv6, guard                 onOff
	isolate, masquerade, proxyARP            onOff
	cluster                                  clusterFlags
}

func newNetCreate(a *app) *cobra.Command {
	c := &netCreate{app: a}
	cmd := command(a, "create NAME [flags]", "make a network and start it",
		"flatnet net create lab --subnet 10.8.0.0/24 --gateway 10.8.0.254\nflatnet net create quiet --mode host-only --explain\nflatnet net create pods --mode cluster --pool 10.80.0.0/16:26 --backend host-gw", cobra.ExactArgs(1), c.run)
	cmd.Long = "modes: nat (default; leaves with the host's address), routed (keeps its own address; the LAN needs a route), bridged (machines\n" +
		"of the LAN), host-only (workloads and the host), isolated (workloads only), cable (two workloads, one veth), cluster (one network on all\n" +
		"hosts of the cluster: flatnet init). Who reaches whom: flatnet help modes\n" +
		"A switch without a word means on: --masquerade, --masquerade off. All of this can be changed later: flatnet net set"
	c.flags(cmd)
	return cmd
}

func newNetDefine(a *app) *cobra.Command {
	c := &netCreate{app: a, define: true}
	cmd := command(a, "define NAME [flags]", "make a network without starting it", "flatnet net define lab && flatnet net start lab", cobra.ExactArgs(1), c.run)
	c.flags(cmd)
	return cmd
}

func (c *netCreate) flags(cmd *cobra.Command) {
	cmd.Args = oneName
	f := cmd.Flags()
	f.StringVar(&c.mode, "mode", "", "nat, routed, bridged, host-only, isolated, cable or cluster")
	f.Var(listed{&c.subnets}, "subnet", "10.8.0.0/24, auto, auto4 or auto6; may be repeated")
	f.Var(listed{&c.gateways}, "gateway", "the host's address in the subnet that holds it; may be repeated")
	f.Var(listed{&c.ranges}, "ip-range", "automatic addresses come from here: a prefix, or its first-last; may be repeated")
	f.Var(listed{&c.reserved}, "reserve", "addresses never given automatically; cluster: a block that no node gets, or BLOCK=NODE")
	f.Var(&c.mtu, "mtu", mtuUsage)
	f.StringVar(&c.uplink, "uplink", "", "leave by this link only; bridged: the NIC that is put into the bridge")
	switchFlag(cmd, &c.masquerade, "masquerade", "routed: leave with the host's address")
	switchFlag(cmd, &c.proxyARP, "proxy-arp", "routed: the subnet is a part of the uplink's LAN, where the host answers ARP for it")
	f.Var(listed{&c.snat}, "snat-ip", "source address of what leaves; one for each family")
	f.Var(listed{&c.dns}, "dns", "resolvers for the workloads")
	f.StringArrayVar(&c.labels, "label", nil, "key=value; may be repeated")
	f.StringVar(&c.bridge, "bridge", "", "name of the bridge link (default fn-NAME); bridged: an existing bridge")
	switchFlag(cmd, opposite{&c.hostAdapter}, "no-host-adapter", "the host itself is not on the network")
	switchFlag(cmd, opposite{&c.ipv6}, "no-ipv6", "no automatic IPv6 subnet")
	switchFlag(cmd, opposite{&c.guard}, "no-guard", "endpoints may use any source address")
	switchFlag(cmd, &c.isolate, "isolate-ports", "endpoints reach the gateway but not each other")
	f.BoolVar(&c.intern, "internal", false, "docker's word for --mode host-only")
	f.StringVarP(&c.driver, "driver", "d", "bridge", "docker's; only bridge")
	f.StringArrayVarP(&c.opts, "opt", "o", nil, "docker's com.docker.network.* options, as far as they exist here")
	f.StringArrayVar(&c.aux, "aux-address", nil, "docker's name=address: reserved")
	switchFlag(cmd, &c.ipv6, "ipv6", "docker's; on by default here")
	switchFlag(cmd, &c.hostAdapter, "host-adapter", "net set's word; on by default")
	switchFlag(cmd, &c.guard, "guard", "net set's word; on by default")
	f.BoolVar(&c.attachable, "attachable", false, "docker's; always so")
	for _, hidden := range []string{"attachable", "aux-address", "ipv6", "host-adapter", "guard"} {
		_ = f.MarkHidden(hidden)
	}
	c.cluster.flags(cmd, c.app)
	c.change.flags(cmd)
	_ = cmd.RegisterFlagCompletionFunc("mode", words("nat", "routed", "bridged", "host-only", "isolated", "cable", "cluster"))
}

func (c *netCreate) run(ctx context.Context, args []string, stdout io.Writer) error {
	m, err := c.manifest(args[0])
	if err != nil {
		return err
	}
	done, err := c.app.client().CreateNetwork(ctx, m, c.change.options()...)
	if err != nil {
		return namingFlags(err)
	}
	c.change.done(stdout, done.Object.Name, done.Steps)
	if !c.change.dry() {
		fmt.Fprintln(c.app.stderr, createdLine(done.Object, len(done.Steps)))
		writeReturn(c.app.stderr, done.Object)
	}
	return nil
}

// createdLine says what the daemon chose.
func createdLine(n api.Network, steps int) string {
	parts := []string{n.Spec.Mode, n.Status.State}
	for _, s := range n.Status.Subnets {
		part := s.Subnet
		if s.Gateway != "" {
			part += " gateway " + s.Gateway
		}
		parts = append(parts, part)
	}
	if n.Status.Bridge != "" {
		parts = append(parts, "bridge "+n.Status.Bridge)
	}
	if n.Spec.Mode == modeCluster && len(n.Status.Subnets) == 0 {
		parts = append(parts, "no block on this host yet")
	}
	line := "  " + strings.Join(parts, "  ")
	if steps > 0 {
		line += fmt.Sprintf("  (%s; --explain prints them)", counted(steps, "step"))
	}
	return line
}

// manifest says with the flags what a file would say.
func (c *netCreate) manifest(name string) (api.Manifest, error) {
	spec := &api.NetworkSpec{Mode: c.mode, Bridge: c.bridge, Uplink: c.uplink, SNATIPs: c.snat, MTU: int(c.mtu), DNS: c.dns,
		Masquerade: c.masquerade.isOn(), ProxyARP: c.proxyARP.isOn(), IsolatePorts: c.isolate.isOn(), Inactive: c.define}
	m := api.Manifest{APIVersion: api.APIVersion, Kind: api.KindNetwork, Metadata: api.Metadata{Name: name}, Network: spec}
	spec.HostAdapter, spec.IPv6, spec.Guard = unlessOn(c.hostAdapter), unlessOn(c.ipv6), unlessOn(c.guard)
	if c.driver != "bridge" {
		return m, badUsage("--driver %s: %s", c.driver, c.otherDriver(name))
	}
	var err error
	if spec.Mode, err = modeOf(c.mode, c.intern); err != nil {
		return m, err
	}
	if m.Metadata.Labels, err = parseLabels(c.labels); err != nil {
		return m, err
	}
	if err = c.places(spec); err != nil {
		return m, err
	}
	return m, applyDockerOptions(spec, c.opts)
}

// places says where the addresses come from: subnets, or the pools of a cluster.
func (c *netCreate) places(spec *api.NetworkSpec) (err error) {
	if spec.Mode == "" && c.cluster.given() != "" {
		spec.Mode = modeCluster
	}
	if spec.Mode != modeCluster {
		if flag := c.cluster.given(); flag != "" {
			return badUsage("--%s is for --mode cluster, not %s", flag, spec.Mode)
		}
		spec.Subnets, err = c.subnetSpecs()
		return err
	}
	if len(c.subnets) > 0 {
		return badUsage("--subnet %s: a network of the cluster has pools, which its hosts share: --pool %s", c.subnets[0], c.subnets[0])
	}
	spec.Cluster, err = c.cluster.spec(c.reserved)
	return err
}

// unlessOn leaves out what is so anyway.
func unlessOn(o onOff) *bool {
	if o.isOn() {
		return nil
	}
	return o.is
}

// modeOf is the mode, which docker's --internal says as well.
func modeOf(mode string, internal bool) (string, error) {
	if !internal {
		return mode, nil
	}
	if mode != "" && mode != "host-only" {
		return "", badUsage("--internal means --mode host-only, not %s", mode)
	}
	return "host-only", nil
}

// subnetSpecs puts each gateway, range and reserved address to the subnet that holds it.
func (c *netCreate) subnetSpecs() ([]api.SubnetSpec, error) {
	var specs []api.SubnetSpec
	for _, s := range c.subnets {
		s, err := withBits("--subnet", s)
		if err != nil {
			return nil, err
		}
		specs = append(specs, api.SubnetSpec{Subnet: s})
	}
	reserved := c.reserved
	for _, aux := range c.aux {
		_, address, _ := strings.Cut(aux, "=")
		reserved = append(reserved, address)
	}
	for _, g := range c.gateways {
		s, err := holder(specs, "--gateway", g)
		if err != nil {
			return nil, err
		}
		if s.Gateway != "" {
			return nil, badUsage("--gateway %s: subnet %s has a gateway already: %s", g, s.Subnet, s.Gateway)
		}
		s.Gateway = g
	}
	for _, r := range c.ranges {
		s, err := holder(specs, "--ip-range", r)
		if err != nil {
			return nil, err
		}
		if s.IPRange, err = rangePrefix(*s, r); err != nil {
			return nil, err
		}
	}
	for _, r := range reserved {
		s, err := holder(specs, "--reserve", r)
		if err != nil {
			return nil, err
		}
		s.Reserved = append(s.Reserved, r)
	}
	return specs, nil
}

// holder finds the subnet that an address or range belongs to. What can't be read goes to the only subnet: the daemon
// knows better words for it.
func holder(specs []api.SubnetSpec, flag, value string) (*api.SubnetSpec, error) {
	if len(specs) == 0 {
		return nil, badUsage("%s %s needs the --subnet that it belongs to", flag, value)
	}
	text, _, _ := strings.Cut(value, "/")
	text, _, _ = strings.Cut(text, "-")
	a, err := netip.ParseAddr(text)
	for i := range specs {
		if p, perr := netip.ParsePrefix(specs[i].Subnet); err == nil && perr == nil && p.Contains(a) {
			return &specs[i], nil
		}
	}
	if len(specs) == 1 {
		return &specs[0], nil
	}
	return nil, badUsage("%s %s is in none of the subnets", flag, value)
}

func parseLabels(flags []string) (map[string]string, error) {
	if len(flags) == 0 {
		return nil, nil
	}
	m := map[string]string{}
	for _, l := range flags {
		k, v, _ := strings.Cut(l, "=")
		if k == "" {
			return nil, badUsage("--label %q: want key=value", l)
		}
		m[k] = v
	}
	return m, nil
}

// otherDriver says what stands here for a driver of docker's that is not its bridge.
func (c *netCreate) otherDriver(name string) string {
	nic, subnet := "NIC", "PART-OF-THE-LAN"
	for _, o := range c.opts {
		if value, ok := strings.CutPrefix(o, "parent="); ok {
			nic = value
		}
	}
	if len(c.ranges) > 0 {
		subnet = c.ranges[0] // the part of the LAN that docker was to take
	}
	bridged := fmt.Sprintf("flatnet net create %s --mode bridged --uplink %s", name, nic)
	proxied := fmt.Sprintf("flatnet net create %s --mode routed --proxy-arp --uplink %s --subnet %s", name, nic, subnet)
	switch c.driver {
	case "macvlan":
		return fmt.Sprintf("addresses of the LAN are mode bridged here:\n    %s\n  where %s has the host's own addresses:\n    %s", bridged, nic, proxied)
	case "ipvlan":
		return fmt.Sprintf("addresses of the LAN behind one MAC are proxy ARP here:\n    %s\n  with MACs of their own:\n    %s", proxied, bridged)
	case "overlay":
		pool := "10.80.0.0/16"
		if len(c.subnets) > 0 {
			pool = c.subnets[0]
		}
		return fmt.Sprintf("one network on many hosts is mode cluster here, of hosts that flatnet init and join brought together:\n    flatnet net create %s --mode cluster --pool %s", name, pool)
	case "host", "none", "null":
		return "that is no network here: flatnet run --network " + strings.Replace(c.driver, "null", "none", 1)
	}
	return "only docker's bridge is known here; flatnet's own word is --mode"
}

// applyDockerOptions translates docker's -o key=value.
func applyDockerOptions(spec *api.NetworkSpec, opts []string) error {
	for _, o := range opts {
		key, value, _ := strings.Cut(o, "=")
		short := strings.TrimPrefix(strings.TrimPrefix(key, "com.docker.network."), "bridge.")
		if short == key {
			return badUsage("-o %s: only docker's com.docker.network.* are known; flatnet's own settings are flags", key)
		}
		translate, ok := dockerOptions()[short]
		if !ok {
			return badUsage("-o %s: there is no such option of docker's bridge driver", key)
		}
		if err := translate(spec, value); err != nil {
			return badUsage("-o %s=%s: %w", key, value, err)
		}
	}
	return nil
}

// dockerOptions are the bridge driver's keys without their prefix.
func dockerOptions() map[string]func(*api.NetworkSpec, string) error {
	refuse := func(reason string) func(*api.NetworkSpec, string) error {
		return func(*api.NetworkSpec, string) error { return fmt.Errorf("%s", reason) }
	}
	return map[string]func(*api.NetworkSpec, string) error{
		"name":                    func(s *api.NetworkSpec, v string) error { s.Bridge = v; return nil },
		"enable_icc":              dockerBool(func(s *api.NetworkSpec, on bool) error { s.IsolatePorts = !on; return nil }),
		"enable_ip_masquerade":    dockerBool(setMasquerade),
		"inhibit_ipv4":            dockerBool(func(s *api.NetworkSpec, on bool) error { return setHostAdapter(s, !on) }),
		"internal":                dockerBool(setInternal),
		"enable_ipv4":             dockerBool(onlyTrue("for IPv6 alone give one --subnet auto6")),
		"enable_ipv6":             dockerBool(func(s *api.NetworkSpec, on bool) error { s.IPv6 = &on; return nil }),
		"gateway_mode_ipv4":       setGatewayMode,
		"gateway_mode_ipv6":       setGatewayMode,
		"driver.mtu":              setMTU,
		"host_ipv4":               func(s *api.NetworkSpec, v string) error { s.SNATIPs = append(s.SNATIPs, v); return nil },
		"host_ipv6":               func(s *api.NetworkSpec, v string) error { s.SNATIPs = append(s.SNATIPs, v); return nil },
		"host_binding_ipv4":       refuse("give the address with each port: flatnet run -p 192.0.2.1:8080:80"),
		"trusted_host_interfaces": refuse("the LAN comes in by forwards only: flatnet run -p 8080:80"),
		"container_iface_prefix":  refuse("name the link with the endpoint: flatnet run --network NET,ifname=lan0"),
		"default_bridge":          refuse("the default network here is the one named default"),
	}
}

func dockerBool(set func(*api.NetworkSpec, bool) error) func(*api.NetworkSpec, string) error {
	return func(s *api.NetworkSpec, v string) error {
		switch strings.ToLower(v) {
		case "true", "1":
			return set(s, true)
		case "false", "0":
			return set(s, false)
		}
		return fmt.Errorf("want true or false")
	}
}

func onlyTrue(reason string) func(*api.NetworkSpec, bool) error {
	return func(_ *api.NetworkSpec, on bool) error {
		if !on {
			return fmt.Errorf("%s", reason)
		}
		return nil
	}
}

func setHostAdapter(s *api.NetworkSpec, on bool) error { s.HostAdapter = &on; return nil }

// setMasquerade knows that a network whose addresses are not hidden is a routed one.
func setMasquerade(s *api.NetworkSpec, on bool) error {
	if !on {
		s.Mode = "routed"
	}
	return nil
}

func setInternal(s *api.NetworkSpec, on bool) error {
	if on {
		s.Mode = "host-only"
	}
	return nil
}

func setGatewayMode(s *api.NetworkSpec, v string) error {
	switch v {
	case "nat":
		return nil
	case "isolated", "routed":
		s.Mode = v
		return nil
	}
	return fmt.Errorf("want nat, routed or isolated; direct access past NAT is mode routed here")
}

func setMTU(s *api.NetworkSpec, v string) error {
	return (*mtu)(&s.MTU).Set(v)
}
