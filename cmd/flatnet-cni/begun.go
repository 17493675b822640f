package main

import (
	"io"
	"syscall"
	"unsafe"

	"github.com/flatnet/flatnet/api/attach"
)

// begun is how far early came.
var begun beginning

// beginning is what was done without Go's runtime. Its methods need none of it either, but for rest and call.
type beginning struct {
	stdin [64 << 10]byte // a larger one is unusual
	read  int            // bytes of it
	room  [80 << 10]byte // for the request, and then for the reply
	conn  int
	asked bool
}

// config is what was read of standard input.
func (b *beginning) config() []byte { return b.stdin[:b.read] }

// readAll reads standard input, and reports whether that was all.
func (b *beginning) readAll() bool {
	for b.read < len(b.stdin) {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, 0, uintptr(unsafe.Pointer(&b.stdin[b.read])), uintptr(len(b.stdin)-b.read))
		if errno != 0 {
			return false
		}
		if n == 0 {
			return true
		}
		b.read += int(n)
	}
	return false
}

// needsMemory reports whether there are escapes in a configuration.
func needsMemory(config []byte) bool {
	for _, c := range config {
		if c == '\\' {
			return true
		}
	}
	return false
}

// ask sends the request.
func (b *beginning) ask(socket string, r attach.Request) bool {
	netns, errno := openNetns(r)
	if errno != 0 {
		return false
	}
	b.conn, b.asked = attach.Begin(socket, r, netns, b.room[:])
	return b.asked
}

// print waits for the reply and prints it.
func (b *beginning) print() (exit int, ok bool) {
	reply, ok := attach.Arrived(b.conn, b.room[:])
	if !ok {
		return 0, false
	}
	for rest := reply.Stdout; len(rest) > 0; {
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, 1, uintptr(unsafe.Pointer(unsafe.SliceData(rest))), uintptr(len(rest)))
		if errno != 0 {
			return 1, len(rest) < len(reply.Stdout) // when nothing is printed yet, another may try
		}
		rest = rest[n:]
	}
	return reply.Exit, true
}

// rest is all of standard input, of which a part was read.
func (b *beginning) rest(stdin io.Reader) io.Reader { return &resumed{b.config(), stdin} }

type resumed struct {
	read []byte
	rest io.Reader
}

func (r *resumed) Read(p []byte) (int, error) {
	if len(r.read) == 0 {
		return r.rest.Read(p)
	}
	n := copy(p, r.read)
	r.read = r.read[n:]
	return n, nil
}

// call is what makes a request to a daemon.
type call func(socket string, r attach.Request, netns int) (attach.Reply, error)

// call waits for the reply to what was asked, or asks.
func (b *beginning) call(socket string, r attach.Request, netns int) (attach.Reply, error) {
	if b.asked {
		return attach.Finish(b.conn, socket, r, netns, attach.Usual)
	}
	return attach.Call(socket, r, netns, attach.Usual)
}
