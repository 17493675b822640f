package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// mountSource tells our mounts from others'.
const mountSource = "flatnet"

func isBPFFS(dir string) bool {
	var stat unix.Statfs_t
	return unix.Statfs(dir, &stat) == nil && stat.Type == unix.BPF_FS_MAGIC
}

// mounted makes sure of the file system for pins, and of our directory in it.
func (c *Conn) mounted() error {
	if !isBPFFS(c.root) {
		if err := mountBPFFS(c.root); err != nil {
			return err
		}
	}
	return os.MkdirAll(c.pin(""), 0o700)
}

func mountBPFFS(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount(mountSource, dir, "bpf", flags, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpf file system at %s: %w", dir, err)
	}
	return nil
}

// unmount removes our mount and its directory; one that somebody else made stays.
func (c *Conn) unmount() error {
	ours, err := c.isOurMount()
	if err != nil || !ours {
		return err
	}
	if err := unix.Unmount(c.root, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", c.root, err)
	}
	return ignoreMissing(os.Remove(c.root))
}

func (c *Conn) isOurMount() (bool, error) {
	point, err := filepath.EvalSymlinks(c.root)
	if err != nil {
		return false, err
	}
	if point, err = filepath.Abs(point); err != nil {
		return false, err
	}
	mounts, err := readMounts()
	if err != nil {
		return false, err
	}
	for _, m := range mounts {
		if m.point == point && m.fstype == "bpf" {
			return m.source == mountSource, nil
		}
	}
	return false, nil
}

// versions are the directories of pins, also those of other versions and namespaces.
func (c *Conn) versions() ([]string, error) {
	if !isBPFFS(c.root) {
		return nil, nil
	}
	dirs, err := os.ReadDir(c.root)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range dirs {
		if isVersion(d.Name()) {
			names = append(names, d.Name())
		}
	}
	return names, nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
