package netns

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ID tells network namespaces apart. An inode is used again soon after its namespace ended, a cookie never until the next
// boot; but the inode is had by one stat, the cookie only from inside.
type ID struct {
	Inode  uint64
	Cookie uint64 // SO_NETNS_COOKIE, kernel 5.14; 0 before
}

// Inode is the inode of the namespace at path.
func Inode(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("netns: %w", &os.PathError{Op: "stat", Path: path, Err: err})
	}
	return st.Ino, nil
}

// InodeOf is the inode of a namespace that is open; an error when the file is none.
func InodeOf(ns *os.File) (uint64, error) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := unix.Fstatfs(int(ns.Fd()), &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		return 0, fmt.Errorf("netns: %s is not a namespace", ns.Name())
	}
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
		return 0, fmt.Errorf("netns: %w", os.NewSyscallError("fstat", err))
	}
	return st.Ino, nil
}

// Identify returns the identity of the namespace at path.
func Identify(path string) (ID, error) {
	var id ID
	err := Do(path, func() (err error) {
		id, err = ownID()
		return err
	})
	return id, err
}

// ownID is that of the calling thread's namespace.
func ownID() (ID, error) {
	inode, err := Inode(self)
	if err != nil {
		return ID{}, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ID{}, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		cookie = 0
	}
	return ID{Inode: inode, Cookie: cookie}, nil
}
