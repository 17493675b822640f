package main

import (
	"syscall"

	"github.com/flatnet/flatnet/api/attach"
)

// openNetns opens the container's namespace for those commands that need it, else it is -1. A DEL does without: the namespace
// may be gone. The descriptor is closed by the end of the process. A path that leads to a pipe does not make it wait for a writer.
func openNetns(r attach.Request) (int, error) {
	if r.Netns == "" || r.Command != "ADD" && r.Command != "CHECK" {
		return -1, nil
	}
	return syscall.Open(r.Netns, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
}
