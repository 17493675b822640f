package lab

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

// patience bounds every wait for something that takes milliseconds on an idle machine.
const patience = 20 * time.Second

// pause is between two looks whether it is so.
const pause = 5 * time.Millisecond

// Process is a process that another one may not be taken for: numbers are used again, but not with the same start.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in ticks since boot; field 22 of proc_pid_stat(5)
}

// processAt is the process with a number as the mount of proc at a directory has it.
func processAt(proc string, pid int) (Process, error) {
	start, err := startOf(filepath.Join(proc, strconv.Itoa(pid)))
	return Process{pid, start}, err
}

// exiting is PF_EXITING of the kernel's include/linux/sched.h.
const exiting = 0x4

func startOf(dir string) (uint64, error) {
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may have any bytes.
	_, after, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	fields := strings.Fields(after)
	if len(fields) < 20 {
		return 0, fmt.Errorf("%s/stat: cannot be read", dir)
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	if err != nil {
		return 0, err
	}
	// One that has ended, and nobody has asked how. Or the first process of a namespace that is about to: it stays until
	// somebody has asked how all of the others ended, for which not every machine has somebody.
	if fields[0] == "Z" || fields[0] == "X" || flags&exiting != 0 {
		return 0, unix.ESRCH
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// alive reports whether the process runs.
func (p Process) alive(proc string) bool {
	start, err := startOf(filepath.Join(proc, strconv.Itoa(p.PID)))
	return p.PID != 0 && err == nil && start == p.Start
}

// signal sends a signal to the process, or to none when it has ended. The directory is held open meanwhile, and it is the
// directory that is signalled: no other process can come in between.
func (p Process) signal(proc string, s unix.Signal) error {
	if p.PID == 0 {
		return nil
	}
	dir := filepath.Join(proc, strconv.Itoa(p.PID))
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	start, err := startOf(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil || start != p.Start {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// end is kill -9, and waits until the process is gone.
func (p Process) end(ctx context.Context, proc string) error {
	if err := p.signal(proc, unix.SIGKILL); err != nil {
		return err
	}
	return eventually(ctx, fmt.Sprintf("process %d ends", p.PID), func() bool { return !p.alive(proc) })
}

// processes are the numbers of a host's processes of a program.
func (h *Host) processes(program string) []int {
	found, _ := filepath.Glob(h.Path("/proc/[0-9]*/comm"))
	var all []int
	for _, file := range found {
		name, err := os.ReadFile(file)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && strings.TrimSpace(string(name)) == program {
			all = append(all, pid)
		}
	}
	return all
}

// eventually waits until it is so.
func eventually(ctx context.Context, what string, is func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for !is() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for: %s: %w", what, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
	return nil
}
