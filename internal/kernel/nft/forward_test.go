package nft

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// lan is a client and a server, each in a namespace of its own, and between them the test's own namespace as a router.
type lan struct{ self, client, server int }

func newLAN(t *testing.T) lan {
	newNetns(t)
	l := lan{self: currentNetns(t)}
	l.client, l.server = l.another(t), l.another(t)
	ip(t, "link add c0 type veth peer name eth0 netns "+nsPath(l.client))
	ip(t, "link add s0 type veth peer name eth0 netns "+nsPath(l.server))
	for _, a := range []string{"192.0.2.1/24 dev c0", "10.88.0.1/24 dev s0", "fd01::1/64 dev c0 nodad", "fd88::1/64 dev s0 nodad"} {
		ip(t, "addr add "+a)
	}
	ip(t, "link set c0 up")
	ip(t, "link set s0 up")
	sysctl(t, "net/ipv4/ip_forward")
	sysctl(t, "net/ipv6/conf/all/forwarding")
	l.in(t, l.client, func() { host(t, "192.0.2.2/24", "fd01::2/64", "", "") })
	l.in(t, l.server, func() { host(t, "10.88.0.2/24", "fd88::2/64", "10.88.0.1", "fd88::1") })
	l.introduce(t, "c0", l.client, []string{"192.0.2.1", "fd01::1"}, []string{"192.0.2.2", "fd01::2"})
	l.introduce(t, "s0", l.server, []string{"10.88.0.1", "fd88::1"}, []string{"10.88.0.2", "fd88::2"})
	return l
}

// introduce makes the ends of a cable know each other, so that nothing depends on neighbour discovery, whose table all
// namespaces of the machine share.
func (l lan) introduce(t *testing.T, link string, ns int, here, there []string) {
	t.Helper()
	own := hardwareAddr(t, link)
	var peer string
	l.in(t, ns, func() {
		peer = hardwareAddr(t, "eth0")
		for _, a := range here {
			ip(t, "neigh replace "+a+" lladdr "+own+" dev eth0 nud permanent")
		}
	})
	for _, a := range there {
		ip(t, "neigh replace "+a+" lladdr "+peer+" dev "+link+" nud permanent")
	}
}

func hardwareAddr(t *testing.T, link string) string {
	t.Helper()
	l, err := net.InterfaceByName(link)
	if err != nil {
		t.Fatal(err)
	}
	return l.HardwareAddr.String()
}

func host(t *testing.T, v4, v6, gw4, gw6 string) {
	ip(t, "addr add "+v4+" dev eth0")
	ip(t, "addr add "+v6+" dev eth0 nodad")
	ip(t, "link set eth0 up")
	if gw4 != "" {
		ip(t, "route add default via "+gw4)
		ip(t, "route add default via "+gw6)
	}
}

// another makes a namespace and comes back.
func (l lan) another(t *testing.T) int {
	t.Helper()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	fd := currentNetns(t)
	if err := unix.Setns(l.self, unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	return fd
}

// in does something in another namespace; sockets opened there stay there.
func (l lan) in(t *testing.T, ns int, do func()) {
	t.Helper()
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	do()
	if err := unix.Setns(l.self, unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

func currentNetns(t *testing.T) int {
	t.Helper()
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func nsPath(fd int) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd) }

func ip(t *testing.T, args string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

func sysctl(t *testing.T, name string) {
	t.Helper()
	if err := os.WriteFile("/proc/sys/"+name, []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestForwardsReachTheirPorts asks for the first, a middle and the last port of a shifted range (a map element for each
// port) and of a range that keeps its numbers (one element).
func TestForwardsReachTheirPorts(t *testing.T) {
	l := newLAN(t)
	c := newConn(t)
	s := state(t, sample(0)...)
	for key, o := range s {
		if r, ok := o.(dataplane.Rule); ok && r.Chain != "prerouting" {
			delete(s, key)
		}
	}
	for n := range uint16(10) {
		put(t, s, dnat4.Element(dataplane.Tuple{Addr: addr("192.0.2.1"), Proto: model.TCP, Port: 8000 + n}).To(dataplane.Tuple{Addr: addr("10.88.0.2"), Port: 80 + n}))
		put(t, s, dnat6.Element(dataplane.Tuple{Proto: model.TCP, Port: 8000 + n}).To(dataplane.Tuple{Addr: addr("fd88::2"), Port: 80 + n}))
	}
	put(t, s, span4.Element(dataplane.Tuple{Proto: model.TCP, Port: 9000, PortLast: 9100}).To(dataplane.Tuple{Addr: addr("10.88.0.2")}))
	put(t, s, span6.Element(dataplane.Tuple{Addr: addr("fd01::1"), AddrLast: addr("fd01::1"), Proto: model.TCP, Port: 9000, PortLast: 9100}).To(dataplane.Tuple{Addr: addr("fd88::2")}))
	become(t, c, s)

	ports := map[uint16]uint16{8000: 80, 8004: 84, 8009: 89, 9000: 9000, 9050: 9050, 9100: 9100}
	l.in(t, l.server, func() {
		for _, port := range ports {
			serve(t, port)
		}
	})
	l.in(t, l.client, func() {
		for port, want := range ports {
			for _, at := range []string{"192.0.2.1", "fd01::1"} {
				to := netip.AddrPortFrom(addr(at), port)
				if got := ask(t, to); got != fmt.Sprint(want) {
					t.Errorf("asked %s: port %s answered, want %d", to, got, want)
				}
			}
		}
		if _, err := net.DialTimeout("tcp", "192.0.2.1:8010", 5*time.Second); err == nil {
			t.Error("a port beside the range answered")
		}
	})
}

// serve answers on a port with its number. The listeners are of the current namespace. Two of them, as Go finds out once for
// the whole process whether one could do for both families.
func serve(t *testing.T, port uint16) {
	t.Helper()
	for _, network := range []string{"tcp4", "tcp6"} {
		ln, err := net.Listen(network, fmt.Sprintf(":%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go answer(ln, port)
	}
}

func answer(ln net.Listener, port uint16) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		fmt.Fprint(conn, port)
		conn.Close()
	}
}

func ask(t *testing.T, at netip.AddrPort) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", at.String(), 10*time.Second)
	if err != nil {
		t.Errorf("ask %s: %v", at, err)
		return ""
	}
	defer conn.Close()
	answer, _ := io.ReadAll(conn)
	return string(answer)
}
