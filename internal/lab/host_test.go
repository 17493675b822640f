package lab_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/lab"
)

// A host is a machine of its own: name, id, links, processes, files and control groups.
func TestHostsAreMachines(t *testing.T) {
	l := up(t, lab.Spec{})
	seen := map[string]string{}
	for _, h := range l.Hosts() {
		for _, command := range []string{"hostname", "cat /etc/machine-id", "ip -br address show eth0", "cat /proc/self/cgroup; readlink /proc/self/ns/net"} {
			out := must(t)(h.Exec(t.Context(), "sh", "-c", command))
			if other, twice := seen[out]; twice && !strings.Contains(command, "cgroup") {
				t.Errorf("%s: %s: %q, as on %s", h.Name, command, out, other)
			}
			seen[out] = h.Name
		}
		if out := must(t)(h.Exec(t.Context(), "sh", "-c", "echo $PPID; ls /sys/class/net; ls /run; cat /proc/self/cgroup")); !strings.Contains(out, "eth0\n") || !strings.Contains(out, "\n0::/\n") && !strings.Contains(out, "0::/\n") {
			t.Errorf("%s sees\n%s", h.Name, out)
		}
		must(t)(h.Exec(t.Context(), "sh", "-c", "echo mine > /etc/flatnet/note && echo mine > /etc/note && echo mine > /run/note"))
	}
	for _, file := range []string{"/etc/note", "/run/note", "/etc/flatnet/note"} {
		if _, err := exec.Command("test", "-e", file).CombinedOutput(); err == nil {
			t.Errorf("%s was written on this machine", file)
		}
	}
	if out, err := l.Host("h1").Exec(t.Context(), "nothing-of-this-name"); err == nil {
		t.Errorf("a command that is not there printed %q", out)
	}
}

// flatnetd is killed and started, a host boots again: workloads answer meanwhile, or after they were started; disks stay.
func TestHostsCrashAndBoot(t *testing.T) {
	l := up(t, lab.Spec{})
	h := l.Host("h1")
	if err := h.Kill9(); err != nil {
		t.Fatal(err)
	}
	if h.Serving() {
		t.Error("flatnetd was killed and runs")
	}
	if out := must(t)(l.Workload("db2").Exec(t.Context(), "ping", "-c1", "-W2", "web1")); !strings.Contains(out, "10.244.1.2") {
		t.Errorf("web1 is known as something else:\n%s", out)
	}
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := l.Answer(t.Context()); n != 12 || err != nil {
		t.Errorf("after the crash %d pairs, %v", n, err)
	}
	if err := h.Stop(t.Context()); err != nil || h.Serving() {
		t.Errorf("asked to stop: %v, runs: %v", err, h.Serving())
	}
	must(t)(h.Exec(t.Context(), "sh", "-c", "echo kept > /var/lib/flatnet/note; echo lost > /etc/note"))
	if err := h.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := must(t)(h.Exec(t.Context(), "sh", "-c", "cat /var/lib/flatnet/note; cat /etc/note || true")); !strings.HasPrefix(out, "kept") || strings.Contains(out, "lost") {
		t.Errorf("after boot the disk has %q", out)
	}
	if out := must(t)(h.Flatnet(t.Context(), "net", "ls")); !strings.Contains(out, "10.244.1.0/24") {
		t.Errorf("after boot flatnet has\n%s", out)
	}
	if out := must(t)(h.Flatnet(t.Context(), "ps")); strings.Contains(out, "web1") {
		t.Errorf("a workload came through a boot:\n%s", out)
	}
}

// What a person types, and what is printed and returned.
func TestCommandLine(t *testing.T) {
	flatnet := filepath.Join(bin(t), "flatnet")
	run := func(want int, args ...string) string {
		t.Helper()
		cmd := exec.Command(flatnet, append([]string{"lab"}, args...)...)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("flatnet lab %s: exit status %d, want %d\n%s", strings.Join(args, " "), got, want, out)
		}
		return string(out)
	}
	says := func(text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("want %q in\n%s", want, text)
			}
		}
	}
	t.Cleanup(func() { _ = exec.Command(flatnet, "lab", "down", "--name", "two-hosts").Run() })
	says(run(5, "exec", "web1", "--", "true"), "no lab is up")
	says(run(0, "up", "--backend", "static"), `lab "two-hosts": 2 hosts, 4 workloads, inside private namespaces. Your own network is not touched.`,
		"h1   192.0.2.1     10.244.1.0/24     web1 .2  web2 .3 ", "all 12 directed pairs answer", "flatnet lab exec web1 -- ping -c3 db2", "stop: flatnet lab down")
	says(run(7, "up", "--backend", "static"), "FN6002", "flatnet lab down --name two-hosts")
	says(run(0, "ls"), "two-hosts  2      4          static   up     -")
	says(run(0, "exec", "web1", "--", "ping", "-c1", "db2"), "10.244.2.3", " 0% packet loss")
	says(run(0, "exec", "web1", "--", "/run/lab/bin/ping", "-c1", "db2"), "from 10.244.2.3", " 0% packet loss")
	says(run(0, "exec", "h2", "fetch", "http://web1/"), "hello 192.0.2.2, you asked web1")
	says(run(0, "exec", "lan", "--", "ip", "-br", "link"), "p-h1", "lan1")
	run(3, "exec", "h1", "--", "sh", "-c", "exit 3")
	run(137, "exec", "h1", "--", "sh", "-c", "kill -9 $$")
	says(run(5, "exec", "h3", "--", "true"), "there are: h1, web1, web2, h2, db1, db2, lan")
	says(run(0, "break"), "forward-drop", "blocked-port")
	says(run(0, "break", "mtu", "h1"), "h1# ip link set eth0 mtu 1400")
	says(run(0, "ls"), "mtu on h1")
	says(run(0, "fix"), "h1# ip link set eth0 mtu 1500", "all 12 directed pairs answer")
	says(run(2, "backend", "host-gw"), "FN6001")
	says(run(0, "down"), `lab "two-hosts" is down, nothing left behind (checked: `)
	says(run(5, "down"), "no lab is up")
	file := filepath.Join(t.TempDir(), "lab.yaml")
	text := "name: bench\nbackend: static\nroutedUnderlay: true\nhosts:\n- name: left\n  workloads: [a]\n- name: right\n  lan: 2\n  workloads: [b]\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command(flatnet, "lab", "down", "--name", "bench").Run() })
	says(run(0, "up", "-f", file), `lab "bench": 2 hosts, 2 workloads`, "right 198.51.100.2", "all 2 directed pairs answer")
	run(2, "up", "-f", file, "--hosts", "3")
	says(run(0, "down", "--name", "bench"), "nothing left behind")
	run(2, "up", "--hosts", "101")
	run(2, "up", "--hosts", "2", "stray")
	run(2, "flood")
}
