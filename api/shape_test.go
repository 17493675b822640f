package api

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

type shaped struct {
	Text   string             `json:"text"`
	On     bool               `json:"on"`
	Number int                `json:"number"`
	Port   uint16             `json:"port"`
	Rate   *uint64            `json:"rate"`
	Words  []string           `json:"words"`
	Inner  *shaped2           `json:"inner"`
	Many   map[string]shaped2 `json:"many"`
	Theirs json.RawMessage    `json:"theirs"`
	Hidden string             `json:"-"`
}

type shaped2 struct {
	A []uint32 `json:"a"`
	B string   `json:"b"`
}

// What fits is what Strict finds nothing in; ordinary texts do fit, and are judged without an allocation.
func TestShape(t *testing.T) {
	shape := ShapeOf[shaped]()
	for text, want := range map[string]bool{
		` { "text" : "a\"\u0062}" , "on":true,"number":-3,"port":65535,"rate":18446744073709551615 } `: true,
		`{"words":["a","b"],"inner":{"a":[1,2],"b":null},"many":{"x":{"b":""},"y":{}}}`:                true,
		`{"theirs":{"x":[{"y":{}},1.5e3,null,[]],"z":false},"words":null,"inner":null}`:                true,
		`null`: true, `{}`: true,
		`{"Text":"a"}`: false, `{"Hidden":"a"}`: false, `{"-":"a"}`: false, `{"colour":1}`: false, `{"text":"a","text":"b"}`: false, `{"port":65536}`: false, `{"port":-1}`: false,
		`{"number":1.5}`: false, `{"number":"1"}`: false, `{"text":1}`: false, `{"on":0}`: false, `{"words":"a"}`: false, `{"words":[1]}`: false, `{"inner":[]}`: false, `{"many":{"x":1}}`: false,
		`{"theirs":{"x":1,"x":2}}`: false, `{"many":{"x":{},"x":{}}}`: false, `{"theirs":{"x":{"y":1,"\u0079":2}}}`: false,
		`{"theirs":` + strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth) + `}`: false, `[]`: false, `{"text":`: false, `{} {}`: false, ``: false,
	} {
		if got := shape.Fits([]byte(text)); got != want {
			t.Errorf("%s fits: %v", text, got)
		}
		sameAsStrict(t, shape, []byte(text))
	}
	text := []byte(`{"text":"a","port":80,"words":["a"],"many":{"x":{"a":[1]}},"theirs":{"x":[1,{"y":"z"}]}}`)
	if n := testing.AllocsPerRun(100, func() { shape.Fits(text) }); n > 0 {
		t.Errorf("it allocates %v times", n)
	}
}

// sameAsStrict: what fits, Strict takes too, so that who asks the shape first refuses nothing less.
func sameAsStrict(t *testing.T, shape *Shape, text []byte) {
	var strictly, plainly shaped
	problems := Strict(text, &strictly)
	if !shape.Fits(text) {
		return
	}
	if err := json.Unmarshal(text, &plainly); err != nil || len(problems) > 0 || !reflect.DeepEqual(strictly, plainly) {
		t.Errorf("%s fits, and Strict says %v; encoding/json %v", text, problems, err)
	}
}

func FuzzShape(f *testing.F) {
	shape := ShapeOf[shaped]()
	for _, text := range []string{`{"text":"a","port":80,"words":["a"],"many":{"x":{"a":[1]}},"theirs":{"x":[1,{"y":"z"}]}}`, `{"inner":{"b":"\\"},"rate":0}`, `{"theirs":{"x":1,"x":2}}`, `[[{}]]`, `{"number":-0}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) { sameAsStrict(t, shape, text) })
}
