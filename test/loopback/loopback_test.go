// Package loopback proves that a published port answers at every loopback address of the host, by the real kernel's NAT and
// BPF programs together, from what is asked for to what a socket sees.
package loopback

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/bpf"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/kernel/nft"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
	"github.com/flatnet/flatnet/internal/render"
)

func TestMain(m *testing.M) { os.Exit(kerneltest.Main(m)) }

func TestPublishedPortsAnswerAtLoopback(t *testing.T) {
	topo := kerneltest.NewTopology(t)
	host, web := topo.Machine("host"), topo.Machine("web")
	loop := reconcile.New(open(t, host), reconcile.Deps{})
	view := published(web.Path)
	set(t, loop, view)
	serve(t, web, "[::]:80")
	serve(t, web, "[::]:9001")
	const answers = `
		tcp [::1]:8080               web answers [fd00:88::1]
		udp [::1]:8080               web answers [fd00:88::1]
		tcp [::1]:9001               web answers [fd00:88::1]
		tcp 127.0.0.1:8080           web answers 192.168.88.1
		udp 127.0.0.1:8080           web answers 192.168.88.1
		tcp [::ffff:127.0.0.1]:8080  web answers 192.168.88.1
		udp [::ffff:127.0.0.1]:8080  web answers 192.168.88.1
		tcp [fd00:88::1]:8080        web answers [fd00:88::1]
	`
	compare(t, ask(host), answers)

	lab := view.Networks["lab"]
	lab.NoHostAdapter = true
	view.Networks["lab"] = lab
	set(t, loop, view)
	compare(t, ask(host), answers)

	drift, err := loop.Drift(t.Context())
	if err != nil || len(drift) > 0 {
		t.Errorf("drift: %v %v", drift, err)
	}
}

// published is a network with a workload whose port 80 is published as 8080, and 9000 to 9002 as themselves.
func published(netns string) model.View {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	forward := func(proto model.Proto, from, to model.Ports) model.Forward {
		return model.Forward{Network: "lab", Workload: "web", Proto: proto, HostPorts: from, Ports: to}
	}
	http, many := model.Ports{First: 80, Last: 80}, model.Ports{First: 9000, Last: 9002}
	public := model.Ports{First: 8080, Last: 8080}
	v := model.View{
		Node: model.Node{LoopbackBPF: true},
		Networks: map[string]model.Network{"lab": {Name: "lab", Mode: model.NAT, Active: true, Subnets: []model.Subnet{
			{Prefix: prefix("192.168.88.0/24"), Gateway: addr("192.168.88.1")},
			{Prefix: prefix("fd00:88::/64"), Gateway: addr("fd00:88::1")},
		}}},
		Workloads: map[string]model.Workload{"web": {Name: "web", Netns: netns, Endpoints: []model.Endpoint{{
			Network: "lab", IfName: "eth0", MAC: model.EndpointMAC("web", "lab"),
			Addrs: []netip.Addr{addr("192.168.88.2"), addr("fd00:88::2")},
		}}}},
		Forwards: map[string]model.Forward{},
	}
	for _, f := range []model.Forward{forward(model.TCP, public, http), forward(model.UDP, public, http), forward(model.TCP, many, many)} {
		v.Forwards[f.Name()] = f
	}
	return v
}

func open(t *testing.T, host *kerneltest.Machine) *kernel.Kernel {
	t.Helper()
	dir := t.TempDir()
	var k *kernel.Kernel
	host.Do(func() error {
		rules, err := nft.New(nft.Config{})
		if err != nil {
			return err
		}
		programs, err := bpf.New(bpf.Config{RunDir: dir})
		if err != nil {
			return err
		}
		k, err = kernel.New(kernel.Config{RunDir: dir, Nft: rules, BPF: programs})
		return err
	})
	t.Cleanup(func() {
		remove(t, k)
		if _, err := os.Stat(dir + "/bpf"); !os.IsNotExist(err) {
			t.Errorf("left: %s/bpf: %v", dir, err)
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func set(t *testing.T, loop *reconcile.Reconciler, view model.View) {
	t.Helper()
	parts, err := render.Parts(view)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := loop.Set(t.Context(), parts); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, k *kernel.Kernel) {
	have, err := k.Observe(context.Background(), dataplane.HostNetns)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Apply(context.Background(), dataplane.HostNetns, dataplane.Diff(dataplane.State{}, have)); err != nil {
		t.Error(err)
	}
}

// serve tells every client whom it sees.
func serve(t *testing.T, m *kerneltest.Machine, addr string) {
	t.Helper()
	m.Do(func() error {
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		udp, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		t.Cleanup(func() { tcp.Close(); udp.Close() })
		go serveTCP(tcp)
		go serveUDP(udp)
		return nil
	})
}

func answer(client net.Addr) string {
	return "web answers " + strings.TrimSuffix(client.String()[:strings.LastIndex(client.String(), ":")], "%eth0")
}

func serveTCP(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprint(c, answer(c.RemoteAddr()))
		c.Close()
	}
}

func serveUDP(c net.PacketConn) {
	buf := make([]byte, 64)
	for {
		_, client, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		c.WriteTo([]byte(answer(client)), client)
	}
}

// ask goes through the host's own addresses; a reply must come from where it was asked for.
func ask(host *kerneltest.Machine) string {
	var b strings.Builder
	for _, to := range []string{"tcp [::1]:8080", "udp [::1]:8080", "tcp [::1]:9001", "tcp 127.0.0.1:8080", "udp 127.0.0.1:8080",
		"tcp [::ffff:127.0.0.1]:8080", "udp [::ffff:127.0.0.1]:8080", "tcp [fd00:88::1]:8080"} {
		network, addr, _ := strings.Cut(to, " ")
		host.Do(func() error {
			got, err := talk(network, netip.MustParseAddrPort(addr))
			if err != nil {
				got = err.Error()
			}
			fmt.Fprintf(&b, "%-28s %s\n", to, got)
			return nil
		})
	}
	return b.String()
}

// talk uses plain system calls, as Go would make an IPv4 socket for an address of ::ffff:0:0/96.
func talk(network string, to netip.AddrPort) (string, error) {
	family, kind := unix.AF_INET6, unix.SOCK_STREAM
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	if network == "udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	patience := unix.NsecToTimeval(int64(10 * time.Second))
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &patience); err != nil {
			return "", err
		}
	}
	if kind == unix.SOCK_STREAM {
		err = unix.Connect(fd, sockaddr(to))
	} else {
		err = unix.Sendto(fd, []byte("?"), 0, sockaddr(to))
	}
	if err != nil {
		return "", err
	}
	buf := make([]byte, 128)
	n, from, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return "", err
	}
	if kind == unix.SOCK_DGRAM && addrPort(from) != to {
		return "", fmt.Errorf("the answer came from %s", addrPort(from))
	}
	return string(buf[:n]), nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func compare(t *testing.T, got, want string) {
	t.Helper()
	clean := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	if clean(got) != clean(want) {
		t.Errorf("got:\n%swant:%s", got, want)
	}
}
