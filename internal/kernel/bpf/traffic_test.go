package bpf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

const patience = 30 * time.Second

// pair is a host and a workload behind its gateway address, with a server on the workload's port 80.
type pair struct{ host, work *space }

const (
	gateway  = "fd00:5::1"
	workload = "fd00:5::2"
)

func newPair(t *testing.T, name string) pair {
	t.Helper()
	p := pair{newSpace(t), newSpace(t)}
	// With other than equal indexes at both ends the kernel tells at once, not within a second, that they are up.
	p.host.sh(t, `
		ip link add fv index 1000 type veth peer name eth0 netns `+p.work.path()+`
		ip addr add `+gateway+`/64 dev fv nodad
		ip link set fv up`)
	p.work.sh(t, `
		ip addr add `+workload+`/64 dev eth0 nodad
		ip link set eth0 up`)
	p.work.answer(t, "[::]:80", name)
	p.waitForWorkload(t)
	return p
}

// waitForWorkload waits until the links carry packets.
func (p pair) waitForWorkload(t *testing.T) {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		p.host.do(func() { _, err = client{proto: tcp, connect: true, to: "[" + workload + "]:80"}.run() })
		if err == nil {
			return
		}
	}
	t.Fatal("the workload does not answer: ", err)
}

// wanted sends [::1]:8080 to the workload's port 80.
func wanted() dataplane.State {
	s := dataplane.State{}
	for _, p := range dataplane.LoopbackPrograms() {
		s[p.Key()] = p
	}
	for _, proto := range []model.Proto{model.TCP, model.UDP} {
		f := dataplane.LoopbackForward{Proto: proto, Port: 8080, To: netip.MustParseAddr(workload), ToPort: 80}
		s[f.Key()] = f
	}
	return s
}

// answer serves TCP and UDP: every client is told the server's name and where it seems to come from.
func (s *space) answer(t *testing.T, addr, name string) {
	t.Helper()
	s.do(func() {
		var lc net.ListenConfig
		tcp, err := lc.Listen(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		udp, err := lc.ListenPacket(t.Context(), "udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tcp.Close(); udp.Close() })
		go answerTCP(tcp, name)
		go answerUDP(udp, name)
	})
}

func greeting(name string, client net.Addr) string {
	return fmt.Sprintf("%s to %s", name, netip.MustParseAddrPort(client.String()).Addr())
}

func answerTCP(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprint(c, greeting(name, c.RemoteAddr()))
		c.Close()
	}
}

func answerUDP(c net.PacketConn, name string) {
	buf := make([]byte, 64)
	for {
		_, client, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		c.WriteTo([]byte(greeting(name, client)), client)
	}
}

// client is one way to reach a port; it answers what the server said and who the peer seems to be.
type client struct {
	proto   int // IPPROTO_…
	connect bool
	bind    string // address
	dev     string // link
	to      string
}

func (c client) String() string {
	proto := map[int]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_MPTCP: "mptcp"}[c.proto]
	words := []string{proto, "sendto"}
	if c.connect {
		words[1] = "connect"
	}
	words = append(words, c.to)
	if c.bind != "" {
		words = append(words, "from", c.bind)
	}
	if c.dev != "" {
		words = append(words, "dev", c.dev)
	}
	return strings.Join(words, " ")
}

// run does with plain system calls what programs do: Go's resolver and dialer have ideas of their own.
func (c client) run() (string, error) {
	kind := unix.SOCK_STREAM
	if c.proto == unix.IPPROTO_UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC, c.proto)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	wait := unix.NsecToTimeval(int64(patience))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return "", err
	}
	if c.dev != "" {
		if err := unix.BindToDevice(fd, c.dev); err != nil {
			return "", err
		}
	}
	if c.bind != "" {
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(netip.MustParseAddr(c.bind), 0))); err != nil {
			return "", err
		}
	}
	return c.ask(fd)
}

func (c client) ask(fd int) (string, error) {
	to := sockaddr(netip.MustParseAddrPort(c.to))
	if c.connect {
		if err := unix.Connect(fd, to); err != nil {
			return "", err
		}
		to = nil
	}
	if c.proto == unix.IPPROTO_UDP {
		if err := unix.Sendmsg(fd, []byte("?"), nil, to, 0); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 128)
	n, from, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return "", err
	}
	if c.connect {
		peer, err := unix.Getpeername(fd)
		if err != nil {
			return "", err
		}
		if from != nil && addrPort(from) != addrPort(peer) {
			return "", fmt.Errorf("recvfrom says %s, getpeername %s", addrPort(from), addrPort(peer))
		}
		from = peer
	}
	return fmt.Sprintf("%s, peer %s", buf[:n], addrPort(from)), nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	in6 := sa.(*unix.SockaddrInet6)
	return netip.AddrPortFrom(netip.AddrFrom16(in6.Addr), uint16(in6.Port))
}

// table runs clients in a namespace, one line each.
func (s *space) table(clients []client) string {
	var b strings.Builder
	s.do(func() {
		for _, c := range clients {
			got, err := c.run()
			var errno syscall.Errno
			if errors.As(err, &errno) {
				got = unix.ErrnoName(errno)
			} else if err != nil {
				got = err.Error()
			}
			fmt.Fprintf(&b, "%-42s %s\n", c, got)
		}
	})
	return b.String()
}

func compare(t *testing.T, got, want string) {
	t.Helper()
	clean := func(s string) string {
		var lines []string
		for line := range strings.Lines(s) {
			if line = strings.TrimSpace(line); line != "" {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "\n")
	}
	if clean(got) != clean(want) {
		t.Errorf("got:\n%s\nwant:\n%s", clean(got), clean(want))
	}
}

const (
	tcp   = unix.IPPROTO_TCP
	udp   = unix.IPPROTO_UDP
	mptcp = unix.IPPROTO_MPTCP
)

// For MPTCP the kernel shows connect6 the subflow and getpeername6 the whole socket, so there the peer can't be told.
func TestLoopbackReachesTheWorkload(t *testing.T) {
	p := newPair(t, "workload")
	conn := p.host.conn(t, t.TempDir())
	p.host.answer(t, "[::1]:8080", "host")
	p.host.answer(t, "127.0.0.1:8080", "host4")
	p.host.answer(t, "[::1]:9090", "host9090")
	p.host.apply(t, conn, wanted())
	defer p.host.end(t, conn)
	compare(t, p.host.table([]client{
		{proto: tcp, connect: true, to: "[::1]:8080"},
		{proto: mptcp, connect: true, to: "[::1]:8080"},
		{proto: udp, connect: true, to: "[::1]:8080"},
		{proto: udp, to: "[::1]:8080"},
		{proto: tcp, connect: true, to: "[::]:8080"},
		{proto: udp, connect: true, to: "[::]:8080"},
		{proto: udp, to: "[::]:8080"},
		{proto: tcp, connect: true, to: "[::1]:8080", bind: gateway},
		{proto: udp, to: "[::1]:8080", bind: gateway},
	}), `
		tcp connect [::1]:8080                     workload to fd00:5::1, peer [::1]:8080
		mptcp connect [::1]:8080                   workload to fd00:5::1, peer [fd00:5::2]:80
		udp connect [::1]:8080                     workload to fd00:5::1, peer [::1]:8080
		udp sendto [::1]:8080                      workload to fd00:5::1, peer [::1]:8080
		tcp connect [::]:8080                      workload to fd00:5::1, peer [::1]:8080
		udp connect [::]:8080                      workload to fd00:5::1, peer [::1]:8080
		udp sendto [::]:8080                       workload to fd00:5::1, peer [::1]:8080
		tcp connect [::1]:8080 from fd00:5::1      workload to fd00:5::1, peer [::1]:8080
		udp sendto [::1]:8080 from fd00:5::1       workload to fd00:5::1, peer [::1]:8080
	`)
}

func TestWhatIsNotForwardedStaysAsItWas(t *testing.T) {
	p := newPair(t, "workload")
	conn := p.host.conn(t, t.TempDir())
	p.host.answer(t, "[::1]:8080", "host")
	p.host.answer(t, "127.0.0.1:8080", "host4")
	p.host.answer(t, "[::1]:9090", "host9090")
	p.work.answer(t, "[::1]:8080", "other namespace")
	p.host.apply(t, conn, wanted())
	defer p.host.end(t, conn)
	compare(t, p.host.table([]client{
		{proto: tcp, connect: true, to: "[::1]:8080", bind: "::1"},
		{proto: udp, connect: true, to: "[::1]:8080", bind: "::1"},
		{proto: udp, to: "[::1]:8080", bind: "::1"},
		{proto: tcp, connect: true, to: "[::1]:8080", dev: "lo"},
		{proto: udp, to: "[::1]:8080", dev: "lo"},
		{proto: tcp, connect: true, to: "[::1]:9090"},
		{proto: udp, to: "[::1]:9090"},
		{proto: tcp, connect: true, to: "[::1]:9091"},
		{proto: tcp, connect: true, to: "[::ffff:127.0.0.1]:8080"},
		{proto: udp, connect: true, to: "[::ffff:127.0.0.1]:8080"},
		{proto: udp, to: "[::ffff:127.0.0.1]:8080"},
		{proto: tcp, connect: true, to: "[" + workload + "]:80"},
		{proto: udp, connect: true, to: "[" + workload + "]:80"},
		{proto: udp, to: "[" + workload + "]:80"},
	})+p.work.table([]client{
		{proto: tcp, connect: true, to: "[::1]:8080"},
		{proto: udp, connect: true, to: "[::1]:8080"},
		{proto: udp, to: "[::1]:8080"},
	}), `
		tcp connect [::1]:8080 from ::1            host to ::1, peer [::1]:8080
		udp connect [::1]:8080 from ::1            host to ::1, peer [::1]:8080
		udp sendto [::1]:8080 from ::1             host to ::1, peer [::1]:8080
		tcp connect [::1]:8080 dev lo              host to ::1, peer [::1]:8080
		udp sendto [::1]:8080 dev lo               host to ::1, peer [::1]:8080
		tcp connect [::1]:9090                     host9090 to ::1, peer [::1]:9090
		udp sendto [::1]:9090                      host9090 to ::1, peer [::1]:9090
		tcp connect [::1]:9091                     ECONNREFUSED
		tcp connect [::ffff:127.0.0.1]:8080        host4 to 127.0.0.1, peer [::ffff:127.0.0.1]:8080
		udp connect [::ffff:127.0.0.1]:8080        host4 to 127.0.0.1, peer [::ffff:127.0.0.1]:8080
		udp sendto [::ffff:127.0.0.1]:8080         host4 to 127.0.0.1, peer [::ffff:127.0.0.1]:8080
		tcp connect [fd00:5::2]:80                 workload to fd00:5::1, peer [fd00:5::2]:80
		udp connect [fd00:5::2]:80                 workload to fd00:5::1, peer [fd00:5::2]:80
		udp sendto [fd00:5::2]:80                  workload to fd00:5::1, peer [fd00:5::2]:80
		tcp connect [::1]:8080                     other namespace to ::1, peer [::1]:8080
		udp connect [::1]:8080                     other namespace to ::1, peer [::1]:8080
		udp sendto [::1]:8080                      other namespace to ::1, peer [::1]:8080
	`)
}

// A socket that talks to two ports of ::1 that lead to one port of a workload must know the answers apart.
func TestOneSocketTellsTwoForwardsApart(t *testing.T) {
	p := newPair(t, "workload")
	conn := p.host.conn(t, t.TempDir())
	want := wanted()
	second := dataplane.LoopbackForward{Proto: model.UDP, Port: 8081, To: netip.MustParseAddr(workload), ToPort: 81}
	want.Put(second)
	p.work.answer(t, "[::]:81", "second")
	p.host.apply(t, conn, want)
	defer p.host.end(t, conn)
	var got strings.Builder
	p.host.do(func() {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		for _, to := range []string{"[::1]:8080", "[::1]:8081", "[::1]:8080"} {
			answer, err := client{proto: udp, to: to}.ask(fd)
			fmt.Fprintln(&got, answer, err)
		}
	})
	compare(t, got.String(), `
		workload to fd00:5::1, peer [::1]:8080 <nil>
		second to fd00:5::1, peer [::1]:8081 <nil>
		workload to fd00:5::1, peer [::1]:8080 <nil>
	`)
}

func TestTwoDaemonsSideBySide(t *testing.T) {
	one, two := newPair(t, "one"), newPair(t, "two")
	connOne, connTwo := one.host.conn(t, t.TempDir()), two.host.conn(t, t.TempDir())
	one.host.apply(t, connOne, wanted())
	two.host.apply(t, connTwo, wanted())
	defer two.host.end(t, connTwo)
	clients := []client{{proto: tcp, connect: true, to: "[::1]:8080"}, {proto: udp, connect: true, to: "[::1]:8080"}}
	both := func() string { return one.host.table(clients) + two.host.table(clients) }
	compare(t, both(), `
		tcp connect [::1]:8080                     one to fd00:5::1, peer [::1]:8080
		udp connect [::1]:8080                     one to fd00:5::1, peer [::1]:8080
		tcp connect [::1]:8080                     two to fd00:5::1, peer [::1]:8080
		udp connect [::1]:8080                     two to fd00:5::1, peer [::1]:8080
	`)
	one.host.end(t, connOne)
	compare(t, both(), `
		tcp connect [::1]:8080                     ECONNREFUSED
		udp connect [::1]:8080                     ECONNREFUSED
		tcp connect [::1]:8080                     two to fd00:5::1, peer [::1]:8080
		udp connect [::1]:8080                     two to fd00:5::1, peer [::1]:8080
	`)
}

// mustAnswer is one TCP connection to [::1]:8080.
func (p pair) mustAnswer(ctx context.Context) (err error) {
	p.host.do(func() { _, err = client{proto: tcp, connect: true, to: "[::1]:8080"}.run() })
	return err
}
