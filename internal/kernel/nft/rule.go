package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/nfnl"
	"github.com/flatnet/flatnet/internal/model"
)

// A rule goes into the kernel twice: as expressions, which act, and as its own values in the rule's user data, from which it
// is read back. It counts as ours only while the expressions in the kernel are those that its values give.

const (
	udataComment = 0   // what `nft list` prints (libnftnl include/libnftnl/udata.h, NFTNL_UDATA_RULE_COMMENT)
	udataRule    = 'f' // ours; nft passes over types that it does not know
	udataMax     = 256 // NFT_USERDATA_MAXLEN
)

// foreignRule is the comment of a rule in one of our chains that we did not write, or that was changed.
const foreignRule = "foreign rule"

// ruleUserData is the comment and the values of the rule.
func ruleUserData(r dataplane.Rule) ([]byte, error) {
	var data []byte
	if r.Comment != "" {
		data = append(data, udataComment, byte(len(r.Comment)+1))
		data = append(append(data, r.Comment...), 0)
	}
	values := packRule(r)
	data = append(data, udataRule, byte(len(values)))
	data = append(data, values...)
	if len(data) > udataMax {
		return nil, fmt.Errorf("comment and names take %d bytes, nft keeps %d", len(data), udataMax)
	}
	return data, nil
}

// readRule reads a rule at its place in a chain; stored is the place that it was written for, -1 for a foreign rule.
func readRule(family dataplane.Family, pos int, attrs []byte) (r dataplane.Rule, stored int) {
	chain := nfnl.Get(attrs, unix.NFTA_RULE_CHAIN).String()
	r, ok := unpackUserData(nfnl.Get(attrs, unix.NFTA_RULE_USERDATA).Value)
	r.Family, r.Chain = family, chain
	if !ok || !actsAs(nfnl.Get(attrs, unix.NFTA_RULE_EXPRESSIONS).Value, r) {
		return dataplane.Rule{Family: family, Chain: chain, Pos: pos, Comment: foreignRule}, -1
	}
	stored, r.Pos = r.Pos, pos
	return r, stored
}

func unpackUserData(data []byte) (r dataplane.Rule, ok bool) {
	comment := ""
	for len(data) >= 2 && 2+int(data[1]) <= len(data) {
		value := data[2 : 2+int(data[1])]
		switch data[0] {
		case udataComment:
			comment = string(bytes.TrimRight(value, "\x00"))
		case udataRule:
			r, ok = unpackRule(value)
		}
		data = data[2+len(value):]
	}
	r.Comment = comment
	return r, ok
}

// actsAs reports whether the kernel's expressions are those of r.
func actsAs(kernel []byte, r dataplane.Rule) bool {
	var w nfnl.Writer
	return writeRule(&w, r) == nil && sameAttrs(kernel, w.Written())
}

// sameAttrs reports whether the kernel's attributes say what ours do. The kernel orders them in its own way and adds its
// defaults, which are zero; nests have the same order of elements as ours.
func sameAttrs(kernel, ours []byte) bool {
	theirs := map[uint16][]nfnl.Attr{}
	for a := range nfnl.Attrs(kernel) {
		theirs[a.Type] = append(theirs[a.Type], a)
	}
	for a := range nfnl.Attrs(ours) {
		of := theirs[a.Type]
		if len(of) == 0 || !sameAttr(of[0], a) {
			return false
		}
		theirs[a.Type] = of[1:]
	}
	for _, rest := range theirs {
		for _, a := range rest {
			if len(bytes.Trim(a.Value, "\x00")) > 0 && !impliedByKernel(a, ours) {
				return false
			}
		}
	}
	return true
}

func sameAttr(theirs, ours nfnl.Attr) bool {
	if ours.Nested {
		return sameAttrs(theirs.Value, ours.Value)
	}
	return bytes.Equal(theirs.Value, ours.Value)
}

// impliedByKernel reports whether the kernel derived an attribute from one of ours: a NAT expression's upper bounds are its
// lower ones when none were given (nft_nat.c, nft_nat_init).
func impliedByKernel(a nfnl.Attr, ours []byte) bool {
	if a.Type != unix.NFTA_NAT_REG_ADDR_MAX && a.Type != unix.NFTA_NAT_REG_PROTO_MAX {
		return false
	}
	return bytes.Equal(a.Value, nfnl.Get(ours, a.Type-1).Value)
}

// packRule is every value of the rule that is not zero, as (index, length, bytes), apart from family, chain and comment.
func packRule(r dataplane.Rule) []byte {
	var b []byte
	for i, v := range ruleValues(&r) {
		if packed := packValue(v); len(packed) > 0 {
			b = append(b, byte(i), byte(len(packed)))
			b = append(b, packed...)
		}
	}
	return b
}

func unpackRule(b []byte) (dataplane.Rule, bool) {
	var r dataplane.Rule
	values := ruleValues(&r)
	for len(b) > 0 {
		if len(b) < 2 || 2+int(b[1]) > len(b) || int(b[0]) >= len(values) {
			return dataplane.Rule{}, false
		}
		if !unpackValue(values[b[0]], b[2:2+int(b[1])]) {
			return dataplane.Rule{}, false
		}
		b = b[2+int(b[1]):]
	}
	return r, true
}

// ruleValues are the parts of a rule in the order of their index in user data.
func ruleValues(r *dataplane.Rule) []any {
	m, v := &r.Match, &r.Verdict
	return []any{
		&r.Pos, &m.L3, &m.NotL3, &m.Proto, &m.ICMPv6, &m.CTState, &m.DNATed, &m.Local, &m.Source, &m.Dest,
		&m.Lookup.Fields, &m.Lookup.Not, &m.Lookup.Set, &m.Lookup2.Fields, &m.Lookup2.Not, &m.Lookup2.Set,
		&v.Do, &v.Target, &v.Map, &v.Fields, &v.Port, &v.V6,
	}
}

func packValue(v any) []byte {
	switch v := v.(type) {
	case *int:
		if *v != 0 {
			return binary.AppendUvarint(nil, uint64(*v))
		}
	case *string:
		return []byte(*v)
	case *dataplane.L3:
		return []byte(*v)
	case *dataplane.VerdictKind:
		return []byte(*v)
	case *bool:
		if *v {
			return []byte{1}
		}
	case *model.Proto:
		return packByte(byte(*v))
	case *dataplane.ICMPv6:
		return packByte(byte(*v))
	case *dataplane.CTState:
		return packByte(byte(*v))
	case *dataplane.Fields:
		return packFields(*v)
	case *netip.Prefix:
		if v.IsValid() {
			return append([]byte{byte(v.Bits())}, v.Addr().AsSlice()...)
		}
	}
	return nil
}

func packByte(b byte) []byte {
	if b == 0 {
		return nil
	}
	return []byte{b}
}

func packFields(fields dataplane.Fields) []byte {
	var b []byte
	for _, f := range fields {
		if f != dataplane.NoField {
			b = append(b, byte(f))
		}
	}
	return b
}

func unpackValue(v any, b []byte) bool {
	if len(b) == 0 {
		return false
	}
	switch v := v.(type) {
	case *int:
		n, used := binary.Uvarint(b)
		*v = int(n)
		return used == len(b) && n <= 1<<16 // the most rules of one chain that we'd ever read back
	case *string:
		*v = string(b)
	case *dataplane.L3:
		*v = dataplane.L3(b)
	case *dataplane.VerdictKind:
		*v = dataplane.VerdictKind(b)
	case *bool:
		*v = true
	case *model.Proto:
		*v = model.Proto(b[0])
	case *dataplane.ICMPv6:
		*v = dataplane.ICMPv6(b[0])
		return *v <= dataplane.NeighbourAdvert
	case *dataplane.CTState:
		*v = dataplane.CTState(b[0])
	case *dataplane.Fields:
		return unpackFields(v, b)
	case *netip.Prefix:
		addr, ok := netip.AddrFromSlice(b[1:])
		*v = netip.PrefixFrom(addr, int(b[0]))
		return ok && v.IsValid()
	}
	return true
}

func unpackFields(fields *dataplane.Fields, b []byte) bool {
	if len(b) > len(fields) {
		return false
	}
	for i, f := range b {
		if f == 0 || f > byte(dataplane.DPort) {
			return false
		}
		fields[i] = dataplane.Field(f)
	}
	return true
}
