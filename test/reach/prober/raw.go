package prober

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// rawSocket sends and receives what is in IP packets of one protocol. It receives what passed the kernel's input
// hook, unlike a packet socket, which sees also what is then dropped.
type rawSocket struct {
	v4 *ipv4.PacketConn
	v6 *ipv6.PacketConn
}

func (a *agent) openRaw() error {
	for i, one := range []struct {
		network, at string
		into        *[2]*rawSocket
		handle      func(int, *rawSocket, []byte, Seen)
	}{
		{"ip4:icmp", "0.0.0.0", &a.icmp, a.handleICMP},
		{"ip6:ipv6-icmp", "::", &a.icmp, a.handleICMP},
		{"ip4:132", "0.0.0.0", &a.sctp, a.handleSCTP},
		{"ip6:132", "::", &a.sctp, a.handleSCTP},
	} {
		s, err := openRaw(one.network, one.at, i%2)
		if err != nil {
			return fmt.Errorf("raw socket %s: %w", one.network, err)
		}
		one.into[i%2] = s
		go s.receive(func(p []byte, seen Seen) { one.handle(i%2, s, p, seen) })
	}
	return nil
}

func openRaw(network, at string, family int) (*rawSocket, error) {
	conn, err := net.ListenPacket(network, at)
	if err != nil {
		return nil, err
	}
	_ = conn.(*net.IPConn).SetReadBuffer(8 << 20) // what is missing of it only makes losses likelier
	if family == 0 {
		s := &rawSocket{v4: ipv4.NewPacketConn(conn)}
		return s, s.v4.SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
	}
	s := &rawSocket{v6: ipv6.NewPacketConn(conn)}
	return s, s.v6.SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
}

func (s *rawSocket) send(packet []byte, from, to netip.Addr) error {
	dst := &net.IPAddr{IP: to.AsSlice(), Zone: to.Zone()}
	var err error
	if s.v4 != nil {
		_, err = s.v4.WriteTo(packet, &ipv4.ControlMessage{Src: from.AsSlice()}, dst)
	} else {
		_, err = s.v6.WriteTo(packet, &ipv6.ControlMessage{Src: from.AsSlice()}, dst)
	}
	return err
}

func (s *rawSocket) receive(handle func(packet []byte, seen Seen)) {
	buf := make([]byte, 2048)
	for {
		n, from, to, zone, err := s.read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || from == nil {
			continue
		}
		src, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
		dst, _ := netip.AddrFromSlice(to)
		if src = src.Unmap(); src.Is6() && src.IsLinkLocalUnicast() {
			src = src.WithZone(zone)
		}
		handle(buf[:n], Seen{From: src, To: dst.Unmap()})
	}
}

func (s *rawSocket) read(buf []byte) (n int, from net.Addr, to net.IP, zone string, err error) {
	if s.v4 != nil {
		n, cm, from, err := s.v4.ReadFrom(buf)
		if cm == nil {
			return n, nil, nil, "", err
		}
		return n, from, cm.Dst, "", err
	}
	n, cm, from, err := s.v6.ReadFrom(buf)
	if cm == nil {
		return n, nil, nil, "", err
	}
	return n, from, cm.Dst, fmt.Sprint(cm.IfIndex), err
}

// echo is an ICMP echo request with the token as its data.
func echo(p Probe) []byte {
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(p.Token & 0xffff), Seq: int(p.Token >> 16), Data: tokenBytes(p.Token)}}
	if p.To.Is6() {
		m.Type = ipv6.ICMPTypeEchoRequest
	}
	packet, err := m.Marshal(nil) // of IPv6 the kernel computes the checksum
	if err != nil {
		panic(err) // it has no other input than the token
	}
	return packet
}

// handleICMP notes requests, which the kernel answers, and takes replies.
func (a *agent) handleICMP(family int, _ *rawSocket, packet []byte, seen Seen) {
	m, err := icmp.ParseMessage([]int{1, 58}[family], packet)
	if err != nil {
		return
	}
	body, ok := m.Body.(*icmp.Echo)
	if !ok || len(body.Data) != 4 {
		return
	}
	seen.Token, seen.Kind = binary.BigEndian.Uint32(body.Data), ICMP
	switch m.Type {
	case ipv4.ICMPTypeEcho, ipv6.ICMPTypeEchoRequest:
		a.note(seen)
	case ipv4.ICMPTypeEchoReply, ipv6.ICMPTypeEchoReply:
		a.answered(seen.Token)
	}
}

// SCTP chunk types (RFC 9260 §3.2).
const (
	chunkInit    = 1
	chunkInitAck = 2
)

// sctpInit is a packet with an INIT chunk whose initiate tag is the token.
func sctpInit(p Probe) []byte {
	return sctpPacket(uint16(20000+p.Token%40000), p.Port, 0, chunkInit, p.Token)
}

func sctpPacket(from, to uint16, tag uint32, chunk byte, initTag uint32) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint32(b, tag)
	b = append(b, 0, 0, 0, 0)      // checksum, below
	b = append(b, chunk, 0, 0, 20) // type, flags, length
	b = binary.BigEndian.AppendUint32(b, initTag)
	b = binary.BigEndian.AppendUint32(b, 65536) // receiver window
	b = append(b, 0, 1, 0, 1)                   // streams out and in
	b = binary.BigEndian.AppendUint32(b, initTag)
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(b[8:], sum) // RFC 9260 appendix A
	return b
}

// handleSCTP answers an INIT on any port and takes an INIT ACK, whose verification tag is our token.
func (a *agent) handleSCTP(_ int, s *rawSocket, packet []byte, seen Seen) {
	if len(packet) < 32 {
		return
	}
	from, to := binary.BigEndian.Uint16(packet), binary.BigEndian.Uint16(packet[2:])
	switch packet[12] {
	case chunkInit:
		seen.Token, seen.Kind, seen.Port = binary.BigEndian.Uint32(packet[16:]), SCTP, to
		_ = s.send(sctpPacket(to, from, seen.Token, chunkInitAck, seen.Token), seen.To, seen.From) // the prober sees that nothing came
		a.note(seen)
	case chunkInitAck:
		a.answered(binary.BigEndian.Uint32(packet[4:]))
	}
}
