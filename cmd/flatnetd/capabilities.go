package main

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// kept are the capabilities that the package comment explains.
var kept = [...]int{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH, unix.CAP_KILL, unix.CAP_CHOWN}

// timerSlack is how late timers of this program may be, in nanoseconds; execve keeps it, and new threads inherit it. The
// kernel's answers take milliseconds, and Go's runtime looks every 20 µs at threads that wait for one (runtime.sysmon), which
// cost a fifth of an attachment. The service has TimerSlackNSec=, as there is nothing to drop and so no execve.
const timerSlack = 1_000_000

// dropCapabilities lets go of all capabilities but kept. Capabilities belong to threads, and a Go program has several by
// now; so one thread narrows its bounding set and executes the program again, which leaves that thread alone and gives it
// what root may have within the set. The second time there is nothing to drop. Who is not root, or may not drop
// (a service manager has done it), goes on with what there is.
func dropCapabilities() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	have, err := permitted()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 || have&^mask() == 0 || have&(1<<unix.CAP_SETPCAP) == 0 {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if mask()&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && err != unix.EINVAL { // EINVAL: the kernel has fewer
			return fmt.Errorf("capability %d: %w", c, err)
		}
	}
	// Inherited and ambient ones would come back by execve.
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	if err := setCapabilities(have, have, 0); err != nil {
		return err
	}
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0) // without it all works, at a higher price
	if err := unix.Exec(program, os.Args, os.Environ()); err != nil {
		return fmt.Errorf("execute %s again: %w", program, err)
	}
	return nil
}

func mask() uint64 {
	var m uint64
	for _, c := range kept {
		m |= 1 << c
	}
	return m
}

// permitted are the calling thread's capabilities.
func permitted() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, err
	}
	return uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted), nil
}

func setCapabilities(effective, permitted, inheritable uint64) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(effective), Permitted: uint32(permitted), Inheritable: uint32(inheritable)},
		{Effective: uint32(effective >> 32), Permitted: uint32(permitted >> 32), Inheritable: uint32(inheritable >> 32)},
	}
	return unix.Capset(&header, &data[0])
}
