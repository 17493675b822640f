package reach

import (
	"encoding/binary"
	"net/netip"

	"github.com/flatnet/flatnet/internal/model"
)

// Numbers of the protocols that frames are made of.
const (
	etherIPv4         = 0x0800
	etherARP          = 0x0806
	etherVLAN         = 0x8100
	etherIPv6         = 0x86dd
	etherExperimental = 0x88b5 // IEEE 802, local experimental

	protoHopByHop = 0
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoICMPv6   = 58

	echoRequest6    = 128
	routerAdvert    = 134
	neighbourSolic  = 135
	neighbourAdvert = 136
	redirect        = 137
)

var (
	broadcastMAC = model.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodes     = netip.MustParseAddr("ff02::1")
	broadcast4   = netip.MustParseAddr("255.255.255.255")
)

func ether(dst, src model.MAC, kind uint16, payload []byte) []byte {
	b := append(dst[:], src[:]...)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = append(b, payload...)
	for len(b) < 60 { // IEEE 802.3, shortest frame without its checksum
		b = append(b, 0)
	}
	return b
}

func ipv4(src, dst netip.Addr, payload []byte) []byte {
	return header4{ttl: 64}.packet(src, dst, payload)
}

func ipv6(src, dst netip.Addr, next byte, payload []byte) []byte {
	b := []byte{0x60, 0, 0, 0, 0, 0, next, 255}
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	return append(b, payload...)
}

// udp leaves the checksum out; over IPv6 that is not allowed, but nobody who looks here minds.
func udp(from, to uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

// tcpSynFin is a segment that opens and ends a connection at once, which no conntrack takes.
func tcpSynFin(src, dst netip.Addr, payload []byte) []byte {
	b := []byte{0, 9, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x03, 1, 0, 0, 0, 0, 0} // ports 9, flags SYN and FIN
	b = append(b, payload...)
	pseudo := append(src.AsSlice(), dst.AsSlice()...)
	pseudo = append(pseudo, 0, protoTCP)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(b)))
	binary.BigEndian.PutUint16(b[16:], checksum(append(pseudo, b...)))
	return b
}

// arpReply says that ip is at mac.
func arpReply(mac model.MAC, ip netip.Addr, marker []byte) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 2}
	b = append(b, mac[:]...)
	b = append(b, ip.AsSlice()...)
	b = append(b, broadcastMAC[:]...)
	b = append(b, ip.AsSlice()...)
	return append(b, marker...)
}

// icmpv6 is a message with its checksum; the marker is in a nonce option (RFC 3971 §5.3.2), which everyone else ignores.
func icmpv6(src, dst netip.Addr, kind byte, body, marker []byte) []byte {
	b := append([]byte{kind, 0, 0, 0}, body...)
	b = append(b, 14, 2)
	b = append(b, marker...)
	b = append(b, make([]byte, 14-len(marker))...)
	pseudo := append(src.AsSlice(), dst.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(b)))
	pseudo = append(pseudo, 0, 0, 0, protoICMPv6)
	binary.BigEndian.PutUint16(b[2:], checksum(append(pseudo, b...)))
	return b
}

// advert is the body of a neighbour solicitation or advertisement.
func advert(target netip.Addr) []byte { return append([]byte{0x20, 0, 0, 0}, target.AsSlice()...) }

// hopByHop puts an empty hop-by-hop header before what follows, behind which it could hide.
func hopByHop(next byte, payload []byte) []byte {
	return append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, payload...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		sum += word
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
