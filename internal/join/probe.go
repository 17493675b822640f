package join

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Listening are a host's sockets that wait for a server's datagrams, before there is a tunnel that could take them: on the tunnels' ports, and on
// one that is nothing to anybody, which is compared with.
type Listening struct {
	nonce   []byte
	sockets map[uint16]net.PacketConn
	plain   uint16
}

// probes is what a host asks a server to send: the nonce, to these ports of the addresses that it says it is reached by.
type Probes struct {
	Nonce []byte
	Ports []uint16
}

// The bounds of what a server sends to a host that has a token: a few small datagrams, to addresses that the host names.
const (
	mostProbes = 8
	nonceSize  = 16
	probeTimes = 3
	probePause = 40 * time.Millisecond
)

// Listen waits at an address for datagrams to these ports; those that are in use here are left out. Close it.
func Listen(ctx context.Context, at netip.Addr, ports []uint16) (*Listening, error) {
	l := &Listening{nonce: make([]byte, nonceSize), sockets: map[uint16]net.PacketConn{}}
	rand.Read(l.nonce)
	for _, port := range append([]uint16{0}, ports...) {
		c, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", netip.AddrPortFrom(at, port).String())
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err != nil {
			l.Close()
			return nil, err
		}
		if port == 0 {
			port = c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
			l.plain = port
		}
		l.sockets[port] = c
	}
	return l, nil
}

// Asks is what a server is to send.
func (l *Listening) Asks() *Probes {
	p := &Probes{Nonce: l.nonce}
	for port := range l.sockets {
		p.Ports = append(p.Ports, port)
	}
	slices.Sort(p.Ports)
	return p
}

// Close gives the ports back.
func (l *Listening) Close() {
	for _, c := range l.sockets {
		_ = c.Close()
	}
}

// Heard waits until a datagram has come to each of the ports, or for as long as that. It returns those where none came; plain is false when none came
// to the port that is nothing to anybody either.
func (l *Listening) Heard(wait time.Duration) (deaf []uint16, plain bool) {
	until := time.Now().Add(wait)
	heard := map[uint16]chan bool{}
	for port, c := range l.sockets {
		heard[port] = make(chan bool, 1)
		go func() { heard[port] <- l.hears(c, until) }()
	}
	for port, came := range heard {
		switch ok := <-came; {
		case port == l.plain:
			plain = ok
		case !ok:
			deaf = append(deaf, port)
		}
	}
	slices.Sort(deaf)
	return deaf, plain
}

func (l *Listening) hears(c net.PacketConn, until time.Time) bool {
	_ = c.SetReadDeadline(until)
	buf := make([]byte, 2*nonceSize)
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			return false
		}
		if string(buf[:n]) == string(l.nonce) {
			return true
		}
	}
}

// send sends what a host has asked for, beside the answer to its call. Who asks has shown a token; so much as this it could send itself.
func (p *Probes) send(from netip.Addr, to []netip.Addr) error {
	if p == nil || len(p.Nonce) != nonceSize || len(p.Ports) > mostProbes {
		return fmt.Errorf("probes: %d bytes to %d ports", len(p.Nonce), len(p.Ports))
	}
	var conns []net.PacketConn
	for _, a := range to {
		if !a.IsGlobalUnicast() || a.Is6() != from.Is6() {
			continue
		}
		c, err := net.ListenPacket("udp", netip.AddrPortFrom(from, 0).String())
		if err != nil {
			return err
		}
		conns = append(conns, c)
		go func() {
			defer c.Close()
			for range probeTimes {
				for _, port := range p.Ports {
					_, _ = c.WriteTo(p.Nonce, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, port))) // that it does not arrive is what is asked
				}
				time.Sleep(probePause)
			}
		}()
	}
	if len(conns) == 0 {
		return errors.New("probes: no address of the family of this port")
	}
	return nil
}
