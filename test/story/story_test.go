// Package story_test tells what a user lives through with flatnet on one machine: the real programs, in real namespaces.
package story_test

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/test/rig"
)

// office is a host with one uplink on a LAN with a router, which knows no way to the host's networks.
type office struct {
	*kerneltest.Topology
	host, router *kerneltest.Machine
}

func newOffice(t *testing.T) office {
	t.Helper()
	topo := kerneltest.NewTopology(t)
	o := office{topo, topo.Machine("host"), topo.Machine("router")}
	topo.Cable(o.host, "eth0", o.router, "lan0")
	o.host.IP("address add 192.0.2.10/24 dev eth0", "route add default via 192.0.2.1",
		"address add 2001:db8::10/64 dev eth0 nodad", "route add default via 2001:db8::1 dev eth0")
	o.router.IP("address add 192.0.2.1/24 dev lan0", "address add 2001:db8::1/64 dev lan0 nodad",
		"address add 203.0.113.80/32 dev lo")
	return o
}

func has(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("want %q in:\n%s", want, text)
		}
	}
}

func TestFirstSession(t *testing.T) {
	o := newOffice(t)
	h := rig.New(t, o.host)
	has(t, h.Flatnet("net", "ls"), "default", "nat", "active")

	has(t, h.Flatnet("net", "create", "br0", "--bridge", "br0", "--subnet", "192.168.88.0/24", "--explain"),
		"ip link add name br0 type bridge", "192.168.88.1/24", "nft add element inet flatnet nat")
	if out, err := o.host.Try("ip", "link", "show", "br0"); err == nil {
		t.Errorf("--explain made the bridge: %s", out)
	}
	h.Flatnet("net", "create", "br0", "--bridge", "br0", "--subnet", "192.168.88.0/24")
	h.Flatnet("run", "-d", "--name", "ns0", "--network", "br0", "--ip", "192.168.88.2", "--", "sleep", "1000")
	h.Flatnet("run", "-d", "--name", "ns1", "--network", "br0", "--ip", "192.168.88.3", "-p", "8080:80", "--", "sleep", "1000")
	has(t, h.Flatnet("ps"), "ns0", "ns1", "192.168.88.3", "8080", "running")
	has(t, h.Flatnet("ep", "ls"), "ns0", "br0", "192.168.88.2", "fv-ns0", "eth0")

	h.Flatnet("exec", "ns0", "--", "ping", "-c1", "-W2", "192.168.88.3")
	h.Flatnet("exec", "ns0", "--", "ping", "-c1", "-W2", "203.0.113.80")
	has(t, h.Flatnet("exec", "ns0", "--", "ls", "/sys/class/net"), "eth0", "lo")
	o.router.Run("ping", "-c1", "-W2", "192.0.2.10")
	if out, err := o.router.Try("ping", "-c1", "-W1", "192.168.88.2"); err == nil {
		t.Errorf("the LAN reached a nat workload: %s", out)
	}

	serve := exec.Command("ncat", "-l", "-k", "80", "-c", "echo you are $NCAT_REMOTE_ADDR")
	if err := h.Workload("ns1").Start(serve); err != nil {
		t.Fatal(err)
	}
	defer func() { serve.Process.Kill(); serve.Wait() }()
	ask := func(m *kerneltest.Machine, addr, port, want string) {
		t.Helper()
		var out string
		h.Eventually(fmt.Sprintf("%s is told %q by %s:%s (last %q)", m.Name, want, addr, port, out), func() bool {
			out, _ = m.Try("ncat", "-w2", "--recv-only", addr, port)
			return strings.Contains(out, want)
		})
	}
	ask(o.router, "192.0.2.10", "8080", "you are 192.0.2.1")
	ask(o.host, "127.0.0.1", "8080", "you are 192.168.88.1")
	ask(o.host, "192.0.2.10", "8080", "you are 192.0.2.10")
	ask(h.Workload("ns1"), "192.0.2.10", "8080", "you are 192.168.88.1")
	ask(h.Workload("ns0"), "192.0.2.10", "8080", "you are 192.168.88.1")

	h.Flatnet("net", "forward", "add", "ns1", "127.0.0.1:9000:80")
	ask(o.host, "127.0.0.1", "9000", "you are 192.168.88.1")
	has(t, h.Flatnet("net", "forward", "ls"), "tcp/8080", "9000")
	h.Flatnet("net", "forward", "rm", "tcp/127.0.0.1:9000")
	if out, err := o.host.Try("ncat", "-w1", "--recv-only", "127.0.0.1", "9000"); err == nil {
		t.Errorf("a removed forward answers: %s", out)
	}

	has(t, h.Flatnet("plan"), "")
	has(t, h.Flatnet("doctor"), "")
	h.Flatnet("stop", "-t", "1", "ns0")
	h.Flatnet("rm", "ns0")
	h.Flatnet("rm", "-f", "ns1")
	h.Flatnet("net", "rm", "br0")
	if out, err := o.host.Try("ip", "link", "show", "br0"); err == nil {
		t.Errorf("net rm left the bridge: %s", out)
	}
}

// A ping every 10 ms between two workloads and to the LAN goes on while the daemon is killed and started again.
func TestPingThroughKill(t *testing.T) {
	o := newOffice(t)
	h := rig.New(t, o.host)
	h.Flatnet("run", "-d", "--name", "a", "--", "sleep", "1000")
	h.Flatnet("run", "-d", "--name", "b", "--", "sleep", "1000")
	target := strings.Split(endpoint(t, h, "b").IPs[0], "/")[0]

	pings := []*exec.Cmd{exec.Command("ping", "-i", "0.01", "-c", "400", "-q", target),
		exec.Command("ping", "-i", "0.01", "-c", "400", "-q", "203.0.113.80")}
	var outs []*strings.Builder
	for _, p := range pings {
		out := &strings.Builder{}
		p.Stdout, p.Stderr = out, out
		outs = append(outs, out)
		if err := h.Workload("a").Start(p); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		time.Sleep(500 * time.Millisecond)
		h.Kill()
		time.Sleep(200 * time.Millisecond)
		h.Start()
	}
	for i, p := range pings {
		_ = p.Wait()
		has(t, outs[i].String(), "400 packets transmitted, 400 received")
	}
	has(t, h.Flatnet("ps"), "running")
	if out, err := h.Try("plan"); err != nil {
		t.Errorf("drift after the restarts: %v\n%s", err, out)
	}
}

func endpoint(t *testing.T, h *rig.Host, workload string) api.Endpoint {
	t.Helper()
	w, err := h.Client().Workload(context.Background(), workload)
	if err != nil || len(w.Endpoints) == 0 {
		t.Fatalf("workload %q: %v, endpoints %v", workload, err, w.Endpoints)
	}
	return w.Endpoints[0]
}

// After uninstall the host is what it was, to the last sysctl, link, rule and file.
func TestUninstallLeavesNothing(t *testing.T) {
	o := newOffice(t)
	before := dump(o.host)
	h := rig.New(t, o.host)
	h.Flatnet("net", "create", "lab", "--subnet", "10.77.0.0/24", "--snat-ip", "192.0.2.10", "--uplink", "eth0")
	h.Flatnet("net", "create", "closed", "--mode", "host-only")
	h.Flatnet("net", "create", "switch", "--mode", "isolated")
	h.Flatnet("run", "-d", "--name", "a", "--network", "lab", "--network", "closed", "--network", "switch", "-p", "8000-8009:9000-9009/udp", "--", "sleep", "1000")
	has(t, h.Flatnet("uninstall", "--plan"), "fn-lab", "table inet flatnet")
	if now := dump(o.host); now == before {
		t.Fatal("the dumps see nothing of flatnet")
	}
	h.Flatnet("uninstall", "-y")
	h.Eventually("the host is as before", func() bool { return dump(o.host) == before })
	for _, dir := range []string{"run", "state", "netns"} {
		if entries, err := os.ReadDir(filepath.Join(h.Dir, dir)); err == nil && len(entries) > 0 {
			t.Errorf("%s has %v", dir, entries)
		}
	}
	h.Start()
}

func dump(m *kerneltest.Machine) string {
	out, _ := m.Try("sh", "-c", `ip -d link; ip address; ip route show table all; ip -6 route show table all; ip rule; ip -6 rule; nft list ruleset;
		sysctl -a 2>/dev/null | grep ^net | grep -v -e random -e stable_secret -e '\.route\.flush' -e nf_conntrack_count -e icmp_echo -e neigh`)
	return dumpNoise.ReplaceAllString(out, "")
}

var dumpNoise = regexp.MustCompile(`(?m)valid_lft.*|expires \d+sec`)

// Two flatnetds on one machine, in different namespaces and with the same names of networks and workloads.
func TestSideBySide(t *testing.T) {
	topo := kerneltest.NewTopology(t)
	one, two := rig.New(t, topo.Machine("one")), rig.New(t, topo.Machine("two"))
	for _, h := range []*rig.Host{one, two} {
		h.Flatnet("net", "create", "lab", "--subnet", "10.1.0.0/24")
		h.Flatnet("run", "-d", "--name", "web", "--network", "lab", "--", "sleep", "1000")
	}
	one.Flatnet("net", "rm", "-f", "lab")
	has(t, two.Flatnet("net", "ls"), "lab")
	two.Flatnet("exec", "web", "--", "ping", "-c1", "-W2", "10.1.0.1")
	second := exec.Command(rig.Program(t, "flatnetd"), "--state-dir", t.TempDir(), "--run-dir", t.TempDir(), "--netns-dir", t.TempDir())
	var said strings.Builder
	second.Stderr = &said
	if err := one.Machine.Start(second); err != nil {
		t.Fatal(err)
	}
	if second.Wait() == nil {
		t.Error("a second daemon in one network namespace was not refused")
	}
	has(t, said.String(), "another flatnetd runs in this network namespace")
	two.Kill()
	has(t, one.Flatnet("net", "ls"), "default")
	two.Start()
}

// A VPN comes up over the subnet of a network: it is said at once, with the owner, and unsaid when it goes.
func TestOverlapComesLater(t *testing.T) {
	o := newOffice(t)
	h := rig.New(t, o.host)
	h.Flatnet("net", "create", "lab", "--subnet", "10.8.0.0/16")
	o.host.IP("tuntap add tun0 mode tun", "address add 10.9.0.1/32 dev tun0", "link set tun0 up", "route add 10.8.8.0/24 dev tun0")
	h.Eventually("the conflict is told", func() bool { return strings.Contains(h.Flatnet("net", "ls"), "conflict") })
	out, err := h.Try("doctor")
	if err == nil {
		t.Errorf("doctor is content:\n%s", out)
	}
	has(t, out, "FN2107", "10.8.8.0/24", "tun0")
	refused, err := h.Try("net", "create", "lab2", "--subnet", "10.8.8.0/26")
	if err == nil {
		t.Error("an overlapping network was made")
	}
	has(t, refused, "error FN2106", "exit 7")
	o.host.IP("link del tun0")
	h.Eventually("the conflict is over", func() bool { return !strings.Contains(h.Flatnet("net", "ls"), "conflict") })
}

// Docker's, ufw's and hand-made rules that drop what we forward are named, with their owner.
func TestDoctorNamesForeignRules(t *testing.T) {
	o := newOffice(t)
	h := rig.New(t, o.host)
	h.Flatnet("run", "-d", "--name", "a", "--", "sleep", "1000")
	if out, err := h.Try("doctor"); err != nil {
		t.Fatalf("doctor on a healthy host: %v\n%s", err, out)
	}
	rules := []struct{ name, up, down, owner string }{
		{"Docker", "iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER; iptables-nft -A DOCKER-USER -j RETURN; iptables-nft -P FORWARD DROP",
			"iptables-nft -P FORWARD ACCEPT; iptables-nft -F; iptables-nft -X; nft delete table ip filter", "Docker"},
		{"legacy", "iptables-legacy -P FORWARD DROP", "iptables-legacy -P FORWARD ACCEPT", "FORWARD"},
		{"nft", "nft add table inet fw '{ chain hand { type filter hook forward priority 0; policy drop; }; }'", "nft delete table inet fw", "fw"},
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			o.host.Run("sh", "-c", r.up)
			if _, err := h.Try("exec", "a", "--", "ping", "-c1", "-W1", "203.0.113.80"); err == nil {
				t.Error("the rule does not even drop")
			}
			out, err := h.Try("doctor")
			if err == nil {
				t.Errorf("doctor is content:\n%s", out)
			}
			has(t, out, r.owner)
			o.host.Run("sh", "-c", r.down)
			if out, err := h.Try("doctor"); err != nil {
				t.Errorf("after the rule went: %v\n%s", err, out)
			}
		})
	}
}

// IPv6 forwarding must not cost the host the default route that its router advertises, now or when it next expires.
func TestRouterAdvertisements(t *testing.T) {
	topo := kerneltest.NewTopology(t)
	host, router := topo.Machine("host"), topo.Machine("router")
	topo.Cable(host, "eth0", router, "lan0")
	router.IP("address add 2001:db8:5::1/64 dev lan0 nodad")
	router.Sysctl("net/ipv6/conf/all/forwarding=1")
	conf := filepath.Join(t.TempDir(), "radvd.conf")
	text := "interface lan0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 9; prefix 2001:db8:5::/64 { AdvOnLink on; AdvAutonomous on; }; };\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	radvd := exec.Command("radvd", "-n", "-C", conf, "-p", conf+".pid", "-u", "root", "-m", "stderr")
	if err := router.Start(radvd); err != nil {
		t.Fatal(err)
	}
	defer func() { radvd.Process.Kill(); radvd.Wait() }()
	routed := func() bool { return strings.Contains(host.Run("ip", "-6", "route", "show", "default"), "proto ra") }
	wait := func(what string, is func() bool) {
		t.Helper()
		for end := time.Now().Add(rig.Patience); !is(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not within %v: %s", rig.Patience, what)
			}
		}
	}
	wait("the host has its default route", routed)
	rig.New(t, host)
	if got := strings.TrimSpace(host.Run("cat", "/proc/sys/net/ipv6/conf/all/forwarding")); got != "1" {
		t.Fatalf("forwarding is %q: the test shows nothing", got)
	}
	for end := time.Now().Add(12 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if !routed() {
			t.Fatal("the default route is gone")
		}
	}
}

// The MTU of a network follows its uplink's, in the workloads too.
func TestMTUFollowsUplink(t *testing.T) {
	o := newOffice(t)
	h := rig.New(t, o.host)
	h.Flatnet("run", "-d", "--name", "a", "--", "sleep", "1000")
	o.host.IP("link set eth0 mtu 1400")
	h.Eventually("the workload has the MTU", func() bool {
		return strings.Contains(h.Flatnet("exec", "a", "--", "ip", "link", "show", "eth0"), "mtu 1400")
	})
}

// A workload's own doings in its namespace stay, and are reported.
func TestDriftInsideAWorkloadIsReported(t *testing.T) {
	h := rig.New(t, newOffice(t).host)
	h.Flatnet("run", "-d", "--name", "a", "--", "sleep", "1000")
	h.Flatnet("exec", "a", "--", "ip", "route", "del", "default")
	out, err := h.Try("plan")
	if err == nil {
		t.Errorf("plan is empty:\n%s", out)
	}
	has(t, out, "default")
	h.Kill()
	h.Start()
	if out := h.Flatnet("exec", "a", "--", "ip", "route"); strings.Contains(out, "default") {
		t.Errorf("it was repaired:\n%s", out)
	}
}

// Names keep their addresses; an exited workload gives its up, and gets it back.
func TestStickyAddress(t *testing.T) {
	h := rig.New(t, newOffice(t).host)
	h.Flatnet("run", "-d", "--name", "a", "--", "sleep", "1000")
	h.Flatnet("run", "-d", "--name", "b", "--", "sleep", "1000")
	was := endpoint(t, h, "b")
	h.Flatnet("rm", "-f", "a")
	h.Flatnet("rm", "-f", "b")
	h.Kill()
	h.Start()
	h.Flatnet("run", "-d", "--name", "b", "--", "sleep", "1000")
	if is := endpoint(t, h, "b"); fmt.Sprint(is.IPs) != fmt.Sprint(was.IPs) || is.MAC != was.MAC {
		t.Errorf("b is %v %s, was %v %s", is.IPs, is.MAC, was.IPs, was.MAC)
	}
}

// The command's exit status is flatnet's, and a foreground workload is gone with its command.
func TestForegroundRun(t *testing.T) {
	h := rig.New(t, newOffice(t).host)
	out, err := h.Try("run", "--name", "once", "--", "sh", "-c", "ip -4 -o address show eth0; cat /etc/hosts; exit 7")
	var exit *exec.ExitError
	if err == nil || !asExit(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("exit: %v\n%s", err, out)
	}
	has(t, out, "eth0", "once")
	if out := h.Flatnet("ps", "-a"); strings.Contains(out, "once") {
		t.Errorf("still there:\n%s", out)
	}
	prefix := netip.Prefix{}
	for s := bufio.NewScanner(strings.NewReader(out)); s.Scan(); {
		if f := strings.Fields(s.Text()); len(f) > 3 && f[1] == "eth0" {
			prefix, _ = netip.ParsePrefix(f[3])
		}
	}
	if !prefix.IsValid() {
		t.Errorf("no address in:\n%s", out)
	}
}

func asExit(err error, to **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError)
	*to = e
	return ok
}

// A namespace that somebody puts where a workload's was, while the daemon is down, is not the workload's.
func TestAnotherNamespaceAtThePath(t *testing.T) {
	o := newOffice(t)
	h := rig.New(t, o.host)
	path := filepath.Join(h.Dir, "theirs")
	bind := func(from string) {
		t.Helper()
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("mount", "--bind", from, path).CombinedOutput(); err != nil {
			t.Fatalf("mount: %v\n%s", err, out)
		}
	}
	unbind := func() { _ = exec.Command("umount", "-l", path).Run() }
	t.Cleanup(unbind)
	first, second := o.Machine("first"), o.Machine("second")
	bind(first.Path)
	if _, err := h.Client().CreateWorkload(context.Background(), api.WorkloadSpec{Name: "w", Netns: path, Endpoints: []api.EndpointSpec{{}}}); err != nil {
		t.Fatal(err)
	}
	has(t, first.Run("ip", "link"), "eth0")
	for _, other := range []string{second.Path, o.host.Path} {
		h.Kill()
		unbind()
		bind(other)
		h.Start()
		if out := second.Run("ip", "link"); strings.Contains(out, "eth0") {
			t.Errorf("the other namespace got a link:\n%s", out)
		}
		out, _ := h.Try("doctor")
		has(t, out, "FN5004", "another namespace stands at")
		has(t, o.host.Run("ip", "address", "show", "fn-default"), "10.66.0.1")
	}
	h.Flatnet("rm", "w")
	unbind()
}
