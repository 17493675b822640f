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
		done, err := l.Break(t.Context(), c.fault, c.host)
		if err != nil {
			t.Fatal(lab.Text(err))
		}
		if len(done) == 0 {
			t.Errorf("%s does nothing that it tells", c.fault)
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

// The command that a fault says to look with shows it.
func TestHintsShowTheFault(t *testing.T) {
	rig.Program(t, "flatnet-etcd")
	l := up(t, lab.Spec{Backend: "vxlan"})
	for _, c := range []struct {
		fault string
		want  string // the hint
	}{
		{"bad-checksums", "flatnet lab exec web1 -- fetch http://db1/"},
		{"mtu", "flatnet lab exec web1 -- ping -c1 -M do -s 1400 db1"},
	} {
		command := strings.Fields(strings.TrimPrefix(c.want, "flatnet lab exec web1 -- "))
		must(t)(l.Workload("web1").Exec(t.Context(), command...))
		done, err := l.Break(t.Context(), c.fault, "h1")
		if err != nil {
			t.Fatal(lab.Text(err))
		}
		f, _ := lab.FaultNamed(c.fault)
		if got := l.Explain(f, done, "h1"); !strings.HasSuffix(got, "\nlook: "+c.want) {
			t.Errorf("got\n%s\nwant the hint %s", got, c.want)
		}
		if out, err := l.Workload("web1").Exec(t.Context(), command...); err == nil {
			t.Errorf("with %s it goes well: %s: %s", c.fault, c.want, out)
		}
		if _, err := l.Fix(t.Context(), ""); err != nil {
			t.Fatal(lab.Text(err))
		}
	}
}

// What no command of a host does is told in words of a shell, too.
func TestPowerIsCutInWords(t *testing.T) {
	l := up(t, lab.Spec{})
	told := func(done []lab.Command, err error, want ...string) {
		t.Helper()
		if err != nil {
			t.Fatal(lab.Text(err))
		}
		for i, begin := range want {
			if len(done) != len(want) || !strings.HasPrefix(done[i].String(), begin) {
				t.Fatalf("got %q, want commands that begin so: %q", done, want)
			}
		}
	}
	done, err := l.Break(t.Context(), "host-down", "h2")
	told(done, err, "lan# ip link del p-h2", "this machine# kill -KILL ")
	done, err = l.Fix(t.Context(), "host-down")
	told(done, err, "lan# ip link add p-h2 mtu 1500 type veth peer name eth0 ", "h2# flatnetd", "h2# flatnet run -d --name db1 --network lab -- ",
		"h2# flatnet run -d --name db2 --network lab -- ")
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

// A backend that cannot be is refused in the shape of all errors; one that cuts hosts off is taken with Force.
func TestBackendsThatAreRefused(t *testing.T) {
	rig.Program(t, "flatnet-etcd")
	l := up(t, lab.Spec{Backend: "vxlan", RoutedUnderlay: true})
	for _, c := range []struct{ backend, want string }{
		{"hostgw", `error FN1603: backend "hostgw" is not known
  at spec.cluster.backend
  backends: vxlan, host-gw      example: vxlan
  more: flatnet help FN1603                                                        (exit 2)`},
		{"host-gw", `error FN1604: 1 of the hosts would not be reached from this one with backend host-gw
  at spec.cluster.backend
  hosts h2 (198.51.100.2, 2001:db8:2::2)
  use a tunnel, and none to hosts on a common link; or --force, and what runs there is cut off
  retry: flatnet lab exec h1 -- flatnet net set cluster --backend vxlan --direct-routing
  more: flatnet help FN1604                                                        (exit 2)`},
	} {
		if got := lab.Text(l.Backend(t.Context(), c.backend)); got != c.want {
			t.Errorf("backend %s: got\n%s\nwant\n%s", c.backend, got, c.want)
		}
	}
	var told strings.Builder
	l.Tell(func(format string, args ...any) { fmt.Fprintf(&told, format+"\n", args...) })
	if err := l.Backend(t.Context(), "host-gw", lab.Force); err != nil {
		t.Fatal(lab.Text(err))
	}
	if want := "overlay host-gw  8 of 12 directed pairs do not answer"; !strings.Contains(told.String(), want) {
		t.Errorf("it is told\n%swant %q", told.String(), want)
	}
}

// Whoever needs a host that is down is told by which fault it is, and what boots it.
func TestAHostThatIsDownIsNamed(t *testing.T) {
	l := up(t, lab.Spec{Hosts: lab.Hosts(3)})
	if _, err := l.Break(t.Context(), "host-down", "h3"); err != nil {
		t.Fatal(lab.Text(err))
	}
	_, asked := l.Workload("app1").Exec(t.Context(), "true")
	_, paired := l.Pairs(t.Context())
	for what, err := range map[string]error{"exec": asked, "pairs": paired} {
		want := `error FN6008: h3 is down by the fault host-down
  boot it      retry: flatnet lab fix host-down
  more: flatnet help FN6008                                                        (exit 3)`
		if got := lab.Text(err); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", what, got, want)
		}
	}
	if err := l.Host("h2").Kill9(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Pairs(t.Context()); err == nil || !strings.HasPrefix(lab.Text(err), "error FN6008: flatnetd of h2 does not answer\n  last in its log: ") {
		t.Errorf("flatnetd is not there: %s", lab.Text(err))
	}
}
