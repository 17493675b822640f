package lab_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/lab"
)

// damage is what a fault does: seen reports whether it is there.
type damage struct {
	fault   string
	hosts   []string
	prepare func(*testing.T, *lab.Lab)
	seen    func(*testing.T, *lab.Lab) bool
	heals   bool // flatnetd puts it back, and there is nothing to fix
	stays   bool // what breaks is no flatnetd's, and nothing is to be fixed
}

var damages = []damage{
	{fault: "mtu", hosts: []string{"h1"}, seen: bigPacketsVanish},
	{fault: "mtu", seen: bigPacketsVanish},
	{fault: "blocked-port", seen: func(t *testing.T, l *lab.Lab) bool {
		return pings(l, "h1", "192.0.2.2") && !arrives(t, l, "h1", "h2", 8472) && !arrives(t, l, "h2", "h1", 8472) && arrives(t, l, "h1", "h2", 8473)
	}},
	{fault: "blocked-port", hosts: []string{"h3"}, seen: func(t *testing.T, l *lab.Lab) bool {
		return arrives(t, l, "h1", "h2", 8472) && !arrives(t, l, "h1", "h3", 8472) && !arrives(t, l, "h3", "h1", 8472)
	}},
	{fault: "bad-checksums", hosts: []string{"h2"}, seen: func(t *testing.T, l *lab.Lab) bool {
		inner := make([]byte, 60)
		inner[8+14+9], inner[8+14+20+6] = 17, 1 // VXLAN, Ethernet, IPv4 with UDP in it, whose checksum is not zero
		return arrives(t, l, "h1", "h2", 8472) && !arrives(t, l, "h1", "h2", 8472, inner...) && arrives(t, l, "h2", "h1", 8472, inner...)
	}},
	{fault: "lost-route", hosts: []string{"h2"}, seen: func(t *testing.T, l *lab.Lab) bool {
		return !strings.Contains(must(t)(l.Host("h2").Exec(t.Context(), "ip", "route")), "10.244.1.0/24")
	}},
	{fault: "lost-fdb", hosts: []string{"h2"}, stays: true, prepare: tunnelByHand, seen: func(t *testing.T, l *lab.Lab) bool {
		return !strings.Contains(must(t)(l.Host("h2").Exec(t.Context(), "bridge", "fdb", "show", "dev", "byhand")), "192.0.2.1")
	}},
	{fault: "lost-neigh", hosts: []string{"h2"}, stays: true, prepare: tunnelByHand, seen: func(t *testing.T, l *lab.Lab) bool {
		return !strings.Contains(must(t)(l.Host("h2").Exec(t.Context(), "ip", "neigh", "show", "dev", "byhand")), "10.9.0.1")
	}},
	{fault: "lost-tunnel", hosts: []string{"h2"}, stays: true, prepare: tunnelByHand, seen: func(t *testing.T, l *lab.Lab) bool {
		_, err := l.Host("h2").Exec(t.Context(), "ip", "link", "show", "byhand")
		return err != nil
	}},
	{fault: "nft-flush", heals: true, seen: func(t *testing.T, l *lab.Lab) bool {
		return !strings.Contains(must(t)(l.Host("h3").Exec(t.Context(), "nft", "list", "tables")), "table inet flatnet")
	}},
	{fault: "forward-drop", hosts: []string{"h2"}, seen: func(t *testing.T, l *lab.Lab) bool { return deafAround(t, l, "db1", "db2") }},
	{fault: "host-down", hosts: []string{"h1"}, seen: func(t *testing.T, l *lab.Lab) bool {
		return !pings(l, "h2", "192.0.2.1") && pings(l, "h2", "192.0.2.3")
	}},
	{fault: "partition", hosts: []string{"h1", "h2"}, seen: func(t *testing.T, l *lab.Lab) bool {
		return pings(l, "h1", "192.0.2.2") && !pings(l, "h1", "192.0.2.3") && !pings(l, "h3", "192.0.2.2") &&
			pings(l, "h1", "203.0.113.80") && pings(l, "h3", "203.0.113.80")
	}},
	{fault: "etcd-down", prepare: somethingNamedEtcd, seen: func(t *testing.T, l *lab.Lab) bool {
		return strings.Contains(must(t)(l.Host("h1").Exec(t.Context(), "ps", "-eo", "stat,comm")), "T    flatnet-etcd")
	}},
	{fault: "changed-address", hosts: []string{"h2"}, seen: func(t *testing.T, l *lab.Lab) bool {
		return l.Host("h2").Address().String() == "192.0.2.102" && pings(l, "h1", "192.0.2.102") && !pings(l, "h1", "192.0.2.2") &&
			pings(l, "h2", "203.0.113.80") && pings(l, "h1", "h2")
	}},
}

func TestFaultsBreakAndAreFixed(t *testing.T) {
	l := up(t, lab.Spec{Hosts: lab.Hosts(3)})
	for _, d := range damages {
		t.Run(strings.Join(append([]string{d.fault}, d.hosts...), "_"), func(t *testing.T) {
			if d.prepare != nil {
				d.prepare(t, l)
			}
			if !d.heals && d.seen(t, l) {
				t.Fatal("it is there before it was made")
			}
			done, err := l.Break(t.Context(), d.fault, d.hosts...)
			if err != nil {
				t.Fatal(lab.Text(err))
			}
			f, _ := lab.FaultNamed(d.fault)
			t.Log(l.Explain(f, done, d.hosts...))
			if !d.heals {
				eventually(t, "it is there", func() bool { return d.seen(t, l) })
			}
			if fixable := len(l.Broken()) == 1; fixable == (d.heals || d.stays) {
				t.Errorf("on record: %v", l.Broken())
			}
			if _, err := l.Break(t.Context(), d.fault, d.hosts...); !d.heals && err == nil {
				t.Error("it was made twice")
			}
			if _, err := l.Fix(t.Context(), d.fault); err != nil {
				t.Fatal(lab.Text(err))
			}
			if d.heals || !d.stays {
				eventually(t, "it is not there any more", func() bool { return !d.seen(t, l) })
			}
			if len(l.Broken()) > 0 {
				t.Errorf("still on record: %v", l.Broken())
			}
			if n, err := l.Answer(t.Context()); err != nil || n != 30 {
				t.Errorf("afterwards %d pairs, %s", n, lab.Text(err))
			}
		})
	}
	t.Run("all are tried", func(t *testing.T) {
		for _, f := range lab.Faults() {
			if !slices.ContainsFunc(damages, func(d damage) bool { return d.fault == f.Name }) {
				t.Errorf("no test makes %s", f.Name)
			}
		}
	})
}

// Faults of one lab lie over one another, and are undone in the other order.
func TestFaultsTogether(t *testing.T) {
	l := up(t, lab.Spec{})
	for _, fault := range []string{"changed-address", "partition", "mtu", "host-down"} {
		if _, err := l.Break(t.Context(), fault, "h2"); err != nil {
			t.Fatal(lab.Text(err))
		}
	}
	if _, err := l.Fix(t.Context(), ""); err != nil {
		t.Fatal(lab.Text(err))
	}
	if n, err := l.Answer(t.Context()); err != nil || n != 12 || len(l.Broken()) > 0 {
		t.Errorf("afterwards %d pairs, %v, broken %v", n, err, l.Broken())
	}
}

func TestFaultsThatCannotBe(t *testing.T) {
	l := up(t, lab.Spec{Hosts: lab.Hosts(1)})
	for _, c := range [][]string{{"flood"}, {"mtu", "h9"}, {"lost-tunnel"}, {"etcd-down"}, {"lost-route"}} {
		if _, err := l.Break(t.Context(), c[0], c[1:]...); err == nil || !strings.Contains(err.Error(), "FN600") {
			t.Errorf("%v: got %v, want a problem", c, err)
		}
	}
	if len(l.Broken()) > 0 {
		t.Errorf("on record: %v", l.Broken())
	}
}

// A host without an etcd is told from a lab without one.
func TestAnEtcdIsElsewhere(t *testing.T) {
	l := up(t, lab.Spec{})
	somethingNamedEtcd(t, l)
	_, err := l.Break(t.Context(), "etcd-down", "h2")
	want := `error FN6005: the fault cannot be made here: there is no etcd on h2
  there is one on h1      retry: flatnet lab break etcd-down h1
  more: flatnet help FN6005                                                        (exit 5)`
	if got := lab.Text(err); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if len(l.Broken()) > 0 {
		t.Errorf("on record: %v", l.Broken())
	}
}

func pings(l *lab.Lab, from, to string) bool {
	_, err := l.Host(from).Exec(context.Background(), "ping", "-c1", "-W1", to)
	return err == nil
}

func bigPacketsVanish(t *testing.T, l *lab.Lab) bool {
	_, big := l.Host("h1").Exec(t.Context(), "ping", "-c1", "-W1", "-Mdo", "-s1450", "192.0.2.2")
	return big != nil && pings(l, "h1", "192.0.2.2")
}

// arrives reports whether one of several datagrams does.
func arrives(t *testing.T, l *lab.Lab, from, to string, port int, bytes ...byte) bool {
	t.Helper()
	if bytes == nil {
		bytes = []byte("hello")
	}
	var server, client net.PacketConn
	open := func(host, address string, conn *net.PacketConn) {
		if err := l.Host(host).Do(func() (err error) { *conn, err = net.ListenPacket("udp4", address); return err }); err != nil {
			t.Fatal(err)
		}
	}
	open(to, fmt.Sprintf("0.0.0.0:%d", port), &server)
	defer server.Close()
	open(from, "0.0.0.0:0", &client)
	defer client.Close()
	buf := make([]byte, 100)
	for range 5 {
		_, _ = client.WriteTo(bytes, &net.UDPAddr{IP: l.Host(to).Address().AsSlice(), Port: port})
		_ = server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, _, err := server.ReadFrom(buf); err == nil {
			return true
		}
	}
	return false
}

// deafAround reports whether exactly the pairs with one of these workloads don't answer.
func deafAround(t *testing.T, l *lab.Lab, workloads ...string) bool {
	t.Helper()
	pairs, err := l.Pairs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pairs {
		inside := slices.Contains(workloads, p.From) && slices.Contains(workloads, p.To)
		around := slices.Contains(workloads, p.From) || slices.Contains(workloads, p.To)
		if !inside && around != (p.Err != nil) { // bridge-nf-call-iptables of this kernel decides about those inside
			return false
		}
	}
	return true
}

// tunnelByHand is a VXLAN link where there is no cluster.
func tunnelByHand(t *testing.T, l *lab.Lab) {
	h := l.Host("h2")
	_, _ = h.Exec(t.Context(), "ip", "link", "del", "byhand")
	err := h.IP(t.Context(), "link add byhand type vxlan id 99 dstport 4790 dev eth0 nolearning", "link set byhand up",
		"neigh add 10.9.0.1 lladdr 02:00:00:00:00:09 dev byhand nud permanent")
	if err != nil {
		t.Fatal(err)
	}
	must(t)(h.Exec(t.Context(), "bridge", "fdb", "add", "02:00:00:00:00:09", "dev", "byhand", "dst", "192.0.2.1"))
}

// somethingNamedEtcd runs where there is no cluster.
func somethingNamedEtcd(t *testing.T, l *lab.Lab) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "flatnet-etcd")
	if err := os.WriteFile(program, text, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "1000")
	if err := l.Host("h1").Machine.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}
