package foreign

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/model"
)

// Probe is a packet that must pass, on its way through the host.
type Probe struct {
	Name     string // "workloads of lab reach the LAN"
	Link     string // the link of ours that it is about
	Way      Way
	In, Out  string    // links; empty where the packet comes from the host or stays there
	SrcMAC   model.MAC // zero: any
	Src, Dst netip.Addr
	Before   netip.Addr // the destination until NAT changes it to Dst, for a forward or for an answer; zero: Dst
	Proto    uint8      // IP protocol number
	SrcPort  uint16     // 0: any
	DstPort  uint16     // 0: any; of a forward: behind it
	Answer   bool       // of an established connection
}

// Way is how a packet passes the host.
type Way uint8

// The ways.
const (
	Forwarded Way = iota
	ToHost
	FromHost
	Bridged // between two ports of the bridge Link; In and Out are the ports
)

// hooks are the places that the packet passes.
func (w Way) hooks() []string {
	switch w {
	case ToHost:
		return []string{"ingress", "prerouting", "input"}
	case FromHost:
		return []string{"output", "postrouting", "egress"}
	}
	return []string{"ingress", "prerouting", "forward", "postrouting", "egress"}
}

// packet is a probe at one chain.
type packet struct {
	Probe
	family      string // of the chain
	in, out     string // as the hook knows them
	dst         netip.Addr
	links       map[string]uint32
	markUnknown bool // something may have set the mark
}

// natPriority is where prerouting chains begin to see the destination that a forward gave (NF_IP_PRI_NAT_DST).
const natPriority = -100

// at is the packet as a chain sees it; false when it does not pass there.
func (p Probe) at(c *Chain, r Ruleset) (packet, bool) {
	k := packet{Probe: p, family: c.Family, in: p.In, out: p.Out, dst: p.Dst, links: r.Links}
	if !p.passes(c, r.BridgeNF[p.v6()]) {
		return k, false
	}
	if p.Way == Bridged && c.Family != "bridge" && c.Family != "netdev" {
		k.in, k.out = p.Link, p.Link // br_netfilter shows the bridge, not its ports
	}
	switch c.Hook {
	case "prerouting", "ingress":
		k.out = ""
		if p.Before.IsValid() && (c.Hook == "ingress" || c.Priority <= natPriority) {
			k.dst = p.Before
			if !p.Answer {
				k.DstPort = 0
			}
		}
	}
	return k, true
}

func (p Probe) passes(c *Chain, bridgeNF bool) bool {
	switch c.Family {
	case "netdev":
		return c.Hook == "ingress" && c.Device == p.In || c.Hook == "egress" && c.Device == p.Out
	case "bridge":
		if p.Way != Bridged {
			return false // frames of routed packets pass the bridge too, but not its forward hook: left to Bridged probes
		}
	case "ip":
		if !p.Src.Is4() {
			return false
		}
	case "ip6":
		if !p.Src.Is6() {
			return false
		}
	case "inet":
		if c.Device != "" && c.Device != p.In {
			return false
		}
	default:
		return false
	}
	if p.Way == Bridged && c.Family != "bridge" && c.Family != "netdev" && !bridgeNF {
		return false
	}
	for _, h := range p.Way.hooks() {
		if h == c.Hook {
			return true
		}
	}
	return false
}

// load gives what is known of the loads, one after the other.
func (p packet) load(loads []Load) data {
	if len(loads) == 1 {
		return p.one(loads[0])
	}
	var d data
	for _, l := range loads {
		one := p.one(l)
		d.value = append(d.value, one.value...)
		d.known = append(d.known, one.known...)
		for len(d.value)%4 != 0 {
			d.value, d.known = append(d.value, 0), append(d.known, 0xff)
		}
	}
	return d
}

func (p packet) one(l Load) data {
	switch l.From {
	case FromMeta:
		return p.meta(l.Key).sized(l.Len)
	case FromPayload:
		return p.payload(l.Key, l.Offset, l.Len)
	case FromCT:
		return p.conntrack(l.Key).sized(l.Len)
	case FromFIB:
		return p.fib(l).sized(l.Len)
	}
	return unknown(l.Len)
}

func (p Probe) v6() bool { return p.Src.Is6() }

func (p packet) meta(key uint32) data {
	switch key {
	case unix.NFT_META_IIFNAME:
		return known(linkName(p.in)...)
	case unix.NFT_META_OIFNAME:
		return known(linkName(p.out)...)
	case unix.NFT_META_IIF:
		return p.index(p.in)
	case unix.NFT_META_OIF:
		return p.index(p.out)
	case unix.NFT_META_IIFTYPE:
		return linkType(p.in)
	case unix.NFT_META_OIFTYPE:
		return linkType(p.out)
	case unix.NFT_META_L4PROTO:
		return known(p.Proto)
	case unix.NFT_META_NFPROTO:
		if p.family == "bridge" {
			return known(unix.NFPROTO_BRIDGE)
		}
		return known(map[bool]byte{false: unix.NFPROTO_IPV4, true: unix.NFPROTO_IPV6}[p.v6()])
	case unix.NFT_META_PROTOCOL:
		return known(p.etherType()...)
	case unix.NFT_META_PKTTYPE:
		return known(unix.PACKET_HOST)
	case unix.NFT_META_MARK:
		if p.markUnknown {
			return unknown(4)
		}
		return known(0, 0, 0, 0)
	}
	return unknown(16)
}

func (p packet) etherType() []byte {
	if p.v6() {
		return binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)
	}
	return binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)
}

func linkName(s string) []byte {
	var b [16]byte // IFNAMSIZ
	copy(b[:15], s)
	return b[:]
}

func linkType(name string) data {
	t := uint16(unix.ARPHRD_ETHER)
	if name == "lo" {
		t = unix.ARPHRD_LOOPBACK
	}
	return known(binary.NativeEndian.AppendUint16(nil, t)...)
}

func (p packet) index(name string) data {
	n, ok := p.links[name]
	switch {
	case name == "":
		return known(0, 0, 0, 0)
	case !ok: // not there yet: a rule that has an index means another link
		return known(0xff, 0xff, 0xff, 0xff)
	}
	return known(binary.NativeEndian.AppendUint32(nil, n)...)
}

// payload gives bytes of the packet: addresses, protocol and ports are known.
func (p packet) payload(base uint32, offset, n int) data {
	var header data
	switch base {
	case unix.NFT_PAYLOAD_LL_HEADER:
		header = unknown(14).with(12, p.etherType()...)
		if p.SrcMAC != (model.MAC{}) {
			header = header.with(6, p.SrcMAC[:]...)
		}
	case unix.NFT_PAYLOAD_NETWORK_HEADER:
		header = p.ipHeader()
	case unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		header = p.transportHeader()
	}
	if offset < 0 || n < 0 || n > 64 || offset+n > len(header.value) {
		return unknown(max(0, min(n, 64)))
	}
	return data{value: header.value[offset : offset+n], known: header.known[offset : offset+n]}
}

func (d data) with(at int, b ...byte) data {
	copy(d.value[at:], b)
	for i := range b {
		d.known[at+i] = 0xff
	}
	return d
}

// ipHeader: RFC 791 §3.1, RFC 8200 §3; no options, no fragment.
func (p packet) ipHeader() data {
	if p.v6() {
		return unknown(40).with(6, p.Proto).with(8, p.Src.AsSlice()...).with(24, p.dst.AsSlice()...)
	}
	return unknown(20).with(0, 0x45).with(6, 0, 0).with(9, p.Proto).with(12, p.Src.AsSlice()...).with(16, p.dst.AsSlice()...)
}

// echoRequest are the message types of ping (RFC 792, RFC 4443).
const (
	echoRequest4 = 8
	echoRequest6 = 128
)

func (p packet) transportHeader() data {
	d := unknown(20)
	switch p.Proto {
	case unix.IPPROTO_ICMP:
		return d.with(0, echoRequest4, 0)
	case unix.IPPROTO_ICMPV6:
		return d.with(0, echoRequest6, 0)
	case unix.IPPROTO_TCP:
		d = d.with(13, p.tcpFlags())
	}
	if p.SrcPort != 0 {
		d = d.with(0, byte(p.SrcPort>>8), byte(p.SrcPort))
	}
	if p.DstPort != 0 {
		d = d.with(2, byte(p.DstPort>>8), byte(p.DstPort))
	}
	return d
}

// tcpFlags are those of the first packet of its direction (RFC 9293 §3.1).
func (p packet) tcpFlags() byte {
	const syn, ack = 0x02, 0x10
	if p.Answer {
		return syn | ack
	}
	return syn
}

// Conntrack's keys and bits (linux/netfilter/nf_tables.h, nf_conntrack_common.h).
const (
	ctState       = 0
	ctDirection   = 1
	ctStatus      = 2
	ctEstablished = 1 << 1
	ctNew         = 1 << 3
	ctDNAT        = 1 << 5
)

func (p packet) conntrack(key uint32) data {
	switch key {
	case ctState:
		return known(binary.NativeEndian.AppendUint32(nil, p.stateBits())...)
	case ctDirection:
		return known(map[bool]byte{false: 0, true: 1}[p.Answer])
	case ctStatus:
		d := unknown(4)
		bit := binary.NativeEndian.AppendUint32(nil, ctDNAT)
		copy(d.known, bit)
		if p.forwarded() {
			copy(d.value, bit)
		}
		return d
	}
	return unknown(16)
}

func (p packet) stateBits() uint32 {
	if p.Answer {
		return ctEstablished
	}
	return ctNew
}

// forwarded reports whether a forward has changed the destination.
func (p packet) forwarded() bool { return p.Before.IsValid() && !p.Answer && p.dst == p.Dst }

// Results of a routing lookup (NFT_FIB_RESULT_…).
const (
	fibOIF      = 1
	fibOIFName  = 2
	fibAddrType = 3
)

// fib answers routing lookups: probes have sources that are routed back to where they come from.
func (p packet) fib(l Load) data {
	if l.Key == fibAddrType {
		t := p.destType()
		if l.Flags&unix.NFTA_FIB_F_SADDR != 0 {
			t = p.sourceType()
		}
		return known(binary.NativeEndian.AppendUint32(nil, uint32(t))...)
	}
	if l.Flags&unix.NFTA_FIB_F_PRESENT != 0 {
		return known(1)
	}
	d := unknown(l.Len)
	d.notZero = true
	return d
}

func (p packet) destType() int {
	if p.Way == ToHost || p.dst == p.Before && p.Before.IsValid() {
		return unix.RTN_LOCAL
	}
	return unix.RTN_UNICAST
}

func (p packet) sourceType() int {
	if p.Way == FromHost {
		return unix.RTN_LOCAL
	}
	return unix.RTN_UNICAST
}
