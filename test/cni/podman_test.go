package cni_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

// podman carries out a command of podman's on the host and returns what it printed.
func (n *node) podman(args ...string) string {
	n.s.Helper()
	out, err := n.tryPodman(args...)
	n.s.must(err)
	return out
}

func (n *node) tryPodman(args ...string) (string, error) {
	return n.trySh("%s", "podman --root /run/podman/root --runroot /run/podman/run --tmpdir /run/podman/tmp --network-backend cni --cgroup-manager cgroupfs"+
		" --events-backend file --storage-driver overlay --network-config-dir /etc/cni/net.d "+quote(args))
}

// podmanRun starts a container with the image's programs. Without --ulimit podman asks for more than who has not CAP_SYS_RESOURCE may.
func (n *node) podmanRun(name string, args ...string) string {
	n.s.Helper()
	out, err := n.tryPodmanRun(name, args...)
	n.s.must(err)
	return out
}

func (n *node) tryPodmanRun(name string, args ...string) (string, error) {
	return n.tryPodman(append([]string{"run", "--ulimit", "nofile=1024:20000", "--ulimit", "nproc=1024:4096", "--cgroup-parent", "/" + n.s.group + "/podman",
		"--name", name}, args...)...)
}

// importImage gives podman the image.
func (n *node) importImage() {
	n.s.Helper()
	n.podman("import", "-q", filepath.Join(n.s.dir, rootFile), "pod:1")
}

// podmanAsk asks a server for its greeting from within a container.
func (n *node) podmanAsk(container, server string) string {
	n.s.Helper()
	return strings.TrimSpace(n.podman("exec", container, "/pause", "fetch", "http://"+server))
}

// podmanGreets waits until a container greets on port 80.
func (n *node) podmanGreets(container string) {
	n.s.Helper()
	n.s.eventually(container+" greets", func() error {
		_, err := n.tryPodman("exec", container, "/pause", "fetch", "http://127.0.0.1")
		return err
	})
}

// podmanHears wants a container to be greeted by a server as who it should be.
func (n *node) podmanHears(container, server, as string) {
	n.s.Helper()
	n.s.want(container+" asks "+server, n.podmanAsk(container, server), fmt.Sprintf("hello %s, you asked %s", as, server))
}

// podmanAddress is the address of a container on a network, as podman says.
func (n *node) podmanAddress(container, network string) string {
	n.s.Helper()
	return strings.TrimSpace(n.podman("inspect", "--format", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).IPAddress}}", network), container))
}

// quote makes arguments words of a shell's line.
func quote(args []string) string {
	var all []string
	for _, a := range args {
		all = append(all, "'"+strings.ReplaceAll(a, "'", `'\''`)+"'")
	}
	return strings.Join(all, " ")
}

// Without Kubernetes: podman with its CNI back end, whose networks are the conflists of the host.
func TestPodman(t *testing.T) {
	s := newSite(t)
	for _, n := range s.nodes {
		n.conflist("pods", "1.0.0", `{"type": "flatnet", "capabilities": {"portMappings": true, "ips": true, "mac": true, "aliases": true}}`)
		n.addConflist("lan", "1.0.0", `{"type": "flatnet", "network": "default", "capabilities": {"portMappings": true, "ips": true}}`)
		n.importImage()
	}
	for _, story := range []struct {
		name string
		tell func(s *site)
	}{
		{"containers of two hosts talk", podmanTalks},
		{"a published port and an address", podmanPublishes},
		{"two networks", podmanConnects},
	} {
		s.part(story.name, func(s *site) { s.leavesNothing(func() { story.tell(s) }) })
	}
	s.part("nothing comes back with flatnetd", func(s *site) { s.leavesNothing(s.restart) })
}

var serve = []string{"pod:1", "/pause", "serve", "80"}

func podmanTalks(s *site) {
	a, b := s.h(1), s.h(2)
	a.podmanRun("a", append([]string{"-d", "--network", "pods"}, serve...)...)
	b.podmanRun("b", append([]string{"-d", "--network", "pods"}, serve...)...)
	a.podmanGreets("a")
	b.podmanGreets("b")
	a.podmanHears("a", b.podmanAddress("b", "pods"), a.podmanAddress("a", "pods"))
	b.podmanHears("b", a.podmanAddress("a", "pods"), b.podmanAddress("b", "pods"))
	a.podman("restart", "-t", "0", "a")
	a.podmanGreets("a")
	b.podmanHears("b", a.podmanAddress("a", "pods"), b.podmanAddress("b", "pods"))
	a.podman("rm", "-f", "-t", "0", "a")
	b.podman("rm", "-f", "-t", "0", "b")
}

func podmanPublishes(s *site) {
	h1 := s.h(1)
	ip := netip.MustParseAddr(h1.gateway()).As4()
	ip[3] = 77
	want := netip.AddrFrom4(ip).String()
	h1.podmanRun("web", append([]string{"-d", "--network", "pods", "--ip", want, "--mac-address", "02:00:00:00:00:77", "-p", "8080:80"}, serve...)...)
	s.want("address", h1.podmanAddress("web", "pods"), want)
	if out := h1.podman("exec", "web", "ip", "link", "show", "eth0"); !strings.Contains(out, "02:00:00:00:00:77") {
		s.Errorf("the MAC that was asked for: %s", out)
	}
	h1.podmanGreets("web")
	s.h(2).hears("192.0.2.1:8080", "192.0.2.2")
	h1.podmanHears("web", "192.0.2.1:8080", h1.gateway())
	if out, err := h1.tryPodmanRun("second", "--rm", "--network", "pods", "--ip", want, "pod:1", "ip", "address"); err == nil {
		s.Errorf("a second container with %s: %s", want, out)
	} else if !strings.Contains(err.Error(), want) {
		s.Errorf("the reason is hard to see: %v", err)
	}
	h1.podman("rm", "-f", "-t", "0", "web")
}

// A container on two networks leaves by the first; what is connected later is there at once.
func podmanConnects(s *site) {
	h1 := s.h(1)
	h1.podmanRun("server", append([]string{"-d", "--network", "lan"}, serve...)...)
	h1.podmanRun("both", append([]string{"-d", "--network", "pods", "--network", "lan"}, serve...)...)
	h1.podmanRun("late", append([]string{"-d", "--network", "pods"}, serve...)...)
	for _, name := range []string{"server", "both", "late"} {
		h1.podmanGreets(name)
	}
	server := h1.podmanAddress("server", "lan")
	h1.podmanHears("both", server, h1.podmanAddress("both", "lan"))
	h1.podmanHears("late", h1.podmanAddress("both", "pods"), h1.podmanAddress("late", "pods"))
	h1.podman("network", "connect", "lan", "late")
	h1.podmanHears("late", server, h1.podmanAddress("late", "lan"))
	h1.podman("network", "disconnect", "lan", "late")
	if out, err := h1.tryPodman("exec", "late", "/pause", "fetch", "http://"+server); err == nil {
		s.Errorf("disconnected, it still reaches the network: %s", out)
	}
	h1.podman("rm", "-f", "-t", "0", "server", "both", "late")
}
