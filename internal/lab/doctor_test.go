package lab_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/lab"
	"github.com/flatnet/flatnet/test/rig"
)

// diagnosed is what flatnet doctor says of a fault: on a host, by a code, in these words.
type diagnosed struct {
	fault string
	hosts []string
	asked string // whose doctor
	code  string // none: the cluster has followed, and there is nothing to be told
	words string // of what, owner and fix
}

var diagnoses = []diagnosed{
	{"mtu", nil, "h1", "FN5422", "packets of 1450 bytes to or from 2 of the 2 hosts that were asked get lost, small ones arrive; 1310 bytes pass"},
	{"mtu", []string{"h3"}, "h3", "FN5406", "eth0 takes packets of 1400 bytes"},
	{"blocked-port", nil, "h2", "FN5420", "let udp 8472 pass between all hosts"},
	{"blocked-port", []string{"h3"}, "h1", "FN5420", "h3 (192.0.2.3) get lost, while the host itself answers"},
	{"forward-drop", []string{"h2"}, "h2", "FN51", "somebodys_firewall"},
	{"host-down", []string{"h2"}, "h1", "FN5421", "no answer from h2 (192.0.2.2)"},
	{"partition", []string{"h3"}, "h1", "FN5421", "no answer from h3 (192.0.2.3)"},
	{"partition", []string{"h3"}, "h3", "FN5421", "2 of the 2 hosts"},
	{"etcd-down", nil, "h2", "FN5402", "has not answered since"},
	{"changed-address", []string{"h2"}, "h1", "", ""},
	{"bad-checksums", []string{"h2"}, "h1", "FN5423", "packets with a checksum do not arrive at h2 (192.0.2.2)"},
	{"lost-route", []string{"h2"}, "h2", "FN5010", "add route"},
	{"lost-fdb", []string{"h2"}, "h2", "FN5010", "at once: add fdb"},
	{"lost-neigh", []string{"h2"}, "h2", "FN5010", "at once: add neigh"},
	{"lost-tunnel", []string{"h2"}, "h2", "FN5010", "add link fx-cluster"},
	{"nft-flush", []string{"h3"}, "h3", "FN5010", "table"},
}

// Whoever makes a fault of the lab and asks flatnet doctor is told of that fault, and when it is mended of nothing any more.
func TestDoctorNamesTheFault(t *testing.T) {
	rig.Program(t, "flatnet-etcd")
	l := up(t, lab.Spec{Backend: "vxlan", Hosts: lab.Hosts(3)})
	for _, d := range diagnoses {
		t.Run(strings.Join(append([]string{d.fault}, d.hosts...), "_"), func(t *testing.T) {
			told := ""
			if _, err := l.Break(t.Context(), d.fault, d.hosts...); err != nil {
				t.Fatal(lab.Text(err))
			}
			eventuallySaying(t, func() string { return told }, func() bool {
				found := doctor(t, l, d.asked)
				told = findingsText(found)
				if d.code == "" {
					return !slices.ContainsFunc(found, isAFault)
				}
				return slices.ContainsFunc(found, func(f api.Finding) bool {
					return strings.HasPrefix(f.Code, d.code) && strings.Contains(f.What+"\n"+f.Owner+"\n"+f.Fix, d.words)
				})
			})
			t.Log(told)
			if _, err := l.Fix(t.Context(), d.fault); err != nil {
				t.Fatal(lab.Text(err))
			}
			eventuallySaying(t, func() string { return told }, func() bool {
				found := doctor(t, l, d.asked)
				told = findingsText(found)
				return !slices.ContainsFunc(found, isAFault)
			})
		})
	}
	t.Run("what others have beside", func(t *testing.T) {
		if err := l.Host("h2").IP(t.Context(), "link add other type vxlan id 7 dstport 8472 dev eth0", "route add 10.244.77.0/24 via 192.0.2.1"); err != nil {
			t.Fatal(err)
		}
		told := ""
		eventuallySaying(t, func() string { return told }, func() bool {
			told = findingsText(doctor(t, l, "h2"))
			return strings.Contains(told, "link other, VNI 7 at udp 8472") && strings.Contains(told, "fix: ip route del 10.244.77.0/24 via 192.0.2.1 dev eth0")
		})
	})
	t.Run("all are told", func(t *testing.T) {
		for _, f := range lab.Faults() {
			if !slices.ContainsFunc(diagnoses, func(d diagnosed) bool { return d.fault == f.Name }) {
				t.Errorf("nobody asks doctor about %s", f.Name)
			}
		}
	})
}

// isAFault knows what is wrong now; what was put back is told of for a while.
func isAFault(f api.Finding) bool { return f.Level != "note" && f.Code != "FN5010" }

func doctor(t *testing.T, l *lab.Lab, host string) []api.Finding {
	t.Helper()
	found, err := l.Host(host).Client().Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func findingsText(found []api.Finding) string {
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%s %s: %s\n    owner: %s\n    fix: %s\n", f.Level, f.Code, f.What, f.Owner, f.Fix)
	}
	return b.String()
}

// eventuallySaying is eventually with what was last seen. A doctor that is asked without a pause waits for the kernels of others, which say
// only so much.
func eventuallySaying(t *testing.T, seen func() string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(rig.Patience); !is(); time.Sleep(time.Second) {
		if time.Now().After(end) {
			t.Fatalf("last seen:\n%s", seen())
		}
	}
}
