package cluster_test

import (
	"net/netip"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/test/rig"
)

// Two LANs with a router between them. On the way only small packets pass, which is found before anything changes.
func TestPathMTUIsProven(t *testing.T) {
	o := &office{T: t, Topology: kerneltest.NewTopology(t)}
	rig.Program(t, "flatnet-etcd")
	a, r, b := o.Topology.Machine("h1"), o.Topology.Machine("router"), o.Topology.Machine("h2")
	o.Cable(a, "eth0", r, "lan1")
	o.Cable(b, "eth0", r, "lan2")
	r.Sysctl("net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1")
	r.IP("address add 192.0.2.254/24 dev lan1", "address add 198.51.100.254/24 dev lan2", "link set lan1 mtu 1400")
	a.IP("address add 192.0.2.1/24 dev eth0", "route add default via 192.0.2.254")
	b.IP("address add 198.51.100.2/24 dev eth0", "route add default via 198.51.100.254")
	o.hosts = []*rig.Host{rig.New(t, a), rig.New(t, b)}
	line := o.begin()
	o.refused(2, "FN2136", "only 1400 bytes pass", line...)
	o.outside(2)
	r.IP("link set lan1 mtu 1500")
	b.IP("route flush cache")
	has(t, o.h(2).Flatnet(append(slices.Clone(line), "--name", "h2")...), "mtu 1500 ok", "joined as h2")
	o.sees(1, "h1:alive h2:alive")
}

func TestHostsAreReachedByIPv6Alone(t *testing.T) {
	o := &office{T: t, Topology: kerneltest.NewTopology(t)}
	rig.Program(t, "flatnet-etcd")
	a, b := o.Topology.Machine("h1"), o.Topology.Machine("h2")
	o.Cable(a, "eth0", b, "eth0")
	a.IP("address add 2001:db8::1/64 dev eth0 nodad")
	b.IP("address add 2001:db8::2/64 dev eth0 nodad")
	o.hosts = []*rig.Host{rig.New(t, a), rig.New(t, b)}
	line := o.begin("--pool", "fd00:90::/48")
	if line[1] != "2001:db8::1" {
		t.Errorf("others are to join %s", line[1])
	}
	has(t, o.join(2, line), "eth0 2001:db8::2 because 2001:db8::1 is reached by eth0", "mtu 1500 ok")
	o.sees(2, "h1:alive h2:alive")
	m, err := o.h(1).Client().Membership(t.Context())
	if err != nil || len(m.Blocks) != 1 {
		t.Fatalf("h1 is %+v, %v", m, err)
	}
	gateway := netip.MustParsePrefix(m.Blocks[0]).Addr().Next().String()
	o.h(2).Eventually("h1 answers over the tunnel", func() bool {
		_, err := b.Try("ping", "-c1", "-W1", gateway)
		return err == nil
	})
}

// The link towards the server counts, not that of the default route.
func TestUnderlayIsTheLinkTowardsTheServer(t *testing.T) {
	o := newOffice(t, 1)
	h2, world := o.Topology.Machine("h2"), o.Topology.Machine("world")
	o.Cable(h2, "eth0", world, "eth0")
	o.Cable(h2, "eth1", o.lan, "p2")
	o.lan.IP("link set p2 master br0")
	h2.IP("address add 203.0.113.2/24 dev eth0", "route add default via 203.0.113.1", "address add 192.0.2.2/24 dev eth1", "address add 2001:db8:1::2/64 dev eth1 nodad")
	o.hosts = append(o.hosts, rig.New(t, h2))
	line := o.begin()
	has(t, o.join(2, line), "picked     eth1 192.0.2.2 2001:db8:1::2 because 192.0.2.1 is reached by eth1")
	o.sees(1, "h1:alive h2:alive")
}

// An etcd that runs already is used by all hosts with the certificate that the first one was given; here it has none.
func TestAnotherEtcdServes(t *testing.T) {
	o := newOffice(t, 2)
	o.lan.IP("address add 192.0.2.200/24 dev br0")
	etcd := exec.Command("etcd", "--data-dir", t.TempDir(), "--listen-client-urls", "http://192.0.2.200:2379", "--advertise-client-urls", "http://192.0.2.200:2379",
		"--listen-peer-urls", "http://127.0.0.1:2380", "--initial-advertise-peer-urls", "http://127.0.0.1:2380", "--initial-cluster", "default=http://127.0.0.1:2380")
	etcd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := o.lan.Start(etcd); err != nil {
		t.Fatalf("etcd (hack/deps installs it): %v", err)
	}
	t.Cleanup(func() { _ = etcd.Process.Kill(); _ = etcd.Wait() })
	o.h(1).Eventually("etcd listens", func() bool {
		_, err := o.lan.Try("bash", "-c", "exec 3<>/dev/tcp/192.0.2.200/2379")
		return err == nil
	})
	line := o.begin("--etcd", "http://192.0.2.200:2379")
	if pid := o.etcd(); pid != 0 {
		t.Errorf("process %d is an etcd of flatnet's", pid)
	}
	o.join(2, line)
	o.sees(2, "h1:alive h2:alive")
	o.h(2).Kill()
	o.h(2).Start()
	o.sees(1, "h1:alive h2:alive")
	o.h(2).Flatnet("leave", "-y")
	o.refused(2, "FN2132", "another flatnet cluster", "init", "-y", "--etcd", "http://192.0.2.200:2379")
	o.outside(2)
}

// A node's new address is told to the others by itself; where a server went is told to them with a join of its new address, and costs
// them nothing: who was a node stays the same one.
func TestAddressesAreFollowed(t *testing.T) {
	o := newOffice(t, 3)
	line := o.begin()
	o.join(2, line)
	o.join(3, line)
	o.sees(1, "h1:alive h2:alive h3:alive")
	at := func(n int, host, addr string) func() bool {
		return func() bool {
			hosts, err := o.h(n).Client().Hosts(t.Context())
			return err == nil && slices.ContainsFunc(hosts, func(h api.Host) bool { return h.Name == host && slices.Equal(h.Underlay, []string{addr}) })
		}
	}
	o.h(2).Machine.IP("address del 192.0.2.2/24 dev eth0", "address add 192.0.2.22/24 dev eth0")
	o.h(3).Eventually("h2 is at its new address", at(3, "h2", "192.0.2.22"))

	before, err := o.h(2).Client().Membership(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o.h(1).Machine.IP("address del 192.0.2.1/24 dev eth0", "address add 192.0.2.11/24 dev eth0")
	o.h(1).Eventually("h1 serves at its new address", at(1, "h1", "192.0.2.11"))
	var out string
	o.h(1).Eventually("h1 makes tokens", func() bool {
		out, err = o.h(1).Try("token", "create")
		return err == nil
	})
	moved := o.joinLine(out)
	if moved[1] != "192.0.2.11" {
		t.Errorf("others are to join %s", moved[1])
	}
	o.h(2).Flatnet(moved...)
	o.h(3).Flatnet(moved...)
	o.sees(1, "h1:alive h2:alive h3:alive")
	o.sees(2, "h1:alive h2:alive h3:alive")
	after, err := o.h(2).Client().Membership(t.Context())
	if err != nil || after.ID != before.ID || after.Name != "h2" || !slices.Equal(after.Blocks, before.Blocks) {
		t.Errorf("h2 was %+v, is %+v, %v", before, after, err)
	}
	o.h(2).Kill()
	o.h(2).Start()
	o.sees(2, "h1:alive h2:alive h3:alive")
}

// What cannot be is said before anything is begun, and soon: an etcd that is not there, the loopback as underlay, a name that another has.
func TestInitAndJoinSayWhatCannotBe(t *testing.T) {
	o := newOffice(t, 3)
	nobody := "http://192.0.2.1:4"
	o.refused(1, "FN3011", "the etcd at "+nobody+" does not answer", "init", "-y", "--etcd", nobody)
	o.refused(1, "FN3011", nobody, "init", "-y", "--force", "--etcd", nobody)
	o.refused(1, "etcd", "does not answer", "init", "--plan", "--etcd", nobody)
	o.outside(1)
	o.refused(1, "FN1606", "leads to nobody", "init", "--plan", "--underlay", "lo")
	line := o.begin()
	o.join(2, line)
	o.refused(3, "FN2131", "192.0.2.2", append(slices.Clone(line), "--name", "h2")...)
	o.outside(3)
	o.h(3).Machine.IP("address add 2001:db8::3/64 dev eth0 nodad")
	o.refused(3, "FN1606", "over IPv4", append(slices.Clone(line), "--name", "h3", "--underlay", "2001:db8::3")...)
	o.refused(1, "FN2116", "other hosts: h2", "uninstall", "-y")
	o.sees(1, "h1:alive h2:alive")
	o.sees(2, "h1:alive h2:alive")
}
