package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what should come at once.
const patience = 20 * time.Second

// hostFor starts a fake daemon with a workload "cell" in a network namespace of its own.
func hostFor(t *testing.T) (*fakeDaemon, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
	holder := exec.Command("/proc/self/exe", "-test.run=^$")
	holder.Env = append(os.Environ(), "FLATNET_TEST_HOLD=1")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	stdin, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); _ = holder.Wait() })
	d, socket := startFake(t)
	dir := t.TempDir()
	write(t, dir+"/resolv.conf", "nameserver 192.0.2.53\n")
	write(t, dir+"/hosts", "127.0.0.1 localhost cell\n")
	d.put(api.Workload{Name: "cell", State: "created", Netns: "/proc/" + strconv.Itoa(holder.Process.Pid) + "/ns/net",
		Files: api.Files{ResolvConf: dir + "/resolv.conf", Hosts: dir + "/hosts", Log: dir + "/log"}})
	return d, socket
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// flatnet runs the real program, this one started again, to its end.
func flatnet(t *testing.T, socket string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := flatnetCmd(socket, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func flatnetCmd(socket string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "FLATNET_TEST_MAIN=1", "FLATNET_SOCKET="+socket, "FLATNET_DEBUG=1")
	cmd.WaitDelay = patience
	return cmd
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: still not after %s", what, patience)
		}
	}
}

// ownMounts gives the test, and what it starts, mounts that others who mount meanwhile do not change. They are shared, as the machine's are: what
// a child lets out is seen. The thread ends with the test.
func ownMounts(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	for _, how := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
		if err := unix.Mount("", "/", "", unix.MS_REC|how, ""); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCommandSeesItsOwnNetworkAndFiles(t *testing.T) {
	d, socket := hostFor(t)
	ownMounts(t)
	before := read(t, "/proc/thread-self/mountinfo")
	cwd, _ := os.Getwd()
	out, errs, code := flatnet(t, socket, "run", "--name", "cell", "--", "sh", "-c",
		"ls /sys/class/net; cat /etc/resolv.conf /etc/hosts; pwd; ls -d /sys/fs/cgroup/*; readlink /proc/self/ns/net; exit 7")
	want := "lo\nnameserver 192.0.2.53\n127.0.0.1 localhost cell\n" + cwd + "\n"
	if code != 7 || !strings.HasPrefix(out, want) {
		t.Errorf("exit %d, output\n%s\nwant 7 and\n%s\nstderr %s", code, out, want, errs)
	}
	if host, _ := filepath.Glob("/sys/fs/cgroup/*"); len(host) > 0 && !strings.Contains(out, strings.Join(host, "\n")) {
		t.Errorf("cgroups %v are not in\n%s", host, out)
	}
	if after := read(t, "/proc/thread-self/mountinfo"); after != before {
		t.Errorf("mounts leaked: before\n%s\nafter\n%s", before, after)
	}
	if p := d.told(); len(p) != 2 || p[0].PID == 0 || p[0].Exited || !p[1].Exited || p[1].Code != 7 {
		t.Errorf("the daemon was told %+v", p)
	}
	if gone := d.gone(); len(gone) != 1 {
		t.Errorf("removed %v, want cell", gone)
	}
}

func TestExitStatusIsTheCommands(t *testing.T) {
	d, socket := hostFor(t)
	for i, c := range []struct {
		args []string
		want int
	}{
		{[]string{"true"}, 0},
		{[]string{"sh", "-c", "kill -TERM $$"}, 143},
		{[]string{"no-such-command"}, 127},
		{[]string{"/etc/hostname"}, 126},
		{[]string{"/no/such/file"}, 127},
	} {
		_, errs, code := flatnet(t, socket, append([]string{"run", "--name", "cell"}, c.args...)...)
		if code != c.want {
			t.Errorf("%v: exit %d, want %d; stderr %s", c.args, code, c.want, errs)
		}
		if gone := d.gone(); len(gone) != i+1 {
			t.Errorf("%v: removed %v, want cell once more", c.args, gone)
		}
	}
}

func TestSignalsReachTheCommand(t *testing.T) {
	_, socket := hostFor(t)
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1} {
		cmd := flatnetCmd(socket, "run", "--name", "cell", "--", "sh", "-c", "trap 'exit 9' TERM INT HUP USR1; echo ready; while :; do sleep 0.02; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal
		out, _ := cmd.StdoutPipe()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 6)
		if _, err := io.ReadFull(out, buf); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Process.Signal(sig)
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 9 {
			t.Errorf("%s: exit %d, want 9", sig, code)
		}
	}
}

func TestLeftOversEndWithTheCommand(t *testing.T) {
	_, socket := hostFor(t)
	pidFile := filepath.Join(t.TempDir(), "pid")
	cgroup, errs, _ := flatnet(t, socket, "run", "--name", "cell", "--", "sh", "-c",
		"sed -n 's|^0::/flatnet/cell|cell|p' /proc/self/cgroup; sleep 1000 >/dev/null 2>&1 & echo $! > "+pidFile)
	if strings.Contains(errs, "no cgroup of its own") {
		if os.Getenv("CI") != "" {
			t.Fatal("no writable cgroup2 here: ", errs)
		}
		t.Skip("no writable cgroup2 here: ", errs)
	}
	pid := strings.TrimSpace(read(t, pidFile))
	eventually(t, "left-over gone", func() bool { return !exists("/proc/" + pid) })
	root, _ := cgroup2Root()
	if cgroup = strings.TrimSpace(cgroup); cgroup == "" {
		t.Fatal("the command had no cgroup of its own")
	}
	eventually(t, "cgroup gone", func() bool { return !exists(filepath.Join(root, cgroupParent, cgroup)) })
}

// Who sweeps must not take away a cgroup that a starter has just made for its command, whatever process namespace either is in.
func TestSweepLeavesTheCgroupsOfLivingStarters(t *testing.T) {
	c := makeCgroup("cell", t.Logf)
	if c.dir == "" {
		t.Fatal("no writable cgroup2 here")
	}
	sweepCgroups()
	if !exists(c.dir) {
		t.Fatal("swept while its starter lives")
	}
	c.lock.Close() // the starter was killed
	sweepStarters(filepath.Dir(c.dir))
	if exists(c.dir) {
		t.Error("not swept after its starter's end")
	}
}

func TestDetached(t *testing.T) {
	d, socket := hostFor(t)
	log := d.workload("cell").Files.Log
	fifo := filepath.Join(filepath.Dir(log), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs, code := flatnet(t, socket, "run", "-d", "--name", "cell", "--", "sh", "-c", "echo hello; read x < "+fifo+"; echo bye; exit 3")
	if code != 0 || out != "cell\n" {
		t.Fatalf("exit %d, output %q, stderr %s", code, out, errs)
	}
	if p := d.told(); len(p) != 1 || p[0].PID == 0 {
		t.Errorf("when run -d returned the daemon knew %+v", p)
	}
	write(t, fifo, "go\n")
	eventually(t, "exit reported", func() bool { return len(d.told()) == 2 })
	if p := d.told()[1]; !p.Exited || p.Code != 3 {
		t.Errorf("reported %+v", p)
	}
	if got := read(t, log); got != "hello\nbye\n" {
		t.Errorf("log %q", got)
	}
	if gone := d.gone(); len(gone) != 0 {
		t.Errorf("removed %v", gone)
	}
}

func TestDetachedOutlivesDaemonRestarts(t *testing.T) {
	d, socket := hostFor(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, code := flatnet(t, socket, "run", "-d", "--rm", "--name", "cell", "--", "sh", "-c", "read x < "+fifo); code != 0 {
		t.Fatalf("exit %d, stderr %s", code, errs)
	}
	d.fail(4)
	write(t, fifo, "go\n")
	eventually(t, "removed", func() bool { return len(d.gone()) == 1 })
	told := d.told()
	if p := told[len(told)-1]; !p.Exited || p.Code != 0 {
		t.Errorf("reported %+v", p)
	}
}

func TestDetachedSaysWhatIsWrong(t *testing.T) {
	d, socket := hostFor(t)
	_, errs, code := flatnet(t, socket, "run", "-d", "--name", "cell", "--", "no-such-command")
	if code != 127 || !strings.Contains(errs, `command "no-such-command" is not found`) {
		t.Errorf("exit %d, stderr %s", code, errs)
	}
	if gone := d.gone(); len(gone) != 1 {
		t.Errorf("removed %v, want cell", gone)
	}
}

func TestExecSharesTheView(t *testing.T) {
	d, socket := hostFor(t)
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	script := "mount -t tmpfs none /mnt && echo inside > /mnt/x && echo up && read x < " + fifo
	if _, errs, code := flatnet(t, socket, "run", "-d", "--name", "cell", "--", "sh", "-c", script); code != 0 {
		t.Fatalf("exit %d, stderr %s", code, errs)
	}
	log := d.workload("cell").Files.Log
	eventually(t, "started", func() bool { return strings.Contains(read(t, log), "up") })
	out, errs, code := flatnet(t, socket, "exec", "cell", "--", "sh", "-c", "cat /mnt/x /etc/resolv.conf; ls /sys/class/net; exit 4")
	if want := "inside\nnameserver 192.0.2.53\nlo\n"; code != 4 || out != want {
		t.Errorf("exit %d, output %q, want %q; stderr %s", code, out, want, errs)
	}
	write(t, fifo, "go\n")
	eventually(t, "ended", func() bool { return d.workload("cell").State == "exited" })
	out, errs, code = flatnet(t, socket, "exec", "cell", "--", "sh", "-c", "ls /sys/class/net")
	if code != api.ExitConflict || out != "" || !strings.Contains(errs, api.CodeNotRunning) {
		t.Errorf("after its end: exit %d, output %q, stderr %s", code, out, errs)
	}
}

func TestLogs(t *testing.T) {
	d, socket := hostFor(t)
	w := d.workload("cell")
	w.State = "exited"
	d.put(w)
	write(t, w.Files.Log, "1\n2\n3\n4")
	for args, want := range map[string]string{"": "1\n2\n3\n4", "-n 2": "3\n4", "-n 0": "", "-n 9": "1\n2\n3\n4", "-f -n 1": "4"} {
		out, errs, code := flatnet(t, socket, append([]string{"logs", "cell"}, strings.Fields(args)...)...)
		if out != want || code != 0 {
			t.Errorf("logs %s: %q, want %q; exit %d %s", args, out, want, code, errs)
		}
	}
}

func TestTerminal(t *testing.T) {
	_, socket := hostFor(t)
	script := `trap 'echo got; exit 5' INT; test -t 0 && test -t 1 && echo ready; while :; do sleep 0.02; done`
	cmd := flatnetCmd(socket, "run", "--name", "cell", "--", "sh", "-c", script)
	pty := openTerminal(t, cmd)
	out := readUntil(t, pty, "ready")
	if _, err := pty.Write([]byte{3}); err != nil { // control-C
		t.Fatal(err)
	}
	out += readUntil(t, pty, "got")
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("exit %d, want 5; terminal %q", code, out)
	}
}

func TestJobControl(t *testing.T) {
	d, socket := hostFor(t)
	self, _ := os.Executable()
	shell := exec.Command("bash", "--norc", "--noprofile", "-i")
	shell.Env = append(os.Environ(), "FLATNET_TEST_MAIN=1", "FLATNET_SOCKET="+socket, "PS1=prompt> ", "HISTFILE=")
	pty := openTerminal(t, shell)
	readUntil(t, pty, "prompt> ")
	io.WriteString(pty, self+" run --name cell -- sh -c 'echo r''eady; read x; echo x-is-$x'\n")
	readUntil(t, pty, "ready")
	pty.Write([]byte{26}) // control-Z
	readUntil(t, pty, "Stopped")
	readUntil(t, pty, "prompt> ")
	// The kernel gives what is typed to a reader that has not come round to its signal.
	stat := "/proc/" + strconv.Itoa(d.told()[0].PID) + "/stat"
	eventually(t, "command stopped", func() bool { return strings.Contains(read(t, stat), ") T ") })
	io.WriteString(pty, "fg\n")
	readUntil(t, pty, "\n")
	io.WriteString(pty, "5\n")
	readUntil(t, pty, "x-is-5")
	readUntil(t, pty, "prompt> ")
	io.WriteString(pty, self+" run --name cell -- bash --norc --noprofile -i\n")
	readUntil(t, pty, "prompt> ")
	io.WriteString(pty, "kill -9 $$\n") // a shell that cannot give the terminal back
	readUntil(t, pty, "prompt> ")
	io.WriteString(pty, "echo code-$?\n")
	readUntil(t, pty, "code-137")
	io.WriteString(pty, "exit\n")
	_ = shell.Wait()
}

// openTerminal starts a command with a new terminal as its controlling one and returns the other side.
func openTerminal(t *testing.T, cmd *exec.Cmd) *os.File {
	t.Helper()
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); pty.Close() })
	return pty
}

func readUntil(t *testing.T, pty *os.File, want string) string {
	t.Helper()
	var got strings.Builder
	one := make([]byte, 1)
	deadline := time.Now().Add(patience)
	for !strings.HasSuffix(got.String(), want) {
		ready := []unix.PollFd{{Fd: int32(pty.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, int(time.Until(deadline).Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			t.Fatalf("no %q on the terminal, only %q", want, got.String())
		}
		if _, err := pty.Read(one); err != nil {
			t.Fatalf("the terminal ended with %q, want %q: %v", got.String(), want, err)
		}
		got.Write(one)
	}
	return got.String()
}

func TestKilledStarterLeavesTheCommand(t *testing.T) {
	d, socket := hostFor(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := flatnetCmd(socket, "run", "--name", "cell", "--", "sh", "-c", "read x < "+fifo)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "started", func() bool { return len(d.told()) == 1 })
	pid := d.told()[0].PID
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	// The command may not have begun by now, and then never will: either way nothing stays once it is let go.
	go func() { _ = os.WriteFile(fifo, []byte("go\n"), 0o600) }()
	eventually(t, "command ended", func() bool { return !exists("/proc/" + strconv.Itoa(pid)) })
}

func TestNotRootIsToldBeforeAnythingIsMade(t *testing.T) {
	d, socket := hostFor(t)
	for dir := filepath.Dir(socket); dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := flatnetCmd(socket, "run", "--name", "cell", "--", "true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != api.ExitNotPermitted || !strings.Contains(string(out), "FN4001") {
		t.Errorf("exit %d, output %s", code, out)
	}
	cmd = flatnetCmd(socket, "net", "ls")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, _ = cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != api.ExitNotPermitted || !strings.Contains(string(out), "no permission") {
		t.Errorf("socket without permission: exit %d, output %s", code, out)
	}
	if asked := d.takeAsked(); len(asked) != 0 {
		t.Errorf("the daemon was asked %v", asked)
	}
}

// A namespace may be gone before the daemon notices: exec says what the daemon would.
func TestExecInANamespaceThatIsGone(t *testing.T) {
	d, socket := hostFor(t)
	unmounted := filepath.Join(t.TempDir(), "netns")
	write(t, unmounted, "")
	for name, w := range map[string]api.Workload{
		"deleted": {State: "running", Netns: "/run/netns/nothing-here"}, "unmounted": {State: "created", Netns: unmounted},
		"beside": {State: "created", Sharing: "container:deleted", Netns: "/run/netns/nothing-here"},
	} {
		w.Name = name
		d.put(w)
		out, errs, code := flatnet(t, socket, "exec", name, "echo", "started")
		want := "error FN2119: workload \"" + name + "\" has no network namespace any more"
		if code != api.ExitConflict || out != "" || !strings.HasPrefix(errs, want) || !strings.Contains(errs, "flatnet rm "+name) {
			t.Errorf("%s: exit %d, output %q, stderr %s", name, code, out, errs)
		}
	}
}

// What a workload's path leads to may be the host's own namespace, whatever the reason: then no command is started.
func TestNoCommandStartsInTheHostsNamespace(t *testing.T) {
	d, socket := hostFor(t)
	cell := d.workload("cell")
	for name, w := range map[string]api.Workload{
		"none": {}, "bystander": {State: "created", Sharing: "container:gone"},
		"own": {State: "created", Netns: "/proc/self/ns/net"}, "first": {State: "created", Netns: "/proc/1/ns/net"},
	} {
		w.Name, w.Files = name, cell.Files
		d.put(w)
		for _, verb := range []string{"exec", "run"} {
			args := []string{verb, name, "echo", "started"}
			if verb == "run" {
				args = []string{verb, "--name", name, "echo", "started"}
			}
			out, errs, code := flatnet(t, socket, args...)
			if code == 0 || out != "" || !strings.Contains(errs, "network namespace") {
				t.Errorf("%s in %s: exit %d, output %q, stderr %s", verb, name, code, out, errs)
			}
		}
	}
}
