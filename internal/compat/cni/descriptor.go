package cni

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// firstBytes reads what comes first, with the descriptor that travels with it: none or one. The kernel closes what the control buffer has no room for, and
// gives what it hands over the flag close-on-exec (net does ask for it); the rest is closed here.
func firstBytes(conn *net.UnixConn, b []byte) (*os.File, int, error) {
	control := make([]byte, unix.CmsgSpace(2*4)) // two descriptors: one more than there may be
	n, controls, flags, _, err := conn.ReadMsgUnix(b, control)
	fds, damaged := descriptors(control[:controls])
	if err == nil && (damaged != nil || len(fds) > 1 || flags&unix.MSG_CTRUNC != 0) {
		err = errors.Join(errors.New("want one descriptor at most beside the request"), damaged)
	}
	if err != nil {
		closeAll(fds)
		return nil, 0, fmt.Errorf("read request: %w", err)
	}
	if len(fds) == 0 {
		return nil, n, nil
	}
	return os.NewFile(uintptr(fds[0]), "network namespace of a container"), n, nil
}

// descriptors are all that came in control messages.
func descriptors(control []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, err
	}
	var fds []int
	var errs []error
	for _, m := range messages {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		some, err := unix.ParseUnixRights(&m)
		fds, errs = append(fds, some...), append(errs, err)
	}
	return fds, errors.Join(errs...)
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
