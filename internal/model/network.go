package model

import (
	"net/netip"
	"time"
)

// Mode says who reaches whom on a network; docs/reference/reachability.md is its specification.
type Mode string

// The modes of a node's own networks.
const (
	NAT      Mode = "nat"       // workloads leave with the host's address; the LAN comes in by forwards only
	Routed   Mode = "routed"    // workloads keep their address; the LAN comes in by a route over the host
	Bridged  Mode = "bridged"   // workloads are machines of the LAN
	HostOnly Mode = "host-only" // workloads and the host, nobody else
	Isolated Mode = "isolated"  // a switch without the host
	Cable    Mode = "cable"     // two workloads joined by one veth, no bridge
)

// DefaultNetwork is where workloads go whose makers named none.
const DefaultNetwork = "default"

// Network is one flat layer 2 that workloads attach to.
type Network struct {
	Name          string
	Mode          Mode
	Bridge        string       // link name on the host; empty: derived from Name, see BridgeName. Bridged without Uplink: an existing bridge
	ShareBridge   bool         `json:",omitzero"` // the bridge may be one that another program made, with others on it: see ForeignBridge
	Subnets       []Subnet     // any number of either family; none only for isolated and cable
	NoHostAdapter bool         // the host itself is not on the network (VMware's "connect a host virtual adapter" unticked)
	Uplink        string       // leave by this link only; empty: by whatever route the host has. Bridged: the NIC that is put into the bridge
	Masquerade    bool         // routed: what leaves to the LAN gets the host's address
	ProxyARP      bool         // routed: the subnets are parts of the uplink's own, where the host answers ARP and ND for the workloads
	SNAT          []netip.Addr // source addresses of nat, at most one of each family; none: the uplink's own
	MTU           int          // bytes; 0 follows the uplink
	DNS           []netip.Addr // resolvers written into the workloads' resolv.conf; none: the host's
	Labels        map[string]string
	NoGuard       bool // endpoints may use any source address (anti-spoofing off)
	IsolatePorts  bool // endpoints reach the gateway but not each other
	Active        bool // started; a defined network that is not active has no kernel objects
	Autostart     bool // becomes active when the daemon starts after a reboot
	Created       time.Time
	Cluster       Overlay `json:",omitzero"` // of mode Cluster
}

// Subnet is one range of addresses of a network.
type Subnet struct {
	Prefix   netip.Prefix // masked
	Gateway  netip.Addr   // the host's address in it, of bridged the LAN's router; anywhere but the first (network) and last (broadcast) address
	Range    netip.Prefix // automatic addresses come from here; zero: the whole Prefix
	Reserved []netip.Addr // never given automatically
}

// BridgeName is the link name of the network's bridge on the host.
func (n Network) BridgeName() string {
	if n.Bridge != "" {
		return n.Bridge
	}
	return linkName("fn", n.Name)
}

// HasBridge reports whether the network is a bridge on the host at all.
func (n Network) HasBridge() bool { return n.Mode != Cable }

// BorrowsBridge reports whether the bridge is one that others made.
func (n Network) BorrowsBridge() bool { return n.Mode == Bridged && n.Uplink == "" }

// Routes reports whether the host routes between the network and the rest of the world.
func (n Network) Routes() bool { return n.Mode == NAT || n.Mode == Routed || n.Mode == Cluster }

// Translates reports whether what leaves the host gets an address of the host.
func (n Network) Translates() bool {
	return n.Mode == NAT || n.Mode == Routed && n.Masquerade || n.Mode == Cluster
}

// NeedsSubnet reports whether the mode is nothing without a subnet: those in which the host has an address.
func (n Network) NeedsSubnet() bool { return n.Routes() || n.Mode == HostOnly }

// HostPresent reports whether the host has a usable address on the network that we give it.
func (n Network) HostPresent() bool { return !n.NoHostAdapter && n.NeedsSubnet() }

// GuardsAddresses reports whether endpoints are held to their own IP addresses, not only to their MAC: on isolated and bridged
// networks and cables guests may number themselves.
func (n Network) GuardsAddresses() bool { return n.NeedsSubnet() }

// leadsOut reports whether workloads have a default route by the network's gateway of that family.
func (n Network) leadsOut(v6 bool) bool {
	for _, s := range n.Subnets {
		if s.Gateway.IsValid() && s.Gateway.Is6() == v6 {
			return n.Routes() || n.Mode == Bridged
		}
	}
	return false
}

// Subnet returns the subnet that holds a.
func (n Network) Subnet(a netip.Addr) (Subnet, bool) {
	for _, s := range n.Subnets {
		if s.Prefix.Contains(a) {
			return s, true
		}
	}
	return Subnet{}, false
}

// SNATFor returns the source address set for the family of a, or the zero Addr.
func (n Network) SNATFor(v6 bool) netip.Addr {
	for _, a := range n.SNAT {
		if a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}
