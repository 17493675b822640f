package netlink

import (
	"bytes"
	"encoding/binary"
	"iter"
)

// typeMask takes NLA_F_NESTED and NLA_F_NET_BYTEORDER off an attribute's type (linux/netlink.h).
const typeMask = 0x3fff

// Attr is the payload of one attribute. Its methods never panic: what is too short reads as zero.
type Attr []byte

// Attrs yields the attributes in p, type and payload; it ends at the first malformed one.
func Attrs(p []byte) iter.Seq2[uint16, Attr] {
	return func(yield func(uint16, Attr) bool) {
		for len(p) >= 4 {
			n := int(binary.NativeEndian.Uint16(p))
			if n < 4 || n > len(p) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(p[2:])&typeMask, Attr(p[4:n])) {
				return
			}
			p = p[min(align(n), len(p)):]
		}
	}
}

// String is the payload up to its first zero.
func (a Attr) String() string {
	if i := bytes.IndexByte(a, 0); i >= 0 {
		a = a[:i]
	}
	return string(a)
}

// Uint8 is the first byte.
func (a Attr) Uint8() uint8 {
	if len(a) < 1 {
		return 0
	}
	return a[0]
}

// Uint16 reads the machine's byte order.
func (a Attr) Uint16() uint16 {
	if len(a) < 2 {
		return 0
	}
	return binary.NativeEndian.Uint16(a)
}

// Uint16BE reads network byte order.
func (a Attr) Uint16BE() uint16 {
	if len(a) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(a)
}

// Uint32 reads the machine's byte order.
func (a Attr) Uint32() uint32 {
	if len(a) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(a)
}

// Uint32BE reads network byte order.
func (a Attr) Uint32BE() uint32 {
	if len(a) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(a)
}

// Uint32At reads the i-th of an array in the machine's byte order; ok is false when the array is shorter.
func (a Attr) Uint32At(i int) (v uint32, ok bool) {
	if i < 0 || len(a) < 4*(i+1) {
		return 0, false
	}
	return binary.NativeEndian.Uint32(a[4*i:]), true
}

func align(n int) int { return (n + 3) &^ 3 }
