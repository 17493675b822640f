package conflist

import "github.com/flatnet/flatnet/api"

// portmap is a part of flatnet: published ports come with the container. The client's address is always kept.
func (c *conversion) portmap(o object) {
	if o.has("snat") && !o.flag("snat") {
		c.note(o.at("snat"), "a container reaches itself by its published port, and the host reaches it by 127.0.0.1")
	}
	o.drop("snat")
	o.set("masqAll", "containers see the client's own address, always")
	o.says("backend", "flatnet's rules are nftables'")
	for _, key := range []string{"conditionsV4", "conditionsV6"} {
		o.says(key, "there are no conditions; a published port can be bound to one address of the host (hostIP)")
	}
	o.says("markMasqBit", "flatnet's rules need no mark")
	o.says("externalSetMarkChain", "flatnet's rules need no mark")
}

// bandwidth is a part of flatnet: the runtime asks for it with each container, or the file for all.
func (c *conversion) bandwidth(o object) {
	limits := api.Bandwidth{IngressRate: o.bits("ingressRate"), IngressBurst: o.bits("ingressBurst"), EgressRate: o.bits("egressRate"), EgressBurst: o.bits("egressBurst")}
	if limits != (api.Bandwidth{}) {
		c.part.Bandwidth = &limits
	}
	for _, key := range []string{"shapedSubnets", "unshapedSubnets"} {
		o.says(key, "a limit is for all that a container sends and gets")
	}
}

// firewall lets through what flatnet's own rules do.
func (c *conversion) firewall(o object) {
	switch policy := o.text("ingressPolicy"); policy {
	case "", "open":
		if policy == "open" {
			c.note(o.at("ingressPolicy"), "other networks of this host do not get in; by a published port everybody does")
		}
	case "same-bridge":
	case "isolated":
		c.network.IsolatePorts = true
	default:
		c.note(o.at("ingressPolicy"), "flatnet does not know %q", policy)
	}
	c.note(o.at("type"), "flatnet's rules let containers through. If another firewall of this host drops what is forwarded, flatnet doctor names it and the rule that helps")
	for _, key := range []string{"backend", "iptablesAdminChainName", "firewalldZone"} {
		o.says(key, "flatnet's rules are in nftables' table inet flatnet")
	}
}

// loopback is what flatnet and the runtimes do anyway.
func (c *conversion) loopback(object) {}

// dnsname is podman's.
func (c *conversion) dnsname(o object) {
	c.note(o.at("type"), "containers do not find each other by name")
	o.drop("domainName", "remoteServers", "multiDomain")
}
