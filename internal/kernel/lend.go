package kernel

import (
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/flatnet/flatnet/internal/kernel/netns"
	"golang.org/x/sys/unix"
)

// lent are namespaces that somebody else opened for us, and those that we are to find, by the paths that stand for them.
type lent struct {
	mu       sync.Mutex
	files    map[string]*os.File
	expected map[string]func(ns *os.File) bool
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

// Expect has nothing done in a namespace at a path but in the one that is expected there: with any other the path counts as gone, as somebody
// may have another one stand there before it is known that the first has ended. nil expects none. What is lent is not asked about.
func (k *Kernel) Expect(path string, is func(ns *os.File) bool) {
	k.lent.mu.Lock()
	defer k.lent.mu.Unlock()
	if is == nil {
		delete(k.lent.expected, path)
		return
	}
	if k.lent.expected == nil {
		k.lent.expected = map[string]func(*os.File) bool{}
	}
	k.lent.expected[path] = is
}

// isExpected reports whether a namespace is the one that stands at a path by what is known. The caller holds lent's mu.
func (k *Kernel) isExpected(path string, ns *os.File) bool {
	if is := k.lent.expected[path]; is != nil {
		return is(ns)
	}
	made, ours := k.owned.ID(path)
	if !ours {
		return true
	}
	id, err := netns.IdentityOf(ns)
	return err == nil && id == made
}

// open is netns.Open, also for what was lent, and only for what is expected.
func (k *Kernel) open(path string) (*os.File, error) {
	k.lent.mu.Lock()
	defer k.lent.mu.Unlock()
	ns, ok := k.lent.files[path]
	if !ok {
		ns, err := netns.Open(path)
		if err == nil && !k.isExpected(path, ns) {
			ns.Close()
			return nil, fmt.Errorf("netns: another one stands there: %w", &os.PathError{Op: "open", Path: path, Err: fs.ErrNotExist})
		}
		return ns, err
	}
	fd, err := unix.FcntlInt(ns.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("netns %q: %w", path, os.NewSyscallError("fcntl", err))
	}
	return os.NewFile(uintptr(fd), path), nil
}
