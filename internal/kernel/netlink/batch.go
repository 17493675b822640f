package netlink

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Batch lays out messages one after the other. The zero Batch is empty and ready; Reset keeps its memory.
type Batch struct {
	buf    []byte
	starts []int
}

// Len is the number of messages.
func (b *Batch) Len() int { return len(b.starts) }

// Reset empties the batch.
func (b *Batch) Reset() { b.buf, b.starts = b.buf[:0], b.starts[:0] }

// Begin starts a message; what is appended until the next Begin belongs to it. NLM_F_REQUEST is added.
func (b *Batch) Begin(typ, flags uint16) {
	b.close()
	b.starts = append(b.starts, len(b.buf))
	flags |= unix.NLM_F_REQUEST
	b.buf = append(b.buf, 0, 0, 0, 0)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, flags)
	b.buf = append(b.buf, 0, 0, 0, 0, 0, 0, 0, 0) // sequence number and port: see number
}

// Raw appends a fixed header such as ifinfomsg.
func (b *Batch) Raw(p []byte) {
	b.buf = append(b.buf, p...)
	b.pad()
}

// Bytes appends an attribute.
func (b *Batch) Bytes(typ uint16, p []byte) {
	b.header(typ, len(p))
	b.buf = append(b.buf, p...)
	b.pad()
}

// String appends an attribute of a string with its closing zero.
func (b *Batch) String(typ uint16, s string) {
	b.header(typ, len(s)+1)
	b.buf = append(b.buf, s...)
	b.buf = append(b.buf, 0)
	b.pad()
}

// Uint8 appends an attribute of one byte.
func (b *Batch) Uint8(typ uint16, v uint8) { b.Bytes(typ, []byte{v}) }

// Uint16 appends an attribute in the machine's byte order.
func (b *Batch) Uint16(typ uint16, v uint16) {
	b.header(typ, 2)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, v)
	b.pad()
}

// Uint32 appends an attribute in the machine's byte order.
func (b *Batch) Uint32(typ uint16, v uint32) {
	b.header(typ, 4)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, v)
}

// Uint32BE appends an attribute in network byte order.
func (b *Batch) Uint32BE(typ uint16, v uint32) {
	b.header(typ, 4)
	b.buf = binary.BigEndian.AppendUint32(b.buf, v)
}

// Nest opens an attribute that holds others; End closes it.
func (b *Batch) Nest(typ uint16) (mark int) {
	mark = len(b.buf)
	b.header(typ|unix.NLA_F_NESTED, 0)
	return mark
}

// NestPlain is Nest without NLA_F_NESTED, as some old attributes want it.
func (b *Batch) NestPlain(typ uint16) (mark int) {
	mark = len(b.buf)
	b.header(typ, 0)
	return mark
}

// End closes what Nest opened.
func (b *Batch) End(mark int) {
	binary.NativeEndian.PutUint16(b.buf[mark:], uint16(len(b.buf)-mark))
}

func (b *Batch) header(typ uint16, payload int) {
	b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(4+payload))
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
}

func (b *Batch) pad() {
	for len(b.buf)%4 != 0 {
		b.buf = append(b.buf, 0)
	}
}

// close writes the length of the last message.
func (b *Batch) close() {
	if n := len(b.starts); n > 0 {
		at := b.starts[n-1]
		binary.NativeEndian.PutUint32(b.buf[at:], uint32(len(b.buf)-at))
	}
}

// askLast has the last message acknowledged. The kernel answers in order, and tells of each that it refused without being asked to.
func (b *Batch) askLast() { b.ask(len(b.starts)-1, unix.NLM_F_ACK) }

// ask adds flags to a message.
func (b *Batch) ask(i int, flags uint16) {
	const at = 6 // where they are in struct nlmsghdr
	p := b.buf[b.starts[i]+at:]
	binary.NativeEndian.PutUint16(p, binary.NativeEndian.Uint16(p)|flags)
}

// number gives the messages consecutive sequence numbers from first on.
func (b *Batch) number(first uint32) {
	b.close()
	for i, at := range b.starts {
		binary.NativeEndian.PutUint32(b.buf[at+8:], first+uint32(i))
	}
}
