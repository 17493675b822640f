package membership

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The bytes before a datagram's payload: RFC 791 and 768, RFC 8200.
const (
	headers4 = 20 + 8
	headers6 = 40 + 8
)

// probeTime is how long an answer to a probe is waited for; there are probeTries of them.
const (
	probeTime  = 300 * time.Millisecond
	probeTries = 3
)

// probeMTU sends datagrams of the link's MTU, which must not be cut into pieces, to a UDP port of the peer where nobody listens. Its
// "port unreachable" proves that the whole of it arrived; "fragmentation needed" tells the path's MTU. Firewalls may swallow either: proven is
// false then.
func probeMTU(ctx context.Context, peer netip.AddrPort, mtu int) (path int, proven bool, err error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", peer.String())
	if err != nil {
		return 0, false, err
	}
	defer c.Close()
	u := c.(*net.UDPConn)
	v6 := peer.Addr().Is6()
	if err := dontFragment(u, v6); err != nil {
		return 0, false, err
	}
	payload := make([]byte, mtu-headers4)
	if v6 {
		payload = payload[:mtu-headers6]
	}
	for range probeTries {
		_, err := u.Write(payload)
		if err == nil {
			err = answerTo(u)
		}
		switch {
		case errors.Is(err, unix.ECONNREFUSED):
			return mtu, true, nil
		case errors.Is(err, unix.EMSGSIZE):
			path, err := pathMTU(u, v6)
			return path, err == nil, err
		case ctx.Err() != nil:
			return mtu, false, ctx.Err()
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return mtu, false, err
		}
	}
	return mtu, false, nil
}

// answerTo waits for what the kernel hears about the datagram.
func answerTo(u *net.UDPConn) error {
	if err := u.SetReadDeadline(time.Now().Add(probeTime)); err != nil {
		return err
	}
	_, err := u.Read(make([]byte, 1))
	return err
}

func dontFragment(u *net.UDPConn, v6 bool) error {
	return control(u, func(fd int) error {
		if v6 {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	})
}

func pathMTU(u *net.UDPConn, v6 bool) (mtu int, err error) {
	err = control(u, func(fd int) (err error) {
		if v6 {
			mtu, err = unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU)
		} else {
			mtu, err = unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU)
		}
		return err
	})
	return mtu, err
}

func control(u *net.UDPConn, do func(fd int) error) error {
	raw, err := u.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil {
		return err
	}
	return failed
}
