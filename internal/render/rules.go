package render

import (
	"net/netip"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// The fields that the rules look up.
var (
	iif         = dataplane.Fields{dataplane.IIF}
	oif         = dataplane.Fields{dataplane.OIF}
	iifOif      = dataplane.Fields{dataplane.IIF, dataplane.OIF}
	iifDaddr    = family[dataplane.Fields]{{dataplane.IIF, dataplane.IPDaddr}, {dataplane.IIF, dataplane.IP6Daddr}}
	iifSaddr    = family[dataplane.Fields]{{dataplane.IIF, dataplane.IPSaddr}, {dataplane.IIF, dataplane.IP6Saddr}}
	oifSaddr    = family[dataplane.Fields]{{dataplane.OIF, dataplane.IPSaddr}, {dataplane.OIF, dataplane.IP6Saddr}}
	oifDaddr    = family[dataplane.Fields]{{dataplane.OIF, dataplane.IPDaddr}, {dataplane.OIF, dataplane.IP6Daddr}}
	saddr       = family[dataplane.Fields]{{dataplane.IPSaddr}, {dataplane.IP6Saddr}}
	daddr       = family[dataplane.Fields]{{dataplane.IPDaddr}, {dataplane.IP6Daddr}}
	listensOn   = family[dataplane.Fields]{{dataplane.IPDaddr, dataplane.L4Proto, dataplane.DPort}, {dataplane.IP6Daddr, dataplane.L4Proto, dataplane.DPort}}
	listensPort = dataplane.Fields{dataplane.L4Proto, dataplane.DPort}
)

// family is a pair of the same thing for IPv4 and IPv6, in this order, so that one path serves both.
type family[T any] [2]T

var (
	l3       = family[dataplane.L3]{dataplane.IPv4, dataplane.IPv6}
	addrType = family[dataplane.Type]{dataplane.IPv4Addr, dataplane.IPv6Addr}
	suffix   = family[string]{"4", "6"}
)

// tunnelProto is asked for before a port is looked up, as a look-up costs as much as a rule of all else, and most packets are of TCP.
const tunnelProto = model.UDP

var (
	loopback4 = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.MustParsePrefix("::1/128")

	linkLocal6 = netip.MustParsePrefix("fe80::/10")
)

func inetSet(name string, fields dataplane.Fields) dataplane.Set {
	return dataplane.Set{Family: dataplane.Inet, Name: name, Type: fields.Types()}
}

func bridgeSet(name string, fields dataplane.Fields) dataplane.Set {
	return dataplane.Set{Family: dataplane.BridgeNF, Name: name, Type: fields.Types()}
}

// Sets of the inet table. Where a comment says link, it is a bridge of ours.
var (
	setNets     = inetSet("nets", iif)       // every link
	setBridges  = inetSet("bridges", iif)    // every link, and the bridges of bridged networks
	setNAT      = inetSet("nat", iif)        // links whose workloads leave with the host's address
	setRouted   = inetSet("routed", iif)     // links that others reach by a route over the host
	setClosed   = inetSet("closed", iif)     // links of host-only and isolated networks: nothing is forwarded
	setHostOnly = inetSet("host_only", iif)  // links whose workloads reach the host only at the gateway addresses
	setSilent   = inetSet("silent", iif)     // links on which the host itself does not exist
	setHidden   = inetSet("hidden", iif)     // links of nat and routed networks without host adapter: the host routes but is not reachable
	setSame     = inetSet("same", iifOif)    // each link with itself
	setPinned   = inetSet("pinned", iif)     // links that may leave by one uplink only …
	setUplinks  = inetSet("uplinks", iifOif) // … namely this
	setCluster  = inetSet("cluster", iif)    // links of networks that all nodes of a cluster share
	setTunnels  = inetSet("tunnels", iif)    // links by which packets of such a network come from other nodes
	setBetween  = inetSet("between", iifOif) // links of such a network with those by which its packets travel between nodes, both ways
	setPorts    = inetSet("tunnel_ports", listensPort)

	setGateways = family[dataplane.Set]{inetSet("gateways4", iifDaddr[0]), inetSet("gateways6", iifDaddr[1])}                   // host-only links and the host's addresses on them
	setHiddenIP = family[dataplane.Set]{inetSet("hidden4", daddr[0]), inetSet("hidden6", daddr[1])}                             // the host's addresses on hidden links
	setPortIso  = family[dataplane.Set]{inetSet("isolated4", iifSaddr[0]), inetSet("isolated6", iifSaddr[1])}                   // links and addresses of isolated endpoints
	setOwn      = family[dataplane.Set]{inetSet("workloads4", saddr[0]), inetSet("workloads6", saddr[1])}                       // addresses of endpoints
	setMembers  = family[dataplane.Set]{inetSet("members4", saddr[0]), inetSet("members6", saddr[1])}                           // underlay addresses of the cluster's nodes
	setKeep     = family[dataplane.Set]{interval(inetSet("keep4", iifDaddr[0])), interval(inetSet("keep6", iifDaddr[1]))}       // links and to whom their workloads show their own address
	setForeign  = family[dataplane.Set]{interval(inetSet("foreign4", iifDaddr[0])), interval(inetSet("foreign6", iifDaddr[1]))} // links and the ranges of cluster networks that they are not of
	setSubnets  = family[dataplane.Set]{interval(inetSet("subnets4", oifSaddr[0])), interval(inetSet("subnets6", oifSaddr[1]))}
)

// Maps of the inet table.
var (
	mapSNAT = family[dataplane.Set]{
		{Family: dataplane.Inet, Name: "snat4", Type: iif.Types(), Value: dataplane.Types{dataplane.IPv4Addr}},
		{Family: dataplane.Inet, Name: "snat6", Type: iif.Types(), Value: dataplane.Types{dataplane.IPv6Addr}},
	}
	mapForward      = forwardMaps("forward", listensOn, true)                                              // one address, one port
	mapForwardAny   = forwardMaps("forward_any", family[dataplane.Fields]{listensPort, listensPort}, true) // every address, one port
	mapForwardRange = family[dataplane.Set]{interval(forwardMaps("forward_range", listensOn, false)[0]), interval(forwardMaps("forward_range", listensOn, false)[1])}
)

func forwardMaps(name string, key family[dataplane.Fields], port bool) family[dataplane.Set] {
	var maps family[dataplane.Set]
	for i := range maps {
		maps[i] = inetSet(name+suffix[i], key[i])
		maps[i].Value = dataplane.Types{addrType[i]}
		if port {
			maps[i].Value[1] = dataplane.InetService
		}
	}
	return maps
}

func interval(s dataplane.Set) dataplane.Set {
	s.Interval = true
	return s
}

// Sets of the bridge table: what each port (the host end of a veth) may send.
var (
	portMAC = dataplane.Fields{dataplane.IIF, dataplane.EtherSaddr}

	setStrict = bridgeSet("strict", iif) // ports from which only what is of the network comes up to the host …
	setNear   = family[dataplane.Set]{   // … namely from these addresses
		interval(bridgeSet("near4", dataplane.Fields{dataplane.IIF, dataplane.IPSaddr})),
		interval(bridgeSet("near6", dataplane.Fields{dataplane.IIF, dataplane.IP6Saddr})),
	}

	setGuarded = bridgeSet("guarded", iif) // ports held to their MAC …
	setLocked  = bridgeSet("locked", iif)  // … and to their addresses
	setMACs    = bridgeSet("macs", portMAC)
	setAddrs   = family[dataplane.Set]{
		bridgeSet("addresses4", dataplane.Fields{dataplane.IIF, dataplane.IPSaddr}),
		bridgeSet("addresses6", dataplane.Fields{dataplane.IIF, dataplane.IP6Saddr}),
	}
	setTargets = bridgeSet("targets6", dataplane.Fields{dataplane.IIF, dataplane.NDTarget}) // what it may say in neighbour discovery that it has
)

// rules are both tables with their sets, chains and rules: the constant part of every host.
func rules() []dataplane.Object {
	objects := []dataplane.Object{dataplane.Table{Family: dataplane.Inet}, dataplane.Table{Family: dataplane.BridgeNF}}
	for _, s := range []dataplane.Set{setNets, setBridges, setNAT, setRouted, setClosed, setHostOnly, setSilent, setHidden, setSame, setPinned, setUplinks,
		setCluster, setTunnels, setBetween, setPorts, setStrict, setGuarded, setLocked, setMACs, setTargets} {
		objects = append(objects, s)
	}
	for _, pair := range []family[dataplane.Set]{setOwn, setGateways, setHiddenIP, setPortIso, setSubnets, setMembers, setKeep, setForeign, setNear, setAddrs,
		mapSNAT, mapForward, mapForwardAny, mapForwardRange} {
		objects = append(objects, pair[0], pair[1])
	}
	for _, c := range []chain{raw(), rawOut(), dnatIn(), dnatOut(), published(), input(), forward(), between(), intoTunnel(), oneNetwork(), output(), postrouting(), inward(), guard(), claims()} {
		objects = append(objects, c.objects()...)
	}
	return objects
}

// chain is a chain with its rules in order.
type chain struct {
	dataplane.Chain
	rules []dataplane.Rule
}

func (c chain) objects() []dataplane.Object {
	objects := []dataplane.Object{c.Chain}
	for i, r := range c.rules {
		r.Family, r.Chain, r.Pos = c.Family, c.Name, i
		objects = append(objects, r)
	}
	return objects
}

func base(name, typ string, hook dataplane.Hook, priority int, rules ...dataplane.Rule) chain {
	return chain{dataplane.Chain{Family: dataplane.Inet, Name: name, Hook: hook, Type: typ, Priority: priority}, rules}
}

func rule(m dataplane.Match, do dataplane.VerdictKind, comment string) dataplane.Rule {
	return dataplane.Rule{Match: m, Verdict: dataplane.Verdict{Do: do}, Comment: comment}
}

func in(fields dataplane.Fields, set dataplane.Set) dataplane.Lookup {
	return dataplane.Lookup{Fields: fields, Set: set.Name}
}

func notIn(fields dataplane.Fields, set dataplane.Set) dataplane.Lookup {
	return dataplane.Lookup{Fields: fields, Set: set.Name, Not: true}
}

// both makes one rule for each family.
func both(one func(f int) dataplane.Rule) []dataplane.Rule {
	return []dataplane.Rule{one(0), one(1)}
}

func concat(groups ...[]dataplane.Rule) []dataplane.Rule {
	var all []dataplane.Rule
	for _, g := range groups {
		all = append(all, g...)
	}
	return all
}

func only(rules ...dataplane.Rule) []dataplane.Rule { return rules }

// raw keeps others from speaking for a workload: what they send in its name would begin a connection, and what they then send to it would
// pass for an answer, or an error that the host sends it would carry their words. What a routed workload sends to a bridged one may come
// back in by the NIC of the latter's bridge, and with br_netfilter is seen here too. And it keeps workloads off the host's loopback addresses: route_localnet, which forwards of 127.0.0.1 need, would
// let them through. It stands before conntrack, as answers to such forwards are turned back to 127.0.0.1 only there.
func raw() chain {
	return base("raw", "filter", dataplane.Prerouting, -300, concat(
		only(
			rule(dataplane.Match{Dest: loopback4, Lookup: in(iif, setNets)}, dataplane.Drop, "loopback belongs to the host"),
			rule(dataplane.Match{Source: loopback4, Lookup: in(iif, setNets)}, dataplane.Drop, "loopback belongs to the host"),
		),
		both(func(f int) dataplane.Rule {
			return rule(dataplane.Match{L3: l3[f], Lookup: in(saddr[f], setOwn[f]), Lookup2: notIn(iif, setBridges)}, dataplane.Drop, "a workload's address, from elsewhere")
		}),
		both(func(f int) dataplane.Rule {
			return rule(dataplane.Match{L3: l3[f], Proto: tunnelProto, Lookup: in(listensPort, setPorts), Lookup2: in(saddr[f], setMembers[f])}, dataplane.NoTrack, "the tunnel itself is no connection")
		}),
	)...)
}

// rawOut leaves conntrack out of the tunnels' own packets.
func rawOut() chain {
	return base("raw_out", "filter", dataplane.Output, -300, both(func(f int) dataplane.Rule {
		return rule(dataplane.Match{L3: l3[f], Proto: tunnelProto, Lookup: in(listensPort, setPorts), Lookup2: in(daddr[f], setMembers[f])}, dataplane.NoTrack, "the tunnel itself is no connection")
	})...)
}

// dnatIn and dnatOut send what is addressed to the host itself to the forwards, from outside and from the host.
func dnatIn() chain {
	return base("dnat_in", "nat", dataplane.Prerouting, -100, concat(
		only(
			rule(dataplane.Match{L3: dataplane.IPv4, Dest: loopback4}, dataplane.Accept, "from outside, forwards of 127.0.0.1 stay closed"),
			rule(dataplane.Match{Lookup: in(iif, setClosed)}, dataplane.Accept, "forwards are not for closed networks"),
		),
		both(func(f int) dataplane.Rule {
			return rule(dataplane.Match{L3: l3[f], Lookup: in(daddr[f], setHiddenIP[f])}, dataplane.Accept, "no host adapter: the host is not here")
		}),
		only(toPublished()),
	)...)
}

func dnatOut() chain {
	return base("dnat_out", "nat", dataplane.Output, -100,
		rule(dataplane.Match{L3: dataplane.IPv6, Dest: loopback6}, dataplane.Accept, "NAT cannot take ::1 off the host"),
		toPublished(),
	)
}

func toPublished() dataplane.Rule {
	return dataplane.Rule{Match: dataplane.Match{Local: true}, Verdict: dataplane.Verdict{Do: dataplane.Jump, Target: "published"}}
}

// published looks a port up in the forwards: of one address, of every address, then in ranges.
func published() chain {
	lookup := func(f int, m dataplane.Set, key dataplane.Fields, port bool) dataplane.Rule {
		return dataplane.Rule{Match: dataplane.Match{L3: l3[f]},
			Verdict: dataplane.Verdict{Do: dataplane.DNAT, Map: m.Name, Fields: key, Port: port, V6: f == 1}}
	}
	return chain{dataplane.Chain{Family: dataplane.Inet, Name: "published"}, concat(
		only(rule(dataplane.Match{L3: dataplane.IPv6, Dest: linkLocal6}, dataplane.Accept, "what was sent to a link-local address stays on its link")),
		both(func(f int) dataplane.Rule { return lookup(f, mapForward[f], listensOn[f], true) }),
		both(func(f int) dataplane.Rule { return lookup(f, mapForwardAny[f], listensPort, true) }),
		both(func(f int) dataplane.Rule { return lookup(f, mapForwardRange[f], listensOn[f], false) }),
	)}
}

// input decides what of the host workloads reach. A packet in a tunnel is taken from the cluster's nodes only: their addresses can be forged, so
// this keeps strangers out, not attackers on the same LAN.
func input() chain {
	answers := dataplane.Established | dataplane.Related
	return base("input", "filter", dataplane.Input, 0, concat(
		both(func(f int) dataplane.Rule {
			return rule(dataplane.Match{L3: l3[f], Proto: tunnelProto, Lookup: in(listensPort, setPorts), Lookup2: notIn(saddr[f], setMembers[f])}, dataplane.Drop, "a tunnel's packet, but not from a node")
		}),
		only(
			rule(dataplane.Match{Lookup: notIn(iif, setNets)}, dataplane.Accept, "not ours"),
			rule(dataplane.Match{Lookup: in(iif, setSilent)}, dataplane.Drop, "the host is not on this network"),
			rule(dataplane.Match{ICMPv6: dataplane.NeighbourDiscovery}, dataplane.Accept, "neighbours find the gateway"),
			rule(dataplane.Match{CTState: answers}, dataplane.Accept, "answers to the host"),
		),
		both(func(f int) dataplane.Rule {
			return rule(dataplane.Match{L3: l3[f], Lookup: in(daddr[f], setHiddenIP[f])}, dataplane.Drop, "no host adapter: the host is not here")
		}),
		only(
			rule(dataplane.Match{Lookup: in(iif, setHidden), Local: true}, dataplane.Accept, "no host adapter: other addresses of the host"),
			rule(dataplane.Match{Lookup: in(iif, setHidden)}, dataplane.Drop, "no host adapter: no broadcast and multicast"),
			rule(dataplane.Match{Lookup: notIn(iif, setHostOnly)}, dataplane.Accept, "nat and routed: the host is reachable"),
		),
		both(func(f int) dataplane.Rule {
			return rule(dataplane.Match{L3: l3[f], Lookup: in(iifDaddr[f], setGateways[f])}, dataplane.Accept, "host-only: the own gateway")
		}),
		only(rule(dataplane.Match{}, dataplane.Drop, "host-only: no other address of the host")),
	)...)
}

// forward decides what passes the host between links. A look-up into a set is what costs, so what goes between a cluster's nodes is told apart by
// the first one, and has a chain of its own.
func forward() chain {
	return base("forward", "filter", dataplane.Forward, 0, concat(
		both(func(f int) dataplane.Rule {
			return dataplane.Rule{Match: dataplane.Match{L3: l3[f], Proto: tunnelProto, Lookup: in(listensPort, setPorts), Lookup2: in(daddr[f], setMembers[f])}, Verdict: dataplane.Verdict{Do: dataplane.Jump, Target: "into_tunnel"}}
		}),
		only(
			dataplane.Rule{Match: dataplane.Match{Lookup: in(iifOif, setBetween)}, Verdict: dataplane.Verdict{Do: dataplane.Jump, Target: "between"}},
			rule(dataplane.Match{Lookup: notIn(iif, setNets), Lookup2: notIn(oif, setNets)}, dataplane.Accept, "not ours"),
			dataplane.Rule{Match: dataplane.Match{Lookup: in(iifOif, setSame)}, Verdict: dataplane.Verdict{Do: dataplane.Jump, Target: "one_network"}},
			rule(dataplane.Match{Lookup: in(iif, setClosed)}, dataplane.Drop, "closed network: nothing leaves"),
			rule(dataplane.Match{Lookup: in(oif, setClosed)}, dataplane.Drop, "closed network: nothing comes in"),
			rule(dataplane.Match{CTState: dataplane.Established | dataplane.Related}, dataplane.Accept, "answers"),
			rule(dataplane.Match{DNATed: true, Lookup: in(oif, setNets)}, dataplane.Accept, "published port"),
			rule(dataplane.Match{Lookup: in(iif, setTunnels)}, dataplane.Drop, "what comes by a tunnel is for its network"),
		),
		notForeign(),
		only(
			rule(dataplane.Match{Lookup: in(iif, setRouted), Lookup2: in(oif, setRouted)}, dataplane.Accept, "routed networks reach each other"),
			rule(dataplane.Match{Lookup: notIn(iif, setNets), Lookup2: in(oif, setRouted)}, dataplane.Accept, "routed: others come in by a route"),
			rule(dataplane.Match{CTState: dataplane.Invalid, Lookup: in(iif, setNAT)}, dataplane.Drop, "NAT cannot translate it"),
			rule(dataplane.Match{Lookup: in(oif, setNets)}, dataplane.Drop, "no way in but published ports"),
			rule(dataplane.Match{Lookup: in(iifOif, setUplinks)}, dataplane.Accept, "the uplink of this network"),
			rule(dataplane.Match{Lookup: in(iif, setPinned)}, dataplane.Drop, "another uplink"),
		),
	)...)
}

// between is all of forward that matters between the nodes of a cluster's network, where most packets are of connections that were let pass
// before, and next most of flows that nobody answers, as of a log by UDP: conntrack calls those new for ever. It decides as the rules would that
// it spares the look-ups of: neither link is of a closed network, and none is bound to an uplink.
func between() chain {
	return chain{dataplane.Chain{Family: dataplane.Inet, Name: "between"}, concat(
		only(
			rule(dataplane.Match{CTState: dataplane.Established | dataplane.Related}, dataplane.Accept, "answers"),
			rule(dataplane.Match{Lookup: in(iifOif, setSame)}, dataplane.Accept, "one network, by its tunnel"),
			rule(dataplane.Match{DNATed: true, Lookup: in(oif, setNets)}, dataplane.Accept, "published port"),
		),
		notForeign(),
		only(
			rule(dataplane.Match{CTState: dataplane.Invalid, Lookup: in(iif, setNAT)}, dataplane.Drop, "NAT cannot translate it"),
			rule(dataplane.Match{}, dataplane.Accept, "between nodes"),
		),
	)}
}

// notForeign keeps a cluster's networks apart, wherever on the way their packets are met.
func notForeign() []dataplane.Rule {
	return concat(
		both(func(f int) dataplane.Rule {
			return rule(dataplane.Match{L3: l3[f], Lookup: in(iifDaddr[f], setForeign[f])}, dataplane.Drop, "another network, of the cluster")
		}),
		both(func(f int) dataplane.Rule {
			return rule(dataplane.Match{L3: l3[f], Lookup: in(oifSaddr[f], setForeign[f])}, dataplane.Drop, "another network, of the cluster")
		}),
	)
}

// intoTunnel keeps what this host passes on from becoming a tunnel's packet at another node: a workload's, or a container's of another tool,
// may leave with this node's address, and would be taken there for the node's own. What nodes send each other by way of this one passes.
func intoTunnel() chain {
	return chain{dataplane.Chain{Family: dataplane.Inet, Name: "into_tunnel"}, concat(
		both(func(f int) dataplane.Rule {
			return rule(dataplane.Match{L3: l3[f], Lookup: in(saddr[f], setMembers[f])}, dataplane.Accept, "from a node")
		}),
		only(rule(dataplane.Match{}, dataplane.Drop, "nobody but nodes speaks in tunnels")),
	)}
}

// oneNetwork decides what comes back to the network it came from: by way of the gateway, or with br_netfilter between
// two ports.
func oneNetwork() chain {
	return chain{dataplane.Chain{Family: dataplane.Inet, Name: "one_network"}, concat(
		both(func(f int) dataplane.Rule {
			return rule(dataplane.Match{L3: l3[f], Lookup: in(iifSaddr[f], setPortIso[f]), Lookup2: in(oifDaddr[f], setPortIso[f])}, dataplane.Drop, "isolated ports, by way of the gateway")
		}),
		only(rule(dataplane.Match{}, dataplane.Accept, "one network")),
	)}
}

// output keeps the host from networks where it has no adapter. Through a published port it goes all the same: such packets
// are translated before, but to netfilter they still leave by lo.
func output() chain {
	return base("output", "filter", dataplane.Output, 0,
		rule(dataplane.Match{Lookup: notIn(oif, setHidden)}, dataplane.Accept, "not hidden"),
		rule(dataplane.Match{CTState: dataplane.Established | dataplane.Related}, dataplane.Accept, "answers"),
		rule(dataplane.Match{ICMPv6: dataplane.NeighbourDiscovery}, dataplane.Accept, "neighbours find the gateway"),
		rule(dataplane.Match{}, dataplane.Drop, "no host adapter: the host is not here"),
	)
}

// postrouting gives what leaves a nat network, or a routed one that masquerades, the host's address. Hairpin (a forward used from its own network) is told by the
// source address, not by the incoming link: with br_netfilter such packets are bridged and have none.
func postrouting() chain {
	leaving := dataplane.Match{Lookup: in(iif, setNAT), Lookup2: notIn(oif, setNets)}
	return base("postrouting", "nat", dataplane.Postrouting, 100, concat(
		both(func(f int) dataplane.Rule {
			return rule(dataplane.Match{L3: l3[f], DNATed: true, Lookup: in(oifSaddr[f], setSubnets[f])}, dataplane.Masquerade, "hairpin appears as the gateway")
		}),
		only(rule(dataplane.Match{Source: loopback4, Lookup: in(oif, setNets)}, dataplane.Masquerade, "loopback appears as the gateway")),
		both(func(f int) dataplane.Rule {
			return rule(dataplane.Match{L3: l3[f], Lookup: in(iifDaddr[f], setKeep[f])}, dataplane.Accept, "keeps its address")
		}),
		both(func(f int) dataplane.Rule {
			return rule(dataplane.Match{L3: l3[f], Lookup: in(iif, setCluster), Lookup2: in(daddr[f], setMembers[f])}, dataplane.Accept, "keeps its address to other nodes")
		}),
		both(func(f int) dataplane.Rule {
			m := leaving
			m.L3 = l3[f]
			return dataplane.Rule{Match: m, Verdict: dataplane.Verdict{Do: dataplane.SNAT, Map: mapSNAT[f].Name, Fields: iif, V6: f == 1}}
		}),
		only(rule(leaving, dataplane.Masquerade, "leaves as the host")),
	)...)
}

// inward keeps from the host what a closed network could make it say to others: the kernel answers a packet that it can't forward or
// take by itself, to whatever source it claims, with the packet's content, and some of that before any hook of IP (net/ipv6/exthdrs.c). A
// frame between two ports does not come here, with br_netfilter neither.
func inward() chain {
	near := func(f int, saddr dataplane.Field) dataplane.Rule {
		return rule(dataplane.Match{L3: l3[f], Lookup: in(dataplane.Fields{dataplane.IIF, saddr}, setNear[f])}, dataplane.Accept, "of the network")
	}
	return chain{
		dataplane.Chain{Family: dataplane.BridgeNF, Name: "inward", Hook: dataplane.Input, Type: "filter", Priority: -200},
		only(
			rule(dataplane.Match{Lookup: notIn(iif, setStrict)}, dataplane.Accept, "not closed, or held by the guard"),
			rule(dataplane.Match{L3: dataplane.ARP}, dataplane.Accept, "answers to ARP stay on their link"),
			near(0, dataplane.IPSaddr),
			near(1, dataplane.IP6Saddr),
			rule(dataplane.Match{}, dataplane.Drop, "the host would answer to elsewhere"),
		),
	}
}

// guard holds each port to its own MAC and addresses, in ARP and neighbour discovery too. It is in the bridge family,
// as inet never sees ARP or frames between ports of one bridge.
func guard() chain {
	own := func(f dataplane.Field, set dataplane.Set) dataplane.Lookup {
		return notIn(dataplane.Fields{dataplane.IIF, f}, set)
	}
	arp := dataplane.Match{L3: dataplane.ARP}
	arpMAC, arpIP := arp, arp
	arpMAC.Lookup = own(dataplane.ARPSaddrEther, setMACs)
	arpIP.Lookup = own(dataplane.ARPSaddrIP, setAddrs[0])
	return chain{
		dataplane.Chain{Family: dataplane.BridgeNF, Name: "guard", Hook: dataplane.Prerouting, Type: "filter", Priority: -200},
		only(
			rule(dataplane.Match{Lookup: notIn(iif, setGuarded)}, dataplane.Accept, "not guarded"),
			rule(dataplane.Match{Lookup: own(dataplane.EtherSaddr, setMACs)}, dataplane.Drop, "not its MAC"),
			rule(dataplane.Match{Lookup: notIn(iif, setLocked)}, dataplane.Accept, "numbers itself"),
			rule(arpMAC, dataplane.Drop, "ARP for another MAC"),
			rule(arpIP, dataplane.Drop, "ARP for another address"),
			rule(arp, dataplane.Accept, ""),
			rule(dataplane.Match{L3: dataplane.IPv4, Lookup: own(dataplane.IPSaddr, setAddrs[0])}, dataplane.Drop, "not its address"),
			rule(dataplane.Match{L3: dataplane.IPv4}, dataplane.Accept, ""),
			rule(dataplane.Match{L3: dataplane.IPv6, NotL3: true}, dataplane.Drop, "neither IP nor ARP"),
			rule(dataplane.Match{L3: dataplane.IPv6, Lookup: own(dataplane.IP6Saddr, setAddrs[1])}, dataplane.Drop, "not its address"),
			rule(dataplane.Match{L3: dataplane.IPv6, ICMPv6: dataplane.RouterClaims}, dataplane.Drop, "it is not a router"),
			dataplane.Rule{Match: dataplane.Match{L3: dataplane.IPv6, ICMPv6: dataplane.NeighbourAdvert}, Verdict: dataplane.Verdict{Do: dataplane.Jump, Target: "claims"}},
		),
	}
}

// claims holds a neighbour advertisement's target (RFC 4861 section 4.4) to the port's addresses. It is a chain of its own as nft up to
// 1.0.7 has no word for the target: a rule that also says that this is ICMPv6 would be listed by newer ones in words that don't fit
// the set, and a saved ruleset could not be loaded any more.
func claims() chain {
	return chain{dataplane.Chain{Family: dataplane.BridgeNF, Name: "claims"}, only(
		rule(dataplane.Match{L3: dataplane.IPv6, Lookup: notIn(dataplane.Fields{dataplane.IIF, dataplane.NDTarget}, setTargets)}, dataplane.Drop, "claims another address"),
	)}
}
