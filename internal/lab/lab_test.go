package lab_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/lab"
	"github.com/flatnet/flatnet/test/rig"
)

// The tests are alone in network, mount and process namespaces, so that all there is can be compared.
func TestMain(m *testing.M) { os.Exit(kerneltest.Main(m)) }

// bin is the directory of our programs.
func bin(t testing.TB) string {
	t.Helper()
	rig.Program(t, "flatnet")
	return filepath.Dir(rig.Program(t, "flatnetd"))
}

// up makes a lab that is taken down with the test.
func up(t *testing.T, spec lab.Spec) *lab.Lab {
	t.Helper()
	if spec.Backend == "" {
		spec.Backend = lab.Static
	}
	spec.Bin, spec.Tell = bin(t), t.Logf
	l, err := lab.Up(t.Context(), spec)
	if err != nil {
		t.Fatal(lab.Text(err))
	}
	t.Cleanup(func() {
		for _, h := range l.Hosts() {
			if t.Failed() {
				t.Logf("%s: flatnetd:\n%s", h.Name, h.Log())
			}
		}
		if err := l.Down(context.Background()); err != nil {
			t.Error(lab.Text(err))
		}
	})
	return l
}

// must is what a command printed; the test fails when the command does.
func must(t *testing.T) func(out string, err error) string {
	return func(out string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(rig.Patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", rig.Patience, what)
		}
	}
}

// unique begins the names of labs whose control groups are looked for: these are not the test's alone.
var unique = "t" + strings.ToLower(rand.Text()[:6])

// world is all that a lab could leave behind, a line each.
func world(t *testing.T) []string {
	t.Helper()
	var all []string
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		text, _ := os.ReadFile(dir + "/stat")
		name, after, _ := strings.Cut(string(text), ") ")
		if fields := strings.Fields(after); len(fields) < 7 || fields[0] == "Z" || isExiting(fields[6]) { // ours to bury, or waits for one that is
			continue
		}
		all = append(all, "process "+name)
		for _, pattern := range []string{"/ns/*", "/task/[0-9]*/ns/*", "/fd/*"} {
			links, _ := filepath.Glob(dir + pattern)
			for _, l := range links {
				if to, err := os.Readlink(l); err == nil && strings.Contains(to, ":[") && !strings.HasPrefix(to, "pipe:") && !strings.HasPrefix(to, "socket:") {
					all = append(all, "namespace "+to)
				}
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if !strings.Contains(line, " /tmp/") && !othersNetns(line) {
			all = append(all, line)
		}
	}
	for _, dir := range []string{"/run", "/etc/flatnet", "/var/lib/flatnet"} {
		_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, _ error) error {
			if !othersNetns(path) {
				all = append(all, path)
			}
			return nil
		})
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, _ error) error {
		if d != nil && d.IsDir() && strings.Contains(path, "flatnet-lab-"+unique) { // others may have labs, too
			all = append(all, path)
		}
		return nil
	})
	slices.Sort(all)
	return slices.Compact(append(all, machineNetwork(t)...))
}

// othersNetns knows the namespaces of other packages' tests, which come and go at the same time: see kerneltest.NewTopology.
func othersNetns(text string) bool { return strings.Contains(text, "/run/netns/kt") }

// isExiting reads the flags of a process for the kernel's PF_EXITING.
func isExiting(flags string) bool {
	n, err := strconv.ParseUint(flags, 10, 64)
	return err == nil && n&4 != 0
}

// machineNetwork is the network that labs are not to touch.
func machineNetwork(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, command := range []string{"ip -o link", "ip -o address", "ip route show table all", "ip -6 route show table all", "ip rule", "nft list ruleset"} {
		out, err := exec.Command("sh", "-c", command).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
		all = append(all, command)
		all = append(all, strings.Split(string(out), "\n")...)
	}
	for _, pattern := range []string{"/proc/sys/net/ipv4/*", "/proc/sys/net/ipv6/conf/*/*", "/proc/sys/net/ipv4/conf/*/*"} {
		files, _ := filepath.Glob(pattern)
		for _, f := range files {
			text, _ := os.ReadFile(f)
			all = append(all, f+" "+string(text))
		}
	}
	return all
}

// same fails the test when the world is not as it was. The kernel takes namespaces down in its own time.
func same(t *testing.T, before []string) {
	t.Helper()
	var after []string
	is := func() bool { after = world(t); return slices.Equal(before, after) }
	for end := time.Now().Add(rig.Patience); !is(); time.Sleep(20 * time.Millisecond) {
		if !time.Now().After(end) {
			continue
		}
		for _, line := range after {
			if !slices.Contains(before, line) {
				t.Errorf("left behind: %s", line)
			}
		}
		for _, line := range before {
			if !slices.Contains(after, line) {
				t.Errorf("gone: %s", line)
			}
		}
		t.FailNow()
	}
}

func TestUpAndDownLeaveNothing(t *testing.T) {
	bin(t)
	before, network := world(t), machineNetwork(t)
	l := up(t, lab.Spec{Name: unique, RoutedUnderlay: true, Hosts: lab.Hosts(3)})
	if now := machineNetwork(t); !slices.Equal(network, now) {
		t.Errorf("while the lab is up the machine's own network is\n%s\nand was\n%s", strings.Join(now, "\n"), strings.Join(network, "\n"))
	}
	if left := l.Left(); len(left) < 4 { // three holders and the LAN's, at least
		t.Errorf("a lab that is up is not seen by the check: %q", left)
	}
	pairs, err := l.Pairs(t.Context())
	if err != nil || len(pairs) != 30 || len(lab.Deaf(pairs)) > 0 {
		t.Errorf("got %d pairs, deaf %v, error %v; want 30 that answer", len(pairs), lab.Deaf(pairs), err)
	}
	if err := l.Down(t.Context()); err != nil {
		t.Fatal(lab.Text(err))
	}
	if left := l.Left(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	same(t, before)
}

// A lab whose maker is killed in the middle of it is taken down by another command, whatever there is of it.
func TestDownAfterUpWasKilled(t *testing.T) {
	programs := bin(t)
	before := world(t)
	for after := time.Duration(0); after < 400*time.Millisecond; after = after*3/2 + 5*time.Millisecond {
		cmd := exec.Command(filepath.Join(programs, "flatnetd"), "lab", "up", "--backend=static", "--name="+unique)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the lab's directory", func() bool { _, err := os.Stat(lab.DefaultDir + "/" + unique); return err == nil })
		time.Sleep(after) // anything may have been reached
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if out, err := exec.Command(filepath.Join(programs, "flatnetd"), "lab", "down", "--name="+unique).CombinedOutput(); err != nil {
			t.Fatalf("killed after %v: down: %v\n%s", after, err, out)
		}
		same(t, before)
	}
}

// An up that is asked to stop, or fails, takes away what it has made.
func TestUpThatFailsLeavesNothing(t *testing.T) {
	programs := bin(t)
	before := world(t)
	for after := time.Duration(0); after < 400*time.Millisecond; after = after*3/2 + 5*time.Millisecond {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		l, err := lab.Up(ctx, lab.Spec{Name: unique, Backend: lab.Static, Bin: programs})
		cancel()
		if err == nil {
			err = l.Down(t.Context())
		}
		if err != nil && ctx.Err() == nil {
			t.Fatalf("stopped after %v: %s", after, lab.Text(err))
		}
		same(t, before)
	}

	broken := t.TempDir()
	for name, text := range map[string]string{
		"flatnet":  "#!/bin/sh\necho no workloads today >&2\nexit 5\n",
		"flatnetd": "#!/bin/sh\nexec " + programs + "/flatnetd \"$@\"\n",
	} {
		if err := os.WriteFile(filepath.Join(broken, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	_, err := lab.Up(t.Context(), lab.Spec{Name: unique, Backend: lab.Static, Bin: broken})
	if err == nil || !strings.Contains(err.Error(), "no workloads today") {
		t.Errorf("got %v, want the words of the command that failed", err)
	}
	if err := os.WriteFile(filepath.Join(broken, "flatnetd"), []byte("#!/bin/sh\n[ \"$1\" = lab ] || { echo no daemon today >&2; exit 1; }\nexec "+programs+"/flatnetd \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err = lab.Up(t.Context(), lab.Spec{Name: unique, Backend: lab.Static, Bin: broken}); err == nil || !strings.Contains(err.Error(), "no daemon today") {
		t.Errorf("got %v, want the words of the daemon that ended", err)
	}
	if err := os.RemoveAll(broken); err != nil {
		t.Fatal(err)
	}
	same(t, before)
}

// Two labs have the same names and addresses, and nothing else in common.
func TestTwoLabs(t *testing.T) {
	one := up(t, lab.Spec{Name: "one"})
	two := up(t, lab.Spec{Name: "two"})
	if _, err := lab.Up(t.Context(), lab.Spec{Name: "two", Backend: lab.Static, Bin: bin(t)}); lab.Exit(err) != 7 || !strings.Contains(lab.Text(err), "retry: flatnet lab down --name two\n") {
		t.Errorf("a lab was made over another: %v", err)
	}
	if _, err := lab.Open("", "", nil); err == nil || !strings.Contains(err.Error(), "one, two") {
		t.Errorf("got %v, want the names of both", err)
	}
	if _, err := one.Break(t.Context(), "host-down", "h1"); err != nil {
		t.Fatal(err)
	}
	if n, err := two.Answer(t.Context()); n != 12 || err != nil {
		t.Errorf("got %d, %v, want the 12 pairs of the other lab", n, err)
	}
	if err := one.Down(t.Context()); err != nil {
		t.Error(err)
	}
	if n, err := two.Answer(t.Context()); n != 12 || err != nil {
		t.Errorf("got %d, %v, want the 12 pairs of the lab that is still up", n, err)
	}
}

// The control groups of labs that went with a boot, or with the namespaces they were made in, go with the next lab.
func TestOldControlGroupsGo(t *testing.T) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if fields[2] != "cgroup2" {
			continue
		}
		old, young := filepath.Join(fields[1], "flatnet-lab-"+unique+"-old"), filepath.Join(fields[1], "flatnet-lab-"+unique+"-young")
		for _, dir := range []string{old + "/h1/flatnet", young} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		defer os.Remove(young)
		hour := time.Now().Add(-time.Hour)
		if err := os.Chtimes(old, hour, hour); err != nil {
			t.Fatal(err)
		}
		up(t, lab.Spec{Backend: lab.None, Hosts: []lab.HostSpec{{Name: "h1"}}})
		if _, err := os.Stat(old); err == nil {
			t.Errorf("%s is still there", old)
		}
		if _, err := os.Stat(young); err != nil {
			t.Errorf("one that may be about to be used is gone: %v", err)
		}
		return
	}
	t.Log("this machine has no cgroup2")
}

// What somebody else has entered is told, not killed.
func TestDownTellsWhatIsLeft(t *testing.T) {
	l := up(t, lab.Spec{Hosts: lab.Hosts(1)})
	stranger := exec.Command("sleep", "1000")
	if err := l.Host("h1").Do(stranger.Start); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := l.Down(ctx)
	if want := fmt.Sprintf("process %d (sleep): has namespace net:", stranger.Process.Pid); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	if err := stranger.Process.Kill(); err != nil {
		t.Errorf("it was ended with the lab: %v", err)
	}
	_ = stranger.Wait()
}
