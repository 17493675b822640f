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

// makeCgroup makes a cgroup for a workload and returns its directory; empty where cgroup2 is missing or not writable, which is
// no reason not to run. Its name ends with our process id: another daemon on this machine may have a workload of that name.
func makeCgroup(name string, debug func(string, ...any)) string {
	root, ok := cgroup2Root()
	if !ok {
		debug("no cgroup of its own: cgroup2 is not mounted")
		return ""
	}
	parent := filepath.Join(root, cgroupParent)
	if err := os.Mkdir(parent, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		debug("no cgroup of its own: %s", err)
		return ""
	}
	sweepStarters(parent)
	dir := filepath.Join(parent, name+"."+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		debug("no cgroup of its own: %s", err)
		return ""
	}
	return dir
}

// sweepStarters removes what starters that were killed have left. The kernel keeps a cgroup that somebody is in; one that is
// still empty may be about to be entered, unless its starter is gone.
func sweepStarters(parent string) {
	entries, _ := os.ReadDir(parent)
	for _, e := range entries {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Ext(e.Name()), "."))
		if err == nil && pid > 0 && (pid == os.Getpid() || unix.Kill(pid, 0) == unix.ESRCH) {
			_ = os.Remove(filepath.Join(parent, e.Name()))
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

// killCgroup ends what a command left behind.
func killCgroup(dir string) {
	if dir == "" {
		return
	}
	if os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0) == nil {
		return
	}
	for _, pid := range cgroupProcesses(dir) { // before Linux 5.14
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

// removeCgroup waits a little for killed processes to be gone.
func removeCgroup(dir string) {
	for range 50 {
		if dir == "" || os.Remove(dir) == nil || !exists(dir) {
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
		if at, is := strings.CutPrefix(strings.TrimSpace(line), "0::"); is && strings.HasPrefix(at, "/"+cgroupParent+"/") {
			return filepath.Join(root, at)
		}
	}
	return ""
}
