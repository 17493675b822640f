package nft

import (
	"fmt"
	"net/netip"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

type (
	dt = dataplane.Types
	df = dataplane.Fields
)

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// The sample's sets: every type alone, the concatenations that render uses, ranges, maps with one and two values.
var (
	uplinks   = dataplane.Set{Family: dataplane.Inet, Name: "uplinks", Type: dt{dataplane.IfName}}
	addrs4    = dataplane.Set{Family: dataplane.Inet, Name: "addrs4", Type: dt{dataplane.IPv4Addr}}
	addrs6    = dataplane.Set{Family: dataplane.Inet, Name: "addrs6", Type: dt{dataplane.IPv6Addr}}
	protos    = dataplane.Set{Family: dataplane.Inet, Name: "protos", Type: dt{dataplane.InetProto}}
	ports     = dataplane.Set{Family: dataplane.Inet, Name: "ports", Type: dt{dataplane.InetService}}
	pairs     = dataplane.Set{Family: dataplane.Inet, Name: "pairs", Type: dt{dataplane.IfName, dataplane.IfName}}
	pair4     = dataplane.Set{Family: dataplane.Inet, Name: "pair4", Type: dt{dataplane.IfName, dataplane.IPv4Addr}}
	ranges4   = dataplane.Set{Family: dataplane.Inet, Name: "ranges4", Type: dt{dataplane.IPv4Addr, dataplane.InetProto, dataplane.InetService}, Interval: true}
	ranges6   = dataplane.Set{Family: dataplane.Inet, Name: "ranges6", Type: dt{dataplane.IfName, dataplane.IPv6Addr}, Interval: true}
	linkPorts = dataplane.Set{Family: dataplane.Inet, Name: "link_ports", Type: dt{dataplane.IfName, dataplane.IPv4Addr, dataplane.InetProto, dataplane.InetService}, Interval: true}
	dnat4     = dataplane.Set{Family: dataplane.Inet, Name: "dnat4", Type: dt{dataplane.IPv4Addr, dataplane.InetProto, dataplane.InetService}, Value: dt{dataplane.IPv4Addr, dataplane.InetService}}
	dnat6     = dataplane.Set{Family: dataplane.Inet, Name: "dnat6", Type: dt{dataplane.InetProto, dataplane.InetService}, Value: dt{dataplane.IPv6Addr, dataplane.InetService}}
	span4     = dataplane.Set{Family: dataplane.Inet, Name: "span4", Type: dt{dataplane.InetProto, dataplane.InetService}, Value: dt{dataplane.IPv4Addr}, Interval: true}
	span6     = dataplane.Set{Family: dataplane.Inet, Name: "span6", Type: dt{dataplane.IPv6Addr, dataplane.InetProto, dataplane.InetService}, Value: dt{dataplane.IPv6Addr}, Interval: true}
	snat4     = dataplane.Set{Family: dataplane.Inet, Name: "snat4", Type: dt{dataplane.IfName}, Value: dt{dataplane.IPv4Addr}}
	snat6     = dataplane.Set{Family: dataplane.Inet, Name: "snat6", Type: dt{dataplane.IfName, dataplane.IfName}, Value: dt{dataplane.IPv6Addr}}
	ethers    = dataplane.Set{Family: dataplane.BridgeNF, Name: "ethers", Type: dt{dataplane.EtherAddr}}
	guard4    = dataplane.Set{Family: dataplane.BridgeNF, Name: "guard4", Type: dt{dataplane.IfName, dataplane.EtherAddr, dataplane.IPv4Addr}}
	guard6    = dataplane.Set{Family: dataplane.BridgeNF, Name: "guard6", Type: dt{dataplane.IfName, dataplane.EtherAddr, dataplane.IPv6Addr}}
	targets6  = dataplane.Set{Family: dataplane.BridgeNF, Name: "targets6", Type: dt{dataplane.IfName, dataplane.NDAddr}}
	guardMAC  = dataplane.Set{Family: dataplane.BridgeNF, Name: "guard_mac", Type: dt{dataplane.IfName, dataplane.EtherAddr}}
	guarded   = dataplane.Set{Family: dataplane.BridgeNF, Name: "guarded", Type: dt{dataplane.IfName}}
)

var sampleSets = []dataplane.Set{uplinks, addrs4, addrs6, protos, ports, pairs, pair4, ranges4, ranges6, linkPorts,
	dnat4, dnat6, span4, span6, snat4, snat6, ethers, guard4, guard6, targets6, guardMAC, guarded}

var sampleChains = []dataplane.Chain{
	{Family: dataplane.Inet, Name: "prerouting", Hook: dataplane.Prerouting, Type: "nat", Priority: -100},
	{Family: dataplane.Inet, Name: "raw", Hook: dataplane.Prerouting, Type: "filter", Priority: -300},
	{Family: dataplane.Inet, Name: "output", Hook: dataplane.Output, Type: "nat", Priority: -100},
	{Family: dataplane.Inet, Name: "postrouting", Hook: dataplane.Postrouting, Type: "nat", Priority: 100},
	{Family: dataplane.Inet, Name: "input", Hook: dataplane.Input, Type: "filter", Priority: -10},
	{Family: dataplane.Inet, Name: "forward", Hook: dataplane.Forward, Type: "filter", Priority: 0},
	{Family: dataplane.Inet, Name: "forward_ours"},
	{Family: dataplane.BridgeNF, Name: "prerouting", Hook: dataplane.Prerouting, Type: "filter", Priority: -300},
	{Family: dataplane.BridgeNF, Name: "guard"},
}

// sampleRules are rules with every match, field and verdict of the vocabulary.
func sampleRules() []dataplane.Rule {
	const in, br = dataplane.Inet, dataplane.BridgeNF
	accept, drop := dataplane.Verdict{Do: dataplane.Accept}, dataplane.Verdict{Do: dataplane.Drop}
	return number0(
		rule(in, "prerouting", dataplane.Match{Local: true}, dataplane.Verdict{Do: dataplane.DNAT, Map: "dnat4",
			Fields: df{dataplane.IPDaddr, dataplane.L4Proto, dataplane.DPort}, Port: true}, "forwards of one address"),
		rule(in, "prerouting", dataplane.Match{Local: true}, dataplane.Verdict{Do: dataplane.DNAT, Map: "dnat6",
			Fields: df{dataplane.L4Proto, dataplane.DPort}, Port: true, V6: true}, ""),
		rule(in, "prerouting", dataplane.Match{L3: dataplane.IPv4}, dataplane.Verdict{Do: dataplane.DNAT, Map: "span4",
			Fields: df{dataplane.L4Proto, dataplane.DPort}}, "forwards that keep their ports"),
		rule(in, "prerouting", dataplane.Match{}, dataplane.Verdict{Do: dataplane.DNAT, Map: "span6",
			Fields: df{dataplane.IP6Daddr, dataplane.L4Proto, dataplane.DPort}, V6: true}, ""),
		rule(in, "raw", dataplane.Match{Proto: model.UDP, Lookup: look("ports", false, dataplane.DPort)}, dataplane.Verdict{Do: dataplane.NoTrack}, "outer packets of tunnels"),
		rule(in, "raw", dataplane.Match{}, dataplane.Verdict{Do: dataplane.NoTrack}, ""),
		rule(in, "postrouting", dataplane.Match{}, dataplane.Verdict{Do: dataplane.SNAT, Map: "snat4", Fields: df{dataplane.OIF}}, ""),
		rule(in, "postrouting", dataplane.Match{}, dataplane.Verdict{Do: dataplane.SNAT, Map: "snat6",
			Fields: df{dataplane.IIF, dataplane.OIF}, V6: true}, ""),
		rule(in, "postrouting", dataplane.Match{Lookup: look("pair4", false, dataplane.OIF, dataplane.IPSaddr)},
			dataplane.Verdict{Do: dataplane.Masquerade}, "leaves with the uplink's address"),
		rule(in, "input", dataplane.Match{CTState: dataplane.Established | dataplane.Related}, accept, "answers"),
		rule(in, "input", dataplane.Match{CTState: dataplane.Invalid}, drop, ""),
		rule(in, "input", dataplane.Match{ICMPv6: dataplane.NeighbourDiscovery}, accept, ""),
		rule(in, "input", dataplane.Match{L3: dataplane.IPv6, ICMPv6: dataplane.NeighbourAdvert}, accept, ""),
		rule(in, "input", dataplane.Match{Source: prefix("10.88.0.0/16"), Dest: prefix("10.88.0.1/32")}, accept, ""),
		rule(in, "input", dataplane.Match{Source: prefix("fd00::/21"), Dest: prefix("fe80::1/128")}, accept, ""),
		rule(in, "input", dataplane.Match{Dest: prefix("127.0.0.0/8"), Lookup: look("uplinks", false, dataplane.IIF)}, drop, "nobody but the host itself speaks to 127/8"),
		rule(in, "input", dataplane.Match{Lookup: look("addrs6", false, dataplane.IP6Saddr), Lookup2: look("addrs6", true, dataplane.IP6Daddr)}, drop, ""),
		rule(in, "input", dataplane.Match{L3: dataplane.IPv4, NotL3: true, Lookup: look("protos", false, dataplane.L4Proto)}, accept, ""),
		rule(in, "forward", dataplane.Match{DNATed: true}, accept, "forwards"),
		rule(in, "forward", dataplane.Match{Lookup: look("uplinks", true, dataplane.IIF)}, dataplane.Verdict{Do: dataplane.Jump, Target: "forward_ours"}, ""),
		rule(in, "forward", dataplane.Match{Proto: model.TCP, Lookup: look("ports", false, dataplane.DPort)}, accept, ""),
		rule(in, "forward", dataplane.Match{Proto: model.UDP, Lookup: look("link_ports", false, dataplane.IIF, dataplane.IPDaddr, dataplane.L4Proto, dataplane.DPort)}, accept, ""),
		rule(in, "forward_ours", dataplane.Match{Lookup: look("pairs", false, dataplane.IIF, dataplane.OIF)}, accept, ""),
		rule(in, "forward_ours", dataplane.Match{Lookup: look("ranges4", false, dataplane.IPDaddr, dataplane.L4Proto, dataplane.DPort)}, dataplane.Verdict{Do: dataplane.Return}, ""),
		rule(in, "forward_ours", dataplane.Match{Lookup: look("ranges6", true, dataplane.IIF, dataplane.IP6Saddr)}, drop, ""),
		rule(in, "forward_ours", dataplane.Match{Lookup: look("addrs4", false, dataplane.IPSaddr)}, drop, ""),
		rule(br, "prerouting", dataplane.Match{Lookup: look("guarded", false, dataplane.IIF)}, dataplane.Verdict{Do: dataplane.Jump, Target: "guard"}, "anti-spoofing"),
		rule(br, "prerouting", dataplane.Match{Lookup: look("ethers", false, dataplane.EtherSaddr)}, drop, ""),
		rule(br, "guard", dataplane.Match{Lookup: look("guard_mac", true, dataplane.IIF, dataplane.EtherSaddr)}, drop, "not its MAC"),
		rule(br, "guard", dataplane.Match{L3: dataplane.ARP, Lookup: look("guard4", false, dataplane.IIF, dataplane.ARPSaddrEther, dataplane.ARPSaddrIP)}, accept, ""),
		rule(br, "guard", dataplane.Match{L3: dataplane.IPv4, Lookup: look("guard4", false, dataplane.IIF, dataplane.EtherSaddr, dataplane.IPSaddr)}, accept, ""),
		rule(br, "guard", dataplane.Match{ICMPv6: dataplane.RouterClaims}, drop, "only a router may say this"),
		rule(br, "guard", dataplane.Match{L3: dataplane.IPv6, Lookup: look("targets6", true, dataplane.IIF, dataplane.NDTarget)}, drop, ""),
		rule(br, "guard", dataplane.Match{L3: dataplane.IPv6, Lookup: look("guard6", false, dataplane.IIF, dataplane.EtherSaddr, dataplane.IP6Saddr)}, accept, ""),
		rule(br, "guard", dataplane.Match{L3: dataplane.ARP, NotL3: true, Lookup: look("guard4", false, dataplane.IIF, dataplane.EtherSaddr, dataplane.IPDaddr)}, accept, ""),
		rule(br, "guard", dataplane.Match{}, drop, "not its address"),
	)
}

func rule(f dataplane.Family, chain string, m dataplane.Match, v dataplane.Verdict, comment string) dataplane.Rule {
	return dataplane.Rule{Family: f, Chain: chain, Match: m, Verdict: v, Comment: comment}
}

func look(set string, not bool, fields ...dataplane.Field) dataplane.Lookup {
	l := dataplane.Lookup{Set: set, Not: not}
	copy(l.Fields[:], fields)
	return l
}

// number0 gives the rules their positions, from 0 in every chain.
func number0(rules ...dataplane.Rule) []dataplane.Rule {
	next := map[dataplane.Chain]int{}
	for i, r := range rules {
		key := dataplane.Chain{Family: r.Family, Name: r.Chain}
		rules[i].Pos = next[key]
		next[key]++
	}
	return rules
}

// tuple makes the nth tuple of given types; in interval sets tuples of different n do not overlap.
func tuple(types dataplane.Types, n int, interval bool) dataplane.Tuple {
	var t dataplane.Tuple
	for _, one := range types {
		switch one {
		case dataplane.IfName:
			if t.Link == "" {
				t.Link = fmt.Sprintf("fn-net%d", n)
			} else {
				t.Link2 = fmt.Sprintf("eth%d", n)
			}
		case dataplane.IPv4Addr:
			t.Addr = netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 8})
			if interval {
				t.AddrLast = netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), byte(8 + n%3)})
			}
		case dataplane.IPv6Addr, dataplane.NDAddr:
			t.Addr = netip.AddrFrom16([16]byte{0: 0xfd, 13: byte(n >> 8), 14: byte(n), 15: 8})
			if interval {
				t.AddrLast = netip.AddrFrom16([16]byte{0: 0xfd, 13: byte(n >> 8), 14: byte(n), 15: byte(8 + n%3)})
			}
		case dataplane.EtherAddr:
			t.MAC = model.MAC{2, 0, 0, 0, byte(n >> 8), byte(n)}
		case dataplane.InetProto:
			t.Proto = []model.Proto{model.TCP, model.UDP, model.SCTP}[n%3]
		case dataplane.InetService:
			t.Port = uint16(1000 + 10*n)
			if interval {
				t.PortLast = t.Port + uint16(n%4)
			}
		}
	}
	return t
}

func element(s dataplane.Set, n int) dataplane.Element {
	return s.Element(tuple(s.Type, n, s.Interval)).To(tuple(s.Value, n+7, false))
}

// sample has every item of the vocabulary.
func sample(perSet int) []dataplane.Object {
	os := []dataplane.Object{dataplane.Table{Family: dataplane.Inet}, dataplane.Table{Family: dataplane.BridgeNF}}
	for _, s := range sampleSets {
		os = append(os, s)
		for n := range perSet {
			if s.Name == "protos" && n > 2 {
				break
			}
			os = append(os, element(s, n))
		}
	}
	for _, c := range sampleChains {
		os = append(os, c)
	}
	for _, r := range sampleRules() {
		os = append(os, r)
	}
	return os
}
