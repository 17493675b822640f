package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxFile bounds a file of manifests, in bytes.
const maxFile = 8 << 20

// Document is a manifest with the place that it was read from.
type Document struct {
	Manifest
	file string // as it was named
	line int    // the first of its YAML document, counted from 1
	text string // of the whole YAML document
	item int    // which item of it when that is a list; -1 when it is not
	list string // the field of the list: "" or "items"
}

// Locate returns file:line of a field, as near as it is found.
func (d Document) Locate(path string) string {
	return fmt.Sprintf("%s:%d", d.file, d.line+findLine(d.text, d.inText(path)))
}

// inText is a path of the manifest as one of the YAML document.
func (d Document) inText(path string) string {
	if d.item < 0 {
		return path
	}
	return join(fmt.Sprintf("%s[%d]", d.list, d.item), path)
}

// Manifests are the values without their places.
func Manifests(docs []Document) []Manifest {
	ms := make([]Manifest, len(docs))
	for i, d := range docs {
		ms[i] = d.Manifest
	}
	return ms
}

// ReadFiles reads the manifests of files, of the *.yaml, *.yml and *.json of directories, and of stdin for "-". The error
// is an *Error with everything that is wrong in any of them.
func ReadFiles(names []string, stdin io.Reader) ([]Document, error) {
	var docs []Document
	var all Error
	for _, name := range names {
		files, err := expand(name)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			d, err := readFile(f, stdin)
			docs = append(docs, d...)
			var e *Error
			if errors.As(err, &e) {
				all.Problems = append(all.Problems, e.Problems...)
			} else if err != nil {
				return nil, err
			}
		}
	}
	if len(all.Problems) > 0 {
		all.Exit = ExitUsage
		return nil, &all
	}
	return docs, nil
}

// expand returns the files behind a name.
func expand(name string) ([]string, error) {
	if name == "-" {
		return []string{name}, nil
	}
	info, err := os.Stat(name)
	if err != nil {
		return nil, Fail(ExitUsage, Problem{Code: CodeMalformed, File: name, Reason: rootCause(err).Error()})
	}
	if !info.IsDir() {
		return []string{name}, nil
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, ext) {
			files = append(files, filepath.Join(name, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, Fail(ExitUsage, Problem{Code: CodeMalformed, File: name, Reason: "the directory holds no *.yaml, *.yml or *.json"})
	}
	return files, nil
}

func readFile(name string, stdin io.Reader) ([]Document, error) {
	if name == "-" {
		return ReadManifests(stdin, "stdin")
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, Fail(ExitUsage, Problem{Code: CodeMalformed, File: name, Reason: rootCause(err).Error()})
	}
	defer f.Close()
	return ReadManifests(f, name)
}

// ReadManifests reads YAML or JSON: one manifest, several separated by ---, a list, or a `kind: List` with items. The
// name stands for the file in errors.
func ReadManifests(r io.Reader, name string) ([]Document, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(text) > maxFile {
		return nil, Fail(ExitUsage, Problem{Code: CodeTooLarge, File: name, Reason: fmt.Sprintf("more than %d MiB", maxFile>>20)})
	}
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("<")) {
		return nil, Fail(ExitUsage, Problem{Code: CodeMalformed, File: name, Reason: "this is XML, and manifests are YAML or JSON",
			Fix: "what libvirt's elements are here: flatnet help from virsh; what a manifest looks like: flatnet help manifests"})
	}
	var docs []Document
	var problems []Problem
	for _, d := range splitDocuments(string(text)) {
		d.file = name
		read, ps := d.read()
		docs = append(docs, read...)
		problems = append(problems, ps...)
	}
	if len(problems) > 0 {
		return nil, Fail(ExitUsage, problems...)
	}
	return docs, nil
}

// ReadYAML reads a file of one YAML or JSON value into v, as Strict does; the problems say in which line.
func ReadYAML(name string, v any) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return Fail(ExitUsage, Problem{Code: CodeMalformed, File: name, Reason: rootCause(err).Error()})
	}
	docs := splitDocuments(string(text))
	switch len(docs) {
	case 0:
		return nil
	case 1:
	default:
		return Fail(ExitUsage, Problem{Code: CodeMalformed, File: fmt.Sprintf("%s:%d", name, docs[1].line), Reason: "a second document, and one is read"})
	}
	d := docs[0]
	d.file = name
	data, err := yaml.YAMLToJSONStrict([]byte(d.text))
	if err != nil {
		return Fail(ExitUsage, d.syntaxProblem(err))
	}
	if problems := d.locate(Strict(data, v)); len(problems) > 0 {
		return Fail(ExitUsage, problems...)
	}
	return nil
}

// splitDocuments cuts at the lines that begin with ---.
func splitDocuments(text string) []Document {
	var docs []Document
	line, begin, at := 1, 0, 0
	flush := func(end int) {
		if body := text[begin:end]; !blank(body) {
			docs = append(docs, Document{line: line, item: -1, text: body})
		}
	}
	n := 0
	for s := range strings.Lines(text) {
		n++
		marker := strings.TrimRight(s, " \t\r\n")
		if marker == "---" || strings.HasPrefix(marker, "--- ") || marker == "..." {
			flush(at)
			line, begin = n, at+len("---")
		}
		at += len(s)
	}
	flush(len(text))
	return docs
}

func blank(text string) bool {
	for line := range strings.Lines(text) {
		if s := strings.TrimSpace(line); s != "" && !strings.HasPrefix(s, "#") {
			return false
		}
	}
	return true
}

// read turns one YAML document into manifests.
func (d Document) read() ([]Document, []Problem) {
	data, err := yaml.YAMLToJSONStrict([]byte(d.text))
	if err != nil {
		return nil, []Problem{d.syntaxProblem(err)}
	}
	items, listField, isList := listOf(data)
	if !isList {
		return d.decode(data)
	}
	var docs []Document
	var problems []Problem
	for i, item := range items {
		d.item, d.list = i, listField
		one, ps := d.decode(item)
		docs = append(docs, one...)
		problems = append(problems, ps...)
	}
	return docs, problems
}

// listOf takes a list apart, bare or as kubectl's List.
func listOf(data []byte) ([]json.RawMessage, string, bool) {
	var items []json.RawMessage
	if json.Unmarshal(data, &items) == nil && items != nil {
		return items, "", true
	}
	var list struct {
		Kind  string            `json:"kind"`
		Items []json.RawMessage `json:"items"`
	}
	if json.Unmarshal(data, &list) == nil && list.Kind == "List" {
		return list.Items, "items", true
	}
	return nil, "", false
}

func (d Document) decode(data []byte) ([]Document, []Problem) {
	err := d.Manifest.UnmarshalJSON(data)
	if err == nil {
		return []Document{d}, nil
	}
	var e *Error
	if !errors.As(err, &e) {
		return nil, []Problem{{Code: CodeMalformed, File: d.Locate(""), Reason: err.Error()}}
	}
	return nil, d.locate(e.Problems)
}

// locate puts problems in the order of the file, and says where in it they are.
func (d Document) locate(problems []Problem) []Problem {
	problems = slices.Clone(problems)
	slices.SortStableFunc(problems, func(a, b Problem) int { return findLine(d.text, d.inText(a.Path)) - findLine(d.text, d.inText(b.Path)) })
	for i, p := range problems {
		problems[i].File = d.Locate(p.Path)
	}
	return problems
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// syntaxProblem is the YAML reader's complaint with its line counted in the file.
func (d Document) syntaxProblem(err error) Problem {
	reason := err.Error()
	for _, prefix := range []string{"error converting YAML to JSON: ", "yaml: ", "unmarshal errors:\n  "} {
		reason = strings.TrimPrefix(reason, prefix)
	}
	line := d.line
	if m := yamlLine.FindStringSubmatchIndex(reason); m != nil {
		n, _ := strconv.Atoi(reason[m[2]:m[3]])
		line += n - 1
		reason = reason[:m[0]] + reason[m[1]:]
	}
	reason, _, _ = strings.Cut(reason, "\n")
	return Problem{Code: CodeMalformed, File: fmt.Sprintf("%s:%d", d.file, line), Reason: "not YAML: " + reason}
}

// WriteManifests prints manifests as YAML documents that ReadManifests takes.
func WriteManifests(w io.Writer, ms []Manifest) error {
	for i, m := range ms {
		text, err := yaml.Marshal(m)
		if err != nil {
			return err
		}
		if i > 0 {
			text = append([]byte("---\n"), text...)
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
	}
	return nil
}

// entry is a key or a dash of block YAML.
type entry struct {
	line, indent int
	text         string
}

// findLine returns the line, counted from 0, where a field of block YAML stands, or its nearest parent that is found.
// The YAML reader keeps no positions.
func findLine(text, path string) int {
	entries := blockEntries(text)
	line := 0
	for _, segment := range pathSegments(path) {
		at := findEntry(entries, segment)
		if at < 0 {
			break
		}
		line = entries[at].line
		entries = children(entries, at)
	}
	return line
}

func blockEntries(text string) []entry {
	var entries []entry
	for n, line := range slices.Collect(strings.Lines(text)) {
		body := strings.TrimLeft(line, " ")
		indent := len(line) - len(body)
		for strings.HasPrefix(body, "- ") || body == "-\n" || body == "-" {
			entries = append(entries, entry{n, indent, "-"})
			rest := strings.TrimLeft(body[1:], " ")
			indent += len(body) - len(rest)
			body = rest
		}
		if s := strings.TrimSpace(body); s != "" && !strings.HasPrefix(s, "#") {
			entries = append(entries, entry{n, indent, s})
		}
	}
	return entries
}

// findEntry looks for a key, or the n-th dash for a number, among the entries of the outermost level.
func findEntry(entries []entry, segment string) int {
	if len(entries) == 0 {
		return -1
	}
	index, err := strconv.Atoi(segment)
	for i, e := range entries {
		if e.indent != entries[0].indent {
			continue
		}
		if err != nil && (strings.HasPrefix(e.text, segment+":") || strings.HasPrefix(e.text, `"`+segment+`":`)) {
			return i
		}
		if err == nil && e.text == "-" {
			if index == 0 {
				return i
			}
			index--
		}
	}
	return -1
}

// children are the entries below one: deeper ones, and for a key also dashes at its own depth.
func children(entries []entry, at int) []entry {
	parent := entries[at]
	rest := entries[at+1:]
	for i, e := range rest {
		if e.indent > parent.indent || e.indent == parent.indent && e.text == "-" && parent.text != "-" {
			continue
		}
		return rest[:i]
	}
	return rest
}

// pathSegments cuts spec.subnets[0].gateway into spec, subnets, 0, gateway.
func pathSegments(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' })
}
