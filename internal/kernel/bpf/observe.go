package bpf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// Observe returns what is attached and forwarded, also for the other versions' programs, which are Stale.
func (c *Conn) Observe(ctx context.Context) ([]dataplane.Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	programs, err := c.observePrograms()
	if err != nil {
		return nil, fmt.Errorf("bpf: %w", err)
	}
	forwards, err := c.observeForwards()
	if err != nil {
		return nil, fmt.Errorf("bpf: read forwards: %w", err)
	}
	return append(programs, forwards...), nil
}

func (c *Conn) observePrograms() ([]dataplane.Object, error) {
	versions, err := c.versions()
	if err != nil {
		return nil, err
	}
	maps, err := c.pinnedMaps()
	if err != nil {
		return nil, err
	}
	seen := dataplane.State{}
	for _, v := range versions {
		names, err := c.links(v)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			p, err := c.observeProgram(v, name, maps)
			if err != nil {
				return nil, fmt.Errorf("read program %s: %w", name, err)
			}
			if old, ok := seen[p.Key()].(dataplane.Program); !ok || old.Stale {
				seen[p.Key()] = p
			}
		}
	}
	return objects(seen), nil
}

func (c *Conn) observeProgram(version, name string, maps map[ebpf.MapID]bool) (dataplane.Program, error) {
	a, err := openAttached(filepath.Join(c.root, version, name))
	if err != nil {
		return dataplane.Program{}, err
	}
	defer a.link.Close()
	works, err := c.works(a, maps)
	return dataplane.Program{Name: name, Stale: version != c.version || !works}, err
}

func objects(s dataplane.State) []dataplane.Object {
	all := make([]dataplane.Object, 0, len(s))
	for _, o := range s {
		all = append(all, o)
	}
	return all
}

// links are the pins of a version that aren't maps.
func (c *Conn) links(version string) ([]string, error) {
	pins, err := os.ReadDir(filepath.Join(c.root, version))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range pins {
		if p.Name() != loopbackMapForwards && p.Name() != loopbackMapPeers {
			names = append(names, p.Name())
		}
	}
	return names, nil
}

func (c *Conn) observeForwards() ([]dataplane.Object, error) {
	m, err := ebpf.LoadPinnedMap(c.pin(loopbackMapForwards), &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return readForwards(m)
}

// atOnce is how many elements one system call reads; a bucket of the hash must fit (kernel/bpf/hashtab.c).
const atOnce = 1024

func readForwards(m *ebpf.Map) ([]dataplane.Object, error) {
	var objects []dataplane.Object
	var cursor ebpf.MapBatchCursor
	keys, values := make([]loopbackForwardKey, atOnce), make([]loopbackForwardTo, atOnce)
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			objects = append(objects, decode(keys[i], values[i]))
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
