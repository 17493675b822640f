package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Stop ends a process and everything in the cgroup that was made for it: TERM, and KILL to what is left after the time-out.
// The cgroup is taken only when it was made for that alone, as it might be the whole login session's otherwise, or that of all
// supervisors: with ours as flatnet/web its path ends with flatnet/web.NUMBER. It returns when all are gone, or the context ends.
func Stop(ctx context.Context, pid int, start uint64, ours string, timeout time.Duration) error {
	fd, err := openExact(pid, start)
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	dir := cgroup(pid, ours)
	signal(fd, dir, unix.SIGTERM)
	if wait(ctx, fd, dir, timeout) {
		return nil
	}
	signal(fd, dir, unix.SIGKILL)
	if wait(ctx, fd, dir, 10*time.Second) {
		return nil
	}
	return fmt.Errorf("process %d: does not end although killed", pid)
}

func openExact(pid int, start uint64) (int, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return -1, fmt.Errorf("process %d: pidfd_open: %w", pid, err)
	}
	if now, err := Start(pid); err != nil || now != start {
		return -1, errors.Join(fmt.Errorf("process %d: %w", pid, ErrGone), unix.Close(fd))
	}
	return fd, nil
}

// signal sends to all members of the cgroup and to the process itself. A member that ends meanwhile is no matter; members
// are signalled by pidfd after it was seen that they are still in the cgroup, so that no number is hit that changed hands.
func signal(pidfd int, dir string, sig unix.Signal) {
	for _, pid := range members(dir) {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			if isMember(dir, pid) {
				unix.PidfdSendSignal(fd, sig, nil, 0)
			}
			unix.Close(fd)
		}
	}
	unix.PidfdSendSignal(pidfd, sig, nil, 0)
}

// wait reports whether the process and its cgroup are gone before the time-out.
func wait(ctx context.Context, pidfd int, dir string, timeout time.Duration) bool {
	deadline := time.Now().Add(timeout)
	for {
		left := time.Until(deadline)
		ended := pollIn(pidfd, min(max(left, 0), 50*time.Millisecond))
		if ended && len(members(dir)) == 0 {
			return true
		}
		if left <= 0 || ctx.Err() != nil {
			return false
		}
		if ended {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func pollIn(fd int, d time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, _ := unix.Poll(fds, int(d.Milliseconds()))
	return n > 0
}

// cgroup is the directory of the process's cgroup2 when its path ends with ours and a number; else empty.
func cgroup(pid int, ours string) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		path, unified := strings.CutPrefix(strings.TrimSpace(line), "0::")
		number := filepath.Ext(path)
		if _, err := strconv.Atoi(strings.TrimPrefix(number, ".")); !unified || err != nil || !strings.HasSuffix(strings.TrimSuffix(path, number), "/"+ours) {
			continue
		}
		for _, mount := range cgroup2Mounts() {
			dir := filepath.Join(mount, path)
			if isMember(dir, pid) {
				return dir
			}
		}
	}
	return ""
}

// cgroup2Mounts are where the unified hierarchy is mounted; proc_pid_mountinfo(5).
func cgroup2Mounts() []string {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var points []string
	for line := range strings.Lines(string(text)) {
		mount, source, ok := strings.Cut(line, " - ")
		if fields := strings.Fields(mount); ok && len(fields) > 4 && strings.HasPrefix(source, "cgroup2 ") {
			points = append(points, fields[4])
		}
	}
	return points
}

func members(dir string) []int {
	if dir == "" {
		return nil
	}
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for _, s := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(s); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

func isMember(dir string, pid int) bool {
	for _, p := range members(dir) {
		if p == pid {
			return true
		}
	}
	return false
}
