package nfnl

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// Writer appends netlink attributes to a buffer. Numbers are big endian, as nf_tables has them.
type Writer struct{ buf []byte }

// Written is what was appended so far.
func (w *Writer) Written() []byte { return w.buf }

// Bytes appends an attribute.
func (w *Writer) Bytes(typ uint16, v []byte) {
	w.header(typ, len(v))
	w.buf = append(w.buf, v...)
	w.pad()
}

// String appends a string with its closing zero.
func (w *Writer) String(typ uint16, s string) {
	w.header(typ, len(s)+1)
	w.buf = append(w.buf, s...)
	w.buf = append(w.buf, 0)
	w.pad()
}

// Uint32 appends a number of 4 bytes.
func (w *Writer) Uint32(typ uint16, v uint32) {
	w.header(typ, 4)
	w.buf = binary.BigEndian.AppendUint32(w.buf, v)
}

// Nest appends an attribute that holds what fill appends. What does not fit into an attribute (64 KiB) is the caller's to split.
func (w *Writer) Nest(typ uint16, fill func()) {
	at := len(w.buf)
	w.header(typ|unix.NLA_F_NESTED, 0)
	fill()
	binary.NativeEndian.PutUint16(w.buf[at:], uint16(len(w.buf)-at))
}

func (w *Writer) header(typ uint16, length int) {
	w.buf = binary.NativeEndian.AppendUint16(w.buf, uint16(unix.NLA_HDRLEN+length))
	w.buf = binary.NativeEndian.AppendUint16(w.buf, typ)
}

func (w *Writer) pad() {
	for len(w.buf)%unix.NLA_ALIGNTO != 0 {
		w.buf = append(w.buf, 0)
	}
}

// Attr is one attribute that was read.
type Attr struct {
	Type   uint16 // without flags
	Nested bool   // the kernel does not set it on most of nf_tables' nests
	Value  []byte
}

// Uint32 is the number in the attribute; 0 when it has not 4 bytes.
func (a Attr) Uint32() uint32 {
	if len(a.Value) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(a.Value)
}

// String is the text in the attribute, without the closing zeros.
func (a Attr) String() string { return cString(a.Value) }

func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// Attrs yields the attributes in b; it ends at the first that is cut short.
func Attrs(b []byte) iter.Seq[Attr] {
	return func(yield func(Attr) bool) {
		for len(b) >= unix.NLA_HDRLEN {
			length := int(binary.NativeEndian.Uint16(b))
			if length < unix.NLA_HDRLEN || length > len(b) {
				return
			}
			typ := binary.NativeEndian.Uint16(b[2:])
			a := Attr{
				Type:   typ &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER),
				Nested: typ&unix.NLA_F_NESTED != 0,
				Value:  b[unix.NLA_HDRLEN:length],
			}
			if !yield(a) {
				return
			}
			b = b[min(align(length), len(b)):]
		}
	}
}

// Get returns the first attribute of a type in b; the zero Attr when there is none.
func Get(b []byte, typ uint16) Attr {
	for a := range Attrs(b) {
		if a.Type == typ {
			return a
		}
	}
	return Attr{}
}

func align(n int) int { return (n + 3) &^ 3 }
