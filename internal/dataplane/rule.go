package dataplane

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/flatnet/flatnet/internal/model"
)

// Rule is one nft rule from a closed vocabulary: every match that is set must hold, then the Verdict is given. A Rule can be
// interpreted, so a packet's path through our chains can be told without the kernel.
type Rule struct {
	Family Family // identity
	Chain  string // identity
	Pos    int    // identity; from 0, without gaps
	Match  Match
	Verdict
	Comment string // why, for people; kept by the kernel with the rule
}

// Match holds a rule's conditions in the order they are tried; a zero field is no condition.
type Match struct {
	L3      L3   // meta nfproto (inet) or ether type (bridge)
	NotL3   bool // … is not L3
	Proto   model.Proto
	ICMPv6  ICMPv6  // one of these message types; implies L3 IPv6
	CTState CTState // one of these
	DNATed  bool    // ct status dnat
	Local   bool    // fib daddr type local: addressed to this host
	Source  netip.Prefix
	Dest    netip.Prefix
	Lookup  Lookup
	Lookup2 Lookup
}

// Lookup asks whether a tuple of packet fields is (or is not) in a set.
type Lookup struct {
	Fields Fields
	Not    bool
	Set    string // name, in the rule's table
}

// L3 is a network protocol, by nft's name.
type L3 string

// The network protocols that rules tell apart.
const (
	IPv4 L3 = "ip"
	IPv6 L3 = "ip6"
	ARP  L3 = "arp" // in the bridge family only
)

// CTState is a set of conntrack states.
type CTState uint8

// The conntrack states.
const (
	Established CTState = 1 << iota
	Related
	Invalid
)

// ICMPv6 names a group of ICMPv6 message types (RFC 4861).
type ICMPv6 uint8

// The groups that rules tell apart.
const (
	_                  ICMPv6 = iota
	NeighbourDiscovery        // 133 router solicitation, 135 and 136 neighbour solicitation and advertisement
	RouterClaims              // 134 router advertisement and 137 redirect: what only a router may send
	NeighbourAdvert           // 136
)

var icmpv6Types = [...][]uint8{nil, {133, 135, 136}, {134, 137}, {136}}

// Types are the message type numbers of the group, ascending.
func (i ICMPv6) Types() []uint8 { return icmpv6Types[i] }

// Field is one field of a packet or its context.
type Field uint8

// The fields that can be looked up.
const (
	NoField Field = iota
	IIF           // iifname
	OIF           // oifname
	EtherSaddr
	ARPSaddrEther // the sender's MAC inside an ARP message
	ARPSaddrIP    // the sender's address inside an ARP message
	IPSaddr
	IPDaddr
	IP6Saddr
	IP6Daddr
	NDTarget // the target address inside a neighbour solicitation or advertisement (RFC 4861 §4.3)
	L4Proto
	DPort
)

var fieldNames = [...]string{"", "iifname", "oifname", "ether saddr", "arp saddr ether", "arp saddr ip",
	"ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr", "@th,64,128", "meta l4proto", "th dport"}

var fieldTypes = [...]Type{NoType, IfName, IfName, EtherAddr, EtherAddr, IPv4Addr,
	IPv4Addr, IPv4Addr, IPv6Addr, IPv6Addr, NDAddr, InetProto, InetService}

func (f Field) String() string { return fieldNames[f] }

// Type is the type of the field's values.
func (f Field) Type() Type { return fieldTypes[f] }

// Fields is a concatenation of up to four fields; unused places are NoField.
type Fields [4]Field

// Types are the types of the fields, as a set looked up by them must have.
func (f Fields) Types() Types {
	var t Types
	for i, one := range f {
		t[i] = one.Type()
	}
	return t
}

func (f Fields) String() string {
	var parts []string
	for _, one := range f {
		if one != NoField {
			parts = append(parts, one.String())
		}
	}
	return strings.Join(parts, " . ")
}

// VerdictKind is what a rule does with a packet that matches.
type VerdictKind string

// The verdicts. The NAT verdicts are terminal when they apply: a packet whose key is not in the map goes on to the next rule.
const (
	Accept     VerdictKind = "accept"
	Drop       VerdictKind = "drop"
	Return     VerdictKind = "return"
	Jump       VerdictKind = "jump"
	NoTrack    VerdictKind = "notrack" // without conntrack, and on to the next rule
	Masquerade VerdictKind = "masquerade"
	DNAT       VerdictKind = "dnat" // to the address (and port) that Map gives for Fields
	SNAT       VerdictKind = "snat" // to the address that Map gives for Fields
)

// Verdict is what happens to a packet that matches.
type Verdict struct {
	Do     VerdictKind
	Target string // Jump: where to
	Map    string // DNAT and SNAT: the map's name, in the rule's table …
	Fields Fields // … and what is looked up in it
	Port   bool   // DNAT: the map's value has a port too
	V6     bool   // DNAT and SNAT: addresses are IPv6
}

// Key is family, chain and position.
func (r Rule) Key() Key { return Rule{Family: r.Family, Chain: r.Chain, Pos: r.Pos} }

func (r Rule) kind() kind { return kindRule }

func (r Rule) String() string {
	return fmt.Sprintf("rule %s %s %s %s", r.Family, TableName, r.Chain, r.text())
}

// text is the rule in nft's words.
func (r Rule) text() string {
	parts := append(r.matchText(), r.Verdict.text())
	if r.Comment != "" {
		parts = append(parts, fmt.Sprintf("comment %q", r.Comment))
	}
	return strings.Join(parts, " ")
}

func (r Rule) matchText() []string {
	var p []string
	m := r.Match
	if m.L3 != "" {
		p = append(p, r.l3Text())
	}
	if m.Proto != 0 {
		p = append(p, "meta l4proto "+m.Proto.String())
	}
	if m.ICMPv6 != 0 {
		p = append(p, "icmpv6 type { "+joinUints(m.ICMPv6.Types())+" }")
	}
	if m.CTState != 0 {
		p = append(p, "ct state "+m.CTState.String())
	}
	if m.DNATed {
		p = append(p, "ct status "+conntrackNAT)
	}
	if m.Local {
		p = append(p, "fib daddr type local")
	}
	if m.Source.IsValid() {
		p = append(p, addrWord(m.Source)+" saddr "+bare(m.Source))
	}
	if m.Dest.IsValid() {
		p = append(p, addrWord(m.Dest)+" daddr "+bare(m.Dest))
	}
	for _, l := range []Lookup{m.Lookup, m.Lookup2} {
		if l.Set != "" {
			p = append(p, l.String())
		}
	}
	return p
}

func (r Rule) l3Text() string {
	not := ""
	if r.Match.NotL3 {
		not = "!= "
	}
	if r.Family == BridgeNF {
		return "ether type " + not + string(r.Match.L3)
	}
	if r.Match.L3 == IPv4 {
		return "meta nfproto " + not + "ipv4"
	}
	return "meta nfproto " + not + "ipv6"
}

func (l Lookup) String() string {
	not := ""
	if l.Not {
		not = "!= "
	}
	return fmt.Sprintf("%s %s@%s", l.Fields, not, l.Set)
}

func (v Verdict) text() string {
	switch v.Do {
	case Jump:
		return "jump " + v.Target
	case DNAT, SNAT:
		word := "ip"
		if v.V6 {
			word = "ip6"
		}
		return fmt.Sprintf("%s %s to %s map @%s", v.Do, word, v.Fields, v.Map)
	}
	return string(v.Do)
}

func (s CTState) String() string {
	var parts []string
	for i, name := range []string{"established", "related", "invalid"} {
		if s&(1<<i) != 0 {
			parts = append(parts, name)
		}
	}
	return strings.Join(parts, ",")
}

func addrWord(p netip.Prefix) string {
	if p.Addr().Is6() {
		return "ip6"
	}
	return "ip"
}

func bare(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func joinUints(ns []uint8) string {
	var parts []string
	for _, n := range ns {
		parts = append(parts, fmt.Sprint(n))
	}
	return strings.Join(parts, ", ")
}
