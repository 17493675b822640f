package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// attached is a pinned link as it was found.
type attached struct {
	path   string
	link   link.Link
	cgroup uint64 // 0: its cgroup is gone
	behind ebpf.ProgramID
}

// find looks a program's link up, in our directory first.
func (c *Conn) find(name string) (*attached, error) {
	versions, err := c.versions()
	if err != nil {
		return nil, err
	}
	for _, v := range append([]string{c.version}, versions...) {
		a, err := openAttached(filepath.Join(c.root, v, name))
		if !errors.Is(err, fs.ErrNotExist) {
			return a, err
		}
	}
	return nil, nil
}

func openAttached(path string) (*attached, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return nil, err
	}
	info, err := l.Info()
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	a := &attached{path: path, link: l, behind: info.Program}
	if cgroup := info.Cgroup(); cgroup != nil {
		a.cgroup = cgroup.CgroupId
	}
	return a, nil
}

// pinnedMaps are our maps, as far as they are there.
func (c *Conn) pinnedMaps() (map[ebpf.MapID]bool, error) {
	ids := map[ebpf.MapID]bool{}
	for _, name := range []string{loopbackMapForwards, loopbackMapPeers} {
		m, err := ebpf.LoadPinnedMap(c.pin(name), nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		info, err := m.Info()
		if err = errors.Join(err, m.Close()); err != nil {
			return nil, err
		}
		if id, ok := info.ID(); ok {
			ids[id] = true
		}
	}
	return ids, nil
}

// constants is how many maps a program has beside the pinned ones: that of its constants.
const constants = 1

// works reports whether a program does what Apply would make it do: for our cgroup, and by the maps that are pinned now.
func (c *Conn) works(a *attached, pinned map[ebpf.MapID]bool) (bool, error) {
	if a.cgroup != c.cgroupID {
		return false, nil
	}
	program, err := ebpf.NewProgramFromID(a.behind)
	if err != nil {
		return false, err
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil {
		return false, err
	}
	ids, _ := info.MapIDs()
	others := 0
	for _, id := range ids {
		if !pinned[id] {
			others++
		}
	}
	return others == constants, nil
}

// attach puts a program where it belongs: behind the link that is there, else behind a new one.
func (c *Conn) attach(name string, program *ebpf.Program, hook ebpf.AttachType) error {
	old, err := c.find(name)
	if err != nil {
		return err
	}
	if old == nil {
		return c.attachNew(name, program, hook)
	}
	defer old.link.Close()
	if old.cgroup != c.cgroupID {
		return c.attachInstead(old, name, program, hook)
	}
	if err := old.link.Update(program); err != nil {
		return err
	}
	return os.Rename(old.path, c.pin(name))
}

func (c *Conn) attachNew(name string, program *ebpf.Program, hook ebpf.AttachType) error {
	l, err := c.newLink(program, hook)
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Pin(c.pin(name))
}

// attachInstead is for a link that can't be moved: the new one is there before the old one goes.
func (c *Conn) attachInstead(old *attached, name string, program *ebpf.Program, hook ebpf.AttachType) error {
	l, err := c.newLink(program, hook)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := old.remove(); err != nil {
		return err
	}
	return l.Pin(c.pin(name))
}

func (c *Conn) newLink(program *ebpf.Program, hook ebpf.AttachType) (*link.RawLink, error) {
	l, err := link.AttachRawLink(link.RawLinkOptions{Target: int(c.cgroup.Fd()), Program: program, Attach: hook})
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("%w: another program may be attached to %s without the flag multi: see bpftool cgroup show", err, c.cgroup.Name())
	}
	return l, err
}

// detach ends a program's work.
func (c *Conn) detach(name string) error {
	old, err := c.find(name)
	if err != nil || old == nil {
		return err
	}
	defer old.link.Close()
	return old.remove()
}

// remove does not wait for whoever else holds the link, nor for the kernel to notice that nobody does.
func (a *attached) remove() error {
	if err := a.link.Detach(); err != nil && a.cgroup != 0 {
		return err
	}
	return os.Remove(a.path)
}
