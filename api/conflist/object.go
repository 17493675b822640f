package conflist

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/flatnet/flatnet/api"
)

// Note is a setting that has no equal here, and what happens instead.
type Note struct {
	Path string // of the setting: plugins[0].ipam.dataDir
	Text string
}

func (n Note) String() string { return n.Path + ": " + n.Text }

// object is a JSON object whose keys are taken one by one. What nobody has taken is noted by rest, so nothing is passed over in silence.
type object struct {
	keys map[string]any
	path string
	*notes
}

// notes are what is found while a configuration is read.
type notes struct {
	list     []Note
	problems []api.Problem
}

func (n *notes) note(path, format string, args ...any) {
	n.list = append(n.list, Note{Path: path, Text: fmt.Sprintf(format, args...)})
}

func (n *notes) bad(path, reason string, example string) {
	n.problems = append(n.problems, api.Problem{Code: CodeValue, Path: path, Reason: reason, Example: example})
}

func (o object) at(key string) string {
	if o.path == "" {
		return key
	}
	return o.path + "." + key
}

// has reports whether a key is there and says something.
func (o object) has(key string) bool {
	v, ok := o.keys[key]
	return ok && v != nil && v != ""
}

// take returns a value and marks it as read.
func (o object) take(key string) (any, bool) {
	v, ok := o.keys[key]
	delete(o.keys, key)
	return v, ok && v != nil
}

// drop marks keys as read that say nothing which would be different here.
func (o object) drop(keys ...string) {
	for _, key := range keys {
		delete(o.keys, key)
	}
}

func (o object) text(key string) string {
	v, ok := o.take(key)
	s, is := v.(string)
	if ok && !is {
		o.bad(o.at(key), fmt.Sprintf("%s is no text", shown(v)), "")
	}
	return s
}

func (o object) flag(key string) bool {
	v, ok := o.take(key)
	b, is := v.(bool)
	if ok && !is {
		o.bad(o.at(key), fmt.Sprintf("%s is neither true nor false", shown(v)), "")
	}
	return b
}

func (o object) number(key string) int {
	v, ok := o.take(key)
	if !ok {
		return 0
	}
	n, is := v.(json.Number)
	i, err := n.Int64()
	if !is || err != nil || i < 0 || i > 1<<31-1 {
		o.bad(o.at(key), fmt.Sprintf("%s is no whole number", shown(v)), "")
		return 0
	}
	return int(i)
}

// bits is a number of bits, or of them per second.
func (o object) bits(key string) uint64 {
	v, ok := o.take(key)
	if !ok {
		return 0
	}
	n, _ := v.(json.Number)
	i, err := strconv.ParseUint(n.String(), 10, 64)
	if err != nil {
		o.bad(o.at(key), fmt.Sprintf("%s is no number of bits", shown(v)), "1000000")
	}
	return i
}

// objects is a list of objects.
func (o object) objects(key string) []object {
	v, ok := o.take(key)
	items, is := v.([]any)
	if ok && !is {
		o.bad(o.at(key), fmt.Sprintf("%s is no list", shown(v)), "")
	}
	var list []object
	for i, item := range items {
		path := fmt.Sprintf("%s[%d]", o.at(key), i)
		keys, is := item.(map[string]any)
		if !is {
			o.bad(path, fmt.Sprintf("%s is no object", shown(item)), "")
			continue
		}
		list = append(list, object{keys, path, o.notes})
	}
	return list
}

// words is a list of texts.
func (o object) words(key string) []string {
	v, ok := o.take(key)
	items, is := v.([]any)
	if ok && !is {
		o.bad(o.at(key), fmt.Sprintf("%s is no list", shown(v)), "")
	}
	var list []string
	for i, item := range items {
		word, is := item.(string)
		if !is {
			o.bad(fmt.Sprintf("%s[%d]", o.at(key), i), fmt.Sprintf("%s is no text", shown(item)), "")
			continue
		}
		list = append(list, word)
	}
	return list
}

// object is one within; an empty one where there is none.
func (o object) object(key string) object {
	v, ok := o.take(key)
	keys, is := v.(map[string]any)
	if ok && !is {
		o.bad(o.at(key), fmt.Sprintf("%s is no object", shown(v)), "")
	}
	if keys == nil {
		keys = map[string]any{}
	}
	return object{keys, o.at(key), o.notes}
}

// addr is an address; the zero one where there is none.
func (o object) addr(key string) netip.Addr {
	s := o.text(key)
	if s == "" {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		o.bad(o.at(key), fmt.Sprintf("%q is no address", s), "10.1.0.1")
		return netip.Addr{}
	}
	return a.Unmap()
}

// subnet is a prefix as the plugins read it: bits behind its length are passed over.
func (o object) subnet(key string) netip.Prefix {
	s := o.text(key)
	if s == "" {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		o.bad(o.at(key), fmt.Sprintf("%q is no subnet", s), "10.1.0.0/24")
		return netip.Prefix{}
	}
	return p.Masked()
}

// rest notes what nobody took.
func (o object) rest() {
	for _, key := range slices.Sorted(maps.Keys(o.keys)) {
		if !strings.HasPrefix(key, "_") { // how people comment in JSON
			o.note(o.at(key), "flatnet knows no such setting; it is left out")
		}
	}
}

// says notes one setting, if it is there.
func (o object) says(key, format string, args ...any) {
	if o.has(key) {
		o.note(o.at(key), format, args...)
	}
	o.drop(key)
}

// set is says for a switch: only what is on has an effect.
func (o object) set(key, format string, args ...any) {
	if o.flag(key) {
		o.note(o.at(key), format, args...)
	}
}

func shown(v any) string {
	text, err := json.Marshal(v)
	const most = 60
	if err != nil || len(text) > most {
		return "what stands there"
	}
	return string(text)
}
