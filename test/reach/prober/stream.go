package prober

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

func (a *agent) listen(l Listen) error {
	addr := ""
	if l.Addr.IsValid() {
		addr = l.Addr.String()
	}
	at := net.JoinHostPort(addr, strconv.Itoa(int(l.Port)))
	if l.Kind == TCP {
		return a.listenTCP(at)
	}
	if l.Addr.IsValid() {
		return a.listenUDP("udp"+[]string{"4", "6"}[familyOf(l.Addr)], at)
	}
	return errors.Join(a.listenUDP("udp4", at), a.listenUDP("udp6", at))
}

func (a *agent) listenTCP(at string) error {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go a.serveTCP(conn.(*net.TCPConn))
		}
	}()
	return nil
}

// serveTCP takes a token and gives it back. A connection without one is noted with token 0: somebody got through, if
// too late.
func (a *agent) serveTCP(conn *net.TCPConn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second)) // fails on a closed connection only, as the read then does
	var token [4]byte
	_, err := io.ReadFull(conn, token[:])
	from, to := conn.RemoteAddr().(*net.TCPAddr).AddrPort(), conn.LocalAddr().(*net.TCPAddr).AddrPort()
	a.note(Seen{binary.BigEndian.Uint32(token[:]), TCP, from.Addr(), to.Addr(), to.Port()})
	if err != nil {
		return
	}
	if _, err := conn.Write(token[:]); err == nil {
		_, _ = conn.Read(token[:]) // the client closes first, by reset, so that neither side keeps TIME-WAIT
	}
}

// onLink binds a socket to the link of a link-local address. A zone would do the same, but package net remembers for a minute which
// number a link's name had.
func onLink(to netip.Addr) func(network, address string, c syscall.RawConn) error {
	if to.Zone() == "" {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) error {
		var bound error
		err := c.Control(func(fd uintptr) { bound = unix.BindToDevice(int(fd), to.Zone()) })
		return errors.Join(err, bound)
	}
}

func probeTCP(p Probe) error {
	d := net.Dialer{Timeout: p.Wait, KeepAlive: -1, Control: onLink(p.To)}
	if p.From.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.From, 0))
	}
	deadline := time.Now().Add(p.Wait)
	conn, err := d.Dial("tcp", netip.AddrPortFrom(p.To.WithZone(""), p.Port).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	return errors.Join(conn.(*net.TCPConn).SetLinger(0), conn.SetDeadline(deadline), exchange(conn, p.Token))
}

// exchange sends the token and waits for it to come back.
func exchange(conn net.Conn, token uint32) error {
	if _, err := conn.Write(tokenBytes(token)); err != nil {
		return err
	}
	var back [4]byte
	if _, err := io.ReadFull(conn, back[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(back[:]) != token {
		return errors.New("another token came back")
	}
	return nil
}

// listenUDP answers from the address that was asked, which a socket bound to every address does not by itself.
func (a *agent) listenUDP(network, at string) error {
	conn, err := net.ListenPacket(network, at)
	if err != nil {
		return err
	}
	if network == "udp4" {
		p := ipv4.NewPacketConn(conn)
		if err := p.SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true); err != nil {
			return err
		}
		go a.serveUDP4(p, conn)
		return nil
	}
	p := ipv6.NewPacketConn(conn)
	if err := p.SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true); err != nil {
		return err
	}
	go a.serveUDP6(p, conn)
	return nil
}

func (a *agent) serveUDP4(p *ipv4.PacketConn, conn net.PacketConn) {
	buf := make([]byte, 64)
	for {
		n, cm, from, err := p.ReadFrom(buf)
		if err != nil && !errors.Is(err, net.ErrClosed) {
			continue // an ICMP error of an earlier answer
		}
		if n != 4 || cm == nil {
			continue
		}
		a.noteUDP(buf, from, cm.Dst, conn)
		_, _ = p.WriteTo(buf[:n], &ipv4.ControlMessage{Src: cm.Dst}, from) // the prober sees that nothing came
	}
}

func (a *agent) serveUDP6(p *ipv6.PacketConn, conn net.PacketConn) {
	buf := make([]byte, 64)
	for {
		n, cm, from, err := p.ReadFrom(buf)
		if err != nil && !errors.Is(err, net.ErrClosed) {
			continue
		}
		if n != 4 || cm == nil {
			continue
		}
		a.noteUDP(buf, from, cm.Dst, conn)
		_, _ = p.WriteTo(buf[:n], &ipv6.ControlMessage{Src: cm.Dst, IfIndex: cm.IfIndex}, from)
	}
}

func (a *agent) noteUDP(token []byte, from net.Addr, to net.IP, conn net.PacketConn) {
	dst, _ := netip.AddrFromSlice(to)
	port := conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	a.note(Seen{binary.BigEndian.Uint32(token), UDP, from.(*net.UDPAddr).AddrPort().Addr(), dst, port})
}

func probeUDP(p Probe) error {
	d := net.Dialer{Control: onLink(p.To)}
	if p.From.IsValid() || p.FromPort != 0 {
		d.LocalAddr = &net.UDPAddr{IP: p.From.AsSlice(), Port: int(p.FromPort)}
	}
	conn, err := d.Dial("udp", netip.AddrPortFrom(p.To.WithZone(""), p.Port).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	end := time.Now().Add(p.Wait)
	for try := tryAgain(p.Wait); ; {
		if err := conn.SetDeadline(earlier(end, time.Now().Add(try))); err != nil {
			return err
		}
		err := exchange(conn, p.Token)
		if !errors.Is(err, os.ErrDeadlineExceeded) || !time.Now().Before(end) {
			return err
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// result tells an outcome from the error that a probe ended with.
func result(token uint32, err error) Result {
	r := Result{Token: token}
	if err != nil {
		r.Detail = err.Error()
	}
	var timeout net.Error
	switch {
	case err == nil:
		r.Outcome = Answered
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		r.Outcome = Refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES),
		errors.Is(err, syscall.EPERM):
		r.Outcome = Unreachable
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		r.Outcome = Silence
	default:
		r.Outcome = Failed
	}
	return r
}
