package netns

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ID tells network namespaces apart. An inode is used again soon after its namespace ended, a cookie never until the next
// boot; but the inode is had by one stat, the cookie only from inside.
type ID struct {
	Inode  uint64
	Cookie uint64 // SO_NETNS_COOKIE, kernel 5.14; 0 before
}

// nsGetID is the ioctl NS_GET_ID of linux/nsfs.h (Linux 6.18): a number that is never given again.
const nsGetID = 0x8008b70d

// IdentityOf is the identity of a namespace that is open; an error when the file is no network namespace. From Linux 6.18 on that costs
// three system calls, before it a thread has to go inside.
func IdentityOf(ns *os.File) (ID, error) {
	kind, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return ID{}, fmt.Errorf("netns: %s is not a network namespace", ns.Name())
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
		return ID{}, fmt.Errorf("netns: %w", os.NewSyscallError("fstat", err))
	}
	id := ID{Inode: st.Ino}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, ns.Fd(), nsGetID, uintptr(unsafe.Pointer(&id.Cookie))); errno == 0 {
		return id, nil
	}
	err = DoFile(ns, func() (err error) {
		id, err = ownID()
		return err
	})
	return id, err
}

// String is the inode and the cookie, when there is one, with a dot between.
func (id ID) String() string {
	if id.Cookie == 0 {
		return fmt.Sprint(id.Inode)
	}
	return fmt.Sprintf("%d.%d", id.Inode, id.Cookie)
}

// Inode is the inode of the namespace at path.
func Inode(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("netns: %w", &os.PathError{Op: "stat", Path: path, Err: err})
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
