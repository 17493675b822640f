package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// mode lets the owner and the group in; who may do what is then decided by the peer's credentials.
const mode = 0o660

// Listener is a net.Listener whose socket file can be put back when somebody removed it.
type Listener struct {
	path, group string

	mu     sync.Mutex
	now    *net.UnixListener
	file   fs.FileInfo // the socket file that now is bound to
	closed bool
}

// Listen makes the socket at path with mode 0660, in the named group (a name or a number; empty leaves it root's). A socket
// file that a dead daemon left is replaced; one that answers is refused.
func Listen(path, group string) (*Listener, error) {
	l := &Listener{path: path, group: group}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.bind(); err != nil {
		return nil, err
	}
	return l, nil
}

// bind makes a socket and its file, in place of those of now.
func (l *Listener) bind() error {
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		return fmt.Errorf("socket %s: %w", l.path, err)
	}
	if err := clearStale(l.path); err != nil {
		return err
	}
	fresh, err := listenPrivate(l.path)
	if err != nil {
		return fmt.Errorf("socket %s: %w", l.path, err)
	}
	file, err := os.Lstat(l.path)
	if err == nil {
		err = share(l.path, l.group)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("socket %s: %w", l.path, err), fresh.Close(), os.Remove(l.path))
	}
	old := l.now
	l.now, l.file = fresh, file
	if old != nil {
		old.Close()
	}
	return nil
}

// Missing reports whether the socket's file is gone: nobody can connect any more.
func (l *Listener) Missing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.closed && !l.isThere()
}

func (l *Listener) isThere() bool {
	file, err := os.Lstat(l.path)
	return err == nil && os.SameFile(file, l.file)
}

// Restore makes the file anew when it is missing; connections that there are go on.
func (l *Listener) Restore() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.isThere() {
		return nil
	}
	return l.bind()
}

// Accept is net.Listener's.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		l.mu.Lock()
		now := l.now
		l.mu.Unlock()
		c, err := now.Accept()
		if err == nil || !l.replaced(now) {
			return c, err
		}
	}
}

func (l *Listener) replaced(was *net.UnixListener) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now != was
}

// Addr is net.Listener's.
func (l *Listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close ends listening and removes the file, unless another one stands there by now.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	err := l.now.Close()
	if l.isThere() {
		err = errors.Join(err, os.Remove(l.path))
	}
	return err
}

// ErrTaken says that another flatnetd is there; the error that has it says where.
var ErrTaken = errors.New("another flatnetd")

// hostName is an abstract name (unix(7)): there is one of it in each network namespace, and it goes with its process.
const hostName = "@flatnetd"

// ClaimHost makes the caller the only flatnetd of its network namespace until it closes what it gets: two would take each
// other's objects for leftovers and remove them, for ever.
func ClaimHost() (io.Closer, error) {
	l, err := net.Listen("unix", hostName)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w runs in this network namespace: one host has one; stop that, or start this one in a namespace of its own", ErrTaken)
	}
	return l, err
}

// listenPrivate binds under a name beside path and moves it there when it is closed to others: bind makes the file with the
// umask's mode, and nobody must get in before chmod.
func listenPrivate(path string) (*net.UnixListener, error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".sock-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	inside := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: inside, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it would look for the name that the socket was bound under
	if err := errors.Join(os.Chmod(inside, 0o600), os.Rename(inside, path)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// clearStale removes the file of a socket that nobody listens on.
func clearStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("socket %s: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("socket %s: a file that is not a socket stands there; remove it or choose another --socket", path)
	}
	if answers(path) {
		return fmt.Errorf("socket %s: %w answers on it; stop that one, or give this one its own --run-dir, --state-dir and --netns-dir", path, ErrTaken)
	}
	return os.Remove(path)
}

func answers(path string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

func share(path, group string) error {
	if group != "" {
		gid, err := GroupID(group)
		if err != nil {
			return err
		}
		if err := os.Chown(path, -1, gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

// GroupID is the number of a group given by name or number.
func GroupID(group string) (int, error) {
	if n, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("group %q: there is no such group; make it with groupadd --system %s", group, group)
	}
	return strconv.Atoi(g.Gid)
}
