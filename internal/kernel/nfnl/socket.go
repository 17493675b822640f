package nfnl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInterrupted says that the ruleset changed while it was dumped: what was read may be of two generations.
var ErrInterrupted = errors.New("the ruleset changed while it was read")

const (
	readLen = 1 << 17 // above the largest message the kernel builds: 32 KiB for dumps, one attribute of 64 KiB
	sendLen = 64 << 20
	recvLen = 8 << 20
)

// Socket is one nfnetlink socket. Its methods are not safe for concurrent use, but for Close.
type Socket struct {
	file *os.File
	raw  syscall.RawConn
	port uint32
	seq  uint32
	buf  []byte
}

// Dial opens a socket in the network namespace of the calling thread, or in that of the descriptor netns when it is not 0.
func Dial(netns int) (*Socket, error) {
	fd, err := openIn(netns)
	if err != nil {
		return nil, fmt.Errorf("open nfnetlink socket: %w", err)
	}
	s := &Socket{file: os.NewFile(uintptr(fd), "nfnetlink"), buf: make([]byte, readLen)}
	if err := s.set(fd); err != nil {
		s.file.Close()
		return nil, fmt.Errorf("open nfnetlink socket: %w", err)
	}
	return s, nil
}

// openIn opens a socket in a namespace. The socket stays there, the thread returns; one that can't return is not used again.
func openIn(netns int) (int, error) {
	if netns == 0 {
		return open()
	}
	runtime.LockOSThread()
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return 0, err
	}
	defer unix.Close(own)
	if err := unix.Setns(netns, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return 0, fmt.Errorf("enter namespace: %w", err)
	}
	fd, err := open()
	if unix.Setns(own, unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return fd, err
}

func open() (int, error) {
	return unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
}

func (s *Socket) set(fd int) error {
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return err
	}
	if nl, ok := name.(*unix.SockaddrNetlink); ok {
		s.port = nl.Pid
	}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return err
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendLen),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, recvLen),
	)
}

// Port is the socket's address: what Message.Port is in notifications of its own transactions.
func (s *Socket) Port() uint32 { return s.port }

// Close closes the socket; a Receive that waits returns.
func (s *Socket) Close() error { return s.file.Close() }

// Get sends one request of nf_tables that is answered by one message.
func (s *Socket) Get(ctx context.Context, typ uint16, family uint8, fill func(*Writer)) (Message, error) {
	var got Message
	err := s.request(ctx, typ, 0, family, fill, func(m Message) { got = m })
	return got, err
}

// Dump asks for all objects of a kind; each sees every message, whose bytes are valid only during the call.
func (s *Socket) Dump(ctx context.Context, typ uint16, family uint8, fill func(*Writer), each func(Message)) error {
	return s.request(ctx, typ, unix.NLM_F_DUMP, family, fill, each)
}

func (s *Socket) request(ctx context.Context, typ, flags uint16, family uint8, fill func(*Writer), each func(Message)) error {
	s.seq++
	w := Writer{buf: appendHeader(nil, unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags|unix.NLM_F_REQUEST, family, 0)}
	if fill != nil {
		fill(&w)
	}
	binary.NativeEndian.PutUint32(w.buf, uint32(len(w.buf)))
	binary.NativeEndian.PutUint32(w.buf[8:], s.seq)
	if err := s.send(ctx, w.buf); err != nil {
		return err
	}
	return s.answer(ctx, flags&unix.NLM_F_DUMP != 0, each)
}

// answer reads until the end of the dump, or one message.
func (s *Socket) answer(ctx context.Context, dump bool, each func(Message)) error {
	interrupted := false
	for {
		b, err := s.receive(ctx)
		if err != nil {
			return err
		}
		for m := range Messages(b) {
			if m.Seq != s.seq { // left over from a request that was given up
				continue
			}
			interrupted = interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
			if m.isError() || m.isDone() {
				if err := m.refusal(); err != nil {
					return err
				}
				if interrupted {
					return ErrInterrupted
				}
				return nil
			}
			each(m)
			if !dump {
				return nil
			}
		}
	}
}

// Send carries out a transaction. It returns the error of each refused message by its number in the batch; err is for what
// befell the whole. With either, nothing has changed.
func (s *Socket) Send(ctx context.Context, b *Batch) (refused map[int]error, err error) {
	if b.Len() == 0 {
		return nil, nil
	}
	first := s.seq + 1
	s.seq += uint32(b.Len()) + 2
	if err := s.send(ctx, b.finish(first)); err != nil {
		return nil, err
	}
	return s.acknowledged(ctx, first, b.Len())
}

// acknowledged reads the refusals until the last message's acknowledgement, which the kernel sends in any case but one: when
// it refuses the transaction as a whole it answers its begin message.
func (s *Socket) acknowledged(ctx context.Context, first uint32, n int) (map[int]error, error) {
	refused := map[int]error{}
	for {
		b, err := s.receive(ctx)
		if err != nil {
			return nil, err
		}
		for m := range Messages(b) {
			index := int(int32(m.Seq - first - 1))
			if !m.isError() || index < -1 || index > n {
				continue
			}
			err := m.refusal()
			if index == -1 || index == n {
				return nil, err
			}
			if err != nil {
				refused[index] = err
			}
			if index == n-1 {
				return refused, nil
			}
		}
	}
}

// Join makes the socket receive the notifications of a group, except those of transactions that the socket at port caused.
func (s *Socket) Join(group int, exceptPort uint32) error {
	var err error
	ctlErr := s.raw.Control(func(fd uintptr) {
		if err = ignore(int(fd), exceptPort); err == nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group)
		}
	})
	if err = errors.Join(ctlErr, err); err != nil {
		return fmt.Errorf("join notification group: %w", err)
	}
	return nil
}

// ignore has the kernel drop messages by nlmsg_pid: a transaction of ours with thousands of elements then neither wakes us
// nor fills the socket. One notification skb holds messages of one transaction only.
func ignore(fd int, port uint32) error {
	var bytes [4]byte // nlmsg_pid is in the host's order, BPF loads big endian
	binary.NativeEndian.PutUint32(bytes[:], port)
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 12},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: binary.BigEndian.Uint32(bytes[:]), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// Receive waits for notifications; each sees every message, whose bytes are valid only during the call. ENOBUFS says that
// some were lost.
func (s *Socket) Receive(ctx context.Context, each func(Message)) error {
	b, err := s.receive(ctx)
	if err != nil {
		return err
	}
	for m := range Messages(b) {
		if !m.control {
			each(m)
		}
	}
	return nil
}

func (s *Socket) send(ctx context.Context, b []byte) error {
	err := s.wait(ctx, s.raw.Write, s.file.SetWriteDeadline, func(fd int) error {
		return unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
	if err != nil {
		return fmt.Errorf("send %d bytes: %w", len(b), err)
	}
	return nil
}

func (s *Socket) receive(ctx context.Context) ([]byte, error) {
	var n, flags int
	err := s.wait(ctx, s.raw.Read, s.file.SetReadDeadline, func(fd int) (err error) {
		n, _, flags, _, err = unix.Recvmsg(fd, s.buf, nil, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("receive: %w", err)
	}
	if flags&unix.MSG_TRUNC != 0 {
		return nil, fmt.Errorf("receive: message longer than %d bytes", len(s.buf))
	}
	return s.buf[:n], nil
}

// wait does a system call when the socket is ready for it, or gives up with ctx.
func (s *Socket) wait(ctx context.Context, poll func(func(uintptr) bool) error, deadline func(time.Time) error, do func(fd int) error) error {
	if err := deadline(time.Time{}); err != nil {
		return err
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = deadline(time.Unix(1, 0))
		close(ended)
	})
	defer func() {
		if !stop() {
			<-ended // else it may hit the next call's deadline
		}
	}()
	var err error
	pollErr := poll(func(fd uintptr) bool {
		for err = do(int(fd)); err == unix.EINTR; err = do(int(fd)) {
		}
		return err != unix.EAGAIN
	})
	if ctx.Err() != nil && pollErr != nil {
		return ctx.Err()
	}
	return errors.Join(pollErr, err)
}
