package main

import (
	"strconv"
	"unicode/utf8"
	"unsafe"
)

// topLevel is the text that an object has under a key of its first level; "" when it has none, when that is no text, or when
// data is not JSON as far as it has to be read. It is all the JSON that the plugin must understand.
func topLevel(data []byte, key string) string {
	s := scanner{rest: data}
	if !s.take('{') || s.take('}') {
		return ""
	}
	for {
		name, ok := s.text()
		if !ok || !s.take(':') {
			return ""
		}
		if name == key {
			value, _ := s.text()
			return value
		}
		if !s.skip() || !s.take(',') {
			return ""
		}
	}
}

// members are the keys of an object's first level, as they are written; ok reports whether data is an object, as far as brackets and quotes tell.
func members(data []byte) (keys []string, ok bool) {
	s := scanner{rest: data}
	if !s.take('{') {
		return nil, false
	}
	if s.take('}') {
		return nil, s.atEnd()
	}
	for {
		s.space()
		key, ok := s.raw()
		if !ok || !s.take(':') || !s.skip() {
			return nil, false
		}
		keys = append(keys, string(key))
		if !s.take(',') {
			return keys, s.take('}') && s.atEnd()
		}
	}
}

type scanner struct{ rest []byte }

// take goes over white space and then over c, if that follows.
func (s *scanner) take(c byte) bool {
	if s.space(); len(s.rest) == 0 || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

func (s *scanner) space() {
	for len(s.rest) > 0 && (s.rest[0] == ' ' || s.rest[0] == '\t' || s.rest[0] == '\n' || s.rest[0] == '\r') {
		s.rest = s.rest[1:]
	}
}

func (s *scanner) atEnd() bool {
	s.space()
	return len(s.rest) == 0
}

// skip goes over one value, which it does not judge: it ends where the value's brackets and quotes do.
func (s *scanner) skip() bool {
	s.space()
	depth := 0
	for len(s.rest) > 0 {
		switch c := s.rest[0]; {
		case c == '"':
			if _, ok := s.raw(); !ok {
				return false
			}
			continue
		case c == '{' || c == '[':
			depth++
		case depth == 0 && (c == ',' || c == '}'):
			return true
		case c == '}' || c == ']':
			depth--
		}
		s.rest = s.rest[1:]
	}
	return false
}

// text reads a string, which has the memory of the data as long as there is no escape in it.
func (s *scanner) text() (string, bool) {
	s.space()
	raw, ok := s.raw()
	if !ok {
		return "", false
	}
	for _, c := range raw {
		if c == '\\' {
			return unescape(raw)
		}
	}
	return unsafe.String(unsafe.SliceData(raw), len(raw)), true
}

// raw goes over a string, and returns what is between its quotes.
func (s *scanner) raw() ([]byte, bool) {
	if len(s.rest) == 0 || s.rest[0] != '"' {
		return nil, false
	}
	for i := 1; i < len(s.rest); i++ {
		switch s.rest[i] {
		case '\\':
			i++
		case '"':
			raw := s.rest[1:i]
			s.rest = s.rest[i+1:]
			return raw, true
		}
	}
	return nil, false
}

// unescape reads the escapes of JSON that a path may have; one that stands for half a character is no text.
func unescape(raw []byte) (string, bool) {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			continue
		}
		if i++; raw[i] != 'u' {
			c, ok := escaped(raw[i])
			if !ok {
				return "", false
			}
			out = append(out, c)
			continue
		}
		if i+5 > len(raw) {
			return "", false
		}
		r, err := strconv.ParseUint(string(raw[i+1:i+5]), 16, 16)
		if err != nil || r >= 0xd800 && r < 0xe000 {
			return "", false
		}
		out = utf8.AppendRune(out, rune(r))
		i += 4
	}
	return string(out), true
}

func escaped(c byte) (byte, bool) {
	switch c {
	case '"', '\\', '/':
		return c, true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	}
	return 0, false
}

// quote writes a string of JSON.
func quote(s string) string {
	const hex = "0123456789abcdef"
	out := make([]byte, 0, len(s)+2)
	out = append(out, '"')
	for _, r := range s { // what is no UTF-8 becomes U+FFFD
		switch {
		case r == '"' || r == '\\':
			out = append(out, '\\', byte(r))
		case r < ' ':
			out = append(out, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			out = utf8.AppendRune(out, r)
		}
	}
	return string(append(out, '"'))
}
