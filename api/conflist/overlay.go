package conflist

import (
	"net/netip"
	"strings"

	"github.com/flatnet/flatnet/api"
)

// usualEnv is where flannel says what it has.
const usualEnv = "/run/flannel/subnet.env"

// flannel is a cluster network: its daemon's settings are in flannel's own store, and what a host has of them in subnet.env.
func (c *conversion) flannel(o object) api.NetworkSpec {
	s := api.NetworkSpec{Mode: "cluster"}
	if file := o.text("subnetFile"); file != "" && file != usualEnv {
		c.note(o.at("subnetFile"), "flatnetd writes that file only where it stands in flanneld's place: --flannel-subnet-file %s", file)
	}
	o.drop("dataDir") // what its DEL needs; flatnet has a journal
	c.delegate(o.object("delegate"), &s)
	ipam := o.object("ipam")
	ipam.drop("type") // host-local, with flannel's own ranges
	var a addressing
	c.routes(&a, ipam.objects("routes"))
	ipam.says("dataDir", "flatnet keeps its addresses in its journal; those that stand there are not given twice only if flatnetd is started with --host-local-dir")
	ipam.rest()
	s.Cluster = c.pools(o)
	return s
}

func (c *conversion) delegate(o object, s *api.NetworkSpec) {
	if typ := o.text("type"); typ != "" && typ != "bridge" {
		c.note(o.at("type"), "%s: containers are on a bridge, from which the host routes to the other hosts", typ)
	}
	c.bridgeKeys(o, s)
	s.Bridge = o.text("bridge")
	o.drop("isGateway", "isDefaultGateway")
	if masquerade := o.has("ipMasq"); masquerade && !o.flag("ipMasq") {
		c.note(o.at("ipMasq"), "what leaves the cluster has the host's address; prefixes that are to see the containers' own: cluster.noMasquerade")
	}
	o.says("ipMasqBackend", "flatnet's rules are nftables'")
	o.rest()
}

// pools are flannel's networks, if the host tells them.
func (c *conversion) pools(o object) *api.ClusterSpec {
	spec := &api.ClusterSpec{}
	env := map[string]string{}
	for line := range strings.Lines(string(c.host.SubnetEnv)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		env[key] = value
	}
	for _, keys := range [][2]string{{"FLANNEL_NETWORK", "FLANNEL_SUBNET"}, {"FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET"}} {
		for network := range strings.SplitSeq(env[keys[0]], ",") {
			p, err := netip.ParsePrefix(network)
			if err != nil {
				continue
			}
			pool := api.PoolSpec{Subnet: p.Masked().String()}
			if own, err := netip.ParsePrefix(env[keys[1]]); err == nil {
				pool.Block = own.Bits()
			}
			spec.Pools = append(spec.Pools, pool)
		}
	}
	switch {
	case len(spec.Pools) == 0:
		c.note(o.at("type"), "the network's range stands with flannel, not in this file, and there is no %s here: name it in cluster.pools. "+
			"Where flatnetd stands in flanneld's place (--flannel-etcd), the network flannel is there, and this manifest is not needed", usualEnv)
	default:
		c.note(o.at("type"), "the range is that of %s. Where flatnetd stands in flanneld's place (--flannel-etcd), the network flannel is there, and this manifest is not needed", usualEnv)
	}
	return spec
}

// calico is a cluster network too; most of what its plugin is told is where to ask.
func (c *conversion) calico(o object) api.NetworkSpec {
	s := api.NetworkSpec{Mode: "cluster", MTU: o.number("mtu"), Cluster: &api.ClusterSpec{}}
	c.note(o.at("type"), "the ranges are Calico's IPPools, which are not in this file: name them in cluster.pools")
	c.note(o.at("type"), "NetworkPolicies are not enforced, neither Kubernetes' nor Calico's: whom they keep apart reach each other here")
	o.drop("policy", "log_level", "log_file_path", "log_file_max_size", "log_file_max_age", "log_file_max_count", "datastore_type", "nodename", "nodename_file", "nodename_file_optional",
		"kubernetes", "etcd_endpoints", "etcd_key_file", "etcd_cert_file", "etcd_ca_cert_file", "etcd_discovery_srv", "num_queues", "windows_use_single_network") // where Calico asks, and how it tells
	settings := o.object("container_settings")
	settings.set("allow_ip_forwarding", "containers that route for others set net.ipv4.ip_forward themselves: plugin tuning behind flatnet")
	settings.rest()
	features := o.object("feature_control")
	features.says("floating_ips", "there are no floating addresses; publish ports")
	features.says("ip_addrs_no_ipam", "ask for a fixed address by the capability ips")
	features.rest()
	a := c.ipam(o.object("ipam"))
	for _, subnet := range a.subnets {
		s.Cluster.Pools = append(s.Cluster.Pools, api.PoolSpec{Subnet: subnet.Subnet})
	}
	return s
}
