package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// MaxBatch is how many messages fit into one send with room for their answers.
const MaxBatch = 128

const (
	// A dump comes in messages as large as the largest buffer ever offered, at most this (net/netlink/af_netlink.c).
	dumpBuffer = 32 << 10
	// 128 answers of up to 16 KiB each: a unicast answer that finds no room is lost.
	receiveBuffer = 2 << 20
	// How often an interrupted dump is walked again before what came is given up.
	dumpTries = 5
)

// ErrInterrupted says that a dump was changed under our hands each time.
var ErrInterrupted = errors.New("netlink: dump interrupted by changes again and again")

// Error is the kernel's refusal of a message.
type Error struct {
	Errno   unix.Errno
	Message string // the kernel's explanation (extended ack), often empty
}

func (e *Error) Error() string {
	if e.Message == "" {
		return e.Errno.Error()
	}
	return fmt.Sprintf("%s: %s", e.Errno.Error(), e.Message)
}

// Unwrap is the error number.
func (e *Error) Unwrap() error { return e.Errno }

// Message is one netlink message as received; Data is valid until the next call on its Conn.
type Message struct {
	Type  uint16
	Flags uint16
	Seq   uint32
	Data  []byte
}

// Conn is a netlink socket of the network namespace that the calling thread was in when it was opened. Its methods may be
// called concurrently.
type Conn struct {
	fd  int
	mu  sync.Mutex
	seq uint32
	buf []byte
}

// Open makes a socket of a netlink protocol, for example NETLINK_ROUTE.
func Open(protocol int) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", os.NewSyscallError("socket", err))
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("netlink: %w", os.NewSyscallError("bind", err))
	}
	for _, opt := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK, unix.NETLINK_GET_STRICT_CHK} {
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, opt, 1) // absent before 4.12, 4.3, 4.20: then answers are only wordier
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	// Answers are queued before sendmsg returns; the time-out only keeps a lost one from holding us for ever.
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	return &Conn{fd: fd}, nil
}

// Port is the number that the kernel knows the socket by, and puts into most of what it tells others of what the socket asked for.
func (c *Conn) Port() (uint32, error) {
	a, err := unix.Getsockname(c.fd)
	if err != nil {
		return 0, fmt.Errorf("netlink: %w", os.NewSyscallError("getsockname", err))
	}
	if n, ok := a.(*unix.SockaddrNetlink); ok {
		return n.Pid, nil
	}
	return 0, errors.New("netlink: no netlink socket")
}

// FD is the socket's descriptor, for ioctls.
func (c *Conn) FD() int { return c.fd }

// Close closes the socket.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// Do sends all messages with one system call and returns one error for each, or nil when all were done. Data that the
// kernel answers with goes to reply (when not nil) with the index of its message.
func (c *Conn) Do(b *Batch, reply func(i int, m Message)) []error {
	if b.Len() == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	b.askLast()
	first := c.next(b)
	errs := make([]error, b.Len())
	if err := c.send(b); err != nil {
		return fill(errs, err)
	}
	failed := false
	for done := false; !done; {
		err := c.receive(func(m Message) error {
			i := int(m.Seq - first)
			if i < 0 || i >= len(errs) {
				return nil // an answer to something given up earlier
			}
			if m.Type != unix.NLMSG_ERROR {
				if reply != nil {
					reply(i, m)
				}
				return nil
			}
			done = done || i == len(errs)-1
			if errs[i] = parseError(m); errs[i] != nil {
				failed = true
			}
			return nil
		})
		if err != nil {
			return fill(errs, err)
		}
	}
	if !failed {
		return nil
	}
	return errs
}

// fill marks all messages as failed: their fate is not known.
func fill(errs []error, err error) []error {
	for i := range errs {
		if errs[i] == nil {
			errs[i] = err
		}
	}
	return errs
}

// Dump sends the batch's one dump request and hands each message to each; it is begun anew with restart when the kernel
// says that the dump was interrupted.
func (c *Conn) Dump(b *Batch, restart func(), each func(Message) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range dumpTries {
		restart()
		interrupted, err := c.dump(b, each)
		if err != nil {
			return err
		}
		if !interrupted {
			return nil
		}
	}
	return ErrInterrupted
}

func (c *Conn) dump(b *Batch, each func(Message) error) (interrupted bool, err error) {
	seq := c.next(b)
	if err := c.send(b); err != nil {
		return false, err
	}
	var failure error
	for done := false; !done; {
		err := c.receive(func(m Message) error {
			if m.Seq != seq || done {
				return nil
			}
			interrupted = interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
			switch m.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				done = true
				if err := parseError(m); err != nil {
					failure = err
				}
			default:
				if failure == nil { // the rest must still be read
					failure = each(m)
				}
			}
			return nil
		})
		if err != nil {
			return false, err
		}
	}
	return interrupted, failure
}

func (c *Conn) next(b *Batch) (first uint32) {
	first = c.seq + 1
	c.seq += uint32(b.Len())
	b.number(first)
	return first
}

func (c *Conn) send(b *Batch) error {
	if err := unix.Sendto(c.fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("netlink: %w", os.NewSyscallError("sendto", err))
	}
	return nil
}

// receive reads one datagram and hands its messages to each.
func (c *Conn) receive(each func(Message) error) error {
	if c.buf == nil {
		c.buf = make([]byte, dumpBuffer)
	}
	for {
		n, _, flags, from, err := unix.Recvmsg(c.fd, c.buf, nil, unix.MSG_TRUNC)
		sender, ok := from.(*unix.SockaddrNetlink)
		switch {
		case err == unix.EINTR, err == nil && (!ok || sender.Pid != 0): // only the kernel is listened to
			continue
		case err != nil:
			return fmt.Errorf("netlink: %w", os.NewSyscallError("recvmsg", err))
		case flags&unix.MSG_TRUNC != 0:
			return fmt.Errorf("netlink: answer of %d bytes is longer than expected", n)
		}
		return Split(c.buf[:n], each)
	}
}

// Split hands the messages of one datagram to each.
func Split(p []byte, each func(Message) error) error {
	for len(p) >= unix.SizeofNlMsghdr {
		n := int(binary.NativeEndian.Uint32(p))
		if n < unix.SizeofNlMsghdr || n > len(p) {
			return fmt.Errorf("netlink: message of %d bytes in %d", n, len(p))
		}
		m := Message{
			Type:  binary.NativeEndian.Uint16(p[4:]),
			Flags: binary.NativeEndian.Uint16(p[6:]),
			Seq:   binary.NativeEndian.Uint32(p[8:]),
			Data:  p[unix.SizeofNlMsghdr:n],
		}
		if err := each(m); err != nil {
			return err
		}
		p = p[min(align(n), len(p)):]
	}
	return nil
}

// parseError reads an acknowledgement (NLMSG_ERROR) or the end of a dump (NLMSG_DONE): both begin with a negative error
// number or zero. A refusal may carry the header of what was refused and then attributes (linux/netlink.h nlmsgerr).
func parseError(m Message) error {
	if len(m.Data) < 4 {
		return nil
	}
	code := int32(binary.NativeEndian.Uint32(m.Data))
	if code == 0 {
		return nil
	}
	e := &Error{Errno: unix.Errno(-code)}
	if m.Flags&unix.NLM_F_ACK_TLVS != 0 {
		e.Message = explanation(m)
	}
	return e
}

func explanation(m Message) string {
	rest := m.Data[4:]
	if m.Type == unix.NLMSG_ERROR {
		skip := unix.SizeofNlMsghdr
		if m.Flags&unix.NLM_F_CAPPED == 0 && len(rest) >= 4 {
			skip = align(int(binary.NativeEndian.Uint32(rest)))
		}
		rest = rest[min(max(skip, 0), len(rest)):]
	}
	for typ, a := range Attrs(rest) {
		if typ == unix.NLMSGERR_ATTR_MSG {
			return a.String()
		}
	}
	return ""
}
