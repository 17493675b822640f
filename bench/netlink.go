package main

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// message is a netlink request under construction; the header's length is filled in by batch.
type message []byte

func request(typ, flags uint16, fixed ...byte) message {
	m := make(message, unix.SizeofNlMsghdr, 256)
	binary.NativeEndian.PutUint16(m[4:], typ)
	binary.NativeEndian.PutUint16(m[6:], flags|unix.NLM_F_REQUEST)
	return append(m, fixed...)
}

func (m message) attr(typ uint16, data ...byte) message {
	m = binary.NativeEndian.AppendUint16(m, uint16(unix.SizeofRtAttr+len(data)))
	m = binary.NativeEndian.AppendUint16(m, typ)
	m = append(m, data...)
	for len(m)%unix.RTA_ALIGNTO != 0 {
		m = append(m, 0)
	}
	return m
}

func (m message) text(typ uint16, s string) message { return m.attr(typ, append([]byte(s), 0)...) }

func (m message) uint32(typ uint16, v uint32) message {
	return m.attr(typ, binary.NativeEndian.AppendUint32(nil, v)...)
}

// nest appends what fill makes, as one attribute.
func (m message) nest(typ uint16, fill func(message) message) message {
	start := len(m)
	m = fill(m.attr(typ | unix.NLA_F_NESTED))
	binary.NativeEndian.PutUint16(m[start:], uint16(len(m)-start))
	return m
}

func ifinfo(index int, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

// socket is a raw netlink socket.
type socket struct {
	fd  int
	buf []byte
}

func openSocket(protocol int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, err
	}
	return &socket{fd: fd, buf: make([]byte, 64<<10)}, nil
}

func (s *socket) close() { unix.Close(s.fd) }

// send sends all messages in one system call and waits for the acknowledgement of the one at index acked, which is the
// last that the kernel works on.
func (s *socket) send(acked int, messages ...message) error {
	var batch []byte
	for i, m := range messages {
		binary.NativeEndian.PutUint32(m, uint32(len(m)))
		binary.NativeEndian.PutUint32(m[8:], uint32(i+1))
		if i == acked {
			m[6] |= unix.NLM_F_ACK
		}
		batch = append(batch, m...)
	}
	return s.sendBytes(batch, uint32(acked+1))
}

// sendBytes sends a batch that is laid out, and waits for the acknowledgement of the message of that number.
func (s *socket) sendBytes(batch []byte, acked uint32) error {
	if err := unix.Sendto(s.fd, batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buf, 0)
		if err != nil {
			return err
		}
		for b := s.buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
			seq := binary.NativeEndian.Uint32(b[8:])
			if binary.NativeEndian.Uint16(b[4:]) == unix.NLMSG_ERROR {
				if code := int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:])); code != 0 {
					return fmt.Errorf("message %d: %w", seq, unix.Errno(-code))
				}
				if seq == acked {
					return nil
				}
			}
			b = b[(binary.NativeEndian.Uint32(b)+3)&^3:]
		}
	}
}
