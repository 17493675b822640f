package kernel

import (
	"fmt"
	"os"
	"sync"

	"github.com/flatnet/flatnet/internal/kernel/netns"
	"golang.org/x/sys/unix"
)

// lent are namespaces that somebody else opened for us, by the paths that stand for them.
type lent struct {
	mu    sync.Mutex
	files map[string]*os.File
}

// Lend makes an open namespace stand for its path until back is called: the path may lead nowhere in the daemon's own mount namespace.
// The file stays the caller's; it must be open until then.
func (k *Kernel) Lend(path string, ns *os.File) (back func()) {
	k.lent.mu.Lock()
	defer k.lent.mu.Unlock()
	if k.lent.files == nil {
		k.lent.files = map[string]*os.File{}
	}
	k.lent.files[path] = ns
	return func() {
		k.lent.mu.Lock()
		defer k.lent.mu.Unlock()
		if k.lent.files[path] == ns {
			delete(k.lent.files, path)
		}
	}
}

// open is netns.Open, also for what was lent.
func (k *Kernel) open(path string) (*os.File, error) {
	k.lent.mu.Lock()
	defer k.lent.mu.Unlock()
	ns, ok := k.lent.files[path]
	if !ok {
		return netns.Open(path)
	}
	fd, err := unix.FcntlInt(ns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("netns %q: %w", path, os.NewSyscallError("fcntl", err))
	}
	return os.NewFile(uintptr(fd), path), nil
}
