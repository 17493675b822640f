package conflist

import (
	"github.com/flatnet/flatnet/api"
)

// bridge is the bridge plugin's. Whether the host is the gateway, and whether it translates, makes the mode.
func (c *conversion) bridge(o object) api.NetworkSpec {
	s := api.NetworkSpec{Bridge: o.text("bridge"), ShareBridge: true}
	if s.Bridge == "" {
		s.Bridge = "cni0"
	}
	c.bridgeKeys(o, &s)
	leads := o.flag("isDefaultGateway")
	gateway := o.flag("isGateway") || leads
	masquerade := o.flag("ipMasq")
	o.says("ipMasqBackend", "flatnet's rules are nftables'")
	path := o.at("ipam")
	a := c.ipam(o.object("ipam"))
	s.Subnets, c.part.IPs = a.subnets, a.ips
	switch leads = leads || a.leads; {
	case gateway && masquerade:
		s.Mode = "nat"
		if !leads {
			c.note(path, "containers had no default route; on a network of mode nat they have one, and leave with the host's address")
		}
	case gateway && (leads || len(c.beyond) > 0):
		s.Mode = "routed"
	case gateway:
		s.Mode = "host-only"
	case a.none && len(s.Subnets) == 0:
		s.Mode, s.ShareBridge = "isolated", false
		c.note(o.at("bridge"), "the bridge is flatnet's, and nobody else can be on it; one that others are on: mode bridged")
	case leads || a.gateway:
		s.Mode, s.ShareBridge = "bridged", false
		if masquerade {
			c.note(o.at("ipMasq"), "the gateway is another machine, so this host translates nothing")
		}
	default:
		s.Mode, s.ShareBridge = "isolated", false
		c.note(o.at("bridge"), "the bridge is flatnet's, and nobody else can be on it; one that others are on: mode bridged")
	}
	if s.Mode == "isolated" && a.none {
		s.Subnets = nil
	}
	return s
}

// bridgeKeys are those that say nothing of who reaches whom.
func (c *conversion) bridgeKeys(o object, s *api.NetworkSpec) {
	s.MTU = o.number("mtu")
	s.IsolatePorts = o.flag("portIsolation")
	o.drop("hairpinMode", "forceAddress", "macspoofchk", "preserveDefaultVlan") // always on, or not needed, or on unless guard is false
	o.set("promiscMode", "a bridge here is not promiscuous; a container reaches itself by its published ports without")
	if o.number("vlan") != 0 {
		c.note(o.at("vlan"), "bridges have no VLANs here: make one network for each, on its own bridge")
	}
	o.says("vlanTrunk", "bridges have no VLANs here: make one network for each, on its own bridge")
	o.set("enabledad", "IPv6 addresses are used at once: flatnet gives none twice")
	o.set("disableContainerInterface", "containers' links are always up")
}

// ptp gives each container a link of its own to the host; here they are ports of a bridge that do not see each other.
func (c *conversion) ptp(o object) api.NetworkSpec {
	s := api.NetworkSpec{Mode: "routed", MTU: o.number("mtu")}
	if o.flag("ipMasq") {
		s.Mode = "nat"
	}
	o.says("ipMasqBackend", "flatnet's rules are nftables'")
	a := c.ipam(o.object("ipam"))
	s.Subnets, c.part.IPs = a.subnets, a.ips
	if !a.leads {
		c.note(o.at("ipam"), "containers had no default route; on a network of mode %s they have one", s.Mode)
	}
	return s
}

func (c *conversion) macvlan(o object) api.NetworkSpec {
	s := api.NetworkSpec{Mode: "bridged", Uplink: o.text("master"), MTU: o.number("mtu")}
	switch mode := o.text("mode"); mode {
	case "", "bridge":
	case "private":
		s.IsolatePorts = true
	default:
		c.note(o.at("mode"), "%s: containers are ports of a bridge on the NIC, and reach each other by it", mode)
	}
	o.says("bcqueuelen", "bridges have no such queue")
	o.says("mac", "addresses follow from the container's; one that is asked for is the capability mac")
	return c.onNIC(o, s)
}

func (c *conversion) ipvlan(o object) api.NetworkSpec {
	if o.text("mode") == "l3" || o.has("mode") {
		c.note(o.at("mode"), "the host routes, and the LAN's machines need the way back: flatnet net inspect names the commands")
		a := c.ipam(o.object("ipam"))
		c.part.IPs = a.ips
		return api.NetworkSpec{Mode: "routed", Uplink: o.text("master"), MTU: o.number("mtu"), Subnets: a.subnets}
	}
	s := api.NetworkSpec{Mode: "bridged", Uplink: o.text("master"), MTU: o.number("mtu")}
	c.note(o.at("type"), "each container has a MAC of its own on the LAN; a switch that allows one a port needs --mode routed --proxy-arp")
	return c.onNIC(o, s)
}

// onNIC is a network that is a piece of the LAN.
func (c *conversion) onNIC(o object, s api.NetworkSpec) api.NetworkSpec {
	o.set("linkInContainer", "the uplink is a link of the host")
	if s.Uplink == "" {
		c.note(o.at("master"), "name the NIC: uplink; the plugin takes that of the default route, which apply refuses, as a NIC in a bridge carries no addresses of the host. Then: mode routed with proxyARP")
	} else {
		c.note(o.at("master"), "%s becomes a port of a bridge. If it has addresses of the host, apply refuses and names the way out: mode routed with proxyARP", s.Uplink)
	}
	a := c.ipam(o.object("ipam"))
	s.Subnets, c.part.IPs = a.subnets, a.ips
	return s
}
