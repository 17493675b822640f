package foreign

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"
)

// TestPacketsAgree sends real packets from a workload to the LAN: what the cases say of Docker must be so before the fix and
// after it. There is no NAT; the LAN has a route back.
func TestPacketsAgree(t *testing.T) {
	for _, name := range []string{"docker-nft", "docker-legacy"} {
		t.Run(name, func(t *testing.T) {
			newNetns(t)
			workload := topology(t)
			if !reaches(t, workload, 30*time.Second) {
				t.Fatal("does not pass without foreign rules")
			}
			ar, err := txtar.ParseFile("testdata/" + name + ".txtar")
			if err != nil {
				t.Fatal(err)
			}
			shell(t, string(ar.Files[0].Data))
			found := Findings(read(t), Probes(lab()))
			if reaches(t, workload, 2*time.Second) || len(found) == 0 || !found[0].Certain {
				t.Fatalf("passes, or is not found: %s", text(found))
			}
			shell(t, found[0].Fix)
			if !reaches(t, workload, 30*time.Second) {
				t.Errorf("does not pass after\n%s", found[0].Fix)
			}
		})
	}
}

// topology joins a workload at the bridge fn-lab, the host and a LAN at eth0; it returns the workload's namespace.
func topology(t *testing.T) int {
	t.Helper()
	self := netns(t)
	workload, lan := another(t, self), another(t, self)
	path := func(fd int) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd) }
	shell(t, `ip link add fn-lab address 02:00:00:00:00:01 type bridge
ip link add fv-web type veth peer name eth0 address 02:00:00:00:00:02 netns `+path(workload)+`
ip link set fv-web master fn-lab up
ip addr add 10.66.0.1/24 dev fn-lab
ip link set fn-lab up
ip link add eth0 address 02:00:00:00:00:03 type veth peer name eth0 address 02:00:00:00:00:04 netns `+path(lan)+`
ip addr add 192.0.2.10/24 dev eth0
ip link set eth0 up
ip neigh add 10.66.0.2 lladdr 02:00:00:00:00:02 dev fn-lab nud permanent
ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:04 dev eth0 nud permanent
echo 1 > /proc/sys/net/ipv4/ip_forward`)
	in(t, self, workload, func() {
		shell(t, `ip addr add 10.66.0.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.66.0.1
ip neigh add 10.66.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent`)
	})
	in(t, self, lan, func() {
		shell(t, `ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up; ip route add default via 192.0.2.10
ip neigh add 192.0.2.10 lladdr 02:00:00:00:00:03 dev eth0 nud permanent`)
	})
	return workload
}

// reaches asks a port where nobody listens: a refusal is an answer.
func reaches(t *testing.T, workload int, wait time.Duration) bool {
	t.Helper()
	var err error
	in(t, netns(t), workload, func() {
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp4", "192.0.2.1:443", wait); err == nil {
			conn.Close()
		}
	})
	return err == nil || errors.Is(err, unix.ECONNREFUSED)
}

func netns(t *testing.T) int {
	t.Helper()
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func another(t *testing.T, self int) int {
	t.Helper()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	fd := netns(t)
	if err := unix.Setns(self, unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	return fd
}

// in does something in another namespace and comes back to self.
func in(t *testing.T, self, there int, do func()) {
	t.Helper()
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	do()
	if err := unix.Setns(self, unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

// FuzzLegacyTable: a block from the kernel, cut and changed anywhere, is read without a panic, and what is read can be walked.
func FuzzLegacyTable(f *testing.F) {
	for _, l := range layouts() {
		f.Add(l.addr == 16, make([]byte, infoLen), standardEntry(l, -nfDrop-1))
		f.Add(l.addr == 16, hooked(), append(standardEntry(l, 0), standardEntry(l, -nfAccept-1)...))
	}
	f.Fuzz(func(t *testing.T, v6 bool, info, block []byte) {
		if len(info) != infoLen {
			return
		}
		l := layouts()[map[bool]int{false: 0, true: 1}[v6]]
		Findings(Ruleset{Chains: l.parse("filter", info, block)}, Probes(lab()))
	})
}

func hooked() []byte {
	info := make([]byte, infoLen)
	info[tableName] = 1 << 2 // forward begins and ends at 0
	return info
}

func standardEntry(l layout, verdict int32) []byte {
	e := make([]byte, l.elements+xtHeadLen+8)
	put := func(at int, v uint16) { e[at], e[at+1] = byte(v), byte(v>>8) }
	put(l.target, uint16(l.elements))
	put(l.target+2, uint16(len(e)))
	put(l.elements, xtHeadLen+8)
	for i := range 4 {
		e[l.elements+xtHeadLen+i] = byte(verdict >> (8 * i))
	}
	return e
}

// FuzzExpressions does the same with the expressions of an nf_tables rule.
func FuzzExpressions(f *testing.F) {
	f.Add([]byte{}, uint8(unix.NFPROTO_INET))
	f.Add([]byte("\x1c\x00\x01\x80\x09\x00\x01\x00meta\x00\x00\x00\x00\x14\x00\x02\x80\x08\x00\x02\x00\x00\x00\x00\x06\x08\x00\x01\x00\x00\x00\x00\x01"), uint8(unix.NFPROTO_IPV4))
	f.Fuzz(func(t *testing.T, expressions []byte, family uint8) {
		s := &Set{Parts: []int{4}, Elements: []Element{{Key: []byte{1, 2, 3, 4}}}}
		c := compiler{family: family, set: func(string) *Set { return s }}
		rule := c.compile(expressions)
		chain := Chain{Family: "inet", Table: "x", Name: "x", Hook: "forward", Rules: []Rule{rule}}
		Findings(Ruleset{Chains: []Chain{chain}}, Probes(lab()))
	})
}

func TestOwners(t *testing.T) {
	for chain, want := range map[string]owner{
		"DOCKER-USER": docker, "DOCKER": docker, "ufw-user-forward": ufw, "ufw6-before-input": ufw, "FORWARD_IN_ZONES": firewalld,
		"INPUT_direct": firewalld, "LIBVIRT_FWI": libvirt, "KUBE-FORWARD": kubernetes, "cali-FORWARD": calico, "FORWARD": nobody,
	} {
		if got := ownerOf(chain); got != want {
			t.Errorf("%s: %q, want %q", chain, got, want)
		}
	}
}
