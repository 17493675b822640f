package ways

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
)

// TestMain asks, where the tests start this binary anew in another namespace, for the ways that the environment names.
func TestMain(m *testing.M) {
	text, asked := os.LookupEnv("WAYS")
	if !asked {
		os.Exit(m.Run())
	}
	var list []Way
	err := json.Unmarshal([]byte(text), &list)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(Ask(context.Background(), list))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func ask(t *testing.T, from *kerneltest.Machine, w Way) Answer {
	t.Helper()
	text, err := json.Marshal([]Way{w})
	if err != nil {
		t.Fatal(err)
	}
	out := from.Run("env", "WAYS="+string(text), os.Args[0])
	var got []Answer
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got) != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	return got[0]
}

// What is wrong on the way, or with the other host, is told apart; what its firewall does not let in is no fault of the way.
func TestWaysTellWhatIsWrong(t *testing.T) {
	topo := kerneltest.NewTopology(t)
	a, b := topo.Machine("a"), topo.Machine("b")
	topo.Cable(a, "eth0", b, "eth0")
	a.IP("address add 192.0.2.1/24 dev eth0", "route add 10.9.1.0/24 via 192.0.2.2", "address add 2001:db8::1/64 dev eth0", "route add fd09::/64 via 2001:db8::2")
	b.IP("address add 192.0.2.2/24 dev eth0", "link add block type bridge", "address add 10.9.1.1/24 dev block", "link set block up", "address add 2001:db8::2/64 dev eth0", "address add fd09::1/64 dev block")
	b.Sysctl("net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1")
	w4 := Way{Node: "b", Network: "pods", Outer: netip.MustParseAddr("192.0.2.2"), Self: netip.MustParseAddr("192.0.2.1"), Beyond: netip.MustParseAddr("10.9.1.254"), Gate: netip.MustParseAddr("10.9.1.1"),
		Block: netip.MustParsePrefix("10.9.1.0/24"), Tunnel: true}
	w6 := Way{Node: "b", Network: "pods", Outer: netip.MustParseAddr("2001:db8::2"), Self: netip.MustParseAddr("2001:db8::1"), Beyond: netip.MustParseAddr("fd09::ffff"), Gate: netip.MustParseAddr("fd09::1"),
		Block: netip.MustParsePrefix("fd09::/64"), Tunnel: true}
	stranger := w4
	stranger.Outer, stranger.Block = netip.MustParseAddr("192.0.2.9"), netip.MustParsePrefix("10.9.2.0/24")
	type verdict struct {
		inner, underlay, large, spoilt bool
		fits                           int
		why                            string
	}
	for _, c := range []struct {
		name  string
		way   Way
		drops string // what b drops, and where
		want  verdict
	}{
		{"well", w4, "", verdict{inner: true, large: true}},
		{"well, IPv6", w6, "", verdict{inner: true, large: true}},
		{"it lets nobody in", w4, "input policy drop", verdict{inner: true, large: true}},
		{"it forwards nothing", w4, "forward policy drop", verdict{inner: true, large: true}},
		{"large packets get lost", w4, "prerouting ip length > 1300", verdict{inner: true, fits: 1210}},
		{"large packets get lost, IPv6", w6, "prerouting ip6 length > 1000", verdict{inner: true, fits: 508}},
		{"the workloads' packets get lost", w4, "prerouting ip daddr 10.9.1.0/24", verdict{underlay: true}},
		{"all gets lost", w4, "prerouting policy drop", verdict{}},
		{"checksums are spoilt", w4, "prerouting udp checksum != 0", verdict{spoilt: true}},
		{"inner checksums are spoilt", w4, "input udp checksum != 0", verdict{inner: true, large: true, spoilt: true}},
		{"somebody else answers", stranger, "", verdict{why: "192.0.2.2 answers in its place"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if hook, rule, _ := strings.Cut(c.drops, " "); hook != "" {
				policy, rules := "policy accept;", "add rule inet broken c "+rule+" drop"
				if rule == "policy drop" {
					policy, rules = "policy drop;", ""
				}
				b.Run("nft", "add table inet broken; add chain inet broken c { type filter hook "+hook+" priority 0; "+policy+" }; "+rules)
				defer b.Run("nft", "delete table inet broken")
			}
			a := ask(t, a, c.way)
			if got := (verdict{a.Inner.Answered, a.Underlay.Answered, a.Large.Answered, a.Spoilt, a.Fits, a.Inner.Why}); got != c.want {
				t.Errorf("got %+v, want %+v; in full %+v", got, c.want, a)
			}
			if a.Inner.Answered != (a.RTT > 0) && c.want.why == "" && a.Inner.Answered {
				t.Errorf("answered after %v", a.RTT)
			}
		})
	}
}

// Whatever the kernel's words are, nothing is answered but by the right one.
func FuzzTold(f *testing.F) {
	f.Add([]byte{}, byte(11), byte(0))
	f.Add(make([]byte, 64), byte(3), byte(3))
	f.Fuzz(func(t *testing.T, data []byte, kind, code byte) {
		p := packet{to: netip.MustParseAddr("10.0.0.1"), theirs: func(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.2") }}
		_ = p.told(data)
		if len(data) < extendedError {
			return
		}
		data[4], data[5], data[6] = unix.SO_EE_ORIGIN_ICMP, kind, code
		if o := p.judge(data); o.Answered && offender(data[extendedError:]) != netip.MustParseAddr("192.0.2.2") {
			t.Errorf("%x: answered", data)
		}
	})
}
