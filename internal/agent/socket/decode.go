package socket

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// MaxBody is how many bytes a request's body may have: some thousand forwards.
const MaxBody = 4 << 20

// Body reads the request's body as one JSON value into v, strictly: see Decode.
func Body(r *http.Request, v any) error {
	data, err := io.ReadAll(r.Body)
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return model.Problem{Code: model.CodeTooLarge, Reason: fmt.Sprintf("the request has more than %d bytes", large.Limit), Fix: "split it"}
	}
	if err != nil {
		return model.Problem{Code: model.CodeMalformed, Reason: "read request: " + err.Error()}
	}
	return Decode(data, v)
}

// Decode reads one JSON value into v, which is a pointer to a struct or a slice. A field that v does not have is a problem
// that names its path, and so is a value of the wrong type, a key given twice, or anything after the value.
func Decode(data []byte, v any) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return model.Problem{Code: model.CodeMalformed, Reason: "the request is empty; it should be a JSON value"}
	}
	if !json.Valid(data) {
		return syntaxProblem(data)
	}
	if problems := checkFields(data, reflect.TypeOf(v).Elem()); len(problems) > 0 {
		return problems.Err()
	}
	if err := json.Unmarshal(data, v); err != nil {
		return typeProblem(err)
	}
	return nil
}

func syntaxProblem(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	var first json.RawMessage
	err := d.Decode(&first)
	if err == nil {
		return model.Problem{Code: model.CodeMalformed, Reason: fmt.Sprintf("something follows the JSON value at byte %d", d.InputOffset())}
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return model.Problem{Code: model.CodeMalformed, Reason: fmt.Sprintf("not JSON at byte %d: %s", syntax.Offset, syntax)}
	}
	return model.Problem{Code: model.CodeMalformed, Reason: "not JSON: it ends too early"}
}

func typeProblem(err error) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return model.Problem{Code: model.CodeMalformed, Path: wrong.Field,
			Reason: fmt.Sprintf("want %s, not %s", typeWord(wrong.Type), wrong.Value)}
	}
	var wire *api.Error
	if errors.As(err, &wire) {
		return fromWire(wire)
	}
	return model.Problem{Code: model.CodeMalformed, Reason: err.Error()}
}

// fromWire makes problems of what a type of package api said about its own JSON.
func fromWire(e *api.Error) error {
	var ps model.Problems
	for _, p := range e.Problems {
		ps = append(ps, model.Problem{Code: p.Code, Path: p.Path, Reason: p.Reason, Owner: p.Owner, Fix: p.Fix, Example: p.Example})
	}
	return ps.Err()
}

func typeWord(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Pointer:
		return typeWord(t.Elem())
	}
	return "a number"
}

// checkFields walks the value beside its type and collects unknown and repeated fields. encoding/json would name the
// first unknown field only, without its path, take keys of any case, and let the last of two equal keys win.
func checkFields(data []byte, t reflect.Type) model.Problems {
	c := checker{d: json.NewDecoder(bytes.NewReader(data))}
	c.value(t, nil, 0)
	return c.problems
}

type checker struct {
	d        *json.Decoder
	problems model.Problems
	stopped  bool // deeper than anything we know, or wrong enough: the rest is not looked at
}

// maxDepth bounds the nesting; the deepest request has six levels.
const maxDepth = 32

// maxProblems bounds the answer to a request that is wrong everywhere.
const maxProblems = 32

func (c *checker) value(t reflect.Type, at *position, depth int) {
	if depth > maxDepth {
		c.stopped = true
		c.problems = model.Problems{{Code: model.CodeMalformed, Reason: fmt.Sprintf("nested deeper than %d levels", maxDepth)}}
		return
	}
	tok, err := c.d.Token()
	if err != nil {
		return
	}
	t = concrete(t)
	switch tok {
	case json.Delim('{'):
		c.object(t, at, depth)
	case json.Delim('['):
		for i := 0; !c.stopped && c.d.More(); i++ {
			c.value(elem(t, reflect.Slice), &position{in: at, index: i}, depth+1)
		}
		c.d.Token()
	}
}

func (c *checker) object(t reflect.Type, at *position, depth int) {
	seen := map[string]bool{}
	names := fieldNames(t)
	for !c.stopped && c.d.More() {
		tok, err := c.d.Token()
		name, ok := tok.(string)
		if err != nil || !ok {
			return
		}
		field := &position{in: at, field: name, index: -1}
		if seen[name] {
			c.add(model.Problem{Code: model.CodeMalformed, Path: field.String(), Reason: fmt.Sprintf("field %q is given twice", brief(name))})
		}
		seen[name] = true
		c.value(c.field(t, names, field), field, depth+1)
	}
	c.d.Token()
}

// position is where a value stands. It is put into words only when something is wrong there: paths made for every value of a body
// of a few megabytes with long names would add up to gigabytes.
type position struct {
	in    *position // nil: the whole value
	field string
	index int // of a list; -1: a field
}

func (p *position) String() string {
	switch {
	case p == nil:
		return ""
	case p.index >= 0:
		return fmt.Sprintf("%s[%d]", p.in, p.index)
	}
	return strings.TrimPrefix(p.in.String()+"."+brief(p.field), ".")
}

// brief cuts a name that is none of ours.
func brief(name string) string {
	const most = 80 // bytes
	if len(name) <= most {
		return name
	}
	return strings.ToValidUTF8(name[:most], "") + "…"
}

// field is the type of a field; nil when anything may stand there.
func (c *checker) field(t reflect.Type, names map[string]reflect.Type, at *position) reflect.Type {
	if t == nil || t.Kind() != reflect.Struct {
		return elem(t, reflect.Map)
	}
	name := at.field
	ft, ok := names[name]
	if !ok {
		p := model.Problem{Code: model.CodeUnknownField, Path: at.String(), Reason: fmt.Sprintf("there is no field %q here", brief(name))}
		if near, ok := api.Nearest(name, slices.Sorted(maps.Keys(names))); ok {
			p.Fix = fmt.Sprintf("did you mean %q?", near)
		}
		c.add(p)
	}
	return ft
}

func (c *checker) add(p model.Problem) {
	c.problems = append(c.problems, p)
	c.stopped = c.stopped || len(c.problems) >= maxProblems
}

// concrete is the type below pointers; nil for one that reads JSON by itself.
func concrete(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil {
		return nil
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	return t
}

func elem(t reflect.Type, kind reflect.Kind) reflect.Type {
	if t == nil || t.Kind() != kind {
		return nil
	}
	return t.Elem()
}

// fieldNames are the fields of a struct by their names in JSON; nil of anything else.
func fieldNames(t reflect.Type) map[string]reflect.Type {
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	names := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && name != "-" && name != "" {
			names[name] = f.Type
		}
	}
	return names
}
