package prober_test

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/test/reach/prober"
)

func TestMain(m *testing.M) {
	if prober.Serving() {
		os.Exit(prober.Serve())
	}
	os.Exit(kerneltest.Main(m))
}

// TestProbesTellWhoAnsweredAndWhatWasSeen runs all kinds in both families between two machines with a router that
// translates the source.
func TestProbesTellWhoAnsweredAndWhatWasSeen(t *testing.T) {
	topo := kerneltest.NewTopology(t)
	a, r, b := topo.Machine("a"), topo.Machine("r"), topo.Machine("b")
	topo.Cable(a, "eth0", r, "eth0")
	topo.Cable(r, "eth1", b, "eth0")
	a.IP("address add 10.1.0.2/24 dev eth0", "address add fd01::2/64 dev eth0", "route add default via 10.1.0.1", "route add ::/0 via fd01::1")
	r.IP("address add 10.1.0.1/24 dev eth0", "address add fd01::1/64 dev eth0", "address add 10.2.0.1/24 dev eth1", "address add fd02::1/64 dev eth1")
	r.Sysctl("net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1")
	r.Run("nft", "add table inet t; "+
		"add chain inet t s { type nat hook postrouting priority 100; }; add rule inet t s oifname eth1 masquerade; "+
		"add chain inet t f { type filter hook forward priority 0; }; add rule inet t f th dport 9 drop")
	b.IP("address add 10.2.0.2/24 dev eth0", "address add fd02::2/64 dev eth0")

	from, to := start(t, a), start(t, b)
	var probes []prober.Probe
	want := map[uint32]string{}
	token := uint32(1000)
	for _, kind := range prober.Kinds {
		for _, dst := range []string{"10.2.0.2", "fd02::2"} {
			token++
			probes = append(probes, prober.Probe{Token: token, Kind: kind, To: netip.MustParseAddr(dst), Wait: 5 * time.Second})
			source := map[string]string{"10.2.0.2": "10.2.0.1", "fd02::2": "fd02::1"}[dst]
			want[token] = fmt.Sprintf("answered %s from %s to %s", kind, source, dst)
		}
	}
	for _, kind := range []prober.Kind{prober.TCP, prober.UDP, prober.SCTP} {
		token++
		probes = append(probes, prober.Probe{Token: token, Kind: kind, To: netip.MustParseAddr("10.2.0.2"), Port: 9, Wait: 300 * time.Millisecond})
		want[token] = "silence"
	}
	results, err := from.Probe(probes)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := to.Seen()
	if err != nil {
		t.Fatal(err)
	}
	got := map[uint32]string{}
	for _, r := range results {
		got[r.Token] = string(r.Outcome)
		if r.Outcome == prober.Failed {
			t.Error(r.Detail)
		}
	}
	for _, s := range seen {
		got[s.Token] = fmt.Sprintf("%s %s from %s to %s", got[s.Token], s.Kind, s.From, s.To)
	}
	for token, w := range want {
		if got[token] != w {
			t.Errorf("probe %d: got %q, want %q", token, got[token], w)
		}
	}
}

func start(t *testing.T, m *kerneltest.Machine) *prober.Agent {
	t.Helper()
	a, err := prober.Start(m.Name, m.Start)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Errorf("agent %q: %v", a.Name, err)
		}
	})
	return a
}
