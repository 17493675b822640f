// Package cluster_test tells how hosts begin a cluster, join it and leave it: the real programs, in real namespaces.
package cluster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/etcdserver"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/test/rig"
)

// office is hosts on a LAN. The names of the hosts are h1, h2, …; their addresses 192.0.2.1, 192.0.2.2, ….
type office struct {
	*testing.T
	*kerneltest.Topology
	lan   *kerneltest.Machine
	made  []*kerneltest.Machine
	hosts []*rig.Host
}

func newOffice(t *testing.T, hosts int) *office {
	t.Helper()
	rig.Program(t, "flatnet-etcd") // beside flatnetd
	o := &office{T: t, Topology: kerneltest.NewTopology(t)}
	o.lan = o.Topology.Machine("lan")
	o.lan.IP("link add br0 type bridge mcast_snooping 0", "link set br0 up")
	for n := 1; n <= hosts; n++ {
		o.plug(n, fmt.Sprintf("192.0.2.%d/24", n))
	}
	for n := 1; n <= hosts; n++ {
		o.hosts = append(o.hosts, rig.New(t, o.made[n-1]))
	}
	return o
}

// machines are made before daemons start, so that all have their addresses by then.
func (o *office) plug(n int, addr string) {
	o.Helper()
	m, port := o.Topology.Machine(fmt.Sprint("h", n)), fmt.Sprint("p", n)
	o.made = append(o.made, m)
	o.Cable(m, "eth0", o.lan, port)
	o.lan.IP("link set " + port + " master br0")
	m.IP("address add " + addr + " dev eth0")
}

// h is host n, from 1.
func (o *office) h(n int) *rig.Host { return o.hosts[n-1] }

// begin begins the cluster on h1, and returns the rest of the command line that others join with.
func (o *office) begin(args ...string) []string {
	o.Helper()
	return o.joinLine(o.h(1).Flatnet(append([]string{"init", "-y", "--name", "h1"}, args...)...))
}

var joinPattern = regexp.MustCompile(`sudo flatnet (join \S+ --token fn1\.\S+)`)

func (o *office) joinLine(out string) []string {
	o.Helper()
	m := joinPattern.FindStringSubmatch(out)
	if m == nil {
		o.Fatalf("no command to join in:\n%s", out)
	}
	return strings.Fields(m[1])
}

func (o *office) join(n int, line []string, args ...string) string {
	o.Helper()
	return o.h(n).Flatnet(append(slices.Clone(line), append([]string{"--name", fmt.Sprint("h", n)}, args...)...)...)
}

// listed is what host n lists: NAME:STATE for each.
func (o *office) listed(n int) string {
	hosts, err := o.h(n).Client().Hosts(context.Background())
	if err != nil {
		return err.Error()
	}
	var all []string
	for _, h := range hosts {
		state := h.State
		if len(h.Blocks) == 0 {
			state += ",no block"
		}
		all = append(all, h.Name+":"+state)
	}
	return strings.Join(all, " ")
}

// sees waits until host n lists these.
func (o *office) sees(n int, want string) {
	o.Helper()
	got := ""
	for end := time.Now().Add(rig.Patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if got = o.listed(n); got == want {
			return
		}
	}
	o.Fatalf("h%d lists %q, not %q", n, got, want)
}

// refused wants a command to fail with a code, and some words.
func (o *office) refused(n int, code string, words string, args ...string) {
	o.Helper()
	out, err := o.h(n).Try(args...)
	if err == nil || !strings.Contains(out, code) || !strings.Contains(out, words) {
		o.Errorf("h%d: flatnet %s: %v, want %s %q:\n%s", n, strings.Join(args, " "), err, code, words, out)
	}
}

// outside wants a host to be in no cluster, and to keep nothing of one.
func (o *office) outside(n int) {
	o.Helper()
	_, err := o.h(n).Client().Membership(context.Background())
	if !api.HasCode(err, "FN2133") {
		o.Errorf("h%d: got %v, want FN2133", n, err)
	}
	if _, err := os.Stat(o.folder(n)); !errors.Is(err, os.ErrNotExist) {
		o.Errorf("h%d keeps something in %s: %v", n, o.folder(n), err)
	}
}

func (o *office) folder(n int) string { return filepath.Join(o.h(n).Dir, "state", "cluster") }

func (o *office) etcd() int { return etcdserver.Running(filepath.Join(o.folder(1), "etcd.lock")) }

// ofAnotherCluster changes the hash of the authority that a token begins with.
func ofAnotherCluster(token string) string {
	if token[10] == 'A' {
		return token[:10] + "B" + token[11:]
	}
	return token[:10] + "A" + token[11:]
}

func has(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(text, want) {
			t.Errorf("want %q in:\n%s", want, text)
		}
	}
}

func TestHostsBeginAClusterJoinAndLeave(t *testing.T) {
	o := newOffice(t, 3)
	has(t, o.h(1).Flatnet("init", "--plan", "--name", "h1"), "this host: h1 at eth0 192.0.2.1", "udp/8472 free here", "subnet free")
	o.outside(1)
	line := o.begin()
	has(t, o.h(2).Flatnet(append(slices.Clone(line), "--plan")...), "because 192.0.2.1 is reached by eth0", "tcp/2379 ok", "mtu 1500 ok", "clock ok")
	o.outside(2)
	has(t, o.join(2, line), "joined as h2 10.244.")
	o.join(3, line)
	for n := range 3 {
		o.sees(n+1, "h1:alive h2:alive h3:alive")
	}
	has(t, o.h(1).Flatnet("token", "ls"), "2 of 10")
	has(t, o.h(3).Flatnet("host", "ls", "-o", "wide"), "server", "this host")

	o.refused(2, "FN2132", "as h2", "init", "-y")
	has(t, o.h(2).Flatnet(line...), "joined as h2") // it is told where the server is, and stays who it is
	o.refused(2, "FN2132", "as h2", "join", "192.0.2.1", "--token", ofAnotherCluster(line[3]))
	o.refused(2, "FN2134", "192.0.2.1:7700", "token", "create")
	o.refused(2, "FN2134", "h1 at 192.0.2.1:7700", "host", "rm", "h3")
	o.refused(2, "FN2134", "h1 at 192.0.2.1:7700", "net", "set", "cluster", "--backend", "host-gw", "-y")
	o.refused(1, "FN2116", "alive", "host", "rm", "h3")
	o.refused(1, "FN2116", "other hosts: h2, h3", "leave", "-y")

	o.h(2).Flatnet("leave", "-y")
	o.outside(2)
	o.sees(1, "h1:alive h3:alive")
	o.join(2, line)
	o.sees(3, "h1:alive h2:alive h3:alive")
	o.h(1).Flatnet("host", "rm", "h3", "--force")
	o.sees(1, "h1:alive h2:alive")
	o.h(3).Flatnet("leave", "-y", "--force")
	o.outside(3)
	o.h(2).Flatnet("leave", "-y")
	pid := o.etcd()
	o.h(1).Flatnet("leave", "-y")
	o.outside(1)
	if pid == 0 || o.etcd() != 0 {
		t.Errorf("etcd was process %d, now %d", pid, o.etcd())
	}
	o.begin("--pool", "10.90.0.0/16:26", "--pool", "fd00:90::/48") // nothing of the first one is in the way
	has(t, o.h(1).Flatnet("host", "ls"), "10.90.", "/26", "fd00:90:")
}

// kill -9 of everything on a host loses its place nowhere, and nobody types anything.
func TestKilledHostsAreBackInTheirCluster(t *testing.T) {
	o := newOffice(t, 2)
	o.join(2, o.begin())
	pid := o.etcd()
	o.h(1).Kill()
	o.h(2).Kill()
	if o.etcd() != pid {
		t.Fatalf("etcd was process %d, now %d", pid, o.etcd())
	}
	o.h(2).Start() // the server is not there
	o.h(1).Start()
	o.sees(1, "h1:alive h2:alive")
	o.sees(2, "h1:alive h2:alive")
	if o.etcd() != pid {
		t.Errorf("etcd was process %d, now %d", pid, o.etcd())
	}
	// A new boot: etcd is gone, too.
	o.h(1).Kill()
	if err := exec.Command("kill", "-9", fmt.Sprint(pid)).Run(); err != nil {
		t.Fatal(err)
	}
	o.h(1).Start()
	o.h(1).Eventually("another etcd runs", func() bool { return o.etcd() != 0 && o.etcd() != pid })
	o.sees(1, "h1:alive h2:alive")
	o.sees(2, "h1:alive h2:alive")
	if out := o.h(1).Flatnet("token", "create", "--uses", "1"); !strings.Contains(out, "fn1.") {
		t.Errorf("no token: %s", out)
	}
}

func TestTokensAreCountedAndTakenBack(t *testing.T) {
	o := newOffice(t, 3)
	o.begin()
	once := o.joinLine(o.h(1).Flatnet("token", "create", "--uses", "1"))
	o.join(2, once)
	o.refused(3, "FN4003", "1 times, as often as it may", once...)
	o.outside(3)
	gone := o.joinLine(o.h(1).Flatnet("token", "create"))
	var list []api.Token
	if err := json.Unmarshal([]byte(o.h(1).Flatnet("token", "ls", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	o.h(1).Flatnet("token", "rm", list[len(list)-1].Name)
	o.refused(3, "FN4003", "no such token", gone...)
	short := o.joinLine(o.h(1).Flatnet("token", "create", "--ttl", "1s"))
	o.h(3).Eventually("the token has expired", func() bool {
		out, err := o.h(3).Try(append(slices.Clone(short), "--plan")...)
		return err != nil && strings.Contains(out, "FN4003") && strings.Contains(out, "expired")
	})
	o.refused(3, "FN1605", "72", "join", "192.0.2.1", "--token", once[3][:40])
	o.refused(3, "FN4004", "nothing was told", "join", "192.0.2.1", "--token", ofAnotherCluster(once[3]))
	o.refused(3, "FN3010", "192.0.2.2:7700", "join", "192.0.2.2", "--token", once[3]) // a host, but no server
	o.outside(3)
}

// What is wrong is found before anything changes, here or there.
func TestChecksComeBeforeChanges(t *testing.T) {
	o := newOffice(t, 3)
	o.h(1).Machine.IP("route add 10.244.7.0/24 dev eth0")
	o.refused(1, "FN2107", "10.244.7.0/24", "init", "-y")
	o.outside(1)
	o.h(1).Machine.IP("route del 10.244.7.0/24 dev eth0")
	o.refused(1, "FN1606", "eth7", "init", "-y", "--underlay", "eth7")
	o.refused(1, "FN1201", "10.244", "init", "-y", "--pool", "10.244")
	line := o.begin()
	o.join(2, line)
	h3 := o.h(3).Machine

	h3.IP("address add 192.0.2.2/32 dev eth0")
	o.refused(3, "FN2121", `node "h2"`, append(slices.Clone(line), "--underlay", "192.0.2.2")...)
	h3.IP("address del 192.0.2.2/32 dev eth0")

	h3.IP("link set eth0 mtu 1400")
	o.refused(3, "FN2136", "1400", line...)
	h3.IP("link set eth0 mtu 1500")

	h3.IP("route add 10.244.99.0/24 dev eth0")
	o.refused(3, "FN2107", "10.244.99.0/24", line...)
	h3.IP("route del 10.244.99.0/24 dev eth0")

	h3.IP("link add other type vxlan id 77 dstport 8472 dev eth0", "link set other up")
	o.refused(3, "FN2115", "udp port 8472", line...)
	h3.IP("link del other")

	h3.Run("nft", "add table inet block; add chain inet block out { type filter hook output priority 0; }; add rule inet block out tcp dport 2379 reject with tcp reset")
	o.refused(3, "FN3010", "tcp 2379", line...)
	h3.Run("nft", "delete", "table", "inet", "block")

	h3.Run("nft", "add table inet block; add chain inet block out { type filter hook output priority 0; }; add rule inet block out tcp dport 7700 reject with tcp reset")
	o.refused(3, "FN3010", "tcp 7700", line...)
	h3.Run("nft", "delete", "table", "inet", "block")

	o.outside(3)
	o.sees(1, "h1:alive h2:alive")
	has(t, o.h(1).Flatnet("token", "ls"), "1 of 10")
	o.join(3, line)
	o.sees(3, "h1:alive h2:alive h3:alive")
}

func TestUninstallLeavesNothingOfACluster(t *testing.T) {
	o := newOffice(t, 1)
	o.begin()
	pid := o.etcd()
	o.h(1).Flatnet("uninstall", "-y")
	if _, err := os.Stat(o.folder(1)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is there: %v", o.folder(1), err)
	}
	if _, err := os.Stat(fmt.Sprint("/proc/", pid)); pid == 0 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("etcd, process %d, runs: %v", pid, err)
	}
	o.h(1).Kill()
}
