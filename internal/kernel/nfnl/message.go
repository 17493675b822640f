package nfnl

import (
	"encoding/binary"
	"fmt"
	"iter"

	"golang.org/x/sys/unix"
)

const (
	nfgenLen  = 4                              // struct nfgenmsg: family, version, resource id
	headerLen = unix.SizeofNlMsghdr + nfgenLen // what Batch writes before a message's attributes
)

// Message is one message that was read.
type Message struct {
	Type   uint16 // NFT_MSG_…, without the subsystem; netlink's own when control
	Flags  uint16
	Seq    uint32
	Port   uint32 // of the socket whose request caused it; 0: the kernel's own doing
	Family uint8
	Attrs  []byte

	control bool // one of netlink's own: NLMSG_ERROR, NLMSG_DONE
}

func (m Message) isError() bool { return m.control && m.Type == unix.NLMSG_ERROR }
func (m Message) isDone() bool  { return m.control && m.Type == unix.NLMSG_DONE }

// Messages yields the messages in b; it ends at the first that is cut short.
func Messages(b []byte) iter.Seq[Message] {
	return func(yield func(Message) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			length := int(binary.NativeEndian.Uint32(b))
			if length < unix.SizeofNlMsghdr || length > len(b) {
				return
			}
			if !yield(message(b[:length])) {
				return
			}
			b = b[min(align(length), len(b)):]
		}
	}
}

func message(b []byte) Message {
	m := Message{
		Type:  binary.NativeEndian.Uint16(b[4:]),
		Flags: binary.NativeEndian.Uint16(b[6:]),
		Seq:   binary.NativeEndian.Uint32(b[8:]),
		Port:  binary.NativeEndian.Uint32(b[12:]),
		Attrs: b[unix.SizeofNlMsghdr:],
	}
	if m.Type < unix.NLMSG_MIN_TYPE || len(m.Attrs) < nfgenLen {
		m.control = true
		return m
	}
	m.Type &= 0xff
	m.Family = m.Attrs[0]
	m.Attrs = m.Attrs[nfgenLen:]
	return m
}

// Error is the kernel's refusal of one message.
type Error struct {
	Errno  unix.Errno
	Reason string // extended acknowledgement; mostly empty
}

func (e *Error) Error() string {
	if e.Reason == "" {
		return e.Errno.Error()
	}
	return fmt.Sprintf("%s (%s)", e.Errno, e.Reason)
}

// Unwrap is the errno, for errors.Is.
func (e *Error) Unwrap() error { return e.Errno }

// refusal reads an NLMSG_ERROR or NLMSG_DONE message; nil means success.
func (m Message) refusal() error {
	if len(m.Attrs) < 4 {
		return nil
	}
	code := int32(binary.NativeEndian.Uint32(m.Attrs))
	if code == 0 {
		return nil
	}
	e := &Error{Errno: unix.Errno(-code)}
	// struct nlmsgerr: the code, then the refused message's header (NETLINK_CAP_ACK: nothing more of it), then attributes.
	if rest := 4 + unix.SizeofNlMsghdr; m.Flags&unix.NLM_F_ACK_TLVS != 0 && len(m.Attrs) > rest {
		e.Reason = Get(m.Attrs[rest:], unix.NLMSGERR_ATTR_MSG).String()
	}
	return e
}

// Batch is one nf_tables transaction: all of its messages take effect, or none. Attributes are written to the last message.
type Batch struct {
	Writer
	starts []int // where each message begins; the batch's own begin message is not counted
}

// NewBatch begins a transaction. With a generation other than 0 the kernel refuses it with ERESTART when the ruleset is no
// longer of that generation.
func NewBatch(generation uint32) *Batch {
	b := &Batch{}
	b.frame(unix.NFNL_MSG_BATCH_BEGIN)
	if generation != 0 {
		b.Uint32(unix.NFNL_BATCH_GENID, generation)
	}
	b.close(0)
	return b
}

// Len is the number of messages.
func (b *Batch) Len() int { return len(b.starts) }

// Message begins a message of nf_tables; flags are added to NLM_F_REQUEST.
func (b *Batch) Message(typ, flags uint16, family uint8) {
	b.closeLast()
	b.starts = append(b.starts, len(b.buf))
	b.buf = appendHeader(b.buf, unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags|unix.NLM_F_REQUEST, family, 0)
}

// Bytes is a transaction as it is sent, with its begin message as number 1.
func Bytes(b *Batch) []byte { return b.finish(1) }

// finish numbers the messages from seq+1 on (the begin message has seq), asks for an acknowledgement of the last and adds the end.
func (b *Batch) finish(seq uint32) []byte {
	b.closeLast()
	binary.NativeEndian.PutUint32(b.buf[8:], seq)
	for i, at := range b.starts {
		binary.NativeEndian.PutUint32(b.buf[at+8:], seq+1+uint32(i))
	}
	if n := len(b.starts); n > 0 {
		at := b.starts[n-1] + 6
		binary.NativeEndian.PutUint16(b.buf[at:], binary.NativeEndian.Uint16(b.buf[at:])|unix.NLM_F_ACK)
	}
	end := len(b.buf)
	b.frame(unix.NFNL_MSG_BATCH_END)
	b.close(end)
	binary.NativeEndian.PutUint32(b.buf[end+8:], seq+1+uint32(len(b.starts)))
	return b.buf
}

func (b *Batch) frame(typ uint16) {
	b.buf = appendHeader(b.buf, typ, unix.NLM_F_REQUEST, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
}

func (b *Batch) closeLast() {
	if n := len(b.starts); n > 0 {
		b.close(b.starts[n-1])
	}
}

func (b *Batch) close(start int) {
	binary.NativeEndian.PutUint32(b.buf[start:], uint32(len(b.buf)-start))
}

func appendHeader(buf []byte, typ, flags uint16, family uint8, resource uint16) []byte {
	buf = append(buf, make([]byte, headerLen)...)
	h := buf[len(buf)-headerLen:]
	binary.NativeEndian.PutUint32(h, headerLen)
	binary.NativeEndian.PutUint16(h[4:], typ)
	binary.NativeEndian.PutUint16(h[6:], flags)
	h[unix.SizeofNlMsghdr] = family
	binary.BigEndian.PutUint16(h[unix.SizeofNlMsghdr+2:], resource)
	return buf
}
