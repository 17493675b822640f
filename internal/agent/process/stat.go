package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ErrGone tells that the process has ended, or that its number belongs to another one by now.
var ErrGone = errors.New("the process has ended")

// The fields of /proc/PID/stat that are read, counted from 1 as proc_pid_stat(5) does.
const (
	fieldState    = 3
	fieldStart    = 22 // clock ticks since boot
	fieldExitCode = 52 // as wait(2) gives it; 0 without the right to trace the process
)

// Start is when a process began, in clock ticks since boot; with its PID it identifies the process until the next boot.
// A process that ended but was not waited for yet is gone.
func Start(pid int) (uint64, error) {
	fields, err := stat(pid)
	if err != nil {
		return 0, err
	}
	if state := fields[fieldState]; state == "Z" || state == "X" {
		return 0, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	return strconv.ParseUint(fields[fieldStart], 10, 64)
}

// stat returns the fields from the third on under their numbers; the second, the name, may hold anything and is left empty.
func stat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	_, rest, ok := strings.Cut(string(text[max(bytes.LastIndexByte(text, ')'), 0):]), " ")
	fields := append([]string{"", "", ""}, strings.Fields(rest)...)
	if !ok || len(fields) <= fieldExitCode {
		return nil, fmt.Errorf("process %d: /proc/%d/stat has an unknown form", pid, pid)
	}
	return fields, nil
}

// exitStatus is the shell's way to say how a process ended: its status, or 128 and the signal.
func exitStatus(wait int) int {
	if signal := wait & 0x7f; signal != 0 {
		return 128 + signal
	}
	return wait >> 8 & 0xff
}
