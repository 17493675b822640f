package attach

import (
	"syscall"
	"unsafe"
)

// What is in this file needs nothing of Go's runtime: it takes no memory but what it is given, blocks in no other way than in
// the kernel, and panics for no input. So it may run before the runtime does.

// Begin sends a request with the descriptor netns beside it, unless that is negative, and waits for nothing: neither for a daemon
// that is not there nor for the reply. The frame is made in room. When not all of it could be sent at once, nothing was asked.
func Begin(socket string, r Request, netns int, room []byte) (conn int, ok bool) {
	if HeaderSize+r.size() > len(room) {
		return -1, false
	}
	frame, err := r.Append(room[:0])
	if err != nil {
		return -1, false
	}
	conn, errno := dial(socket)
	if errno != 0 {
		return -1, false
	}
	if n, errno := sendOnce(conn, frame, netns); errno != 0 || n < len(frame) {
		shut(conn)
		return -1, false
	}
	return conn, true
}

// Arrived waits a second at most for the whole reply to what Begin sent, and looks at it in room. It leaves it where it is: without one, Finish
// goes on.
func Arrived(conn int, room []byte) (Reply, bool) {
	type pollFd struct {
		fd              int32
		events, revents int16
	}
	const pollIn = 1
	wait, second := pollFd{fd: int32(conn), events: pollIn}, syscall.Timespec{Sec: 1}
	if n, _, errno := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&wait)), 1, uintptr(unsafe.Pointer(&second)), 0, 0, 0); errno != 0 || n != 1 {
		return Reply{}, false
	}
	n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(conn), uintptr(unsafe.Pointer(unsafe.SliceData(room))), uintptr(len(room)), syscall.MSG_PEEK, 0, 0)
	if errno != 0 || int(n) < HeaderSize {
		return Reply{}, false
	}
	size, err := ParseHeader(room[:n])
	if err != nil || HeaderSize+size != int(n) {
		return Reply{}, false
	}
	r, err := ParseReply(room[HeaderSize:n])
	return r, err == nil
}

// dial connects to a socket, or says at once why not.
func dial(socket string) (int, syscall.Errno) {
	at := syscall.RawSockaddrUnix{Family: syscall.AF_UNIX}
	if len(socket) >= len(at.Path) {
		return -1, syscall.EINVAL
	}
	for i := range len(socket) {
		at.Path[i] = int8(socket[i])
	}
	size := unsafe.Offsetof(at.Path) + uintptr(len(socket)) + 1
	if socket != "" && socket[0] == '@' { // of the abstract namespace, unix(7)
		at.Path[0] = 0
		size--
	}
	conn, _, errno := syscall.RawSyscall(syscall.SYS_SOCKET, syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if errno != 0 {
		return -1, errno
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_CONNECT, conn, uintptr(unsafe.Pointer(&at)), size); errno != 0 {
		shut(int(conn))
		return -1, errno
	}
	return int(conn), 0
}

func shut(fd int) { syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0) }

// sendOnce sends as much of the frame as there is room for; the descriptor travels with its first byte.
func sendOnce(conn int, frame []byte, netns int) (int, syscall.Errno) {
	var part syscall.Iovec
	part.Base = unsafe.SliceData(frame)
	part.SetLen(len(frame))
	message := syscall.Msghdr{Iov: &part, Iovlen: 1}
	var rights struct {
		syscall.Cmsghdr
		fd int32
		_  int32 // as CMSG_SPACE fills up
	}
	if netns >= 0 {
		rights.Level, rights.Type, rights.fd = syscall.SOL_SOCKET, syscall.SCM_RIGHTS, int32(netns)
		rights.SetLen(int(unsafe.Offsetof(rights.fd) + unsafe.Sizeof(rights.fd)))
		message.Control = (*byte)(unsafe.Pointer(&rights))
		message.SetControllen(int(unsafe.Sizeof(rights)))
	}
	n, _, errno := syscall.RawSyscall(syscall.SYS_SENDMSG, uintptr(conn), uintptr(unsafe.Pointer(&message)), syscall.MSG_NOSIGNAL)
	return int(n), errno
}
