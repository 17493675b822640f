package lab_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/lab"
	"github.com/flatnet/flatnet/test/rig"
)

// A lab with a cluster: what it lives through by itself, and what it does not.
func TestCluster(t *testing.T) {
	rig.Program(t, "flatnet-etcd")
	l := up(t, lab.Spec{Backend: "vxlan", Hosts: lab.Hosts(3)})
	answer := func(when string) {
		t.Helper()
		if n, err := l.Answer(t.Context()); err != nil || n != 30 {
			t.Fatalf("%s: %d pairs, %s", when, n, lab.Text(err))
		}
	}
	for _, c := range []struct {
		fault, host string
		lives       bool // all pairs answer, if not at once, before it is fixed
	}{
		{"lost-route", "h2", true},
		{"lost-fdb", "h2", true},
		{"lost-neigh", "h2", true},
		{"lost-tunnel", "h2", true},
		{"nft-flush", "h2", true},
		{"etcd-down", "h1", true},
		{"changed-address", "h3", true},
		{"changed-address", "h2", true},
		{"blocked-port", "h2", false},
		{"partition", "h3", false},
		{"forward-drop", "h2", false},
		{"host-down", "h2", false},
		{"host-down", "h1", false},
	} {
		if _, err := l.Break(t.Context(), c.fault, c.host); err != nil {
			t.Fatal(lab.Text(err))
		}
		if c.lives {
			answer("with " + c.fault)
		} else if pairs, err := l.Pairs(t.Context()); err == nil && len(lab.Deaf(pairs)) == 0 {
			t.Errorf("with %s on %s all pairs answer", c.fault, c.host)
		}
		if _, err := l.Fix(t.Context(), c.fault); err != nil {
			t.Fatal(lab.Text(err))
		}
		answer("after " + c.fault)
	}
}

// The backend is changed under traffic.
func TestBackendChange(t *testing.T) {
	rig.Program(t, "flatnet-etcd")
	l := up(t, lab.Spec{Backend: "vxlan"})
	for _, backend := range []string{"host-gw", "vxlan"} {
		var told strings.Builder
		l.Tell(func(format string, args ...any) { fmt.Fprintf(&told, format+"\n", args...) })
		if err := l.Backend(t.Context(), backend); err != nil {
			t.Fatal(lab.Text(err))
		}
		if out := told.String(); !strings.Contains(out, "overlay "+backend) || !strings.Contains(out, "meanwhile: ") {
			t.Errorf("it is told:\n%s", out)
		}
		t.Log(told.String())
	}
}

// What init is given reaches it: workloads have addresses of both families, of small blocks.
func TestInitArguments(t *testing.T) {
	rig.Program(t, "flatnet-etcd")
	l := up(t, lab.Spec{Backend: "vxlan", RoutedUnderlay: true, Init: []string{"--pool", "10.90.0.0/16:26", "--pool", "fd00:90::/48"}})
	shown, err := l.Workload("db2").Show(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ips := fmt.Sprint(shown.Endpoints[0].IPs); !strings.Contains(ips, "10.90.") || !strings.Contains(ips, "/26") || !strings.Contains(ips, "fd00:90:") {
		t.Errorf("db2 has %s", ips)
	}
	if out := must(t)(l.Workload("web1").Exec(t.Context(), "ping", "-6", "-c1", "-W5", "db2")); !strings.Contains(out, "fd00:90:") {
		t.Errorf("IPv6 goes elsewhere:\n%s", out)
	}
}

// Hosts that are left alone are joined by the test.
func TestHostsAlone(t *testing.T) {
	rig.Program(t, "flatnet-etcd")
	l := up(t, lab.Spec{Backend: lab.None, Hosts: []lab.HostSpec{{Name: "a"}, {Name: "b", Workloads: []string{"w"}}}})
	if _, err := l.Host("a").Client().Membership(t.Context()); err == nil {
		t.Error("host a is in a cluster")
	}
	must(t)(l.Host("a").Flatnet(t.Context(), "init", "-y"))
	if a, err := l.Workload("w").Address(t.Context()); err != nil || !strings.HasPrefix(a.String(), "10.") {
		t.Errorf("workload w has %v, %v", a, err)
	}
}
