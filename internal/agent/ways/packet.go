package ways

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// closed is a port that is asked because nobody listens there: traceroute's first.
const closed = 33434

// headers are the bytes before a datagram's payload: RFC 791 and 768, RFC 8200.
func headers(v6 bool) int {
	if v6 {
		return 40 + 8
	}
	return 20 + 8
}

// packet is a datagram that is sent to be refused.
type packet struct {
	from, to netip.Addr                     // from is the kernel's choice when it is zero
	hops     int                            // 0: as many as usual
	size     int                            // bytes; 0: small
	large    bool                           // as large as the way takes, and not to be cut into pieces
	unsummed bool                           // without a checksum; IPv4 only
	theirs   func(offender netip.Addr) bool // who speaks for the other host
}

// again sends the packet twice, with so much time between that a kernel that has said too much will say something again.
func (p packet) again(ctx context.Context) (Outcome, time.Duration) {
	o, took := p.send(ctx, once)
	if o.Answered || o.Why != "" {
		return o, took
	}
	pause(ctx, refill-once)
	return p.send(ctx, once)
}

// send sends the packet and waits for what is said of it.
func (p packet) send(ctx context.Context, wait time.Duration) (Outcome, time.Duration) {
	c, err := p.dial(ctx)
	if err != nil {
		return Outcome{Why: reason(err)}, 0
	}
	defer c.Close()
	size, err := p.payload(c)
	if err != nil {
		return Outcome{Why: reason(err)}, 0
	}
	began := time.Now()
	if _, err := c.Write(make([]byte, size)); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
		if errors.Is(err, unix.EMSGSIZE) {
			return Outcome{Why: p.tooLarge(c)}, 0
		}
		return Outcome{Why: reason(err)}, 0
	}
	o := p.hear(c, began.Add(wait))
	return o, time.Since(began)
}

func (p packet) dial(ctx context.Context) (*net.UDPConn, error) {
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		if err := raw.Control(func(fd uintptr) { failed = p.options(int(fd)) }); err != nil {
			return err
		}
		return failed
	}}
	if p.from.IsValid() {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.from, 0))
	}
	c, err := d.DialContext(ctx, "udp", netip.AddrPortFrom(p.to, closed).String())
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

func (p packet) options(fd int) error {
	level, hears, hops, discover, do := unix.IPPROTO_IP, unix.IP_RECVERR, unix.IP_TTL, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO
	if p.to.Is6() {
		level, hears, hops, discover, do = unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.IPV6_UNICAST_HOPS, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO
	}
	errs := []error{unix.SetsockoptInt(fd, level, hears, 1), unix.SetsockoptInt(fd, level, discover, do)}
	if p.hops > 0 {
		errs = append(errs, unix.SetsockoptInt(fd, level, hops, p.hops))
	}
	if p.unsummed {
		errs = append(errs, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1))
	}
	return errors.Join(errs...)
}

// payload is how many bytes fill the packet.
func (p packet) payload(c *net.UDPConn) (int, error) {
	const small = 32
	size := p.size
	if p.large {
		var err error
		if size, err = takes(c, p.to.Is6()); err != nil {
			return 0, err
		}
	}
	return max(small, size-headers(p.to.Is6())), nil
}

// sized is how many bytes a large packet has.
func (p packet) sized(ctx context.Context) int {
	c, err := p.dial(ctx)
	if err != nil {
		return 0
	}
	defer c.Close()
	size, _ := takes(c, p.to.Is6())
	return size
}

// takes is the MTU of the way, as the kernel knows it.
func takes(c *net.UDPConn, v6 bool) (mtu int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	failed := raw.Control(func(fd uintptr) {
		if v6 {
			mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU)
		} else {
			mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
		}
	})
	return mtu, errors.Join(failed, err)
}

func (p packet) tooLarge(c *net.UDPConn) string {
	mtu, err := takes(c, p.to.Is6())
	if err != nil || mtu == 0 {
		return "it is too large for the way"
	}
	return fmt.Sprintf("only %d bytes pass", mtu)
}

// hear waits for what is said of the packet.
func (p packet) hear(c *net.UDPConn, until time.Time) Outcome {
	raw, err := c.SyscallConn()
	if err == nil {
		err = c.SetReadDeadline(until)
	}
	if err != nil {
		return Outcome{Why: reason(err)}
	}
	var o Outcome
	err = raw.Read(func(fd uintptr) bool {
		var data [512]byte
		var control [512]byte
		n, controlLen, flags, _, err := unix.Recvmsg(int(fd), data[:], control[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return false
		}
		_, _ = n, flags
		o = p.told(control[:controlLen])
		return true
	})
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return Outcome{Why: reason(err)}
	}
	return o
}

// told reads what came with an error: ip(7), IP_RECVERR.
func (p packet) told(control []byte) Outcome {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return Outcome{}
	}
	for _, m := range messages {
		ours := m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_RECVERR || m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if ours && len(m.Data) >= extendedError {
			return p.judge(m.Data)
		}
	}
	return Outcome{}
}

// extendedError is the size of struct sock_extended_err, which the offender's address follows.
const extendedError = 16

// The ICMP messages: RFC 792, RFC 4443.
const (
	unreachable4, exceeded4 = 3, 11
	unreachable6, exceeded6 = 1, 3
	noPort4, noPort6        = 3, 4
)

func (p packet) judge(data []byte) Outcome {
	errno, origin, kind, code := unix.Errno(binary.NativeEndian.Uint32(data)), data[4], data[5], data[6]
	if origin == unix.SO_EE_ORIGIN_LOCAL {
		if errno == unix.EMSGSIZE {
			return Outcome{Why: fmt.Sprintf("only %d bytes pass", binary.NativeEndian.Uint32(data[8:]))}
		}
		return Outcome{Why: reason(errno)}
	}
	from := offender(data[extendedError:])
	over := origin == unix.SO_EE_ORIGIN_ICMP && kind == exceeded4 || origin == unix.SO_EE_ORIGIN_ICMP6 && kind == exceeded6
	noPort := origin == unix.SO_EE_ORIGIN_ICMP && kind == unreachable4 && code == noPort4 || origin == unix.SO_EE_ORIGIN_ICMP6 && kind == unreachable6 && code == noPort6
	switch {
	case errno == unix.EMSGSIZE:
		return Outcome{Why: fmt.Sprintf("only %d bytes pass, says %s", binary.NativeEndian.Uint32(data[8:]), from)}
	case (over || noPort) && p.theirs(from):
		return Outcome{Answered: true}
	case over || noPort:
		return Outcome{Why: fmt.Sprintf("%s answers in its place", from)}
	}
	return Outcome{Why: fmt.Sprintf("%s says: %s", from, errno.Error())}
}

// offender is who spoke, a struct sockaddr_in or sockaddr_in6.
func offender(data []byte) netip.Addr {
	const at4, at6 = 4, 8
	switch {
	case len(data) >= at6+16 && binary.NativeEndian.Uint16(data) == unix.AF_INET6:
		a, _ := netip.AddrFromSlice(data[at6 : at6+16])
		return a.Unmap()
	case len(data) >= at4+4 && binary.NativeEndian.Uint16(data) == unix.AF_INET:
		a, _ := netip.AddrFromSlice(data[at4 : at4+4])
		return a
	}
	return netip.Addr{}
}

// reason words what the kernel of this host says of a packet.
func reason(err error) string {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	switch errno {
	case unix.EHOSTUNREACH:
		return "nobody answers for its address here (ARP)"
	case unix.EPERM:
		return "a rule of this host drops it"
	case unix.ENETUNREACH:
		return "no route leads there"
	}
	return "this host says: " + errno.Error()
}
