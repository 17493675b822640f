package local

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"

	"github.com/flatnet/flatnet/internal/store"
)

// bucket holds all records; its sequence is the table's revision.
var bucket = []byte("flatnet.1")

// A record's key is kind, zero byte, name. Its value is the checksum of all that follows and of the key (bbolt checks
// only its own head), the object's version, and its data.
const headLen = 4 + 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func recordKey(kind store.Kind, name string) []byte { return []byte(string(kind) + "\x00" + name) }

func encode(key []byte, o store.Object) ([]byte, error) {
	version, err := strconv.ParseUint(string(o.Version), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("version %q: %w", o.Version, err)
	}
	value := make([]byte, headLen, headLen+len(o.Data))
	binary.BigEndian.PutUint64(value[4:], version)
	value = append(value, o.Data...)
	binary.BigEndian.PutUint32(value, checksum(key, value))
	return value, nil
}

// decode copies: what bbolt hands out is its mapped file.
func decode(key, value []byte) (store.Object, error) {
	kind, name, ok := bytes.Cut(key, []byte{0})
	if !ok || len(value) < headLen {
		return store.Object{}, errors.New("it is cut short")
	}
	if binary.BigEndian.Uint32(value) != checksum(key, value) {
		return store.Object{}, errors.New("its checksum differs")
	}
	version := strconv.FormatUint(binary.BigEndian.Uint64(value[4:]), 10)
	return store.Object{Kind: store.Kind(kind), Name: string(name), Version: store.Version(version), Data: bytes.Clone(value[headLen:])}, nil
}

func checksum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value[4:])
}
