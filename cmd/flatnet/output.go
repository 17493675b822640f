package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// listing is how a person wants a list to look.
type listing struct {
	output, format, sortBy string
	quiet, noHeaders       bool
}

func (l *listing) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&l.output, "output", "o", "", "wide, json, yaml or name")
	f.StringVar(&l.format, "format", "", "Go template over each object: '{{.Name}}'")
	f.StringVar(&l.sortBy, "sort-by", "", "a column, for example NAME; -NAME for the reverse")
	f.BoolVarP(&l.quiet, "quiet", "q", false, "names only")
	f.BoolVar(&l.noHeaders, "no-headers", false, "no header line")
	_ = cmd.RegisterFlagCompletionFunc("output", words("wide", "json", "yaml", "name"))
}

// column is one column of a table.
type column[T any] struct {
	head string
	wide bool // shown with -o wide only
	cell func(T) string
}

// table says how a list of T is shown to people.
type table[T any] struct {
	columns []column[T]
	name    func(T) string
	age     func(T) time.Time // when it came, for the column AGE
	builtin []T               // shown in tables only
}

// show prints a list in the form asked for.
func (t table[T]) show(w io.Writer, l listing, items []T) error {
	items = slices.Clone(items)
	if err := t.sort(l, items); err != nil {
		return err
	}
	if items == nil {
		items = []T{}
	}
	switch {
	case l.format != "":
		return formatEach(w, l.format, items)
	case l.quiet || l.output == "name":
		for _, i := range items {
			fmt.Fprintln(w, t.name(i))
		}
		return nil
	case l.output == "json" || l.output == "yaml":
		return writeValue(w, l.output, items)
	case l.output == "" || l.output == "wide":
		return t.text(w, l, append(items, t.builtin...))
	}
	return badUsage("-o takes wide, json, yaml or name, not %q", l.output)
}

// ageColumn is sorted by time: 9m is younger than 2d.
const ageColumn = "AGE"

func (t table[T]) sort(l listing, items []T) error {
	if l.sortBy == "" {
		return nil
	}
	by, reverse := strings.CutPrefix(l.sortBy, "-")
	i := slices.IndexFunc(t.columns, func(c column[T]) bool { return strings.EqualFold(c.head, by) })
	if i < 0 {
		var heads []string
		for _, c := range t.columns {
			heads = append(heads, c.head)
		}
		return badUsage("--sort-by takes one of %s, not %q", strings.Join(heads, ", "), by)
	}
	cell, byAge := t.columns[i].cell, t.columns[i].head == ageColumn && t.age != nil
	slices.SortStableFunc(items, func(a, b T) int {
		if reverse {
			a, b = b, a
		}
		if byAge {
			return t.age(b).Compare(t.age(a))
		}
		return compareNatural(cell(a), cell(b))
	})
	return nil
}

func (t table[T]) text(w io.Writer, l listing, items []T) error {
	var rows [][]string
	var head []string
	for _, c := range t.columns {
		if !c.wide || l.output == "wide" {
			head = append(head, c.head)
		}
	}
	if !l.noHeaders {
		rows = append(rows, head)
	}
	for _, i := range items {
		var row []string
		for _, c := range t.columns {
			if !c.wide || l.output == "wide" {
				row = append(row, orDash(c.cell(i)))
			}
		}
		rows = append(rows, row)
	}
	return writeRows(w, rows)
}

// writeRows aligns columns with three spaces between and none at the end.
func writeRows(w io.Writer, rows [][]string) error { return writeColumns(w, rows, math.MaxInt) }

// writeColumns is writeRows for which longer cells than widest do not count.
func writeColumns(w io.Writer, rows [][]string, widest int) error {
	var width []int
	for _, r := range rows {
		for i, cell := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			if n := utf8.RuneCountInString(cell); n <= widest {
				width[i] = max(width[i], n)
			}
		}
	}
	var b strings.Builder
	for _, r := range rows {
		var line strings.Builder
		for i, cell := range r {
			line.WriteString(cell + strings.Repeat(" ", max(width[i]-utf8.RuneCountInString(cell), 0)+3))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// compareNatural orders numbers within text by value: web2 before web10.
func compareNatural(a, b string) int {
	for a != "" && b != "" {
		if isDigit(a[0]) && isDigit(b[0]) {
			na, nb := number(a), number(b)
			x, y := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			a, b = a[na:], b[nb:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func number(s string) int {
	n := 0
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	return n
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// writeValue prints an api value unchanged.
func writeValue(w io.Writer, format string, v any) error {
	var text []byte
	var err error
	if format == "yaml" {
		text, err = yaml.Marshal(v)
	} else {
		text, err = json.MarshalIndent(v, "", "  ")
		text = append(text, '\n')
	}
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	return err
}

// formatEach runs a Go template over each item, one line each.
func formatEach[T any](w io.Writer, format string, items []T) error {
	if format == "json" {
		format = "{{json .}}"
	}
	t, err := template.New("--format").Funcs(template.FuncMap{
		"json": func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
		"join": strings.Join, "upper": strings.ToUpper, "lower": strings.ToLower,
	}).Parse(format)
	if err != nil {
		return badUsage("%s", err)
	}
	var b strings.Builder // nothing is printed of what fails halfway
	for _, i := range items {
		if err := t.Execute(&b, i); err != nil {
			return badUsage("%s; fields: %s", templateCause(err), strings.Join(fields(reflect.TypeFor[T]()), ", "))
		}
		b.WriteString("\n")
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// templateCause is an error of a template without the words about where in Go it was met.
func templateCause(err error) string {
	_, cause, found := strings.Cut(err.Error(), "executing \"--format\" ")
	if !found {
		return err.Error()
	}
	return "--format: " + cause
}

// fields are the names that a template may use of a type, those of its structs too: Process.PID.
func fields(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		f := t.Field(i)
		names = append(names, f.Name)
		if f.Type.Kind() == reflect.Struct && f.Type.PkgPath() == t.PkgPath() {
			for _, inner := range fields(f.Type) {
				names = append(names, f.Name+"."+inner)
			}
		}
	}
	return names
}

// age is a duration as kubectl's AGE: 5s, 12m, 3h, 9d.
func (a *app) age(since time.Time) string {
	if since.IsZero() {
		return ""
	}
	switch d := a.now().Sub(since); {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// writeFacts prints aligned "key: value" lines; a fact with no value is left out, one with several takes several lines.
func writeFacts(w io.Writer, facts []fact) {
	width := 0
	for _, f := range facts {
		width = max(width, len(f.key)+1)
	}
	for _, f := range facts {
		key := f.key + ":"
		for _, v := range f.values {
			if v != "" {
				fmt.Fprintf(w, "%-*s  %s\n", width, key, v)
				key = ""
			}
		}
	}
}

type fact struct {
	key    string
	values []string
}

func labels(m map[string]string) []string {
	var out []string
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// writeSteps prints what would be done, as a script: each step in words and then as one would type it.
func writeSteps(w io.Writer, steps []api.Step) {
	if len(steps) == 0 {
		fmt.Fprintln(w, "# nothing to do")
		return
	}
	netns, gone := "", goneLinks(steps)
	for _, s := range steps {
		if s.Netns != netns {
			where := "this host"
			if s.Netns != "" {
				where = "network namespace " + s.Netns
			}
			fmt.Fprintf(w, "# in %s:\n", where)
			netns = s.Netns
		}
		fmt.Fprintf(w, "# %s\n", stepText(s, gone))
		if s.Command != "" {
			fmt.Fprintln(w, s.Command)
		}
	}
}

// goneLinks are the links that steps remove.
func goneLinks(steps []api.Step) map[string]bool {
	gone := map[string]bool{}
	for _, s := range steps {
		if rest, ok := strings.CutPrefix(s.Text, "del link "); ok {
			name, _, _ := strings.Cut(rest, " ")
			gone[name] = true
		}
	}
	return gone
}

// stepText is a step in words. What takes a sysctl back names a value that goes, not one that comes.
func stepText(s api.Step, gone map[string]bool) string {
	if rest, ok := strings.CutPrefix(s.Text, "del sysctl "); ok {
		name, _, _ := strings.Cut(rest, "=")
		if parts := strings.Split(name, "/"); len(parts) > 1 && gone[parts[len(parts)-2]] {
			return fmt.Sprintf("sysctl %s goes with its link", name)
		}
		return fmt.Sprintf("put sysctl %s back to what it was", name)
	}
	return s.Text
}

// counted is a number of things.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// writeStepTexts prints steps in words only.
func writeStepTexts(w io.Writer, steps []api.Step) {
	gone := goneLinks(steps)
	for _, s := range steps {
		if s.Netns != "" {
			fmt.Fprintf(w, "[%s] ", s.Netns)
		}
		fmt.Fprintln(w, stepText(s, gone))
	}
}
