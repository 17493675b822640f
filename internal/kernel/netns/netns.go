package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// self is the namespace of the calling thread. A thread, not the process: the process's own is that of its first thread.
const self = "/proc/thread-self/ns/net"

// Create makes a network namespace and keeps it by a file at path, which `ip netns` shows when it is below /run/netns. A
// namespace that is there already is left as it is. In the new one not even lo is up.
func Create(path string) error {
	return create(path, func(Dir) error { return nil }, func(ID) error { return nil })
}

// create calls making before it changes the directory, and made with the new namespace's identity before anything of it can
// be seen.
func create(path string, making func(Dir) error, made func(ID) error) error {
	if Exists(path) {
		return nil
	}
	if err := prepareDir(filepath.Dir(path), making); err != nil {
		return fmt.Errorf("netns %q: %w", path, err)
	}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		id, err := ownID()
		if err != nil {
			return err
		}
		if err := made(id); err != nil {
			return err
		}
		return keep(path)
	})
	if err != nil {
		return fmt.Errorf("netns %q: %w", path, err)
	}
	return nil
}

// keep binds the calling thread's namespace onto a file.
func keep(path string) error { return bind(self, path) }

// bind keeps a namespace by a file. One left by a crash between these two steps is used again.
func bind(ns, path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o444)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	f.Close()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != 0 {
		return errors.New("a file that is not a network namespace is there already")
	}
	if err := unix.Mount(ns, path, "none", unix.MS_BIND, ""); err != nil {
		os.Remove(path)
		return os.NewSyscallError("mount", err)
	}
	return nil
}

// Delete removes the file that keeps a namespace; the namespace ends with its last process and socket. That there is
// nothing at path is success.
func Delete(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) { // EINVAL: not mounted
		return fmt.Errorf("netns %q: %w", path, os.NewSyscallError("umount", err))
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("netns %q: %w", path, err)
	}
	return nil
}

// Exists reports whether the file at path is a namespace.
func Exists(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// Do runs fn on a thread inside the namespace at path. It costs tens of microseconds. Goroutines that fn starts are not
// inside. When there is no namespace at path the error is fs.ErrNotExist.
func Do(path string, fn func() error) error {
	f, err := Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return DoFile(f, fn)
}

// Open opens the namespace at path; the file must be closed soon, as it keeps the namespace alive.
func Open(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("netns: %w", err)
	}
	var st unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &st) != nil || st.Type != unix.NSFS_MAGIC {
		f.Close()
		return nil, fmt.Errorf("netns %q: not a network namespace (any more): %w", path, fs.ErrNotExist)
	}
	return f, nil
}

// Current opens the namespace of the calling thread; a goroutine that cares must be locked to it.
func Current() (*os.File, error) {
	f, err := os.Open(self)
	if err != nil {
		return nil, fmt.Errorf("netns: %w", err)
	}
	return f, nil
}

// DoFile is Do for a namespace that is open.
func DoFile(ns *os.File, fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("netns %q: %w", ns.Name(), os.NewSyscallError("setns", err))
		}
		return fn()
	})
}

// onThread runs fn, which may change its thread's namespace, on a thread of its own and puts the thread back where it was.
// A thread that can't be put back ends with its goroutine, as that is still locked to it.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(self)
		if err != nil {
			done <- fmt.Errorf("netns: %w", err)
			return
		}
		defer home.Close()
		err = fn()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
