package dataplane

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unique"

	"github.com/flatnet/flatnet/internal/model"
)

// Family is an nft table's family.
type Family string

// The families we have a table in.
const (
	Inet         Family = "inet"
	BridgeNF     Family = "bridge"
	TableName           = "flatnet" // both tables' name
	conntrackNAT        = "dnat"
)

// Table is one of our nft tables; its name is always TableName.
type Table struct {
	Family Family // identity
}

// Key is the family.
func (t Table) Key() Key { return t }

func (t Table) kind() kind { return kindTable }

func (t Table) String() string { return fmt.Sprintf("table %s %s", t.Family, TableName) }

// Hook is where in the packet's path a base chain stands, in nft's words.
type Hook string

// The hooks we use.
const (
	Prerouting  Hook = "prerouting"
	Input       Hook = "input"
	Forward     Hook = "forward"
	Output      Hook = "output"
	Postrouting Hook = "postrouting"
)

// Chain is a chain of rules. With a Hook it is a base chain whose policy is always accept: we never drop what is not ours.
type Chain struct {
	Family   Family // identity
	Name     string // identity
	Hook     Hook   // empty: a chain to jump to
	Type     string // filter or nat
	Priority int
}

// Key is family and name.
func (c Chain) Key() Key { return Chain{Family: c.Family, Name: c.Name} }

func (c Chain) kind() kind { return kindChain }

func (c Chain) String() string {
	s := fmt.Sprintf("chain %s %s %s", c.Family, TableName, c.Name)
	if c.Hook != "" {
		s += fmt.Sprintf(" { type %s hook %s priority %d; policy accept; }", c.Type, c.Hook, c.Priority)
	}
	return s
}

// Type is the type of one part of a set's key or value, by nft's name.
type Type uint8

// The types of set keys and values.
const (
	NoType      Type = iota
	IfName           // 16 bytes, zero-padded
	IPv4Addr         // 4 bytes
	IPv6Addr         // 16 bytes
	EtherAddr        // 6 bytes, padded to 8 in concatenations
	InetProto        // 1 byte, padded to 4 in concatenations
	InetService      // 2 bytes big endian, padded to 4 in concatenations
	NDAddr           // 16 bytes: an IPv6 address inside a message, which nft before 1.0.8 can name only by its place, and print as a number
)

var typeNames = [...]string{"", "ifname", "ipv4_addr", "ipv6_addr", "ether_addr", "inet_proto", "inet_service", "@th,64,128"}

func (t Type) String() string { return typeNames[t] }

// Types is a concatenation of up to four types; unused places are NoType.
type Types [4]Type

func (t Types) String() string {
	var parts []string
	for _, one := range t {
		if one != NoType {
			parts = append(parts, one.String())
		}
	}
	return strings.Join(parts, " . ")
}

// Set is an nft set, or a map when it has a Value type.
type Set struct {
	Family   Family // identity
	Name     string // identity
	Type     Types
	Value    Types // none: a set
	Interval bool  // elements are ranges; then Type has at least two parts, so that the kernel uses a concatenated range set
}

// Key is family and name.
func (s Set) Key() Key { return Set{Family: s.Family, Name: s.Name} }

func (s Set) kind() kind { return kindSet }

func (s Set) String() string {
	if s.Type == (Types{IfName, NDAddr}) {
		return fmt.Sprintf("set %s %s %s { typeof %s . %s; }", s.Family, TableName, s.Name, IIF, NDTarget)
	}
	if s.Value == (Types{}) {
		return fmt.Sprintf("set %s %s %s { type %s;%s }", s.Family, TableName, s.Name, s.Type, s.flags())
	}
	return fmt.Sprintf("map %s %s %s { type %s : %s;%s }", s.Family, TableName, s.Name, s.Type, s.Value, s.flags())
}

func (s Set) flags() string {
	if s.Interval {
		return " flags interval;"
	}
	return ""
}

// Tuple is the key or the value of an element: the parts that the set's Types name are set, the others zero. The first
// ifname part is Link, a second one Link2.
type Tuple struct {
	Link, Link2 string
	MAC         model.MAC
	Addr        netip.Addr
	AddrLast    netip.Addr // in interval sets the last address of the range (equal to Addr for a single one); else zero
	Proto       model.Proto
	Port        uint16
	PortLast    uint16 // in interval sets the last port of the range (equal to Port for a single one); else zero
}

// Text is the tuple in nft's words, its parts in the order of types.
func (t Tuple) Text(types Types) string { return string(t.appendText(nil, types)) }

// appendText is Text for one who has many: a plan is sorted by its steps' texts.
func (t Tuple) appendText(b []byte, types Types) []byte {
	links, start := 0, len(b)
	for _, one := range types {
		if one != 0 && len(b) > start {
			b = append(b, " . "...)
		}
		switch one {
		case IfName:
			name := t.Link
			if links++; links == 2 {
				name = t.Link2
			}
			b = strconv.AppendQuote(b, name)
		case IPv4Addr, IPv6Addr:
			b = appendRange(b, t.Addr, t.AddrLast)
		case NDAddr:
			b = fmt.Appendf(b, "0x%x", t.Addr.AsSlice())
		case EtherAddr:
			b = appendMAC(b, t.MAC)
		case InetProto:
			b = append(b, t.Proto.String()...)
		case InetService:
			b = strconv.AppendUint(b, uint64(t.Port), 10)
			if t.PortLast > t.Port {
				b = append(b, '-')
				b = strconv.AppendUint(b, uint64(t.PortLast), 10)
			}
		}
	}
	return b
}

func appendMAC(b []byte, m model.MAC) []byte {
	const digits = "0123456789abcdef"
	for i, octet := range m {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, digits[octet>>4], digits[octet&15])
	}
	return b
}

func appendRange(b []byte, first, last netip.Addr) []byte {
	b = first.AppendTo(b)
	if !last.IsValid() || first == last {
		return b
	}
	return last.AppendTo(append(b, '-'))
}

// Element is one element of a set or map; Set.Element makes it. A host has thousands, and each pass compares them all: so
// equal parts of them are one value in memory.
type Element struct {
	set   unique.Handle[Set]   // identity: the whole definition of the set, so that an element can be read and sent by itself
	is    unique.Handle[Tuple] // identity: the key
	value unique.Handle[Tuple] // of a map
}

// Element is the element of the set that has this key.
func (s Set) Element(is Tuple) Element { return Element{set: intern(s), is: intern(is)} }

// To is the element with this value; its set is a map.
func (e Element) To(value Tuple) Element {
	e.value = intern(value)
	return e
}

// Set is the definition of the set.
func (e Element) Set() Set { return interned(e.set) }

// Is is the key.
func (e Element) Is() Tuple { return interned(e.is) }

// Value is what a map has under the key.
func (e Element) Value() Tuple { return interned(e.value) }

// intern returns the handle of a value; that of the zero value is zero.
func intern[T comparable](v T) (h unique.Handle[T]) {
	if v != *new(T) {
		h = unique.Make(v)
	}
	return h
}

func interned[T comparable](h unique.Handle[T]) (v T) {
	if h != (unique.Handle[T]{}) {
		v = h.Value()
	}
	return v
}

// Key is the set and the element's key.
func (e Element) Key() Key { return Element{set: e.set, is: e.is} }

func (e Element) kind() kind { return kindElement }

func (e Element) String() string { return string(e.append(make([]byte, 0, 128))) }

func (e Element) append(b []byte) []byte {
	set := e.Set()
	for _, word := range []string{"element ", string(set.Family), " ", TableName, " ", set.Name, " { "} {
		b = append(b, word...)
	}
	return append(e.appendText(b, set), " }"...)
}

func (e Element) appendText(b []byte, set Set) []byte {
	b = e.Is().appendText(b, set.Type)
	if set.Value == (Types{}) {
		return b
	}
	return e.Value().appendText(append(b, " : "...), set.Value)
}
