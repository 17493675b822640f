package bpf

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// daemonEnv makes the test binary a daemon that applies and then waits to be killed: RUNDIR,CGROUP.
const daemonEnv = "FLATNET_BPF_TEST_DAEMON"

// TestMain runs the tests in a cgroup of their own, so that the programs see no other process of the machine.
func TestMain(m *testing.M) {
	if args := os.Getenv(daemonEnv); args != "" {
		daemon(args)
	}
	os.Exit(inCgroup(m.Run))
}

// testCgroup is the directory of the cgroup that TestMain has made.
func testCgroup() string {
	return filepath.Join(cgroupRoot(), fmt.Sprintf("flatnet-bpf-test-%d", os.Getpid()))
}

func cgroupRoot() string {
	mounts, _ := readMounts()
	highest, _ := highestCgroup(mounts)
	return highest.point
}

func inCgroup(run func() int) int {
	root, dir := cgroupRoot(), testCgroup()
	back := currentCgroup()
	if err := os.Mkdir(dir, 0o755); err != nil {
		fmt.Println("these tests need root and a mounted cgroup2:", err)
		return 1
	}
	enter := func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o644)
	}
	if err := enter(dir); err != nil {
		fmt.Println("enter cgroup:", err)
		return 1
	}
	code := run()
	if err := enter(filepath.Join(root, back)); err != nil {
		fmt.Println("leave cgroup:", err)
		code = 1
	}
	if err := os.Remove(dir); err != nil {
		fmt.Println("remove cgroup:", err)
		code = 1
	}
	return code
}

func currentCgroup() string {
	lines, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(lines)) {
		if dir, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSpace(dir)
		}
	}
	return "/"
}

// daemon applies one forward to what it is told and never ends by itself.
func daemon(args string) {
	runDir, cgroup, _ := strings.Cut(args, ",")
	conn, err := New(Config{RunDir: runDir, Cgroup: cgroup})
	if err == nil {
		err = conn.Apply(context.Background(), dataplane.Diff(wanted(), dataplane.State{}))
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}

// space is a network and mount namespace; do runs a function on its thread.
type space struct {
	tid   int
	calls chan func()
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{calls: make(chan func())}
	ready := make(chan error)
	go s.serve(ready)
	if err := <-ready; err != nil {
		t.Fatal("make namespace: ", err)
	}
	t.Cleanup(func() { close(s.calls) })
	s.sh(t, "ip link set lo up")
	return s
}

// serve keeps its thread, which ends with it.
func (s *space) serve(ready chan error) {
	runtime.LockOSThread()
	s.tid = unix.Gettid()
	err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	ready <- err
	for call := range s.calls {
		call()
	}
}

func (s *space) do(call func()) {
	done := make(chan struct{})
	s.calls <- func() { defer close(done); call() }
	<-done
}

// sh runs commands in the namespace, one a line.
func (s *space) sh(t *testing.T, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		args := strings.Fields(line)
		if len(args) == 0 {
			continue
		}
		var out []byte
		var err error
		s.do(func() { out, err = exec.Command(args[0], args[1:]...).CombinedOutput() })
		if err != nil {
			t.Fatalf("%s: %s: %s", strings.TrimSpace(line), err, out)
		}
	}
}

// path names the namespace for ip.
func (s *space) path() string {
	return "/proc/" + strconv.Itoa(os.Getpid()) + "/task/" + strconv.Itoa(s.tid) + "/ns/net"
}

// conn is a Conn of a namespace and the cgroup of the tests.
func (s *space) conn(t *testing.T, runDir string) *Conn {
	t.Helper()
	var conn *Conn
	var err error
	s.do(func() { conn, err = New(Config{RunDir: runDir, Cgroup: testCgroup()}) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// apply leads what is there to want, as a daemon does.
func (s *space) apply(t *testing.T, conn *Conn, want dataplane.State) dataplane.Plan {
	t.Helper()
	plan := dataplane.Diff(want, s.observe(t, conn))
	var err error
	s.do(func() { err = conn.Apply(t.Context(), plan) })
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func (s *space) observe(t *testing.T, conn *Conn) dataplane.State {
	t.Helper()
	var objects []dataplane.Object
	var err error
	s.do(func() { objects, err = conn.Observe(t.Context()) })
	if err != nil {
		t.Fatal(err)
	}
	state := dataplane.State{}
	if err := state.Put(objects...); err != nil {
		t.Fatal(err)
	}
	return state
}

// end removes everything and lets the file system go before the test's directory is removed.
func (s *space) end(t *testing.T, conn *Conn) {
	t.Helper()
	s.apply(t, conn, dataplane.State{})
}
