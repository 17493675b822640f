package main

import (
	"syscall"
	"unsafe"

	"github.com/flatnet/flatnet/api/attach"
)

const atCWD = -100 // AT_FDCWD of openat(2)

// openNetns opens the container's namespace for those commands that need it, else it is -1. A DEL does without: the namespace
// may be gone. The descriptor is closed by the end of the process. A path that leads to a pipe does not make it wait for a writer.
func openNetns(r attach.Request) (int, syscall.Errno) {
	if r.Netns == "" || r.Command != "ADD" && r.Command != "CHECK" {
		return -1, 0
	}
	var path [4096]byte // PATH_MAX, with the zero at its end
	if len(r.Netns) >= len(path) {
		return -1, syscall.ENAMETOOLONG
	}
	copy(path[:], r.Netns)
	cwd := atCWD
	fd, _, errno := syscall.RawSyscall6(syscall.SYS_OPENAT, uintptr(cwd), uintptr(unsafe.Pointer(&path)), syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0, 0, 0)
	return int(fd), errno
}
