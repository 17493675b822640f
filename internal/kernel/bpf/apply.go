package bpf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// Apply carries out the steps whose objects are Programs or LoopbackForwards and passes over all others. A step that fails
// does not stop the next; the errors are joined.
func (c *Conn) Apply(ctx context.Context, plan dataplane.Plan) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := work{c: c}
	defer w.close()
	var errs []error
	did := false
	for _, step := range plan {
		if !handles(step.Object) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		did = true
		if err := w.do(step); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", step, err))
		}
	}
	if did {
		errs = append(errs, c.sweep())
	}
	return errors.Join(errs...)
}

// handles reports whether an object is this package's.
func handles(o dataplane.Object) bool {
	switch o.(type) {
	case dataplane.Program, dataplane.LoopbackForward:
		return true
	}
	return false
}

// work is what one Apply has opened.
type work struct {
	c        *Conn
	spec     *ebpf.CollectionSpec
	programs *ebpf.Collection
	forwards *ebpf.Map
}

func (w *work) close() {
	if w.programs != nil {
		w.programs.Close()
	}
	if w.forwards != nil {
		w.forwards.Close()
	}
}

func (w *work) do(step dataplane.Step) error {
	switch o := step.Object.(type) {
	case dataplane.Program:
		if step.Op == dataplane.Del {
			return w.c.detach(o.Name)
		}
		return w.attach(o)
	case dataplane.LoopbackForward:
		if step.Op == dataplane.Del {
			return w.remove(o)
		}
		return w.put(o)
	}
	return nil
}

func (w *work) attach(p dataplane.Program) error {
	if err := w.load(); err != nil {
		return err
	}
	program, ok := w.programs.Programs[p.Name]
	if !ok {
		return fmt.Errorf("no program %q in this version", p.Name)
	}
	return w.c.attach(p.Name, program, w.spec.Programs[p.Name].AttachType)
}

func (w *work) put(f dataplane.LoopbackForward) error {
	key, to, err := encode(f)
	if err != nil {
		return err
	}
	if err := w.open(); err != nil {
		return err
	}
	return w.forwards.Put(key, to)
}

// remove leaves a map alone that isn't there.
func (w *work) remove(f dataplane.LoopbackForward) error {
	if err := w.openPinned(); err != nil {
		return ignoreMissing(err)
	}
	err := w.forwards.Delete(encodeKey(f))
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

func (w *work) openPinned() error {
	if w.forwards != nil {
		return nil
	}
	m, err := ebpf.LoadPinnedMap(w.c.pin(loopbackMapForwards), nil)
	w.forwards = m
	return err
}

// open opens the map of forwards, made and pinned when it isn't there.
func (w *work) open() error {
	if err := w.openPinned(); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := w.prepare(); err != nil {
		return err
	}
	m, err := ebpf.NewMapWithOptions(w.spec.Maps[loopbackMapForwards], w.pins())
	w.forwards = m
	return err
}

// prepare parses the programs and makes a place for their pins.
func (w *work) prepare() error {
	if w.spec != nil {
		return nil
	}
	if err := w.c.mounted(); err != nil {
		return err
	}
	s, err := spec(w.c.ours)
	if err != nil {
		return err
	}
	s.Maps[loopbackMapForwards].Pinning = ebpf.PinByName
	s.Maps[loopbackMapPeers].Pinning = ebpf.PinByName
	w.spec = s
	return nil
}

func (w *work) pins() ebpf.MapOptions { return ebpf.MapOptions{PinPath: w.c.pin("")} }

// load brings the programs into the kernel, with the maps that are pinned.
func (w *work) load() error {
	if w.programs != nil {
		return nil
	}
	if err := w.prepare(); err != nil {
		return err
	}
	all, err := ebpf.NewCollectionWithOptions(w.spec, ebpf.CollectionOptions{Maps: w.pins()})
	w.programs = all
	return err
}
