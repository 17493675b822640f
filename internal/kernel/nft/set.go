package nft

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/nfnl"
)

// What golang.org/x/sys does not have of linux/netfilter/nf_tables.h.
const (
	setConcat     = 0x80 // NFT_SET_CONCAT
	setDescConcat = 2    // NFTA_SET_DESC_CONCAT
	setFieldLen   = 1    // NFTA_SET_FIELD_LEN
	elemKeyEnd    = 10   // NFTA_SET_ELEM_KEY_END
)

// Keys of a set's user data (libnftnl include/libnftnl/udata.h); without them `nft list` prints single ports and names backwards.
const (
	udataKeyOrder  = 0
	udataDataOrder = 1
	udataKeyTypeof = 3
)

// ndTargetTypeof is `typeof iifname . @th,64,128` as nft keeps it with a set: a type has no width enough by itself. The numbers are
// expression kinds and their attributes (nftables include/expression.h and the udata of src/meta.c and src/payload.c), in the host's order.
func ndTargetTypeof() []byte {
	const concat, meta, payload = 13, 9, 7
	word := func(key byte, v uint32) []byte { return binary.NativeEndian.AppendUint32([]byte{key, 4}, v) }
	nest := func(key byte, parts ...[]byte) []byte {
		all := slices.Concat(parts...)
		return append([]byte{key, byte(len(all))}, all...)
	}
	iifname := slices.Concat(word(0, meta), nest(1, word(0, unix.NFT_META_IIFNAME)))
	target := slices.Concat(word(0, payload), nest(1, word(0, 0), word(1, 0), word(2, unix.NFT_PAYLOAD_TRANSPORT_HEADER+1), word(3, 64), word(4, 128)))
	return nest(udataKeyTypeof, word(0, concat), nest(1, nest(0, iifname), nest(1, target)))
}

// elementsInMessage bounds the elements of one message: three tuples of at most 64 bytes with their headers, below the 64 KiB
// that an attribute can hold.
const elementsInMessage = 128

// writeSet writes the attributes that define a set.
func writeSet(w *nfnl.Writer, s dataplane.Set, id uint32) {
	w.String(unix.NFTA_SET_TABLE, dataplane.TableName)
	w.String(unix.NFTA_SET_NAME, s.Name)
	w.Uint32(unix.NFTA_SET_FLAGS, setFlags(s))
	w.Uint32(unix.NFTA_SET_KEY_TYPE, typeID(s.Type))
	w.Uint32(unix.NFTA_SET_KEY_LEN, uint32(dataLen(s.Type)))
	if isMap(s) {
		w.Uint32(unix.NFTA_SET_DATA_TYPE, typeID(s.Value))
		w.Uint32(unix.NFTA_SET_DATA_LEN, uint32(dataLen(s.Value)))
	}
	w.Uint32(unix.NFTA_SET_ID, id)
	if s.Interval {
		writeFields(w, s.Type)
	}
	w.Bytes(unix.NFTA_SET_USERDATA, setUserData(s))
}

func isMap(s dataplane.Set) bool { return s.Value != dataplane.Types{} }

func setFlags(s dataplane.Set) uint32 {
	flags := uint32(0)
	if s.Interval {
		flags |= unix.NFT_SET_INTERVAL | setConcat
	}
	if isMap(s) {
		flags |= unix.NFT_SET_MAP
	}
	return flags
}

// writeFields writes the lengths of the key's parts, from which the kernel chooses its concatenated range set.
func writeFields(w *nfnl.Writer, types dataplane.Types) {
	w.Nest(unix.NFTA_SET_DESC, func() {
		w.Nest(setDescConcat, func() {
			for _, t := range parts(types) {
				w.Nest(unix.NFTA_LIST_ELEM, func() { w.Uint32(setFieldLen, uint32(datatypes[t].len)) })
			}
		})
	})
}

func setUserData(s dataplane.Set) []byte {
	data := []byte{udataKeyOrder, 4, byteOrder(s.Type), 0, 0, 0}
	if s.Type == (dataplane.Types{dataplane.IfName, dataplane.NDAddr}) {
		data = append(data, ndTargetTypeof()...)
	}
	if isMap(s) {
		data = append(data, udataDataOrder, 4, byteOrder(s.Value), 0, 0, 0)
	}
	return data
}

func byteOrder(types dataplane.Types) byte {
	if ps := parts(types); len(ps) == 1 {
		return datatypes[ps[0]].byteOrder
	}
	return 0
}

// readSet reads a set; anonymous ones, which belong to a rule, are not reported. One that no dataplane.Set describes has no
// types, so that it differs from every set that is wanted.
func readSet(family dataplane.Family, attrs []byte) (dataplane.Set, bool) {
	var flags, key, value uint32
	s := dataplane.Set{Family: family}
	for a := range nfnl.Attrs(attrs) {
		switch a.Type {
		case unix.NFTA_SET_NAME:
			s.Name = a.String()
		case unix.NFTA_SET_FLAGS:
			flags = a.Uint32()
		case unix.NFTA_SET_KEY_TYPE:
			key = a.Uint32()
		case unix.NFTA_SET_DATA_TYPE:
			value = a.Uint32()
		}
	}
	if flags&unix.NFT_SET_ANONYMOUS != 0 {
		return s, false
	}
	foreign := s
	var keyOK, valueOK bool
	s.Type, keyOK = typesOf(key)
	s.Value, valueOK = typesOf(value)
	s.Interval = flags&unix.NFT_SET_INTERVAL != 0
	if !keyOK || !valueOK || flags != setFlags(s) {
		return foreign, true
	}
	return s, true
}

// writeElements writes elements of one set, from one message's worth of them.
func writeElements(w *nfnl.Writer, set dataplane.Set, elements []dataplane.Element, withValue bool) error {
	w.String(unix.NFTA_SET_ELEM_LIST_TABLE, dataplane.TableName)
	w.String(unix.NFTA_SET_ELEM_LIST_SET, set.Name)
	var failed error
	w.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
		for _, e := range elements {
			w.Nest(unix.NFTA_LIST_ELEM, func() {
				if err := writeElement(w, e, withValue); err != nil && failed == nil {
					failed = fmt.Errorf("%s: %w", e, err)
				}
			})
		}
	})
	return failed
}

func writeElement(w *nfnl.Writer, e dataplane.Element, withValue bool) error {
	set := e.Set()
	if err := writeTuple(w, unix.NFTA_SET_ELEM_KEY, set.Type, e.Is(), false); err != nil {
		return err
	}
	if set.Interval {
		if err := writeTuple(w, elemKeyEnd, set.Type, e.Is(), true); err != nil {
			return err
		}
	}
	if !withValue || !isMap(set) {
		return nil
	}
	return writeTuple(w, unix.NFTA_SET_ELEM_DATA, set.Value, e.Value(), false)
}

func writeTuple(w *nfnl.Writer, typ uint16, types dataplane.Types, t dataplane.Tuple, last bool) error {
	var room [64]byte // NFT_DATA_VALUE_MAXLEN
	data, err := appendTuple(room[:0], types, t, last)
	if err != nil {
		return err
	}
	w.Nest(typ, func() { w.Bytes(unix.NFTA_DATA_VALUE, data) })
	return nil
}

// readElements reads the elements in one message of a dump; key is the element's key as the kernel has it.
func readElements(set dataplane.Set, attrs []byte, each func(e dataplane.Element, key []byte)) {
	for a := range nfnl.Attrs(nfnl.Get(attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS).Value) {
		if e, ok := readElement(set, a.Value); ok {
			each(e, dataValue(nfnl.Get(a.Value, unix.NFTA_SET_ELEM_KEY)))
		}
	}
}

func readElement(set dataplane.Set, attrs []byte) (dataplane.Element, bool) {
	var key, end, data []byte
	for a := range nfnl.Attrs(attrs) {
		switch a.Type {
		case unix.NFTA_SET_ELEM_KEY:
			key = dataValue(a)
		case elemKeyEnd:
			end = dataValue(a)
		case unix.NFTA_SET_ELEM_DATA:
			data = dataValue(a)
		}
	}
	if set.Interval && end == nil { // a single value, written by somebody else
		end = key
	}
	is, keyOK := readTuple(set.Type, key, end)
	if !isMap(set) {
		return set.Element(is), keyOK
	}
	value, valueOK := readTuple(set.Value, data, nil)
	return set.Element(is).To(value), keyOK && valueOK
}

func dataValue(a nfnl.Attr) []byte { return nfnl.Get(a.Value, unix.NFTA_DATA_VALUE).Value }
