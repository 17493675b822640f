package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// modeCluster is the mode of a network that all hosts of a cluster share.
const modeCluster = "cluster"

// clusterFlags are what only networks of mode cluster have, as flags.
type clusterFlags struct {
	pools, keep, nodes []string
	backend, underlay  string
	vni                uint32
	port               uint16
	direct, checksum   onOff
	set                *pflag.FlagSet
}

// clusterFlagNames are in the order of the help; --reserve is also that of other networks.
var clusterFlagNames = [...]string{"pool", "backend", "vni", "port", "direct-routing", "checksum", "underlay", "no-masquerade", "node"}

func (c *clusterFlags) flags(cmd *cobra.Command, a *app) {
	f := cmd.Flags()
	c.set = f
	f.Var(listed{&c.pools}, "pool", "cluster: addresses that the hosts share, 10.80.0.0/16 or with the size of their blocks 10.80.0.0/16:26; may be repeated")
	f.StringVar(&c.backend, "backend", "", "cluster: vxlan (in UDP, over any underlay) or host-gw (plain routes, hosts on one link)")
	f.Uint32Var(&c.vni, "vni", 0, "cluster, vxlan: number of the network, 1 to 16777215 (default: the first free one)")
	f.Uint16Var(&c.port, "port", 0, "cluster, vxlan: UDP port (default 8472)")
	switchFlag(cmd, &c.direct, "direct-routing", "cluster, vxlan: no tunnel to hosts on a common link")
	switchFlag(cmd, &c.checksum, "checksum", "cluster, vxlan: the outer UDP checksum, which some NICs spoil; on by default")
	f.StringVar(&c.underlay, "underlay", "", "cluster: ipv4 or ipv6, by which of their addresses the hosts reach each other (default ipv4)")
	f.Var(listed{&c.keep}, "no-masquerade", "cluster: prefix outside that sees the workloads' own addresses; may be repeated")
	f.Var(listed{&c.nodes}, "node", "cluster: host that has the network, by name or ID; may be repeated (default: all)")
	_ = cmd.RegisterFlagCompletionFunc("backend", words("vxlan", "host-gw"))
	_ = cmd.RegisterFlagCompletionFunc("underlay", words("ipv4", "ipv6"))
	_ = cmd.RegisterFlagCompletionFunc("node", a.complete(hostNames))
	for _, name := range []string{"direct-routing", "checksum"} {
		_ = cmd.RegisterFlagCompletionFunc(name, words("on", "off"))
	}
}

// given is the first of the flags that was used; empty: none.
func (c *clusterFlags) given() string {
	for _, name := range clusterFlagNames {
		if c.set.Changed(name) {
			return name
		}
	}
	return ""
}

// spec says with the flags what a file would say.
func (c *clusterFlags) spec(reserved []string) (*api.ClusterSpec, error) {
	s := &api.ClusterSpec{Backend: backendOf(c.backend), VNI: c.vni, Port: c.port, DirectRouting: c.direct.isOn(), Checksum: unlessOn(c.checksum), Underlay: familyOf(c.underlay),
		NoMasquerade: c.keep, Nodes: c.nodes, Reserved: reservations(reserved)}
	var err error
	s.Pools, err = poolSpecs(c.pools)
	return s, err
}

// edit says with the flags what is to be changed; nil when that is nothing.
func (c *clusterFlags) edit(reserved []string) (*api.ClusterEdit, error) {
	if c.given() == "" && !c.set.Changed("reserve") {
		return nil, nil
	}
	e := &api.ClusterEdit{DirectRouting: c.direct.is, Checksum: c.checksum.is}
	var err error
	if c.set.Changed("pool") {
		if e.Pools, err = poolSpecs(c.pools); err != nil {
			return nil, err
		}
	}
	for name, set := range map[string]func(){
		"backend":       func() { b := backendOf(c.backend); e.Backend = &b },
		"vni":           func() { e.VNI = &c.vni },
		"port":          func() { e.Port = &c.port },
		"underlay":      func() { u := familyOf(c.underlay); e.Underlay = &u },
		"no-masquerade": func() { e.NoMasquerade = listUnlessNone(c.keep) },
		"node":          func() { e.Nodes = listUnlessNone(c.nodes) },
		"reserve":       func() { e.Reserved = reservations(listUnlessNone(reserved)) },
	} {
		if c.set.Changed(name) {
			set()
		}
	}
	return e, nil
}

// backendOf takes the ways that people write a backend's name.
func backendOf(word string) string {
	switch strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(word)) {
	case "hostgw", "hostgateway":
		return "host-gw"
	case "vxlan":
		return "vxlan"
	}
	return word
}

func familyOf(word string) string {
	switch strings.ToLower(word) {
	case "4", "v4", "ip4":
		return "ipv4"
	case "6", "v6", "ip6":
		return "ipv6"
	}
	return word
}

// poolSpecs reads PREFIX or PREFIX:BITS. What cannot be read otherwise is the daemon's to judge.
func poolSpecs(flags []string) ([]api.PoolSpec, error) {
	var specs []api.PoolSpec
	for _, text := range flags {
		s := api.PoolSpec{Subnet: text}
		slash := strings.LastIndexByte(text, '/')
		if colon := strings.LastIndexByte(text, ':'); slash >= 0 && colon > slash {
			bits, err := strconv.Atoi(strings.TrimPrefix(text[colon+1:], "/"))
			if err != nil || bits <= 0 {
				return nil, badUsage("--pool %s: behind the colon stands how many bits of an address are the same in a block: 10.80.0.0/16:26", text)
			}
			s = api.PoolSpec{Subnet: text[:colon], Block: bits}
		}
		if a, err := netip.ParseAddr(s.Subnet); err == nil {
			return nil, badUsage("--pool %s: how large is it? %s/16, for example", text, a)
		}
		specs = append(specs, s)
	}
	return specs, nil
}

// reservations reads BLOCK or BLOCK=NODE.
func reservations(flags []string) []api.ReservationSpec {
	if flags == nil {
		return nil
	}
	specs := []api.ReservationSpec{}
	for _, text := range flags {
		block, node, _ := strings.Cut(text, "=")
		specs = append(specs, api.ReservationSpec{Block: block, Node: node})
	}
	return specs
}

// namingFlags makes an error about a cluster network's settings name the flags that they come from.
func namingFlags(err error) error {
	var e *api.Error
	if !errors.As(err, &e) {
		return err
	}
	named := &api.Error{Exit: e.Exit, Problems: slices.Clone(e.Problems)}
	for i, p := range named.Problems {
		field, ok := strings.CutPrefix(p.Path, "spec.cluster.")
		if !ok {
			continue
		}
		if end := strings.IndexAny(field, ".["); end >= 0 {
			field = field[:end]
		}
		flag, ok := map[string]string{"pools": "pool", "backend": "backend", "vni": "vni", "port": "port", "directRouting": "direct-routing", "checksum": "checksum", "underlay": "underlay",
			"noMasquerade": "no-masquerade", "nodes": "node", "reserved": "reserve"}[field]
		if ok {
			named.Problems[i].Path = fmt.Sprintf("--%s (%s)", flag, p.Path)
		}
	}
	return named
}

// clusterEdit is what leads from one cluster network to the other.
func clusterEdit(old, now *api.ClusterSpec) *api.ClusterEdit {
	if now == nil {
		return nil
	}
	if old == nil {
		old = &api.ClusterSpec{}
	}
	e := &api.ClusterEdit{}
	set(&e.Backend, old.Backend, now.Backend)
	set(&e.VNI, old.VNI, now.VNI)
	set(&e.Port, old.Port, now.Port)
	set(&e.Underlay, old.Underlay, now.Underlay)
	set(&e.DirectRouting, old.DirectRouting, now.DirectRouting)
	set(&e.Checksum, isOn(old.Checksum), isOn(now.Checksum))
	setList(&e.Pools, old.Pools, now.Pools)
	setList(&e.NoMasquerade, old.NoMasquerade, now.NoMasquerade)
	setList(&e.Nodes, old.Nodes, now.Nodes)
	setList(&e.Reserved, old.Reserved, now.Reserved)
	return e
}

// clusterFacts are what only networks of mode cluster have, for a person.
func clusterFacts(n api.Network) []fact {
	c := n.Spec.Cluster
	if c == nil {
		return nil
	}
	var pools, reserved []string
	for _, p := range c.Pools {
		pools = append(pools, fmt.Sprintf("%s  blocks of /%d", p.Subnet, p.Block))
	}
	for _, r := range c.Reserved {
		text := r.Block + "  for nobody"
		if r.Node != "" {
			text = r.Block + "  for " + nodeNamed(n, r.Node)
		}
		reserved = append(reserved, text)
	}
	return []fact{{"pools", pools}, {"backend", []string{backendLine(n)}}, {"reserved", reserved}, {"no masquerade", c.NoMasquerade}, {"only on", c.Nodes}, {"nodes", nodeLines(n)}}
}

func backendLine(n api.Network) string {
	c := n.Spec.Cluster
	words := []string{c.Backend}
	if n.Status.Also != "" {
		words[0] += fmt.Sprintf(", while %s comes or goes", n.Status.Also)
	}
	if c.Backend == "vxlan" || n.Status.Also == "vxlan" {
		words = append(words, fmt.Sprintf("vni %d  udp %d", c.VNI, c.Port))
		if c.DirectRouting {
			words = append(words, "direct routing")
		}
		if !isOn(c.Checksum) {
			words = append(words, "no outer checksum")
		}
	}
	if c.Underlay == "ipv6" {
		words = append(words, "over IPv6")
	}
	return strings.Join(words, "  ")
}

func nodeNamed(n api.Network, id string) string {
	for _, node := range n.Status.Nodes {
		if node.ID == id && node.Name != "" {
			return node.Name
		}
	}
	return id
}

// nodeLines say who holds what, aligned.
func nodeLines(n api.Network) []string {
	var rows [][]string
	for _, node := range n.Status.Nodes {
		rows = append(rows, []string{orDash(node.Name), node.ID, orDash(strings.Join(node.Underlay, ",")), orDash(strings.Join(node.Blocks, ",")), nodeState(node)})
	}
	var b strings.Builder
	_ = writeRows(&b, rows)
	return splitLines(b.String())
}

func nodeState(node api.NodeBlocks) string {
	var words []string
	switch {
	case node.Self:
		words = append(words, "this host")
	case node.Problem != "":
		words = append(words, "not reached: "+node.Problem)
	case !node.Alive:
		words = append(words, "silent")
	default:
		words = append(words, "alive")
	}
	if node.Self && node.Problem != "" {
		words = append(words, node.Problem)
	}
	if len(node.Blocks) == 0 && node.Problem == "" {
		words = append(words, "no block")
	}
	return strings.Join(words, ", ")
}
