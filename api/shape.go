package api

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
)

// Shape is what a JSON value must look like for Strict to find nothing in it. Made once for a type, it judges values without keeping anything of
// them, where Strict makes a tree: for a reader that is asked often and hardly ever finds a mistake.
type Shape struct {
	kind   reflect.Kind // Interface: anything
	bits   int          // of a number without a sign
	fields []shapeField
	elem   *Shape // of a map or a list
}

type shapeField struct {
	name string
	is   *Shape
}

// ShapeOf is that of T, which does not contain itself.
func ShapeOf[T any]() *Shape { return shapeOf(reflect.TypeFor[T]()) }

func shapeOf(t reflect.Type) *Shape {
	if t == reflect.TypeFor[json.RawMessage]() {
		return &Shape{kind: reflect.Interface}
	}
	s := &Shape{kind: t.Kind()}
	switch t.Kind() {
	case reflect.Pointer:
		return shapeOf(t.Elem())
	case reflect.Struct:
		for name, of := range jsonFields(t) {
			s.fields = append(s.fields, shapeField{name, shapeOf(of)})
		}
	case reflect.Map, reflect.Slice:
		s.elem = shapeOf(t.Elem())
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		s.bits = t.Bits()
	case reflect.String, reflect.Bool, reflect.Int:
	default:
		s.kind = reflect.Invalid
	}
	return s
}

// Fits reports that Strict finds nothing in a text. When it does not, Strict may still find nothing: a text with escapes or other letters than
// ASCII in its keys, or with many keys, is left to it.
func (s *Shape) Fits(data []byte) bool {
	if !json.Valid(data) {
		return false
	}
	w := walk{data: data}
	return w.value(s, 0)
}

// mostKeys is how many keys an object of no certain type may have, as each is compared with all before; mostFields is that of a struct.
const (
	mostKeys   = 16
	mostFields = 64
)

// anything is the shape of what nobody looks into.
var anything = &Shape{kind: reflect.Interface}

// walk goes through a valid JSON text.
type walk struct {
	data []byte
	at   int
}

// next is the first byte that is no space, comma or colon: in a valid text these say nothing.
func (w *walk) next() byte {
	for {
		switch c := w.data[w.at]; c {
		case ' ', '\t', '\r', '\n', ',', ':':
			w.at++
		default:
			return c
		}
	}
}

// value reports whether what comes next fits; when it does, the walk is behind it.
func (w *walk) value(s *Shape, depth int) bool {
	free := s.kind == reflect.Interface
	switch w.next() {
	case '{':
		return depth < maxDepth && w.object(s, depth)
	case '[':
		return depth < maxDepth && w.list(s, depth)
	case '"':
		w.text()
		return free || s.kind == reflect.String
	case 't', 'f':
		w.word()
		return free || s.kind == reflect.Bool
	case 'n':
		w.word()
		return s.kind != reflect.Invalid
	}
	return w.number(s) || free
}

func (w *walk) list(s *Shape, depth int) bool {
	of := s.elem
	switch s.kind {
	case reflect.Interface:
		of = anything
	case reflect.Slice:
	default:
		return false
	}
	for w.at++; w.next() != ']'; {
		if !w.value(of, depth+1) {
			return false
		}
	}
	w.at++
	return true
}

func (w *walk) object(s *Shape, depth int) bool {
	switch {
	case s.kind == reflect.Struct && len(s.fields) <= mostFields:
		return w.fields(s, depth)
	case s.kind == reflect.Map:
		return w.keys(s.elem, depth)
	case s.kind == reflect.Interface:
		return w.keys(anything, depth)
	}
	return false
}

// fields are the keys of a struct: each is one of its, and there once.
func (w *walk) fields(s *Shape, depth int) bool {
	var seen uint64
	for w.at++; w.next() != '}'; {
		key, at := w.text(), -1
		for i, f := range s.fields {
			if string(key) == f.name {
				at = i
			}
		}
		if at < 0 || seen&(1<<at) != 0 || !w.value(s.fields[at].is, depth+1) {
			return false
		}
		seen |= 1 << at
	}
	w.at++
	return true
}

// keys are those of an object that may have any, each once.
func (w *walk) keys(of *Shape, depth int) bool {
	var seen [mostKeys][]byte
	n := 0
	for w.at++; w.next() != '}'; n++ {
		key := w.text()
		if n == mostKeys || !plain(key) {
			return false
		}
		for _, other := range seen[:n] {
			if bytes.Equal(key, other) {
				return false
			}
		}
		seen[n] = key
		if !w.value(of, depth+1) {
			return false
		}
	}
	w.at++
	return true
}

// plain keys mean what they look like.
func plain(key []byte) bool {
	for _, c := range key {
		if c == '\\' || c >= 0x80 {
			return false
		}
	}
	return true
}

// text is what stands between quotes, as it stands there.
func (w *walk) text() []byte {
	w.at++
	begin := w.at
	for w.data[w.at] != '"' {
		if w.data[w.at] == '\\' {
			w.at++
		}
		w.at++
	}
	w.at++
	return w.data[begin : w.at-1]
}

// word is a number, true, false or null.
func (w *walk) word() []byte {
	begin := w.at
	for w.at < len(w.data) && strings.IndexByte(" \t\r\n,:]}", w.data[w.at]) < 0 {
		w.at++
	}
	return w.data[begin:w.at]
}

func (w *walk) number(s *Shape) bool {
	word := w.word()
	if s.kind == reflect.Int {
		_, err := strconv.ParseInt(string(word), 10, 64)
		return err == nil
	}
	if s.bits == 0 {
		return false
	}
	_, err := strconv.ParseUint(string(word), 10, s.bits)
	return err == nil
}
