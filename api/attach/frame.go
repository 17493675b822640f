package attach

import (
	"errors"
	"strconv"
)

// A frame is a header and fields. The header has a mark, the version and the length of the fields together; a field has a tag,
// a length and that many bytes. Numbers are big endian. Unknown tags are skipped, so that plugin and daemon can be of
// different versions for the minutes of an upgrade; what cannot be understood so gets another version.
const (
	mark       = "fna"
	version    = 1
	HeaderSize = len(mark) + 1 + 4
	fieldSize  = 1 + 4

	// MaxFrame is how many bytes of fields a frame may have. A GC that names 10,000 attachments twice, as libcni does, has 2.3 MB.
	MaxFrame = 16 << 20
)

// The tags of a Request's fields.
const (
	tagCommand = iota + 1
	tagContainer
	tagNetns
	tagIfName
	tagArgs
	tagConfig
)

// The tags of a Reply's.
const (
	tagExit = iota + 1
	tagStdout
)

// The ways in which a frame can be wrong.
var (
	ErrNotOurs  = errors.New("not a frame of flatnet-cni")
	ErrTooLarge = errors.New("a frame of more than " + strconv.Itoa(MaxFrame) + " bytes")
	ErrDamaged  = errors.New("the frame's fields do not fit its length")
)

// otherVersion is the error of a frame whose version is not ours.
type otherVersion byte

func (v otherVersion) Error() string {
	return "a frame of version " + strconv.Itoa(int(v)) + ", not " + strconv.Itoa(version) + ": flatnet-cni and flatnetd are of different releases"
}

// Append puts the request as a frame behind b.
func (r Request) Append(b []byte) ([]byte, error) {
	size := r.size()
	b, err := appendHeader(b, size)
	if err != nil {
		return nil, err
	}
	b = appendField(b, tagCommand, r.Command)
	b = appendField(b, tagContainer, r.Container)
	b = appendField(b, tagNetns, r.Netns)
	b = appendField(b, tagIfName, r.IfName)
	b = appendField(b, tagArgs, r.Args)
	return appendField(b, tagConfig, r.Config), nil
}

// size is how many bytes of fields the request's frame has.
func (r Request) size() int {
	return 6*fieldSize + len(r.Command) + len(r.Container) + len(r.Netns) + len(r.IfName) + len(r.Args) + len(r.Config)
}

// Append puts the reply as a frame behind b.
func (r Reply) Append(b []byte) ([]byte, error) {
	b, err := appendHeader(b, 2*fieldSize+1+len(r.Stdout))
	if err != nil {
		return nil, err
	}
	b = appendField(b, tagExit, []byte{byte(r.Exit)})
	return appendField(b, tagStdout, r.Stdout), nil
}

// ParseRequest reads the fields of a Request. It keeps no part of b but Config.
func ParseRequest(b []byte) (Request, error) {
	var r Request
	err := eachField(b, func(tag byte, value []byte) {
		switch tag {
		case tagCommand:
			r.Command = string(value)
		case tagContainer:
			r.Container = string(value)
		case tagNetns:
			r.Netns = string(value)
		case tagIfName:
			r.IfName = string(value)
		case tagArgs:
			r.Args = string(value)
		case tagConfig:
			r.Config = value
		}
	})
	return r, err
}

// ParseReply reads the fields of a Reply; one without an exit status is damaged.
func ParseReply(b []byte) (Reply, error) {
	r, told := Reply{}, false
	err := eachField(b, func(tag byte, value []byte) {
		switch {
		case tag == tagExit && len(value) == 1:
			r.Exit, told = int(value[0]), true
		case tag == tagStdout:
			r.Stdout = value
		}
	})
	if err == nil && !told {
		err = ErrDamaged
	}
	return r, err
}

// ParseHeader reads the first HeaderSize bytes of a frame: how many bytes of fields follow.
func ParseHeader(b []byte) (int, error) {
	if len(b) < HeaderSize || string(b[:len(mark)]) != mark {
		return 0, ErrNotOurs
	}
	if v := b[len(mark)]; v != version {
		return 0, otherVersion(v)
	}
	n := number(b[len(mark)+1:])
	if n > MaxFrame {
		return 0, ErrTooLarge
	}
	return int(n), nil
}

func appendHeader(b []byte, size int) ([]byte, error) {
	if size > MaxFrame {
		return nil, ErrTooLarge
	}
	b = append(b, mark...)
	b = append(b, version)
	return appendNumber(b, size), nil
}

func appendField[T string | []byte](b []byte, tag byte, value T) []byte {
	b = append(b, tag)
	b = appendNumber(b, len(value))
	return append(b, value...)
}

func eachField(b []byte, do func(tag byte, value []byte)) error {
	for len(b) > 0 {
		if len(b) < fieldSize {
			return ErrDamaged
		}
		tag, n := b[0], number(b[1:])
		b = b[fieldSize:]
		if uint64(n) > uint64(len(b)) {
			return ErrDamaged
		}
		do(tag, b[:n:n])
		b = b[n:]
	}
	return nil
}

// encoding/binary would bring reflect, which costs each start of the plugin.
func number(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func appendNumber(b []byte, n int) []byte {
	return append(b, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}
