package journal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"

	"github.com/flatnet/flatnet/internal/model"
)

// A record is a mark, by which the next one is found behind a damaged one; the payload's length; the checksum of length
// and payload; the payload. Numbers are big-endian.
//
// A payload is an operation, the generation, and for opPut the workload in JSON, for opDelete its name, for opHead the
// boot id. The first record of a file is its head.
const (
	mark       = "\xf1\xa7\x0a\x52" // not UTF-8, so never inside JSON
	headLen    = len(mark) + 4 + 4
	minPayload = 1 + 8
	maxPayload = 1 << 20 // a workload of 1 MiB is none
)

type op byte

const (
	opHead   op = 'H'
	opPut    op = 'P'
	opDelete op = 'D'
)

type record struct {
	op         op
	generation uint64
	body       []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errTooLarge = errors.New("more than 1 MiB")

// appendRecord fails when the record is too large.
func appendRecord(b []byte, r record) ([]byte, error) {
	size := minPayload + len(r.body)
	if size > maxPayload {
		return b, errTooLarge
	}
	start := len(b)
	b = append(b, mark...)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	b = append(b, 0, 0, 0, 0, byte(r.op))
	b = binary.BigEndian.AppendUint64(b, r.generation)
	b = append(b, r.body...)
	sealed := b[start:]
	binary.BigEndian.PutUint32(sealed[8:], checksum(sealed))
	return b, nil
}

// checksum is that of a whole record.
func checksum(r []byte) uint32 {
	return crc32.Update(crc32.Checksum(r[4:8], castagnoli), castagnoli, r[headLen:])
}

// cutRecord takes the record that b begins with; ok is false when it begins with none.
func cutRecord(b []byte) (r record, size int, ok bool) {
	if len(b) < headLen+minPayload || string(b[:len(mark)]) != mark {
		return r, 0, false
	}
	n := binary.BigEndian.Uint32(b[4:])
	if n < minPayload || n > maxPayload || int(n) > len(b)-headLen {
		return r, 0, false
	}
	size = headLen + int(n)
	if binary.BigEndian.Uint32(b[8:]) != checksum(b[:size]) {
		return r, 0, false
	}
	payload := b[headLen:size]
	return record{op: op(payload[0]), generation: binary.BigEndian.Uint64(payload[1:]), body: payload[minPayload:]}, size, true
}

// Span is a part of the file.
type Span struct{ Offset, Len int }

// scan takes every record that can be read. Damage has one Span for each place that cannot; the last may be the tail.
func scan(b []byte, each func(r record, raw []byte) error) (damage []Span) {
	for at := 0; at < len(b); {
		r, size, ok := cutRecord(b[at:])
		if ok && each(r, b[at:at+size]) == nil {
			at += size
			continue
		}
		next := nextRecord(b, at+1)
		damage = append(damage, Span{Offset: at, Len: next - at})
		at = next
	}
	return damage
}

// nextRecord finds a whole record, or the end.
func nextRecord(b []byte, from int) int {
	for from < len(b) {
		i := bytes.Index(b[from:], []byte(mark))
		if i < 0 {
			break
		}
		if _, _, ok := cutRecord(b[from+i:]); ok {
			return from + i
		}
		from += i + 1
	}
	return len(b)
}

func encodeWorkload(w model.Workload) ([]byte, error) { return json.Marshal(w) }

func decodeWorkload(body []byte) (model.Workload, error) {
	var w model.Workload
	if err := json.Unmarshal(body, &w); err != nil {
		return model.Workload{}, err
	}
	if w.Name == "" {
		return model.Workload{}, errors.New("it has no name")
	}
	return w, nil
}
