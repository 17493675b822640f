package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// maxDepth bounds the nesting of what people send; a manifest has five levels.
const maxDepth = 32

// tree reads one JSON value into map[string]any, []any, string, json.Number, bool and nil, and reports keys that are
// given twice, which encoding/json would not.
type tree struct {
	dec      *json.Decoder
	problems []Problem
}

// Strict reads one JSON value into v, which is a pointer, and says what is wrong with it, each with its path: fields that v does
// not have, values of another kind, keys given twice. What v has as json.RawMessage is not looked into.
func Strict(data []byte, v any) []Problem {
	root, problems := parseTree(data)
	if root == nil && len(problems) > 0 {
		return problems
	}
	if problems = append(problems, check(root, reflect.TypeOf(v).Elem(), "")...); len(problems) > 0 {
		return problems[:min(len(problems), maxProblems)]
	}
	if err := json.Unmarshal(data, v); err != nil {
		return []Problem{{Code: CodeMalformed, Reason: err.Error()}}
	}
	return nil
}

func parseTree(data []byte) (any, []Problem) {
	t := tree{dec: json.NewDecoder(bytes.NewReader(data))}
	t.dec.UseNumber()
	v, err := t.value(nil)
	if err == nil {
		if _, more := t.dec.Token(); more != io.EOF {
			err = fmt.Errorf("something follows the value")
		}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it ends too early")
	}
	if err != nil {
		return nil, []Problem{{Code: CodeMalformed, Reason: "not JSON: " + err.Error()}}
	}
	return v, t.problems
}

func (t *tree) value(at *place) (any, error) {
	tok, err := t.dec.Token()
	if err != nil {
		return nil, err
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return tok, nil
	}
	if at.depth() == maxDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	if delim == '[' {
		return t.list(at)
	}
	return t.object(at)
}

func (t *tree) list(at *place) (any, error) {
	list := []any{}
	for t.dec.More() {
		v, err := t.value(&place{in: at, index: len(list)})
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := t.dec.Token()
	return list, err
}

func (t *tree) object(at *place) (any, error) {
	object := map[string]any{}
	for t.dec.More() {
		tok, err := t.dec.Token()
		if err != nil {
			return nil, err
		}
		key := tok.(string)
		field := &place{in: at, key: key, index: -1}
		if _, twice := object[key]; twice && len(t.problems) < maxProblems {
			t.problems = append(t.problems, Problem{Code: CodeMalformed, Path: field.String(), Reason: fmt.Sprintf("field %q is given twice", brief(key))})
		}
		if object[key], err = t.value(field); err != nil {
			return nil, err
		}
	}
	_, err := t.dec.Token()
	return object, err
}

// place is where a value stands. It is put into words only when something is wrong there: a path for every value would cost
// a file of a few megabytes its square in memory.
type place struct {
	in    *place // nil: the whole value
	key   string
	index int // of a list; -1: a field
}

func (p *place) depth() (n int) {
	for ; p != nil; p = p.in {
		n++
	}
	return n
}

func (p *place) String() string {
	switch {
	case p == nil:
		return ""
	case p.index >= 0:
		return fmt.Sprintf("%s[%d]", p.in, p.index)
	}
	return join(p.in.String(), brief(p.key))
}

// brief cuts a name short that nobody could have meant.
func brief(name string) string {
	const most = 80
	if len(name) > most {
		return strings.ToValidUTF8(name[:most], "") + "…"
	}
	return name
}

// check compares a tree with the Go type that it is meant for: unknown fields and values of another kind are problems.
func check(v any, t reflect.Type, at string) []Problem {
	if v == nil {
		return nil
	}
	if t == reflect.TypeFor[json.RawMessage]() {
		return nil
	}
	if t.Kind() == reflect.Pointer {
		return check(v, t.Elem(), at)
	}
	switch t.Kind() {
	case reflect.Struct:
		return checkStruct(v, t, at)
	case reflect.Map:
		return checkMap(v, t, at)
	case reflect.Slice:
		return checkSlice(v, t, at)
	case reflect.String:
		if _, ok := v.(string); ok {
			return nil
		}
		return wrongKind(v, at, "text", "quote it")
	case reflect.Bool:
		if _, ok := v.(bool); ok {
			return nil
		}
		return wrongKind(v, at, "true or false", "")
	case reflect.Int:
		if n, ok := v.(json.Number); ok {
			if _, err := n.Int64(); err == nil {
				return nil
			}
		}
		return wrongKind(v, at, "a whole number", "")
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if n, ok := v.(json.Number); ok {
			if _, err := strconv.ParseUint(n.String(), 10, t.Bits()); err == nil {
				return nil
			}
		}
		return wrongKind(v, at, fmt.Sprintf("a whole number from 0 to %d", uint64(1)<<t.Bits()-1), "")
	}
	return []Problem{{Code: CodeMalformed, Path: at, Reason: fmt.Sprintf("no rule for %s", t)}}
}

func checkStruct(v any, t reflect.Type, at string) []Problem {
	object, ok := v.(map[string]any)
	if !ok {
		return wrongKind(v, at, "an object", "")
	}
	fields := jsonFields(t)
	var problems []Problem
	for _, key := range sortedKeys(object) {
		if len(problems) >= maxProblems {
			break
		}
		if ft, ok := fields[key]; ok {
			problems = append(problems, check(object[key], ft, join(at, key))...)
		} else {
			problems = append(problems, unknownField(join(at, brief(key)), key, sortedKeys(fields)))
		}
	}
	return problems
}

func checkMap(v any, t reflect.Type, at string) []Problem {
	object, ok := v.(map[string]any)
	if !ok {
		return wrongKind(v, at, "an object", "")
	}
	var problems []Problem
	for _, key := range sortedKeys(object) {
		if len(problems) >= maxProblems {
			break
		}
		problems = append(problems, check(object[key], t.Elem(), join(at, brief(key)))...)
	}
	return problems
}

func checkSlice(v any, t reflect.Type, at string) []Problem {
	list, ok := v.([]any)
	if !ok {
		return wrongKind(v, at, "a list", "")
	}
	var problems []Problem
	for i, item := range list {
		if len(problems) >= maxProblems {
			break
		}
		problems = append(problems, check(item, t.Elem(), fmt.Sprintf("%s[%d]", at, i))...)
	}
	return problems
}

// jsonFields are the names that a struct has on the wire.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name != "" && name != "-" {
			fields[name] = t.Field(i).Type
		}
	}
	return fields
}

func wrongKind(v any, at, want, fix string) []Problem {
	text := jsonText(v)
	if len(text) > 40 {
		text = text[:37] + "..."
	}
	if _, scalar := v.(json.Number); !scalar {
		if _, scalar = v.(bool); !scalar {
			fix = ""
		}
	}
	return []Problem{{Code: CodeMalformed, Path: at, Reason: fmt.Sprintf("want %s, not %s", want, text), Fix: fix}}
}

func unknownField(at, key string, known []string) Problem {
	p := Problem{Code: CodeUnknownField, Path: at, Reason: fmt.Sprintf("there is no field %q here", brief(key)),
		Fix: "fields here: " + strings.Join(known, ", ")}
	if s, ok := Nearest(key, known); ok {
		p.Fix = fmt.Sprintf("did you mean %q? ", s) + p.Fix
	}
	return p
}

// Nearest returns the word that s was probably meant to be.
func Nearest(s string, words []string) (string, bool) {
	best, at := 3, ""
	for _, w := range words {
		if strings.EqualFold(s, w) {
			return w, true
		}
		if d := editDistance(strings.ToLower(s), strings.ToLower(w)); d < best && d < len(w) {
			best, at = d, w
		}
	}
	return at, at != ""
}

// editDistance is Levenshtein's, in bytes; words far apart in length are not worth the table.
func editDistance(a, b string) int {
	if d := len(a) - len(b); d > 2 || d < -2 {
		return 3
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

func join(at, key string) string {
	if at == "" {
		return key
	}
	return at + "." + key
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
