package kernel_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/netns"
)

// What a workload sends first arrives, and what is sent to it first, whether it is the first on its bridge or not: when Apply returns, the
// port forwards, the bridge sends and the addresses are heard. Nothing is timed: here whoever looks for a neighbour asks once, so that
// what is lost stays lost.
func TestFirstPacketArrives(t *testing.T) {
	for _, gateway := range []string{"10.0.0.1/24", "fd00::1/64"} {
		for _, way := range []string{"out", "in"} {
			t.Run(way+" "+gateway, func(t *testing.T) {
				k := host(t)
				run(t, "ip link set lo up") // by which the host tells itself that nobody has answered
				answersAll(t)
				const bridges, ports = 15, 2
				for i := range bridges {
					lan := newLAN(t, k, fmt.Sprintf("fn-%d", i), netip.MustParsePrefix(gateway))
					for range ports {
						if err := lan.attach(way == "in"); err != nil {
							t.Errorf("port %d of bridge %d: %v", lan.ports, i, err)
						}
					}
					lan.remove()
				}
			})
		}
	}
}

// lan is a new bridge with the host's address.
type lan struct {
	t       *testing.T
	k       *kernel.Kernel
	bridge  dataplane.Link
	gateway netip.Prefix
	last    netip.Addr
	dir     string
	ports   int
}

func newLAN(t *testing.T, k *kernel.Kernel, name string, gateway netip.Prefix) *lan {
	l := &lan{t: t, k: k, bridge: bridge(name), gateway: gateway, last: gateway.Addr(), dir: nsDir(t)}
	apply(t, k, "", dataplane.Diff(state(l.bridge, dataplane.Address{Link: name, Prefix: gateway}), nil))
	askOnce(t, name)
	return l
}

func (l *lan) remove() { apply(l.t, l.k, "", dataplane.Diff(nil, state(l.bridge))) }

// attach gives a new workload a port, and has it send its first packet to the gateway, or be sent one.
func (l *lan) attach(in bool) error {
	l.ports++
	l.last = l.last.Next()
	path := filepath.Join(l.dir, fmt.Sprint(l.ports))
	if err := netns.Create(path); err != nil {
		l.t.Fatal(err)
	}
	defer netns.Delete(path)
	port := veth(fmt.Sprintf("%s-%d", l.bridge.Name, l.ports), l.bridge.Name, path)
	apply(l.t, l.k, "", dataplane.Diff(state(port), nil))
	socket, to := newAsker(l.t, l.last), l.last
	err := netns.Do(path, func() error {
		answersAll(l.t)
		askOnce(l.t, "eth0")
		if !in {
			unix.Close(socket)
			socket, to = newAsker(l.t, l.last), l.gateway.Addr()
		}
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	defer unix.Close(socket)
	inside := state(lo(true), farVeth(port.Name), dataplane.Address{Link: "eth0", Prefix: netip.PrefixFrom(l.last, l.gateway.Bits())})
	apply(l.t, l.k, path, dataplane.Diff(inside, nil))
	return ask(socket, to)
}

// askOnce has the kernel ask for a neighbour on a link once and never again.
func askOnce(t testing.TB, link string) {
	t.Helper()
	for _, family := range []string{"ipv4", "ipv6"} {
		set(t, "net/"+family+"/neigh/"+link+"/mcast_solicit", "1")
	}
}

// answersAll has a namespace tell of every closed port.
func answersAll(t testing.TB) {
	t.Helper()
	set(t, "net/ipv4/icmp_ratelimit", "0")
	set(t, "net/ipv6/icmp/ratelimit", "0")
}

func set(t testing.TB, sysctl, value string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/"+sysctl, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
}

// newAsker is a socket for ask, for addresses of that family.
func newAsker(t testing.TB, to netip.Addr) (socket int) {
	t.Helper()
	family, level, option := unix.AF_INET, unix.IPPROTO_IP, unix.IP_RECVERR
	if to.Is6() {
		family, level, option = unix.AF_INET6, unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	socket, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptInt(socket, level, option, 1) // to hear that a neighbour was not found
	}
	if err == nil {
		err = unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20})
	}
	if err != nil {
		t.Fatal(err)
	}
	return socket
}

// ask sends one datagram to a port where nobody listens, which is answered by saying so.
func ask(socket int, to netip.Addr) error {
	if err := unix.Connect(socket, sockaddr(netip.AddrPortFrom(to, 9))); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if _, err := unix.Write(socket, []byte("?")); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	_, err := unix.Read(socket, make([]byte, 1))
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	return fmt.Errorf("its answer: %w", err)
}
