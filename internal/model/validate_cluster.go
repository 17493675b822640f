package model

import (
	"fmt"
	"net/netip"
)

// MaxPools bounds what one request costs: each pool is held against all others.
const MaxPools = 16

// The bounds of a cluster network's lists: every node of the cluster reads them, and holds the prefixes in its rules.
const (
	MaxKeep     = 256
	MaxNodes    = 10_000
	MaxReserved = 10_000
)

// maxVNI is what fits into 24 bits (RFC 7348 section 5).
const maxVNI = 1<<24 - 1

// cluster checks what only networks of mode cluster have.
func (c *networkCheck) cluster() {
	n := c.net
	if n.Mode != Cluster {
		return
	}
	if !c.lists() {
		return
	}
	c.pools()
	c.overlay()
	c.reservations()
	bad := func(path, reason, fix string) {
		c.add(Problem{Code: CodeCluster, Path: path, Reason: reason, Fix: fix})
	}
	if len(n.Subnets) > 0 {
		bad("spec.subnets", "a cluster network's subnets are the blocks that its nodes hold", "give pools instead: --pool 10.244.0.0/16")
	}
	if n.Uplink != "" {
		bad("spec.uplink", "a cluster network leaves by whatever route each node has", "leave the uplink out")
	}
	if len(n.SNAT) > 0 {
		bad("spec.snatIPs", "a cluster network's workloads leave with the address of their node", "leave the addresses out")
	}
	if n.NoHostAdapter {
		bad("spec.hostAdapter", "the nodes of a cluster network are its routers", "leave it out")
	}
	for i, p := range n.Cluster.Keep {
		if !p.IsValid() || p != p.Masked() {
			bad(fmt.Sprintf("spec.cluster.noMasquerade[%d]", i), fmt.Sprintf("%s is not a prefix", p), "an address, a slash and a number of bits: 192.168.0.0/16")
		}
	}
	for i, node := range n.Cluster.Nodes {
		if p, is := CheckName("node", node); is {
			bad(fmt.Sprintf("spec.cluster.nodes[%d]", i), p.Reason, p.Fix)
		}
	}
}

// lists reports whether there is not too much in any.
func (c *networkCheck) lists() bool {
	o, ok := c.net.Cluster, true
	for _, l := range []struct {
		path, what string
		n, most    int
	}{{"noMasquerade", "prefixes", len(o.Keep), MaxKeep}, {"nodes", "nodes", len(o.Nodes), MaxNodes}, {"reserved", "reservations", len(o.Reserved), MaxReserved}} {
		if l.n > l.most {
			ok = false
			c.add(Problem{Code: CodeTooLarge, Path: "spec.cluster." + l.path, Reason: fmt.Sprintf("%d %s are too many", l.n, l.what), Fix: fmt.Sprintf("at most %d", l.most)})
		}
	}
	return ok
}

func (c *networkCheck) pools() {
	pools := c.net.Cluster.Pools
	path := func(i int) string { return fmt.Sprintf("spec.cluster.pools[%d]", i) }
	switch {
	case len(pools) == 0:
		c.add(Problem{Code: CodeNoSubnet, Path: "spec.cluster.pools", Reason: "a cluster network needs a pool of addresses", Fix: "each node gets blocks of it", Example: "--pool 10.244.0.0/16"})
	case len(pools) > MaxPools:
		c.add(Problem{Code: CodeTooLarge, Path: "spec.cluster.pools", Reason: fmt.Sprintf("%d pools are too many", len(pools)), Fix: fmt.Sprintf("at most %d", MaxPools)})
		return
	}
	for i, pool := range pools {
		if p, bad := checkPrefix(pool.Prefix); bad {
			p.Path = path(i)
			c.add(p)
			continue
		}
		c.blockSize(pool, path(i))
		for j, other := range pools[:i] {
			if other.Prefix.Overlaps(pool.Prefix) {
				c.add(Problem{Code: CodeSubnetTwice, Path: path(i), Reason: fmt.Sprintf("%s overlaps another pool of the network", pool.Prefix), Owner: path(j) + " " + other.Prefix.String()})
			}
		}
		c.networkOverlap(pool.Prefix, path(i))
		c.hostOverlap(pool.Prefix, path(i))
	}
}

// blockSize keeps blocks large enough for a gateway and a workload.
func (c *networkCheck) blockSize(pool BlockPool, path string) {
	most := 30
	if pool.Prefix.Addr().Is6() {
		most = 126
	}
	if pool.Bits < pool.Prefix.Bits() || pool.Bits > most {
		c.add(Problem{Code: CodeCluster, Path: path, Reason: fmt.Sprintf("%s cannot be cut into blocks of /%d", pool.Prefix, pool.Bits),
			Fix: fmt.Sprintf("/%d to /%d", pool.Prefix.Bits(), most), Example: fmt.Sprintf("--pool %s:%d", pool.Prefix, min(max(24, pool.Prefix.Bits()), most))})
	}
}

func (c *networkCheck) overlay() {
	n, o := c.net, c.net.Cluster
	bad := func(path, reason, fix, example string) {
		c.add(Problem{Code: CodeCluster, Path: path, Reason: reason, Fix: fix, Example: example})
	}
	for _, b := range []struct {
		path string
		is   Backend
	}{{"spec.cluster.backend", o.Backend}, {"spec.cluster.also", o.Also}} {
		if b.is != VXLAN && b.is != HostGW && (b.is != "" || b.path == "spec.cluster.backend") {
			bad(b.path, fmt.Sprintf("backend %s is not known", quote(string(b.is))), "backends: vxlan, host-gw", "vxlan")
		}
	}
	if o.VNI < 1 || o.VNI > maxVNI {
		bad("spec.cluster.vni", fmt.Sprintf("VNI %d is out of bounds", o.VNI), fmt.Sprintf("1 to %d", maxVNI), "1")
	}
	if o.Port == 0 {
		bad("spec.cluster.port", "port 0 cannot be", "1 to 65535", fmt.Sprint(DefaultVXLANPort))
	}
	if o.Tunnel != "" {
		if p, is := checkLinkName("spec.cluster.tunnel", o.Tunnel); is {
			c.add(p)
		}
	}
	for _, other := range c.others() {
		if other.Mode != Cluster || !c.shareNodes(other) {
			continue
		}
		if other.Cluster.VNI == o.VNI && other.Cluster.Port == o.Port && other.Cluster.UnderlayV6 == o.UnderlayV6 { // each family has sockets of its own
			c.add(Problem{Code: CodeVNITaken, Path: "spec.cluster.vni", Reason: fmt.Sprintf("VNI %d at port %d belongs to another network", o.VNI, o.Port),
				Owner: fmt.Sprintf("network %q", other.Name), Fix: fmt.Sprintf("VNI %d is free", c.freeVNI())})
		}
		if other.TunnelName() == n.TunnelName() {
			c.add(Problem{Code: CodeLinkTaken, Path: "spec.cluster.tunnel", Reason: fmt.Sprintf("link %s belongs to another network", n.TunnelName()), Owner: fmt.Sprintf("network %q", other.Name)})
		}
	}
}

// shareNodes reports whether there may be a node that has both networks: those that name their nodes can be kept apart.
func (c *networkCheck) shareNodes(other Network) bool {
	if other.Mode != Cluster || c.net.Mode != Cluster || len(c.net.Cluster.Nodes) == 0 || len(other.Cluster.Nodes) == 0 {
		return true
	}
	for _, id := range c.net.Cluster.Nodes {
		m, known := c.view.Members[id]
		if !known {
			m = Member{ID: id, Name: id}
			for _, other := range c.view.Members {
				if other.Name == id {
					m = other
				}
			}
		}
		if other.Cluster.On(m) {
			return true
		}
	}
	return false
}

func (c *networkCheck) freeVNI() uint32 {
	taken := map[uint32]bool{}
	for _, n := range c.view.Networks {
		taken[n.Cluster.VNI] = true
	}
	vni := uint32(DefaultVNI)
	for taken[vni] {
		vni++
	}
	return vni
}

func (c *networkCheck) reservations() {
	seen := make(map[netip.Prefix]bool, len(c.net.Cluster.Reserved))
	for i, r := range c.net.Cluster.Reserved {
		again := seen[r.Block]
		seen[r.Block] = true
		pool, _ := c.net.Cluster.Pool(r.Block.Addr())
		p := Problem{Code: CodeCluster, Path: fmt.Sprintf("spec.cluster.reserved[%d]", i), Fix: "a block of one of the network's pools"}
		_, isBlock := pool.Index(r.Block)
		id, badID := CheckMemberID(r.Node)
		switch {
		case !isBlock:
			p.Reason = fmt.Sprintf("%s is not a block of this network", r.Block)
		case again:
			p.Reason = fmt.Sprintf("%s is reserved twice", r.Block)
		case r.Node != "" && badID:
			p.Reason, p.Fix = id.Reason, id.Fix
		default:
			continue
		}
		c.add(p)
	}
}

// Ranges are the addresses that a network takes: its subnets, or the pools of a cluster network.
func (n Network) Ranges() []netip.Prefix {
	var all []netip.Prefix
	if n.Mode == Cluster {
		for _, p := range n.Cluster.Pools {
			all = append(all, p.Prefix)
		}
		return all
	}
	for _, s := range n.Subnets {
		all = append(all, s.Prefix)
	}
	return all
}
