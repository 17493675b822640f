package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lockFile takes the lock by which flatnetd finds this process, whoever started it: the kernel tells who has it (F_GETLK), and it goes
// with the process, however that ends. The file must not be opened anywhere else here: closing it would let the lock go (fcntl(2)).
func lockFile(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EAGAIN) {
		err = fmt.Errorf("lock %s: another flatnet-etcd serves these data", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// dropCapabilities lets go of all capabilities, on every thread, for good: ports are above 1024, and the files are the caller's own.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("no new privileges: %w", errno) // ENOTSUP: built with cgo
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0); errno != 0 {
		return fmt.Errorf("capset: %w", errno)
	}
	return nil
}
