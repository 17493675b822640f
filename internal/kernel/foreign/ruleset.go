// Package foreign reads what other tools keep in netfilter, and tells which of it drops packets of ours and whose it is.
//
// In netfilter an accept ends only its own base chain, but a drop is final everywhere: no table of ours can allow what
// another one drops. So packets that must pass, the Probes, are sent in thought through every foreign base chain of their
// way. Conditions that the package understands are decided; any other may hold or not, and so then may the verdict.
//
// It reads nf_tables (nft, iptables-nft, firewalld) by netlink and the older ip_tables by getsockopt, starts no process and
// changes nothing.
//
//	rules, err := foreign.Read(ctx)
//	for _, f := range foreign.Findings(rules, foreign.Probes(view)) {
//		fmt.Println(f)
//	}
package foreign

// Ruleset is all that others have in netfilter.
type Ruleset struct {
	Chains   []Chain
	Links    map[string]uint32 // indexes by name: rules may name links by either
	BridgeNF map[bool]bool     // by IPv6 or not: bridged packets pass the IP hooks too (net.bridge.bridge-nf-call-iptables)
}

// Chain is one chain of rules.
type Chain struct {
	Legacy   bool   // of ip_tables, not of nf_tables
	Family   string // ip, ip6, inet, bridge, netdev
	Table    string
	Name     string
	Hook     string // prerouting, input, forward, output, postrouting, ingress, egress; empty: other rules jump to it
	Device   string // of ingress and egress
	Priority int
	Drops    bool // the policy of a base chain is drop
	Rules    []Rule
}

// Rule is one rule: when all conditions hold it gives the verdict.
type Rule struct {
	Conditions []Condition
	Verdict    Verdict
	Marks      bool   // it changes the packet's mark
	Translates bool   // it gives the packet another source: masquerade, snat
	Text       string // in nft's or iptables' words
}

// Verdict is what a rule does with a packet.
type Verdict struct {
	Kind   Kind
	Target string // Jump and Goto: the chain
	Map    *Set   // Mapped: verdicts by what Loads give
	Loads  []Load
}

// Kind is a kind of verdict.
type Kind uint8

// The verdicts. Unknown is something that can't be told: it may drop, accept or go on.
const (
	Continue Kind = iota
	Accept
	Drop
	Return
	Jump
	Goto
	Mapped
	Unknown
)

// Set is a set, or a map of verdicts.
type Set struct {
	Name     string
	Parts    []int // lengths of the key's parts in bytes, not padded
	Interval bool  // one part, in ranges: an element begins one, the next with End ends it
	Partial  bool  // not all elements are here
	Elements []Element
}

// Element is one element of a Set.
type Element struct {
	Key     []byte
	Last    []byte // of a range in a concatenation; nil: Key alone
	End     bool
	Verdict Verdict
}

// Op is how a Condition compares.
type Op uint8

// The comparisons, in the order of nf_tables (NFT_CMP_…). Opaque can't be told.
const (
	Equal Op = iota
	NotEqual
	Less
	LessOrEqual
	Greater
	GreaterOrEqual
	In
	NotIn
	Between
	Outside
	XT
	Opaque
)

// Condition compares something of the packet with something known.
type Condition struct {
	Loads  []Load // one after the other, each padded to 4 bytes when there are several
	Mask   []byte // applied before comparing; nil: none
	Op     Op
	Value  []byte // shorter than what is loaded: its beginning is compared
	Upper  []byte // Between and Outside: the last value
	Set    *Set   // In and NotIn
	Match  match  // XT: a match of iptables
	Invert bool   // XT
}

// Load is something of the packet or of what is around it.
type Load struct {
	From   Source
	Key    uint32 // FromMeta, FromCT: nf_tables' key; FromPayload: the base; FromFIB: the result
	Offset int    // FromPayload
	Flags  uint32 // FromFIB
	Len    int    // bytes
}

// Source is where a Load comes from.
type Source uint8

// The sources.
const (
	FromUnknown Source = iota
	FromMeta
	FromPayload
	FromCT
	FromFIB
)
