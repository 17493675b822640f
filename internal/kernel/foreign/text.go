package foreign

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// conditionText is a condition in nft's words.
func conditionText(family uint8, c Condition) string {
	what := loadsText(family, c.Loads)
	switch c.Op {
	case In, NotIn:
		return strings.Join(nonEmpty(what, opText(c.Op), setText(c.Set)), " ")
	case Between, Outside:
		return strings.Join(nonEmpty(what, opText(c.Op), valueText(c, c.Value)+"-"+valueText(c, c.Upper)), " ")
	}
	if bits, ok := bitsText(c); ok {
		return what + " " + bits
	}
	return strings.Join(nonEmpty(what, opText(c.Op), valueText(c, c.Value)), " ")
}

func nonEmpty(words ...string) []string {
	var kept []string
	for _, w := range words {
		if w != "" {
			kept = append(kept, w)
		}
	}
	return kept
}

func opText(op Op) string {
	switch op {
	case NotEqual, NotIn, Outside:
		return "!="
	case Less:
		return "<"
	case LessOrEqual:
		return "<="
	case Greater:
		return ">"
	case GreaterOrEqual:
		return ">="
	}
	return ""
}

// setText names a set, or lists one that belongs to a rule.
func setText(s *Set) string {
	if s == nil {
		return "{ }"
	}
	if strings.HasPrefix(s.Name, "__") {
		return "{ … }"
	}
	return "@" + s.Name
}

func loadsText(family uint8, loads []Load) string {
	var words []string
	for _, l := range loads {
		words = append(words, loadText(family, l))
	}
	return strings.Join(words, " . ")
}

func loadText(family uint8, l Load) string {
	switch l.From {
	case FromMeta:
		return metaName(l.Key)
	case FromPayload:
		return payloadName(family, l)
	case FromCT:
		return ctName(l.Key)
	case FromFIB:
		return "fib"
	}
	return "(…)"
}

func metaName(key uint32) string {
	switch key {
	case unix.NFT_META_IIFNAME:
		return "iifname"
	case unix.NFT_META_OIFNAME:
		return "oifname"
	case unix.NFT_META_IIF:
		return "iif"
	case unix.NFT_META_OIF:
		return "oif"
	case unix.NFT_META_L4PROTO:
		return "meta l4proto"
	case unix.NFT_META_NFPROTO:
		return "meta nfproto"
	case unix.NFT_META_PROTOCOL:
		return "meta protocol"
	case unix.NFT_META_MARK:
		return "meta mark"
	case unix.NFT_META_PKTTYPE:
		return "meta pkttype"
	}
	return fmt.Sprintf("meta %d", key)
}

func ctName(key uint32) string {
	switch key {
	case ctState:
		return "ct state"
	case ctStatus:
		return "ct status"
	case ctDirection:
		return "ct direction"
	}
	return fmt.Sprintf("ct %d", key)
}

// payloadName: an address is told by place and length, as the family of inet rules is not known here.
func payloadName(family uint8, l Load) string {
	type place struct {
		base        uint32
		offset, len int
	}
	at := place{l.Key, l.Offset, l.Len}
	if l.Key == unix.NFT_PAYLOAD_NETWORK_HEADER {
		if family != unix.NFPROTO_IPV6 && l.Offset >= 12 && l.Offset < 20 && l.Len <= 4 {
			return map[bool]string{true: "ip saddr", false: "ip daddr"}[l.Offset < 16]
		}
		if l.Len <= 16 && (l.Offset == 8 || l.Offset == 24) {
			return map[bool]string{true: "ip6 saddr", false: "ip6 daddr"}[l.Offset == 8]
		}
	}
	switch at {
	case place{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2}:
		return "th sport"
	case place{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2}:
		return "th dport"
	case place{unix.NFT_PAYLOAD_NETWORK_HEADER, 9, 1}:
		return "ip protocol"
	case place{unix.NFT_PAYLOAD_NETWORK_HEADER, 6, 1}:
		return "ip6 nexthdr"
	case place{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1}:
		return "icmp type"
	case place{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1}:
		return "tcp flags"
	case place{unix.NFT_PAYLOAD_LL_HEADER, 6, 6}:
		return "ether saddr"
	case place{unix.NFT_PAYLOAD_LL_HEADER, 0, 6}:
		return "ether daddr"
	}
	base := map[uint32]string{unix.NFT_PAYLOAD_LL_HEADER: "ll", unix.NFT_PAYLOAD_NETWORK_HEADER: "nh", unix.NFT_PAYLOAD_TRANSPORT_HEADER: "th"}[l.Key]
	return fmt.Sprintf("@%s,%d,%d", base, 8*l.Offset, 8*l.Len)
}

// bitsText is a comparison of single bits with zero, as nft writes those of ct state.
func bitsText(c Condition) (string, bool) {
	if c.Op != NotEqual || len(c.Mask) != 4 || len(c.Loads) != 1 || c.Loads[0].From != FromCT || c.Loads[0].Key != ctState {
		return "", false
	}
	var names []string
	for i, name := range []string{"invalid", "established", "related", "new"} {
		if binary.NativeEndian.Uint32(c.Mask)&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ","), true
}

func valueText(c Condition, v []byte) string {
	if len(c.Loads) != 1 {
		return fmt.Sprintf("0x%x", v)
	}
	l := c.Loads[0]
	switch {
	case l.From == FromMeta && l.Len == 16:
		return nameText(v)
	case l.From == FromMeta && l.Key == unix.NFT_META_L4PROTO || l.From == FromPayload && l.Len == 1 && l.Key == unix.NFT_PAYLOAD_NETWORK_HEADER:
		return protoText(v[0])
	case l.From == FromMeta && l.Key == unix.NFT_META_NFPROTO:
		return map[byte]string{unix.NFPROTO_IPV4: "ipv4", unix.NFPROTO_IPV6: "ipv6"}[v[0]]
	case l.From == FromMeta && l.Key == unix.NFT_META_PROTOCOL && len(v) == 2:
		return map[uint16]string{unix.ETH_P_IP: "ip", unix.ETH_P_IPV6: "ip6", unix.ETH_P_ARP: "arp"}[binary.BigEndian.Uint16(v)]
	case l.From == FromPayload && l.Key == unix.NFT_PAYLOAD_NETWORK_HEADER:
		return addrText(v, l.Len, c.Mask)
	case l.From == FromMeta && (l.Key == unix.NFT_META_IIF || l.Key == unix.NFT_META_OIF) && len(v) == 4:
		return fmt.Sprint(binary.NativeEndian.Uint32(v))
	case l.Len == 6:
		return fmt.Sprintf("% x", v)
	case len(v) == 2:
		return fmt.Sprint(binary.BigEndian.Uint16(v))
	case len(v) == 4:
		return fmt.Sprintf("0x%x", binary.NativeEndian.Uint32(v))
	}
	return fmt.Sprintf("0x%x", v)
}

// nameText: a comparison of fewer bytes than a name has is one of its beginning.
func nameText(v []byte) string {
	if name := strings.TrimRight(string(v), "\x00"); len(name) < len(v) {
		return fmt.Sprintf("%q", name)
	}
	return fmt.Sprintf("%q", string(v)+"*")
}

func protoText(p byte) string {
	switch p {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "ipv6-icmp"
	case unix.IPPROTO_SCTP:
		return "sctp"
	}
	return fmt.Sprint(p)
}

// addrText is an address or prefix. nft loads only the bytes that a prefix of whole bytes has.
func addrText(v []byte, n int, mask []byte) string {
	full := 4
	if n > 4 || len(v) > 4 {
		full = 16
	}
	bits := 8 * len(v)
	if mask != nil {
		bits = prefixBits(mask)
	}
	addr, ok := netip.AddrFromSlice(append(append([]byte(nil), v...), make([]byte, max(0, full-len(v)))...))
	if !ok || bits < 0 {
		return fmt.Sprintf("0x%x", v)
	}
	if bits == addr.BitLen() {
		return addr.String()
	}
	return netip.PrefixFrom(addr, bits).String()
}

// prefixBits is the length of the prefix that a mask is; -1 when it is none.
func prefixBits(mask []byte) int {
	bits, ended := 0, false
	for _, b := range mask {
		for i := 7; i >= 0; i-- {
			one := b>>i&1 == 1
			if one && ended {
				return -1
			}
			if one {
				bits++
			}
			ended = !one
		}
	}
	return bits
}

func (v Verdict) text() string {
	switch v.Kind {
	case Accept:
		return "accept"
	case Drop:
		return "drop"
	case Return:
		return "return"
	case Jump:
		return "jump " + v.Target
	case Goto:
		return "goto " + v.Target
	}
	return ""
}
