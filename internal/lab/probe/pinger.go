package probe

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// pinger asks one address.
type pinger struct {
	socket *icmp.PacketConn
	to     netip.Addr
	id     int
}

func newPinger(to netip.Addr) (pinger, error) {
	network, any := "ip4:icmp", "0.0.0.0"
	if to.Is6() {
		network, any = "ip6:ipv6-icmp", "::"
	}
	socket, err := icmp.ListenPacket(network, any)
	return pinger{socket, to, rand.IntN(1 << 16)}, err // several may ask from one namespace
}

// Ping sends one echo request, from the calling thread's network namespace, and waits for the answer.
func Ping(to netip.Addr) error {
	p, err := newPinger(to)
	if err != nil {
		return err
	}
	defer p.socket.Close()
	if err := errors.Join(p.socket.SetReadDeadline(time.Now().Add(patience)), p.ask(0)); err != nil {
		return err
	}
	if p.listen(1, false) == 0 {
		return fmt.Errorf("%s does not answer within %v", to, patience)
	}
	return nil
}

func (p pinger) ask(seq int) error {
	echo := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: p.id, Seq: seq, Data: make([]byte, 56)}}
	if p.to.Is6() {
		echo.Type = ipv6.ICMPTypeEchoRequest
	}
	b, err := echo.Marshal(nil) // the kernel adds the checksum of ICMPv6
	if err != nil {
		return err
	}
	_, err = p.socket.WriteTo(b, &net.IPAddr{IP: p.to.AsSlice(), Zone: p.to.Zone()})
	return err
}

// listen counts the answers until all are there or the socket's deadline comes.
func (p pinger) listen(count int, aloud bool) int {
	seen := map[int]bool{}
	buf := make([]byte, 1500)
	for len(seen) < count {
		n, from, err := p.socket.ReadFrom(buf)
		if err != nil {
			break
		}
		echo, ok := p.reply(buf[:n])
		if !ok || echo.ID != p.id || seen[echo.Seq] || from.String() != p.to.String() {
			continue
		}
		seen[echo.Seq] = true
		if aloud {
			fmt.Printf("%d bytes from %s: icmp_seq=%d\n", n, from, echo.Seq+1)
		}
	}
	return len(seen)
}

// reply reads a packet that may be an answer.
func (p pinger) reply(packet []byte) (*icmp.Echo, bool) {
	protocol := 1 // ICMP
	if p.to.Is6() {
		protocol = 58
	}
	m, err := icmp.ParseMessage(protocol, packet)
	if err != nil || m.Type != ipv4.ICMPTypeEchoReply && m.Type != ipv6.ICMPTypeEchoReply {
		return nil, false
	}
	echo, ok := m.Body.(*icmp.Echo)
	return echo, ok
}
