package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/netns"
)

// privateMounts gives this process a /proc, /run and /sys/fs/bpf of its own.
func privateMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"tmpfs", "/run"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return os.Mkdir("/run/netns", 0o755)
}

// within runs fn on a thread inside the namespace, with what it starts.
func within(path string, fn func() error) error { return netns.Do(path, fn) }

// cpuOf is the CPU time that a process used so far, all threads, user and system.
func cpuOf(pid int) (time.Duration, error) {
	const schedClock = 2 // CPUCLOCK_SCHED, kernel/time/posix-cpu-timers.c
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedClock), &ts); err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// lastPID is the number of the youngest process or thread of this process namespace.
func lastPID() (string, error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(text))
	return fields[len(fields)-1], nil
}

func residentKiB(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.TrimSpace(rest), nil
		}
	}
	return "", fmt.Errorf("process %d tells no VmRSS", pid)
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown kernel"
	}
	return "Linux " + unix.ByteSliceToString(u.Release[:])
}

func cpus() int { return runtime.NumCPU() }

// ticks is what became of the CPUs' time so far, in the kernel's ticks (proc_stat(5)).
type ticks struct{ all, stolen uint64 }

func readTicks() (t ticks, err error) {
	const steal, guest = 7, 8 // guest's time is in user's already
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:] {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return t, fmt.Errorf("/proc/stat: %w", err)
		}
		if i < guest {
			t.all += n
		}
		if i == steal {
			t.stolen = n
		}
	}
	return t, nil
}

// printStolen tells how much of these CPUs other virtual machines took since, as what is measured meanwhile is slower by more than that.
func printStolen(since ticks) error {
	now, err := readTicks()
	if err == nil && now.all > since.all {
		fmt.Printf("other virtual machines took %.1f %% of these CPUs meanwhile\n", float64(now.stolen-since.stolen)/float64(now.all-since.all)*100)
	}
	return err
}

// spent is what something cost.
type spent struct{ cpu, wall time.Duration }

// meter measures fn: wall time and the CPU time of this process and the others named.
func meter(fn func() error, pids ...int) (spent, error) {
	pids = append(pids, os.Getpid())
	before := time.Duration(0)
	for _, pid := range pids {
		cpu, err := cpuOf(pid)
		if err != nil {
			return spent{}, err
		}
		before += cpu
	}
	begin := time.Now()
	if err := fn(); err != nil {
		return spent{}, err
	}
	s := spent{wall: time.Since(begin), cpu: -before}
	for _, pid := range pids {
		cpu, err := cpuOf(pid)
		if err != nil {
			return spent{}, err
		}
		s.cpu += cpu
	}
	return s, nil
}
