package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

type ended struct {
	name string
	code int
}

func watch(t *testing.T) (*Watcher, <-chan ended) {
	t.Helper()
	w, err := NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	got, done := make(chan ended, 10), make(chan error, 1)
	go func() { done <- w.Run(ctx, func(name string, code int) { got <- ended{name, code} }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w, got
}

// orphan starts a shell command whose parent is not the test, so that nobody here waits for it.
func orphan(t *testing.T, command string) int {
	t.Helper()
	out, err := exec.Command("sh", "-c", "("+command+") >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func start(t *testing.T, pid int) uint64 {
	t.Helper()
	s, err := Start(pid)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func next(t *testing.T, got <-chan ended) ended {
	t.Helper()
	select {
	case e := <-got:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("no end was noticed")
		return ended{}
	}
}

func TestTheEndOfAProcessIsNoticedWithItsStatus(t *testing.T) {
	w, got := watch(t)
	for name, c := range map[string]struct {
		command string
		code    int
	}{
		"status": {"sleep 0.3; exit 7", 7},
		"signal": {"sleep 0.3; kill -9 $(exec sh -c 'echo $PPID')", 137},
	} {
		pid := orphan(t, c.command)
		if err := w.Add(name, pid, start(t, pid)); err != nil {
			t.Fatal(err)
		}
		if e := next(t, got); e != (ended{name, c.code}) {
			t.Errorf("got %v, want %s %d", e, name, c.code)
		}
	}
}

func TestOurOwnChildThatIsNotWaitedForIsNoticedToo(t *testing.T) {
	w, got := watch(t)
	cmd := exec.Command("sh", "-c", "sleep 0.2; exit 3")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := w.Add("child", cmd.Process.Pid, start(t, cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if e := next(t, got); e.code != 3 {
		t.Errorf("got %v, want status 3", e)
	}
	cmd.Wait()
}

func TestAReusedNumberIsNotTakenForTheProcess(t *testing.T) {
	w, _ := watch(t)
	if err := w.Add("other", os.Getpid(), start(t, os.Getpid())-1); !errors.Is(err, ErrGone) {
		t.Errorf("got %v, want ErrGone", err)
	}
	if err := Stop(context.Background(), os.Getpid(), start(t, os.Getpid())-1, "x", time.Second); err != nil {
		t.Errorf("stopping a process that has ended: %v", err)
	}
}

func TestForgottenProcessesAreNotReported(t *testing.T) {
	w, got := watch(t)
	pid := orphan(t, "sleep 0.2")
	if err := w.Add("a", pid, start(t, pid)); err != nil {
		t.Fatal(err)
	}
	w.Forget("a")
	last := orphan(t, "sleep 0.4")
	if err := w.Add("b", last, start(t, last)); err != nil {
		t.Fatal(err)
	}
	if e := next(t, got); e.name != "b" {
		t.Errorf("got %v, want b only", e)
	}
}

func TestStopKillsWhatDoesNotEndOnTerm(t *testing.T) {
	pid := orphan(t, "trap '' TERM; while :; do sleep 0.05; done")
	s := start(t, pid)
	time.Sleep(100 * time.Millisecond)
	if err := Stop(context.Background(), pid, s, "none", 200*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(pid); !errors.Is(err, ErrGone) {
		t.Errorf("process %d: got %v, want ErrGone", pid, err)
	}
}

func TestStopEndsTheWholeCgroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("run as root")
	}
	mounts := cgroup2Mounts()
	if len(mounts) == 0 {
		t.Fatal("no cgroup2 is mounted")
	}
	parent := "flatnet-test-stop"
	dir := filepath.Join(mounts[0], parent, "web.77")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir); os.Remove(filepath.Dir(dir)) })
	pid := orphan(t, "sleep 0.2; sleep 1000 & sleep 1000 & sleep 1000; true")
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		t.Fatal(err)
	}
	s := start(t, pid)
	for deadline := time.Now().Add(10 * time.Second); len(members(dir)) < 4 && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	if n := len(members(dir)); n < 4 {
		t.Fatalf("%d processes in the cgroup, want 4", n)
	}
	// Whose cgroup has another name is not alone in it.
	for _, others := range []string{parent, parent + "/db", "x" + parent + "/web", parent + "/we"} {
		if got := cgroup(pid, others); got != "" {
			t.Errorf("the cgroup of %s would be %s", others, got)
		}
	}
	if err := Stop(context.Background(), pid, s, parent+"/web", time.Second); err != nil {
		t.Fatal(err)
	}
	if left := members(dir); len(left) != 0 {
		t.Errorf("left in the cgroup: %v", left)
	}
}

func TestExitStatus(t *testing.T) {
	for wait, want := range map[int]int{0: 0, 7 << 8: 7, 9: 137, 15: 143, 0x80 | 11: 139} {
		if got := exitStatus(wait); got != want {
			t.Errorf("wait status %#x: got %d, want %d", wait, got, want)
		}
	}
}
