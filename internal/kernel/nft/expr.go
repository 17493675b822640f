package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/nfnl"
)

// Numbers of linux/netfilter that golang.org/x/sys does not have.
const (
	nfDrop        = 0 // linux/netfilter.h
	nfAccept      = 1
	ctState       = 0      // NFT_CT_STATE
	ctStatus      = 2      // NFT_CT_STATUS
	ctInvalid     = 1 << 0 // NF_CT_STATE_BIT(…) of nf_conntrack_common.h
	ctEstablished = 1 << 1
	ctRelated     = 1 << 2
	ctDNAT        = 1 << 5 // IPS_DST_NAT
	fibAddrType   = 3      // NFT_FIB_RESULT_ADDRTYPE
	natMapIPs     = 1 << 0 // NF_NAT_RANGE_MAP_IPS
	natProto      = 1 << 1 // NF_NAT_RANGE_PROTO_SPECIFIED
	protoICMPv6   = 58
)

// program writes the expressions of one rule.
type program struct {
	w      *nfnl.Writer
	family dataplane.Family
	l3     dataplane.L3 // that the packet is known to have at this point
	ether  bool         // the packet is known to come from an Ethernet link
	err    error
}

// writeRule writes what the rule does as the list of expressions of NFTA_RULE_EXPRESSIONS.
func writeRule(w *nfnl.Writer, r dataplane.Rule) error {
	p := program{w: w, family: r.Family, ether: r.Family == dataplane.BridgeNF}
	p.match(r.Match)
	p.verdict(r.Verdict)
	return p.err
}

func (p *program) match(m dataplane.Match) {
	if m.L3 != "" {
		p.l3Compare(m.L3, m.NotL3)
	}
	if m.Proto != 0 {
		p.meta(unix.NFT_META_L4PROTO, 0)
		p.compare(unix.NFT_CMP_EQ, []byte{byte(m.Proto)})
	}
	if m.ICMPv6 != 0 {
		p.icmpv6(m.ICMPv6.Types())
	}
	if m.CTState != 0 {
		p.ctBits(ctState, ctStateBits(m.CTState))
	}
	if m.DNATed {
		p.ctBits(ctStatus, ctDNAT)
	}
	if m.Local {
		p.localDestination()
	}
	if m.Source.IsValid() {
		p.prefix(m.Source, dataplane.IPSaddr, dataplane.IP6Saddr)
	}
	if m.Dest.IsValid() {
		p.prefix(m.Dest, dataplane.IPDaddr, dataplane.IP6Daddr)
	}
	for _, l := range []dataplane.Lookup{m.Lookup, m.Lookup2} {
		if l.Set != "" {
			p.load(l.Fields)
			p.lookup(l.Set, l.Not, false)
		}
	}
}

// l3Compare compares the network protocol: nfproto in the inet family, the frame's protocol in the bridge family.
func (p *program) l3Compare(l3 dataplane.L3, not bool) {
	op := uint32(unix.NFT_CMP_EQ)
	if not {
		op = unix.NFT_CMP_NEQ
	} else {
		p.l3 = l3
	}
	if p.family == dataplane.BridgeNF {
		p.meta(unix.NFT_META_PROTOCOL, 0)
		p.compare(op, binary.BigEndian.AppendUint16(nil, etherType(l3)))
		return
	}
	p.meta(unix.NFT_META_NFPROTO, 0)
	p.compare(op, []byte{nfproto(l3)})
}

func etherType(l3 dataplane.L3) uint16 {
	switch l3 {
	case dataplane.IPv4:
		return unix.ETH_P_IP
	case dataplane.IPv6:
		return unix.ETH_P_IPV6
	}
	return unix.ETH_P_ARP
}

func nfproto(l3 dataplane.L3) uint8 {
	switch l3 {
	case dataplane.IPv4:
		return unix.NFPROTO_IPV4
	case dataplane.IPv6:
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_ARP
}

// need makes sure that what follows sees packets of one network protocol only: fields are loaded by their offset.
func (p *program) need(l3 dataplane.L3) {
	if p.l3 != l3 {
		p.l3Compare(l3, false)
	}
}

// icmpv6 compares the message type: its bounds, then what is missing between them. No set, so that a rule stands by itself.
func (p *program) icmpv6(types []uint8) {
	p.need(dataplane.IPv6)
	p.meta(unix.NFT_META_L4PROTO, 0)
	p.compare(unix.NFT_CMP_EQ, []byte{protoICMPv6})
	p.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1, 0)
	first, last := types[0], types[len(types)-1]
	if first == last {
		p.compare(unix.NFT_CMP_EQ, []byte{first})
		return
	}
	p.compare(unix.NFT_CMP_GTE, []byte{first})
	p.compare(unix.NFT_CMP_LTE, []byte{last})
	for next, i := first, 0; next < last; next++ {
		if types[i] == next {
			i++
			continue
		}
		p.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1, 0)
		p.compare(unix.NFT_CMP_NEQ, []byte{next})
	}
}

func ctStateBits(s dataplane.CTState) uint32 {
	bits := uint32(0)
	for state, bit := range map[dataplane.CTState]uint32{
		dataplane.Established: ctEstablished, dataplane.Related: ctRelated, dataplane.Invalid: ctInvalid,
	} {
		if s&state != 0 {
			bits |= bit
		}
	}
	return bits
}

func (p *program) ctBits(key, bits uint32) {
	p.expr("ct", func() {
		p.w.Uint32(unix.NFTA_CT_KEY, key)
		p.w.Uint32(unix.NFTA_CT_DREG, dumpedRegister(0))
	})
	p.mask(binary.NativeEndian.AppendUint32(nil, bits))
	p.compare(unix.NFT_CMP_NEQ, make([]byte, 4))
}

func (p *program) localDestination() {
	p.expr("fib", func() {
		p.w.Uint32(unix.NFTA_FIB_DREG, dumpedRegister(0))
		p.w.Uint32(unix.NFTA_FIB_RESULT, fibAddrType)
		p.w.Uint32(unix.NFTA_FIB_FLAGS, unix.NFTA_FIB_F_DADDR)
	})
	p.compare(unix.NFT_CMP_EQ, binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL))
}

func (p *program) prefix(prefix netip.Prefix, v4, v6 dataplane.Field) {
	field := v4
	if prefix.Addr().Is6() {
		field = v6
	}
	p.guard(field)
	p.field(field, 0)
	if !prefix.IsSingleIP() {
		p.mask(netmask(prefix))
	}
	p.compare(unix.NFT_CMP_EQ, prefix.Masked().Addr().AsSlice())
}

func netmask(prefix netip.Prefix) []byte {
	mask := make([]byte, prefix.Addr().BitLen()/8)
	for i := range prefix.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

// load loads fields into consecutive registers, as a set's key has them. Guards come first: they use the first register.
func (p *program) load(fields dataplane.Fields) {
	for _, f := range fields {
		p.guard(f)
	}
	at := 0
	for _, f := range fields {
		if f == dataplane.NoField {
			break
		}
		p.field(f, at)
		at += padded(datatypes[f.Type()].len) / register
	}
}

// guard compares what must be true of a packet for the field to be where it is looked for.
func (p *program) guard(f dataplane.Field) {
	switch f {
	case dataplane.ARPSaddrEther, dataplane.ARPSaddrIP:
		p.need(dataplane.ARP)
	case dataplane.IPSaddr, dataplane.IPDaddr:
		p.need(dataplane.IPv4)
	case dataplane.IP6Saddr, dataplane.IP6Daddr, dataplane.NDTarget:
		p.need(dataplane.IPv6)
	case dataplane.EtherSaddr:
		if !p.ether {
			p.meta(unix.NFT_META_IIFTYPE, 0)
			p.compare(unix.NFT_CMP_EQ, binary.NativeEndian.AppendUint16(nil, unix.ARPHRD_ETHER))
			p.ether = true
		}
	}
}

// field loads one field into the nth register. Offsets: RFC 791 §3.1, RFC 8200 §3, RFC 826, RFC 4861 §4.3.
func (p *program) field(f dataplane.Field, at int) {
	n := uint32(datatypes[f.Type()].len)
	switch f {
	case dataplane.IIF:
		p.meta(unix.NFT_META_IIFNAME, at)
	case dataplane.OIF:
		p.meta(unix.NFT_META_OIFNAME, at)
	case dataplane.L4Proto:
		p.meta(unix.NFT_META_L4PROTO, at)
	case dataplane.EtherSaddr:
		p.payload(unix.NFT_PAYLOAD_LL_HEADER, 6, n, at)
	case dataplane.ARPSaddrEther:
		p.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 8, n, at)
	case dataplane.ARPSaddrIP:
		p.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 14, n, at)
	case dataplane.IPSaddr:
		p.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 12, n, at)
	case dataplane.IPDaddr:
		p.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, n, at)
	case dataplane.IP6Saddr:
		p.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 8, n, at)
	case dataplane.IP6Daddr:
		p.payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 24, n, at)
	case dataplane.NDTarget:
		p.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 8, n, at)
	case dataplane.DPort:
		p.payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, n, at)
	default:
		p.fail(fmt.Errorf("unknown field %d", f))
	}
}

func (p *program) verdict(v dataplane.Verdict) {
	switch v.Do {
	case dataplane.Accept:
		p.immediate(nfAccept, "")
	case dataplane.Drop:
		p.immediate(nfDrop, "")
	case dataplane.Return:
		p.immediate(unix.NFT_RETURN, "")
	case dataplane.Jump:
		p.immediate(unix.NFT_JUMP, v.Target)
	case dataplane.NoTrack:
		p.expr("notrack", nil)
	case dataplane.Masquerade:
		p.expr("masq", func() {})
	case dataplane.DNAT:
		p.nat(unix.NFT_NAT_DNAT, v)
	case dataplane.SNAT:
		p.nat(unix.NFT_NAT_SNAT, v)
	default:
		p.fail(fmt.Errorf("unknown verdict %q", v.Do))
	}
}

// nat looks the new address (and port) up and gives it; without an element in the map the rule does not apply.
func (p *program) nat(kind uint32, v dataplane.Verdict) {
	l3, family, addr := dataplane.IPv4, uint32(unix.NFPROTO_IPV4), dataplane.IPv4Addr
	if v.V6 {
		l3, family, addr = dataplane.IPv6, unix.NFPROTO_IPV6, dataplane.IPv6Addr
	}
	p.need(l3)
	p.load(v.Fields)
	p.lookup(v.Map, false, true)
	p.expr("nat", func() {
		p.w.Uint32(unix.NFTA_NAT_TYPE, kind)
		p.w.Uint32(unix.NFTA_NAT_FAMILY, family)
		p.w.Uint32(unix.NFTA_NAT_REG_ADDR_MIN, dumpedRegister(0))
		flags := uint32(natMapIPs)
		if v.Port {
			p.w.Uint32(unix.NFTA_NAT_REG_PROTO_MIN, dumpedRegister(datatypes[addr].len/register))
			flags |= natProto
		}
		p.w.Uint32(unix.NFTA_NAT_FLAGS, flags)
	})
}

// dumpedRegister is the number that the kernel itself gives the nth register of 4 bytes: NFT_REG_1 and so on where one of 16
// bytes begins there (nf_tables_api.c, nft_dump_register).
func dumpedRegister(nth int) uint32 {
	if nth%4 == 0 {
		return unix.NFT_REG_1 + uint32(nth/4)
	}
	return unix.NFT_REG32_00 + uint32(nth)
}

func (p *program) meta(key uint32, at int) {
	p.expr("meta", func() {
		p.w.Uint32(unix.NFTA_META_KEY, key)
		p.w.Uint32(unix.NFTA_META_DREG, dumpedRegister(at))
	})
}

func (p *program) payload(base, offset, n uint32, at int) {
	p.expr("payload", func() {
		p.w.Uint32(unix.NFTA_PAYLOAD_DREG, dumpedRegister(at))
		p.w.Uint32(unix.NFTA_PAYLOAD_BASE, base)
		p.w.Uint32(unix.NFTA_PAYLOAD_OFFSET, offset)
		p.w.Uint32(unix.NFTA_PAYLOAD_LEN, n)
	})
}

func (p *program) compare(op uint32, with []byte) {
	p.expr("cmp", func() {
		p.w.Uint32(unix.NFTA_CMP_SREG, dumpedRegister(0))
		p.w.Uint32(unix.NFTA_CMP_OP, op)
		p.value(unix.NFTA_CMP_DATA, with)
	})
}

func (p *program) mask(mask []byte) {
	p.expr("bitwise", func() {
		p.w.Uint32(unix.NFTA_BITWISE_SREG, dumpedRegister(0))
		p.w.Uint32(unix.NFTA_BITWISE_DREG, dumpedRegister(0))
		p.w.Uint32(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
		p.value(unix.NFTA_BITWISE_MASK, mask)
		p.value(unix.NFTA_BITWISE_XOR, make([]byte, len(mask)))
	})
}

func (p *program) lookup(set string, not, value bool) {
	p.expr("lookup", func() {
		p.w.String(unix.NFTA_LOOKUP_SET, set)
		p.w.Uint32(unix.NFTA_LOOKUP_SREG, dumpedRegister(0))
		if value {
			p.w.Uint32(unix.NFTA_LOOKUP_DREG, dumpedRegister(0))
		}
		if not {
			p.w.Uint32(unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV)
		}
	})
}

func (p *program) immediate(code int32, chain string) {
	p.expr("immediate", func() {
		p.w.Uint32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		p.w.Nest(unix.NFTA_IMMEDIATE_DATA, func() {
			p.w.Nest(unix.NFTA_DATA_VERDICT, func() {
				p.w.Uint32(unix.NFTA_VERDICT_CODE, uint32(code))
				if chain != "" {
					p.w.String(unix.NFTA_VERDICT_CHAIN, chain)
				}
			})
		})
	})
}

func (p *program) value(typ uint16, data []byte) {
	p.w.Nest(typ, func() { p.w.Bytes(unix.NFTA_DATA_VALUE, data) })
}

// expr writes one expression; the kernel tells one of a kind that has no data without any, so then fill is nil.
func (p *program) expr(name string, fill func()) {
	p.w.Nest(unix.NFTA_LIST_ELEM, func() {
		p.w.String(unix.NFTA_EXPR_NAME, name)
		if fill != nil {
			p.w.Nest(unix.NFTA_EXPR_DATA, fill)
		}
	})
}

func (p *program) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}
