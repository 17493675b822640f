package story_test

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/test/rig"
)

// pinging is a ping every 10 ms.
type pinging struct {
	t    *testing.T
	what string
	cmd  *exec.Cmd

	mu   sync.Mutex
	text strings.Builder
}

// Write hears what ping says.
func (p *pinging) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func ping(t *testing.T, m *kerneltest.Machine, target string) *pinging {
	t.Helper()
	p := &pinging{t: t, what: m.Name + " to " + target, cmd: exec.Command("ping", "-i", "0.01", target)}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := m.Start(p.cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill() })
	return p
}

var sequence = regexp.MustCompile(`icmp_seq=(\d+) ttl`)

// answered are the numbers of the answers so far.
func (p *pinging) answered() []int {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []int
	for _, m := range sequence.FindAllStringSubmatch(p.text.String(), -1) {
		n, _ := strconv.Atoi(m[1])
		all = append(all, n)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// answers waits until n more answers have come.
func (p *pinging) answers(n int) {
	p.t.Helper()
	have := len(p.answered())
	for end := time.Now().Add(rig.Patience); len(p.answered()) < have+n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("ping %s: %d answers in %v", p.what, len(p.answered())-have, rig.Patience)
		}
	}
}

// end ends the ping and returns how many packets from the first answered one on were not answered, but for those at the very end.
func (p *pinging) end() (lost []int, sent int) {
	p.t.Helper()
	p.answers(5)
	_ = p.cmd.Process.Signal(syscall.SIGINT)
	_ = p.cmd.Wait()
	all := p.answered()
	for n := all[0]; n < all[len(all)-1]; n++ {
		if !slices.Contains(all, n) {
			lost = append(lost, n)
		}
	}
	return lost, all[len(all)-1]
}

// traffic is pings that must lose nothing, beside one between two machines that nobody touches: what that one loses, the machine does
// that the test runs on.
type traffic struct {
	*testing.T
	control *pinging
	pings   []*pinging
}

func newTraffic(t *testing.T, o office) *traffic {
	t.Helper()
	name := fmt.Sprint(len(t.Name()), "-", time.Now().Nanosecond()%100_000)
	one, two := o.Machine("c"+name), o.Machine("d"+name)
	o.Cable(one, "eth0", two, "eth0")
	one.IP("address add 198.18.0.1/24 dev eth0")
	two.IP("address add 198.18.0.2/24 dev eth0")
	return &traffic{T: t, control: ping(t, one, "198.18.0.2")}
}

// ping begins one more, and waits until it is answered: on a busy machine the kernel puts a new IPv6 address to use only after a while.
func (x *traffic) ping(m *kerneltest.Machine, target string) {
	x.Helper()
	p := ping(x.T, m, target)
	p.answers(2)
	x.pings = append(x.pings, p)
}

// flows waits until every ping was answered some more.
func (x *traffic) flows() {
	x.Helper()
	for _, p := range x.pings {
		p.answers(2)
	}
}

// lostNothing ends the pings and judges them.
func (x *traffic) lostNothing() {
	x.Helper()
	var told []string
	most := 0
	for _, p := range x.pings {
		lost, sent := p.end()
		most = max(most, len(lost))
		told = append(told, fmt.Sprintf("ping %s: %d of %d were lost: %v", p.what, len(lost), sent, lost))
	}
	lost, sent := x.control.end()
	told = append(told, fmt.Sprintf("ping that nobody touched: %d of %d were lost: %v", len(lost), sent, lost))
	switch {
	case most > 0 && most <= 3*len(lost):
		x.Log("this machine loses packets by itself\n" + strings.Join(told, "\n"))
	case most > 0:
		x.Error(strings.Join(told, "\n"))
	}
}

// serve answers every connection to a port with the address of who asks.
func serve(t *testing.T, m *kerneltest.Machine, port string) {
	t.Helper()
	cmd := exec.Command("ncat", "-l", "-k", port, "-c", "echo you are $NCAT_REMOTE_ADDR")
	if err := m.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
}

// told waits until a connection is answered with what is wanted.
func told(t *testing.T, h *rig.Host, m *kerneltest.Machine, addr, port, want string) {
	t.Helper()
	h.Eventually(fmt.Sprintf("%s is told %q by %s:%s", m.Name, want, addr, port), func() bool {
		out, _ := m.Try("ncat", "-w2", "--recv-only", addr, port)
		return strings.Contains(out, want)
	})
}

// The order of the tutorials: routed, no answer; masquerade, an answer; a route on the outside, and the LAN comes in.
func TestRoutedAsInTheTutorials(t *testing.T) {
	o := newOffice(t)
	h := rig.New(t, o.host)
	out := h.Flatnet("net", "create", "lab", "--mode", "routed", "--subnet", "10.8.0.0/24", "--subnet", "fd08::/64")
	has(t, out, "ip route add 10.8.0.0/24 via 192.0.2.10", "route -p add 10.8.0.0 mask 255.255.255.0 192.0.2.10", "ip route 10.8.0.0 255.255.255.0 192.0.2.10", "ip route add fd08::/64 via 2001:db8::10")
	h.Flatnet("run", "-d", "--name", "web", "--network", "lab", "--", "sleep", "1000")
	web := h.Workload("web")
	serve(t, o.router, "80")
	running, running6 := ping(t, web, "192.0.2.1"), ping(t, web, "2001:db8::1")
	if out, err := web.Try("ping", "-c2", "-i", "0.2", "-W1", "192.0.2.1"); err == nil {
		t.Fatalf("the LAN's router answers without a route back: %s", out)
	}
	h.Flatnet("net", "set", "lab", "--masquerade")
	running.answers(5)
	running6.answers(5)
	told(t, h, web, "192.0.2.1", "80", "you are 192.0.2.10")
	h.Flatnet("net", "set", "lab", "--masquerade=false")
	if out, err := web.Try("ping", "-c2", "-i", "0.2", "-W1", "192.0.2.1"); err == nil {
		t.Errorf("masquerade off, and the LAN's router answers: %s", out)
	}
	for _, command := range returnCommands(t, h, "lab") {
		o.router.Run("sh", "-c", command)
	}
	o.router.Run("ping", "-c1", "-W2", "10.8.0.2")
	o.router.Run("ping", "-c1", "-W2", strings.Split(endpoint(t, h, "web").IPs[1], "/")[0])
	told(t, h, web, "192.0.2.1", "80", "you are 10.8.0.2")
	serve(t, web, "8080")
	told(t, h, o.router, "10.8.0.2", "8080", "you are 192.0.2.1")
	quiet(t, h)
}

// returnCommands are the commands for Linux that flatnet prints for a network.
func returnCommands(t *testing.T, h *rig.Host, network string) []string {
	t.Helper()
	n, err := h.Client().Network(context.Background(), network)
	if err != nil || n.Status.Return == nil || len(n.Status.Return.Routes) == 0 {
		t.Fatalf("no return routes: %v %+v", err, n.Status.Return)
	}
	var commands []string
	for _, r := range n.Status.Return.Routes {
		commands = append(commands, r.Linux)
	}
	return commands
}

// quiet fails when the kernel is not as it should be.
func quiet(t *testing.T, h *rig.Host) {
	t.Helper()
	if out, err := h.Try("plan"); err != nil {
		t.Errorf("plan: %v\n%s", err, out)
	}
}

// A workload comes onto a second network and goes off it, and its first one does not notice.
func TestConnectAndDisconnectUnderTraffic(t *testing.T) {
	for _, mode := range []string{"nat", "routed"} {
		t.Run(mode, func(t *testing.T) {
			o := newOffice(t)
			h := rig.New(t, o.host)
			h.Flatnet("net", "create", "a", "--mode", mode, "--subnet", "10.8.1.0/24", "--subnet", "fd08:1::/64")
			h.Flatnet("net", "create", "b", "--mode", mode, "--subnet", "10.8.2.0/24", "--subnet", "fd08:2::/64")
			o.router.IP("route replace 10.8.0.0/16 via 192.0.2.10", "route replace fd08::/16 via 2001:db8::10")
			for _, name := range []string{"web", "peer"} {
				h.Flatnet("run", "-d", "--name", name, "--network", "a", "--", "sleep", "1000")
			}
			h.Flatnet("run", "-d", "--name", "other", "--network", "b", "--", "sleep", "1000")
			web, peer, other := h.Workload("web"), h.Workload("peer"), h.Workload("other")
			web.Sysctl("net/ipv4/conf/all/rp_filter=1", "net/ipv4/conf/default/rp_filter=1")
			serve(t, web, "80")
			h.Flatnet("net", "forward", "add", "web", "8081:80")
			x := newTraffic(t, o)
			x.ping(peer, "10.8.1.2")
			x.ping(web, "10.8.1.3")
			x.ping(web, strings.Split(endpoint(t, h, "peer").IPs[1], "/")[0])
			for range 3 {
				has(t, h.Flatnet("connect", "b", "web", "--ip", "10.8.2.3"), "web/eth1", "10.8.2.3", "default route goes by eth0 (a)")
				has(t, web.Run("ip", "route", "show", "default"), "via 10.8.1.1 dev eth0")
				h.Flatnet("net", "forward", "add", "web", "8082:80", "--network", "b")
				told(t, h, o.router, "192.0.2.10", "8081", "you are 192.0.2.1")
				told(t, h, o.router, "192.0.2.10", "8082", "you are 192.0.2.1")
				told(t, h, o.router, "2001:db8::10", "8082", "you are 2001:db8::1")
				other.Run("ping", "-c1", "-W2", "10.8.2.3")
				web.Run("ping", "-c1", "-W2", "-I", "10.8.2.3", "203.0.113.80")
				web.Run("ping", "-c1", "-W2", "-I", "10.8.1.2", "203.0.113.80")
				out, err := h.Try("disconnect", "b", "web")
				if err == nil {
					t.Errorf("a network by which a port is published was left: %s", out)
				}
				has(t, out, "FN2116", "tcp/8082", "--force")
				h.Flatnet("disconnect", "-f", "b", "web")

				h.Flatnet("connect", "b", "web", "--priority", "10", "--ip", "10.8.2.77")
				has(t, web.Run("ip", "route", "show", "default"), "via 10.8.2.1 dev eth1")
				has(t, web.Run("ip", "-6", "route", "show", "default"), "via fd08:2::1 dev eth1")
				has(t, web.Run("cat", strings.Replace(h.Dir+"/run/workloads/web/hosts", "//", "/", 1)), "10.8.2.77 web")
				web.Run("ping", "-c1", "-W2", "203.0.113.80")
				told(t, h, o.router, "192.0.2.10", "8081", "you are 192.0.2.1")
				h.Flatnet("network", "disconnect", "b", "web")
				has(t, web.Run("ip", "route", "show", "default"), "via 10.8.1.1 dev eth0")
				if left := web.Run("sh", "-c", "ip rule; ip -6 rule; ip route show table all; ip link"); strings.Contains(left, "10.8.2.") || strings.Contains(left, "eth1") || strings.Contains(left, "1570") {
					t.Errorf("left of the second network:\n%s", left)
				}
				h.Flatnet("disconnect", "b", "other")
				h.Flatnet("connect", "b", "other")
			}
			x.lostNothing()
			quiet(t, h)
		})
	}
}

// Two workloads talk on while their network becomes every mode from every other one, with and without its NAT.
func TestModesUnderTraffic(t *testing.T) {
	o := newOffice(t)
	spare, lan := o.Machine("spare"), "eth1"
	o.Cable(o.host, lan, spare, "eth0")
	h := rig.New(t, o.host)
	h.Flatnet("net", "create", "lab", "--subnet", "10.8.0.0/24", "--subnet", "fd08::/64")
	for _, name := range []string{"a", "b"} {
		h.Flatnet("run", "-d", "--name", name, "--network", "lab", "--", "sleep", "1000")
	}
	a, b := h.Workload("a"), h.Workload("b")
	v6 := strings.Split(endpoint(t, h, "b").IPs[1], "/")[0]
	x := newTraffic(t, o)
	x.ping(a, "10.8.0.3")
	x.ping(b, "10.8.0.2")
	x.ping(a, v6)
	modes := []string{"nat", "routed", "bridged", "host-only", "isolated"}
	set := func(mode string) {
		args := []string{"net", "set", "lab", "--mode", mode}
		if mode == "bridged" {
			args = append(args, "--uplink", lan)
		}
		h.Flatnet(args...)
		x.flows()
	}
	for _, from := range modes {
		for _, to := range modes {
			if from != to {
				set(from)
				set(to)
			}
		}
	}
	x.lostNothing()
	quiet(t, h)
	x = newTraffic(t, o)
	set("host-only")
	x.ping(a, "10.8.0.3")
	x.ping(a, v6)
	for range 3 {
		if out, err := a.Try("ping", "-c1", "-W1", "203.0.113.80"); err == nil {
			t.Errorf("host-only, and the internet answers: %s", out)
		}
		h.Flatnet("net", "set", "lab", "--nat", "on")
		a.Run("ping", "-c1", "-W2", "203.0.113.80")
		h.Flatnet("net", "set", "lab", "--nat", "off")
	}
	x.lostNothing()
	quiet(t, h)
}

// A subnet changes under workloads with names, a published port and a gateway of their own.
func TestRenumber(t *testing.T) {
	o := newOffice(t)
	h := rig.New(t, o.host)
	h.Flatnet("net", "create", "lab", "--subnet", "10.8.0.0/24", "--subnet", "fd08::/64", "--gateway", "10.8.0.254")
	h.Flatnet("run", "-d", "--name", "web", "--network", "lab", "-p", "8080:80", "--", "sleep", "1000")
	h.Flatnet("run", "-d", "--name", "peer", "--network", "lab", "--ip", "10.8.0.99", "--", "sleep", "1000")
	web, peer := h.Workload("web"), h.Workload("peer")
	serve(t, web, "80")
	told(t, h, o.router, "192.0.2.10", "8080", "you are 192.0.2.1")
	out, err := h.Try("net", "set", "lab", "--subnet", "10.9.0.0/24")
	if err == nil {
		t.Fatalf("a subnet in use was changed: %s", out)
	}
	has(t, out, "FN2116", "peer 10.8.0.99 → 10.9.0.99", "web 10.8.0.1 → 10.9.0.1", "--renumber", "exit 7")
	has(t, h.Flatnet("net", "set", "lab", "--subnet", "10.9.0.0/24", "--renumber", "--explain"), "ip address replace 10.9.0.254/24")
	peer.Run("ping", "-c1", "-W2", "10.8.0.1")

	x := newTraffic(t, o)
	x.ping(peer, strings.Split(endpoint(t, h, "web").IPs[1], "/")[0])
	h.Flatnet("net", "set", "lab", "--subnet", "10.9.0.0/24", "--renumber")
	x.lostNothing()
	peer.Run("ping", "-c1", "-W2", "10.9.0.1")
	peer.Run("ping", "-c1", "-W2", "203.0.113.80")
	o.host.Run("ping", "-c1", "-W2", "10.9.0.99")
	told(t, h, o.router, "192.0.2.10", "8080", "you are 192.0.2.1")
	told(t, h, peer, "192.0.2.10", "8080", "you are 10.9.0.254")
	has(t, h.Flatnet("exec", "web", "--", "getent", "ahostsv4", "web"), "10.9.0.1")
	has(t, web.Run("ip", "route"), "default via 10.9.0.254")
	if left := web.Run("ip", "address"); strings.Contains(left, "10.8.0") {
		t.Errorf("the old address is left:\n%s", left)
	}
	quiet(t, h)

	// A gateway in somebody's place: that one moves within the subnet, and goes on reaching everybody.
	h.Flatnet("net", "set", "lab", "--gateway", "10.9.0.99", "--renumber")
	peer.Run("ping", "-c1", "-W2", "10.9.0.1")
	peer.Run("ping", "-c1", "-W2", "203.0.113.80")
	quiet(t, h)

	// Another gateway, a larger subnet and back: nobody's address changes, and nothing is lost.
	h.Flatnet("net", "set", "lab", "--gateway", "10.9.0.254")
	x = newTraffic(t, o)
	x.ping(peer, "10.9.0.1")
	x.ping(web, "203.0.113.80")
	x.ping(web, "2001:db8::1")
	h.Flatnet("net", "set", "lab", "--gateway", "10.9.0.77")
	has(t, web.Run("ip", "route"), "default via 10.9.0.77")
	h.Flatnet("net", "set", "lab", "--subnet", "10.9.0.0/20")
	has(t, web.Run("ip", "route"), "10.9.0.0/20 dev eth0")
	h.Flatnet("net", "set", "lab", "--subnet", "10.9.0.0/24")
	h.Flatnet("net", "set", "lab", "--mtu", "1400")
	x.lostNothing()
	h.Flatnet("net", "set", "lab", "--bridge", "br7", "--mtu", "0")
	peer.Run("ping", "-c1", "-W2", "10.9.0.1")
	web.Run("ping", "-c1", "-W2", "203.0.113.80")
	h.Flatnet("net", "set", "lab", "--subnet", "fd08::/48")
	peer.Run("ping", "-c1", "-W2", strings.Split(endpoint(t, h, "web").IPs[1], "/")[0])
	h.Flatnet("net", "set", "lab", "--subnet", "auto", "--subnet", "auto6", "--renumber")
	peer.Run("ping", "-c1", "-W2", strings.Split(endpoint(t, h, "web").IPs[0], "/")[0])
	h.Flatnet("net", "set", "lab", "--ipv6", "off", "--renumber")
	if left := web.Run("ip", "-6", "address", "show", "scope", "global"); strings.Contains(left, "inet6") {
		t.Errorf("an IPv6 address is left:\n%s", left)
	}
	quiet(t, h)
	h.Flatnet("rm", "-f", "web")
	h.Flatnet("run", "-d", "--name", "web", "--network", "lab", "--", "sleep", "1000")
	if e := endpoint(t, h, "web"); !strings.HasPrefix(e.IPs[0], "10.66.") || !strings.HasSuffix(strings.Split(e.IPs[0], "/")[0], ".1") && !strings.HasSuffix(strings.Split(e.IPs[0], "/")[0], ".2") {
		t.Errorf("the address that web had did not move along: %v", e.IPs)
	}
}
