package foreign

import (
	"bytes"
	"context"
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/tools/txtar"

	"github.com/flatnet/flatnet/internal/model"
)

var update = flag.Bool("update", false, "write golden files")

// newNetns puts the test into a network namespace of its own, which goes with the thread. Frames of bridges do not pass the IP
// hooks there, unless a case turns it on.
func newNetns(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: sudo make test")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare: %v", err)
	}
	for _, name := range []string{"iptables", "ip6tables"} {
		_ = os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte("0"), 0o644) // not there without br_netfilter
	}
}

func shell(t *testing.T, script string) string {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s\n%s", err, out, script)
	}
	return string(out)
}

func read(t *testing.T) Ruleset {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	r, err := Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// lab is a nat network of two families with a workload that has a forward, on a host with one uplink.
func lab() model.View {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	uplink := model.HostLink{Name: "eth0", MTU: 1500, Up: true, Addrs: []netip.Prefix{prefix("192.0.2.10/24"), prefix("2001:db8:1::10/64")}}
	return model.View{
		Node: model.Node{Name: "host", Links: []model.HostLink{uplink}, Routes: []model.HostRoute{
			{Dest: prefix("0.0.0.0/0"), Via: addr("192.0.2.1"), Link: "eth0"}, {Dest: prefix("::/0"), Via: addr("fe80::1"), Link: "eth0"},
		}},
		Networks: map[string]model.Network{"lab": {Name: "lab", Mode: model.NAT, Active: true, Subnets: []model.Subnet{
			{Prefix: prefix("10.66.0.0/24"), Gateway: addr("10.66.0.1")}, {Prefix: prefix("fd66::/64"), Gateway: addr("fd66::1")},
		}}},
		Workloads: map[string]model.Workload{"web": {Name: "web", Netns: "/run/netns/web",
			Endpoints: []model.Endpoint{{Network: "lab", IfName: "eth0", MAC: model.EndpointMAC("web", "lab"), Addrs: []netip.Addr{addr("10.66.0.2"), addr("fd66::2")}}},
			Forwards:  []model.Forward{{Network: "lab", Workload: "web", Proto: model.TCP, HostPorts: model.Ports{First: 8080, Last: 8080}, Ports: model.Ports{First: 80, Last: 80}}},
		}},
	}
}

func text(found []Finding) string {
	var b strings.Builder
	for _, f := range found {
		b.WriteString(f.Code() + " " + f.String() + "\n")
		for line := range strings.Lines(f.Fix) {
			b.WriteString("    " + strings.TrimSpace(line) + "\n")
		}
	}
	return b.String()
}

// TestCases lets real tools make rules, compares what is found, then runs the fixes: what can be run here must help.
func TestCases(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no cases", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			newNetns(t)
			testCase(t, path)
		})
	}
}

func testCase(t *testing.T, path string) {
	ar, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	shell(t, string(ar.Files[0].Data))
	found := Findings(read(t), Probes(lab()))
	got := []byte(text(found))
	if *update {
		ar.Files = []txtar.File{ar.Files[0], {Name: "findings", Data: got}}
		if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if len(ar.Files) != 2 || !bytes.Equal(ar.Files[1].Data, got) {
		t.Errorf("%s (-update writes it): got\n%s\nwant\n%s", path, got, ar.Files[1].Data)
	}
	runFixes(t, found)
}

// runFixes runs the commands of the findings that exist on this machine, after which nothing may be left of these.
func runFixes(t *testing.T, found []Finding) {
	ran := map[string]bool{}
	for _, f := range found {
		command, _, _ := strings.Cut(f.Fix, " ")
		if _, err := exec.LookPath(command); err == nil && !ran[f.Fix] {
			ran[f.Fix] = true
			shell(t, f.Fix)
		}
	}
	for _, f := range Findings(read(t), Probes(lab())) {
		if ran[f.Fix] {
			t.Errorf("after its fix still there: %s\n%s", f, f.Fix)
		}
	}
}

// TestReadingChangesNothing: asking ip_tables for a table that isn't there would make it.
func TestReadingChangesNothing(t *testing.T) {
	newNetns(t)
	names := func() string {
		return shell(t, "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names; nft list ruleset")
	}
	for _, script := range []string{"", "iptables-legacy -t mangle -A FORWARD -j ACCEPT", "nft add table inet x"} {
		shell(t, script)
		before := names()
		if read(t); names() != before {
			t.Errorf("after %q: %q became %q", script, before, names())
		}
	}
}

func TestOwnTablesAreNotRead(t *testing.T) {
	newNetns(t)
	shell(t, `nft add table inet flatnet; nft add chain inet flatnet forward '{ type filter hook forward priority 0; policy drop; }'
nft add table ip flatnet; nft add chain ip flatnet forward '{ type filter hook forward priority 0; policy accept; }'`)
	if r := read(t); len(r.Chains) != 1 || r.Chains[0].Family != "ip" {
		t.Errorf("got %+v", r.Chains)
	}
}
