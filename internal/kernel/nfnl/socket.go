package nfnl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/socket"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// ErrInterrupted says that the ruleset changed while it was dumped: what was read may be of two generations.
var ErrInterrupted = errors.New("the ruleset changed while it was read")

const (
	readLen = 1 << 17 // above the largest message the kernel builds: 32 KiB for dumps, one attribute of 64 KiB
	sendLen = 64 << 20
	recvLen = 8 << 20
)

// Socket is one nfnetlink socket. Its methods are not safe for concurrent use.
type Socket struct {
	conn *socket.Conn
	port uint32
	seq  uint32
	buf  []byte
}

// Dial opens a socket in the network namespace of the calling thread, or in that of the descriptor netns when it is not 0.
func Dial(netns int) (*Socket, error) {
	conn, err := socket.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER, "nfnetlink", &socket.Config{NetNS: netns})
	if err != nil {
		return nil, fmt.Errorf("open nfnetlink socket: %w", err)
	}
	s := &Socket{conn: conn, buf: make([]byte, readLen)}
	if err := s.set(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("open nfnetlink socket: %w", err)
	}
	return s, nil
}

func (s *Socket) set() error {
	if err := s.conn.Bind(&unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	name, err := s.conn.Getsockname()
	if err != nil {
		return err
	}
	if nl, ok := name.(*unix.SockaddrNetlink); ok {
		s.port = nl.Pid
	}
	return errors.Join(
		s.conn.SetsockoptInt(unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1),
		s.conn.SetsockoptInt(unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
		s.conn.SetsockoptInt(unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendLen),
		s.conn.SetsockoptInt(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, recvLen),
	)
}

// Port is the socket's address: what Message.Port is in notifications of its own transactions.
func (s *Socket) Port() uint32 { return s.port }

// Close closes the socket; a Receive that waits returns.
func (s *Socket) Close() error { return s.conn.Close() }

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
	if err := s.ignore(exceptPort); err != nil {
		return fmt.Errorf("filter notifications: %w", err)
	}
	if err := s.conn.SetsockoptInt(unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
		return fmt.Errorf("join notification group: %w", err)
	}
	return nil
}

// ignore has the kernel drop messages by nlmsg_pid: a transaction of ours with thousands of elements then neither wakes us
// nor fills the socket. One notification skb holds messages of one transaction only.
func (s *Socket) ignore(port uint32) error {
	var inFile [4]byte // nlmsg_pid is in the host's order, BPF loads big endian
	binary.NativeEndian.PutUint32(inFile[:], port)
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(inFile[:]), SkipFalse: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 0xffffffff},
	})
	if err != nil {
		return err
	}
	return s.conn.SetBPF(filter)
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
	_, err := s.conn.Sendmsg(ctx, b, nil, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}, 0)
	if err != nil {
		return fmt.Errorf("send %d bytes: %w", len(b), err)
	}
	return nil
}

func (s *Socket) receive(ctx context.Context) ([]byte, error) {
	n, _, flags, _, err := s.conn.Recvmsg(ctx, s.buf, nil, 0)
	if err != nil {
		return nil, fmt.Errorf("receive: %w", err)
	}
	if flags&unix.MSG_TRUNC != 0 {
		return nil, fmt.Errorf("receive: message longer than %d bytes", len(s.buf))
	}
	return s.buf[:n], nil
}
