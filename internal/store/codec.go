package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"github.com/flatnet/flatnet/internal/model"
)

// Schema is what stored values are written as. A reader refuses a larger one: guessing at it could take networks away.
const Schema = 1

// envelope is the stored form of every value.
type envelope struct {
	Schema int             `json:"schema"`
	Value  json.RawMessage `json:"value"`
}

// Installation is what is known of the installation as a whole.
type Installation struct {
	ULASeed [5]byte // random, and the same for its whole life: see model.ULAPool
	BootID  string  // of the boot that the networks' Active was last settled for
	Leaving bool    // an uninstall has begun, and must be ended before anything else
}

// MetaName names the one object of kind Meta.
const MetaName = "installation"

// StickyName names what is remembered of a workload on a network.
func StickyName(network, workload string) string { return network + "/" + workload }

// PutNetwork stores a network.
func PutNetwork(n model.Network, base Version) Change { return put(Network, n.Name, n, base) }

// PutForward stores a standing forward.
func PutForward(f model.Forward, base Version) Change { return put(Forward, f.Name(), f, base) }

// PutSysctl remembers what a sysctl was before us. It only ever creates: the first value is the original.
func PutSysctl(name, original string) Change { return put(Sysctl, name, original, New) }

// PutSticky remembers a workload's addresses on a network.
func PutSticky(network, workload string, addrs []netip.Addr) Change {
	return put(Sticky, StickyName(network, workload), addrs, Any)
}

// PutInstallation stores the facts of the installation.
func PutInstallation(i Installation, base Version) Change { return put(Meta, MetaName, i, base) }

// Member is what a change puts that PutMember made.
func (c Change) Member() (model.Member, error) {
	if c.err != nil {
		return model.Member{}, c.err
	}
	return decode[model.Member](c.Data)
}

func put(kind Kind, name string, value any, base Version) Change {
	c := Change{Kind: kind, Name: name, Base: base}
	raw, err := json.Marshal(value)
	if err == nil {
		c.Data, err = json.Marshal(envelope{Schema: Schema, Value: raw})
	}
	c.err = err
	return c
}

// Networks are the stored ones. Those that cannot be read are missing, and in the error.
func (s Snapshot) Networks() (map[string]model.Network, error) {
	return decodeAll[model.Network](s, Network)
}

// Forwards are the standing ones, by model.Forward.Name.
func (s Snapshot) Forwards() (map[string]model.Forward, error) {
	return decodeAll[model.Forward](s, Forward)
}

// Sysctls are the values that sysctls had before us, by name.
func (s Snapshot) Sysctls() (map[string]string, error) { return decodeAll[string](s, Sysctl) }

// Sticky are the remembered addresses, by StickyName.
func (s Snapshot) Sticky() (map[string][]netip.Addr, error) {
	return decodeAll[[]netip.Addr](s, Sticky)
}

// Installation returns the facts of the installation; ok is false when there are none yet.
func (s Snapshot) Installation() (i Installation, ok bool, err error) {
	all, err := decodeAll[Installation](s, Meta)
	i, ok = all[MetaName]
	return i, ok, err
}

func decodeAll[T any](s Snapshot, kind Kind) (map[string]T, error) {
	all := make(map[string]T, len(s.Objects[kind]))
	var errs []error
	for _, name := range s.Names(kind) {
		v, err := decode[T](s.Objects[kind][name].Data)
		if err != nil {
			errs = append(errs, fmt.Errorf("stored %s %q: %w", kind, name, err))
			continue
		}
		all[name] = v
	}
	return all, errors.Join(errs...)
}

// decode reads a stored value, in one pass when nothing is wrong with it.
func decode[T any](data []byte) (T, error) {
	var whole struct {
		Schema int `json:"schema"`
		Value  *T  `json:"value"`
	}
	if err := json.Unmarshal(data, &whole); err == nil && whole.Value != nil && whole.Schema >= 1 && whole.Schema <= Schema {
		return *whole.Value, nil
	}
	var v T
	e, err := open(data)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(e.Value, &v); err != nil {
		var zero T
		return zero, err
	}
	return v, nil
}

func open(data []byte) (envelope, error) {
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return e, err
	}
	if e.Schema < 1 || e.Schema > Schema {
		return e, fmt.Errorf("written with schema %d, this flatnetd reads up to %d: use a newer one", e.Schema, Schema)
	}
	return e, nil
}

// carry takes over into a new value what the old one has and this version has never heard of, so that an older flatnetd
// doesn't erase what a newer one wrote. Elements of lists are the same when their first field is.
func carry(kind Kind, old, data []byte) ([]byte, error) {
	var oldE, newE map[string]json.RawMessage
	if err := json.Unmarshal(data, &newE); err != nil {
		return nil, err
	}
	if _, err := open(old); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(old, &oldE); err != nil {
		return nil, err
	}
	for k, v := range oldE {
		if _, ok := newE[k]; !ok {
			newE[k] = v
		}
	}
	newE["value"] = merge(prototype(kind), oldE["value"], newE["value"])
	return json.Marshal(newE)
}

// prototype is the type that a kind's values have.
func prototype(kind Kind) reflect.Type {
	switch kind {
	case Network:
		return reflect.TypeFor[model.Network]()
	case Forward:
		return reflect.TypeFor[model.Forward]()
	case Meta:
		return reflect.TypeFor[Installation]()
	case Member:
		return reflect.TypeFor[model.Member]()
	}
	return reflect.TypeFor[any]() // has no fields to be unknown
}

// merge returns the new value of a type with the unknown fields of the old one.
func merge(t reflect.Type, old, fresh json.RawMessage) json.RawMessage {
	switch {
	case t.Kind() == reflect.Struct && isObject(old) && isObject(fresh):
		return mergeStruct(t, old, fresh)
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		return mergeList(t.Elem(), old, fresh)
	}
	return fresh
}

func isObject(raw json.RawMessage) bool {
	return bytes.HasPrefix(bytes.TrimLeft(raw, " \t\r\n"), []byte("{"))
}

func mergeStruct(t reflect.Type, old, fresh json.RawMessage) json.RawMessage {
	var o, f map[string]json.RawMessage
	if json.Unmarshal(old, &o) != nil || json.Unmarshal(fresh, &f) != nil {
		return fresh
	}
	for name, v := range o {
		field, known := fieldNamed(t, name)
		switch have, ok := f[name]; {
		case known && ok:
			f[name] = merge(field.Type, v, have)
		case !known:
			f[name] = v
		}
	}
	out, err := json.Marshal(f)
	if err != nil {
		return fresh
	}
	return out
}

// fieldNamed matches as encoding/json does, without regard to case.
func fieldNamed(t reflect.Type, name string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); strings.EqualFold(f.Name, name) {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func mergeList(elem reflect.Type, old, fresh json.RawMessage) json.RawMessage {
	var o, f []json.RawMessage
	if json.Unmarshal(old, &o) != nil || json.Unmarshal(fresh, &f) != nil {
		return fresh
	}
	byID := map[string]json.RawMessage{}
	for _, raw := range o {
		if id, ok := identity(elem, raw); ok {
			byID[id] = raw
		}
	}
	for i, raw := range f {
		if id, ok := identity(elem, raw); ok && byID[id] != nil {
			f[i] = merge(elem, byID[id], raw)
		}
	}
	if f == nil {
		return fresh
	}
	out, err := json.Marshal(f)
	if err != nil {
		return fresh
	}
	return out
}

func identity(t reflect.Type, raw json.RawMessage) (string, bool) {
	var fields map[string]json.RawMessage
	if t.NumField() == 0 || !isObject(raw) || json.Unmarshal(raw, &fields) != nil {
		return "", false
	}
	id, ok := fields[t.Field(0).Name]
	return string(id), ok
}
