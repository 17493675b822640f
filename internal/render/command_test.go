package render_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// What --explain prints can be typed: the commands for every golden story run without an error in a namespace of their
// own, each view after the one before.
func TestCommandsCanBeTyped(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			script := "set -e; mount -t tmpfs none /run; mkdir /run/netns; sysctl() { command sysctl \"$@\" 2>/dev/null || return 1; }\n" +
				"ip link set lo up; ip link add eth0 type ifb; ip link set eth0 up; ip address add 192.0.2.9/24 dev eth0\n" +
				"ip link add eth1 type veth peer name cable1; ip link add br0 type bridge\n" +
				"ip netns add a; ip netns add b; ip netns add web\n"
			var have dataplane.Host
			for _, f := range archive.Files {
				if strings.HasSuffix(f.Name, ".yaml") {
					want := host(t, f.Data)
					script += "# " + f.Name + "\n" + typed(want, have)
					have = want
				}
			}
			run(t, script)
		})
	}
}

// typed are the commands that lead from one host to another, the host's namespace first. What goes by itself with
// its link or namespace is left to go.
func typed(want, have dataplane.Host) string {
	var b strings.Builder
	var names []string
	for n := range want.Netns {
		names = append(names, n)
	}
	if want.Netns[""] == nil {
		names = append(names, "")
	}
	slices.Sort(names)
	disabled := map[string]bool{}
	exists := map[string]bool{"/run/netns/a": true, "/run/netns/b": true, "/run/netns/web": true}
	for _, n := range names {
		for _, s := range dataplane.Diff(want.Netns[n], have.Netns[n]) {
			if ns, ok := s.Object.(dataplane.Netns); ok && exists[ns.Path] || n != "" && s.Op == dataplane.Del {
				continue
			}
			if a, ok := s.Object.(dataplane.Address); ok && s.Op == dataplane.Del && a.Prefix.Addr().Is6() && disabled[a.Link] {
				continue // with IPv6 disabled its addresses go by themselves
			}
			if v, ok := s.Object.(dataplane.Sysctl); ok && strings.HasSuffix(v.Name, "/disable_ipv6") {
				disabled[v.Link] = v.Value == "1"
			}
			fmt.Fprintf(&b, "%s\n", s.Command(n))
		}
	}
	return b.String()
}

func run(t *testing.T, script string) {
	t.Helper()
	cmd := exec.Command("unshare", "--net", "--mount", "sh", "-x")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Errorf("%v (are you root?):\n%s", err, strings.Join(lines[max(0, len(lines)-6):], "\n"))
		_ = os.WriteFile(filepath.Join(t.TempDir(), "script"), []byte(script), 0o644)
	}
}
