package kernel_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/model"
)

// bind makes a socket in the test's namespace; net's own may be made on another thread.
func bind(t *testing.T, proto model.Proto, at string, v6only bool) {
	t.Helper()
	a := netip.MustParseAddrPort(at)
	family, typ := unix.AF_INET, unix.SOCK_STREAM
	if a.Addr().Is6() {
		family = unix.AF_INET6
	}
	if proto == model.UDP {
		typ = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if v6only {
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err := unix.Bind(fd, sockaddr(a)); err != nil {
		t.Fatalf("bind %s: %v", at, err)
	}
	if proto == model.TCP {
		if err := unix.Listen(fd, 1); err != nil {
			t.Fatal(err)
		}
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func TestListenersAndTheirProcesses(t *testing.T) {
	k := host(t)
	run(t, "ip link set lo up")
	bind(t, model.TCP, "0.0.0.0:80", false)
	bind(t, model.TCP, "127.0.0.1:8080", false)
	bind(t, model.TCP, "[::]:9000", false)
	bind(t, model.TCP, "[::]:9001", true)
	bind(t, model.UDP, "127.0.0.1:53", false)
	bind(t, model.UDP, "[::1]:5353", false)
	all, err := k.Listeners(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, l := range all {
		lines = append(lines, l.String())
	}
	const want = "tcp 0.0.0.0:80 tcp 127.0.0.1:8080 tcp [::]:9000 tcp [::]:9001 udp 127.0.0.1:53 udp [::1]:5353"
	if got := strings.Join(lines, " "); len(all) != 6 || !sameWords(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
	comm, _ := os.ReadFile("/proc/self/comm")
	me := fmt.Sprintf(" (%s[%d])", strings.TrimSpace(string(comm)), os.Getpid())
	for _, test := range []struct {
		proto model.Proto
		addr  string
		ports model.Ports
		want  string
	}{
		{model.TCP, "", model.Ports{First: 80, Last: 80}, "tcp 0.0.0.0:80" + me},
		{model.TCP, "192.0.2.1", model.Ports{First: 70, Last: 90}, "tcp 0.0.0.0:80" + me},
		{model.TCP, "fd00::1", model.Ports{First: 80, Last: 80}, ""},
		{model.UDP, "", model.Ports{First: 80, Last: 80}, ""},
		{model.TCP, "192.0.2.1", model.Ports{First: 8080, Last: 8080}, ""},
		{model.TCP, "", model.Ports{First: 8080, Last: 8080}, "tcp 127.0.0.1:8080" + me},
		{model.TCP, "192.0.2.1", model.Ports{First: 9000, Last: 9000}, "tcp [::]:9000" + me},
		{model.TCP, "192.0.2.1", model.Ports{First: 9001, Last: 9001}, ""},
		{model.TCP, "fd00::1", model.Ports{First: 9001, Last: 9001}, "tcp [::]:9001" + me},
		{model.UDP, "127.0.0.1", model.Ports{First: 1, Last: 65535}, "udp 127.0.0.1:53" + me},
		{model.UDP, "", model.Ports{First: 5353, Last: 5353}, "udp [::1]:5353" + me},
	} {
		var addr netip.Addr
		if test.addr != "" {
			addr = netip.MustParseAddr(test.addr)
		}
		l, found, err := k.PortHolder(context.Background(), test.proto, addr, test.ports)
		got := ""
		if found {
			got = l.String()
		}
		if got != test.want || err != nil {
			t.Errorf("%s %s port %s: %q %v, want %q", test.proto, test.addr, test.ports, got, err, test.want)
		}
	}
}

func sameWords(a, b string) bool {
	count := map[string]int{}
	for _, w := range strings.Fields(a) {
		count[w]++
	}
	for _, w := range strings.Fields(b) {
		count[w]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

// send sends a datagram from the test's namespace.
func send(t *testing.T, to string) {
	t.Helper()
	a := netip.MustParseAddrPort(to)
	family := unix.AF_INET
	if a.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, []byte("x"), 0, sockaddr(a)); err != nil {
		t.Fatalf("send to %s: %v", to, err)
	}
}

func TestFlushConntrackTakesOnlyWhatIsAsked(t *testing.T) {
	k := host(t)
	for _, line := range []string{
		"ip link set lo up", "ip addr add 192.0.2.1/32 dev lo", "ip addr add 192.0.2.2/32 dev lo", "ip addr add fd00::1/128 dev lo nodad",
		"nft add table inet t", "nft add chain inet t c { type filter hook output priority 0 ; }", "nft add rule inet t c ct state new",
	} {
		run(t, line)
	}
	reachable(t, "fd00::1")
	flow := func() {
		for _, to := range []string{"192.0.2.1:53", "192.0.2.1:54", "192.0.2.1:60", "192.0.2.2:53", "[fd00::1]:53", "[fd00::1]:60"} {
			send(t, to)
		}
	}
	for _, test := range []struct {
		proto model.Proto
		addr  string
		ports model.Ports
		want  int
	}{
		{model.TCP, "", model.Ports{First: 1, Last: 65535}, 0},
		{model.UDP, "192.0.2.1", model.Ports{First: 53, Last: 53}, 1},
		{model.UDP, "192.0.2.1", model.Ports{First: 53, Last: 59}, 2},
		{model.UDP, "", model.Ports{First: 53, Last: 53}, 3},
		{model.UDP, "fd00::1", model.Ports{First: 1, Last: 100}, 2},
		{model.UDP, "", model.Ports{First: 1, Last: 65535}, 6},
	} {
		flow()
		var addr netip.Addr
		if test.addr != "" {
			addr = netip.MustParseAddr(test.addr)
		}
		n, err := k.FlushConntrack(context.Background(), test.proto, addr, test.ports)
		if n != test.want || err != nil {
			t.Errorf("%s %s %s: flushed %d %v, want %d", test.proto, test.addr, test.ports, n, err, test.want)
		}
		rest, err := k.FlushConntrack(context.Background(), model.UDP, netip.Addr{}, model.Ports{First: 1, Last: 65535})
		if rest+n != 6 || err != nil {
			t.Errorf("afterwards there were %d others %v, want %d", rest, err, 6-n)
		}
	}
}
