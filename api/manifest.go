package api

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// maxProblems bounds the answer to a manifest that is wrong everywhere.
const maxProblems = 32

// wireManifest is a Manifest as JSON has it.
type wireManifest struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Metadata   Metadata        `json:"metadata"`
	Spec       json.RawMessage `json:"spec,omitempty"`
}

// specTypes says what stands under "spec" for each kind.
func specTypes() map[string]reflect.Type {
	return map[string]reflect.Type{
		KindNetwork: reflect.TypeFor[NetworkSpec](),
		KindForward: reflect.TypeFor[ForwardSpec](),
	}
}

// Kinds are the kinds of Manifest, by name.
func Kinds() []string { return sortedKeys(specTypes()) }

// String is the manifest's name among all: Network/lab.
func (m Manifest) String() string { return m.Kind + "/" + m.Metadata.Name }

// MarshalJSON puts the spec of the manifest's kind under "spec".
func (m Manifest) MarshalJSON() ([]byte, error) {
	w := wireManifest{APIVersion: m.APIVersion, Kind: m.Kind, Metadata: m.Metadata}
	var err error
	switch {
	case m.Kind == KindNetwork && m.Network != nil:
		w.Spec, err = json.Marshal(m.Network)
	case m.Kind == KindForward && m.Forward != nil:
		w.Spec, err = json.Marshal(m.Forward)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(w)
}

// UnmarshalJSON is strict: an unknown version, kind or field, a field given twice or a value of the wrong kind is an
// error, an *Error with every problem's path. Whether the values make sense is for the daemon to say.
func (m *Manifest) UnmarshalJSON(data []byte) error {
	root, problems := parseTree(data)
	if root == nil && len(problems) == 0 {
		problems = []Problem{{Code: CodeMalformed, Reason: "null is no manifest"}}
	}
	if len(problems) == 0 {
		problems = checkManifest(root)
	}
	if len(problems) > 0 {
		return Fail(ExitUsage, problems[:min(len(problems), maxProblems)]...)
	}
	var w wireManifest
	if err := json.Unmarshal(data, &w); err != nil {
		return Fail(ExitUsage, Problem{Code: CodeMalformed, Reason: err.Error()})
	}
	*m = Manifest{APIVersion: w.APIVersion, Kind: w.Kind, Metadata: w.Metadata}
	return m.readSpec(w.Spec)
}

func (m *Manifest) readSpec(spec json.RawMessage) error {
	if len(spec) == 0 {
		spec = json.RawMessage("{}")
	}
	var into any
	switch m.Kind {
	case KindNetwork:
		m.Network = &NetworkSpec{}
		into = m.Network
	case KindForward:
		m.Forward = &ForwardSpec{}
		into = m.Forward
	}
	if err := json.Unmarshal(spec, into); err != nil {
		return Fail(ExitUsage, Problem{Code: CodeMalformed, Path: "spec", Reason: err.Error()})
	}
	return nil
}

// checkManifest finds what is wrong with the shape of one manifest.
func checkManifest(root any) []Problem {
	object, ok := root.(map[string]any)
	if !ok {
		return wrongKind(root, "", "a manifest (apiVersion, kind, metadata, spec)", "")
	}
	var problems []Problem
	if v, _ := object["apiVersion"].(string); v != APIVersion {
		problems = append(problems, Problem{Code: CodeMalformed, Path: "apiVersion",
			Reason: fmt.Sprintf("want %q, not %s", APIVersion, shown(object["apiVersion"])), Example: "apiVersion: " + APIVersion})
	}
	kind, _ := object["kind"].(string)
	spec, known := specTypes()[kind]
	if !known {
		return append(problems, unknownKind(object["kind"]))
	}
	rest := map[string]any{}
	for k, v := range object {
		if k != "spec" {
			rest[k] = v
		}
	}
	problems = append(problems, checkManifestFields(rest)...)
	return append(problems, check(object["spec"], spec, "spec")...)
}

func checkManifestFields(object map[string]any) []Problem {
	var problems []Problem
	for _, key := range sortedKeys(object) {
		switch key {
		case "apiVersion", "kind":
		case "metadata":
			problems = append(problems, check(object[key], reflect.TypeFor[Metadata](), key)...)
		default:
			problems = append(problems, unknownField(key, key, []string{"apiVersion", "kind", "metadata", "spec"}))
		}
	}
	return problems
}

func unknownKind(v any) Problem {
	p := Problem{Code: CodeUnknownKind, Path: "kind", Reason: "there is no kind " + shown(v), Fix: fmt.Sprintf("kinds: %v", Kinds()), Example: "kind: " + KindNetwork}
	if s, ok := v.(string); ok {
		if near, ok := Nearest(s, Kinds()); ok {
			p.Example = "kind: " + near
		}
	}
	return p
}

func shown(v any) string {
	if v == nil {
		return "nothing"
	}
	return jsonText(v)
}

// jsonText is a value as a person would write it: without the escapes that only HTML needs.
func jsonText(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // what was read from JSON can be written
	return strings.TrimSuffix(b.String(), "\n")
}
