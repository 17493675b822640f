package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupParent is the directory below the root of cgroup2 under which every workload has its own.
const cgroupParent = "flatnet"

// supervisorsCgroup is where supervisors are; no workload's cgroup can have the name.
const supervisorsCgroup = "_supervisors"

// workloadCgroup is the cgroup of a workload's command; the zero one is none.
type workloadCgroup struct {
	dir  string
	lock *os.File // says that its starter lives, in whatever process namespace
}

// makeCgroup makes a cgroup for a workload; none where cgroup2 is missing or not writable, which is no reason not to run. Its name ends
// with our process id: another daemon on this machine may have a workload of that name.
func makeCgroup(name string, debug func(string, ...any)) workloadCgroup {
	root, ok := cgroup2Root()
	if !ok {
		debug("no cgroup of its own: cgroup2 is not mounted")
		return workloadCgroup{}
	}
	parent := filepath.Join(root, cgroupParent)
	sweepStarters(parent)
	var err error
	for range 10 { // who sweeps, or uninstalls, may take away one that is not locked yet, or the parent
		if err = os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			break
		}
		c := workloadCgroup{dir: filepath.Join(parent, name+"."+strconv.Itoa(os.Getpid()))}
		if err = os.Mkdir(c.dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			continue
		}
		if c.lock, err = lockDir(c.dir, unix.LOCK_SH); err == nil {
			return c
		}
	}
	debug("no cgroup of its own: %s", err)
	return workloadCgroup{}
}

// lockDir locks a directory that is still there then.
func lockDir(dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	if _, gone := os.Stat(dir); err == nil {
		err = gone
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// sweepStarters removes what starters that were killed have left. The kernel keeps a cgroup that somebody is in; one that is
// still empty may be about to be entered, while its starter holds the lock.
func sweepStarters(parent string) {
	entries, _ := os.ReadDir(parent)
	for _, e := range entries {
		dir := filepath.Join(parent, e.Name())
		if !e.IsDir() || e.Name() == supervisorsCgroup {
			continue
		}
		if lock, err := lockDir(dir, unix.LOCK_EX); err == nil {
			_ = os.Remove(dir)
			lock.Close()
		}
	}
}

func cgroup2Root() (string, bool) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false
	}
	for _, m := range parseMountInfo(string(text)) {
		if m.kind == "cgroup2" {
			return m.point, true
		}
	}
	return "", false
}

// kill ends what a command left behind.
func (c workloadCgroup) kill() {
	if c.dir == "" {
		return
	}
	if os.WriteFile(filepath.Join(c.dir, "cgroup.kill"), []byte("1"), 0) == nil {
		return
	}
	for _, pid := range cgroupProcesses(c.dir) { // before Linux 5.14
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

func cgroupProcesses(dir string) []int {
	text, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	var pids []int
	for f := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// remove waits a little for killed processes to be gone.
func (c workloadCgroup) remove() {
	if c.dir == "" {
		return
	}
	defer c.lock.Close()
	for range 50 {
		if os.Remove(c.dir) == nil || !exists(c.dir) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// sweepCgroups removes those of starters that were killed, and the parent when it was the last. The kernel keeps what is in use.
func sweepCgroups() {
	root, ok := cgroup2Root()
	if !ok {
		return
	}
	parent := filepath.Join(root, cgroupParent)
	sweepStarters(parent)
	_ = os.Remove(filepath.Join(parent, supervisorsCgroup))
	_ = os.Remove(parent)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// cgroupOf is the cgroup of a workload's process when it is one of ours.
func cgroupOf(pid int) string {
	root, ok := cgroup2Root()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if !ok || err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if at, is := strings.CutPrefix(strings.TrimSpace(line), "0::"); is && strings.HasPrefix(at, "/"+cgroupParent+"/") && filepath.Base(at) != supervisorsCgroup {
			return filepath.Join(root, at)
		}
	}
	return ""
}
