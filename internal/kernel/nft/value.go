package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// register is the unit of nf_tables' data: parts of a concatenation are padded to it.
const register = 4

// datatype is nft's own view of a type, kept with sets so that `nft list` prints them (nftables include/datatype.h).
type datatype struct {
	id        uint32
	len       int
	byteOrder byte // of a key that is this type alone: 0 none, 1 host's, 2 big endian
}

var datatypes = [...]datatype{
	dataplane.NoType:      {},
	dataplane.IPv4Addr:    {7, 4, 2},
	dataplane.IPv6Addr:    {8, 16, 2},
	dataplane.EtherAddr:   {9, 6, 2},
	dataplane.InetProto:   {12, 1, 0},
	dataplane.InetService: {13, 2, 2},
	dataplane.IfName:      {41, 16, 1},
	dataplane.NDAddr:      {4, 16, 2},
}

// typeBits is the room of one part's id in the id of a concatenation (nftables include/datatype.h, TYPE_BITS).
const typeBits = 6

// parts are the types in use.
func parts(types dataplane.Types) []dataplane.Type {
	for i, t := range types {
		if t == dataplane.NoType {
			return types[:i]
		}
	}
	return types[:]
}

// typeID is nft's number of a type or concatenation.
func typeID(types dataplane.Types) uint32 {
	id := uint32(0)
	for _, t := range parts(types) {
		id = id<<typeBits | datatypes[t].id
	}
	return id
}

// typesOf is the reverse of typeID; false for types that we don't have.
func typesOf(id uint32) (dataplane.Types, bool) {
	var reversed []dataplane.Type
	for ; id != 0; id >>= typeBits {
		t, ok := typeOf(id & (1<<typeBits - 1))
		if !ok || len(reversed) == len(dataplane.Types{}) {
			return dataplane.Types{}, false
		}
		reversed = append(reversed, t)
	}
	var types dataplane.Types
	for i, t := range reversed {
		types[len(reversed)-1-i] = t
	}
	return types, true
}

func typeOf(id uint32) (dataplane.Type, bool) {
	for t, d := range datatypes {
		if t != 0 && d.id == id {
			return dataplane.Type(t), true
		}
	}
	return 0, false
}

// dataLen is the length of a key or value: a single type has its own, a concatenation's parts are padded.
func dataLen(types dataplane.Types) int {
	ps := parts(types)
	if len(ps) == 1 {
		return datatypes[ps[0]].len
	}
	n := 0
	for _, t := range ps {
		n += padded(datatypes[t].len)
	}
	return n
}

func padded(n int) int { return (n + register - 1) &^ (register - 1) }

// appendTuple appends the tuple as nf_tables has it: the first of every range, or with last the last.
func appendTuple(b []byte, types dataplane.Types, t dataplane.Tuple, last bool) ([]byte, error) {
	ps := parts(types)
	links := 0
	for _, one := range ps {
		start := len(b)
		var err error
		switch one {
		case dataplane.IfName:
			links++
			b, err = appendLink(b, linkPart(t, links))
		case dataplane.IPv4Addr, dataplane.IPv6Addr, dataplane.NDAddr:
			b, err = appendAddr(b, one, addrPart(t, last))
		case dataplane.EtherAddr:
			b = append(b, t.MAC[:]...)
		case dataplane.InetProto:
			b = append(b, byte(t.Proto))
		case dataplane.InetService:
			b = binary.BigEndian.AppendUint16(b, portPart(t, last))
		}
		if err != nil {
			return b, err
		}
		for len(ps) > 1 && (len(b)-start)%register != 0 {
			b = append(b, 0)
		}
	}
	return b, nil
}

func linkPart(t dataplane.Tuple, nth int) string {
	if nth == 1 {
		return t.Link
	}
	return t.Link2
}

func addrPart(t dataplane.Tuple, last bool) netip.Addr {
	if last && t.AddrLast.IsValid() {
		return t.AddrLast
	}
	return t.Addr
}

func portPart(t dataplane.Tuple, last bool) uint16 {
	if last && t.PortLast != 0 {
		return t.PortLast
	}
	return t.Port
}

func appendLink(b []byte, name string) ([]byte, error) {
	var fixed [16]byte // IFNAMSIZ
	if len(name) >= len(fixed) {
		return b, fmt.Errorf("link name %q is longer than %d bytes", name, len(fixed)-1)
	}
	copy(fixed[:], name)
	return append(b, fixed[:]...), nil
}

func appendAddr(b []byte, t dataplane.Type, a netip.Addr) ([]byte, error) {
	if !a.IsValid() || a.Is4() != (t == dataplane.IPv4Addr) {
		return b, fmt.Errorf("address %q is no %s", a, t)
	}
	return append(b, a.AsSlice()...), nil
}

// readTuple is the reverse of appendTuple; end is the key of the range's end in interval sets, else nil. It reports false when
// the bytes are not of these types.
func readTuple(types dataplane.Types, b, end []byte) (dataplane.Tuple, bool) {
	var t dataplane.Tuple
	if len(b) != dataLen(types) || end != nil && len(end) != len(b) {
		return t, false
	}
	links := 0
	for _, one := range parts(types) {
		n := datatypes[one].len
		switch one {
		case dataplane.IfName:
			if links++; links == 1 {
				t.Link = linkName(b[:n])
			} else {
				t.Link2 = linkName(b[:n])
			}
		case dataplane.IPv4Addr, dataplane.IPv6Addr, dataplane.NDAddr:
			t.Addr = readAddr(b[:n])
			if end != nil {
				t.AddrLast = readAddr(end[:n])
			}
		case dataplane.EtherAddr:
			t.MAC = model.MAC(b[:n])
		case dataplane.InetProto:
			t.Proto = model.Proto(b[0])
		case dataplane.InetService:
			t.Port = binary.BigEndian.Uint16(b)
			if end != nil {
				t.PortLast = binary.BigEndian.Uint16(end)
			}
		}
		step := min(padded(n), len(b))
		b = b[step:]
		if end != nil {
			end = end[step:]
		}
	}
	return t, true
}

func linkName(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

func readAddr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}
