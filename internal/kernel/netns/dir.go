package netns

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Dir is what we did to a directory so that namespaces can be kept in it.
type Dir struct {
	Made    bool // it was not there
	Mounted bool // it was no mount
}

// prepareDir makes the directory, and a shared mount of it when it is no mount yet, so that an unmount here is also seen by
// the processes that have a mount namespace of their own; else they would keep removed namespaces alive. The lock is the
// one that iproute2 takes for the same steps. It calls making before the first change, if there is one.
func prepareDir(dir string, making func(Dir) error) error {
	if unix.Mount("", dir, "none", unix.MS_SHARED, "") == nil {
		return nil
	}
	_, err := os.Stat(dir)
	if err := making(Dir{Made: errors.Is(err, fs.ErrNotExist), Mounted: true}); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return os.NewSyscallError("flock", err)
	}
	err = unix.Mount("", dir, "none", unix.MS_SHARED, "")
	if !errors.Is(err, unix.EINVAL) { // EINVAL: not the root of a mount
		return os.NewSyscallError("mount", err)
	}
	if err := unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	return os.NewSyscallError("mount", unix.Mount("", dir, "none", unix.MS_SHARED, ""))
}

// undo takes back what was done to a directory that is empty, or gone.
func (d Dir) undo(dir string) error {
	if d.Mounted {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, fs.ErrNotExist) { // EINVAL: not mounted
			return &fs.PathError{Op: "umount", Path: dir, Err: err}
		}
	}
	if !d.Made {
		return nil
	}
	if err := os.Remove(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
