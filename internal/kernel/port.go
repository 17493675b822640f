package kernel

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// borrowed remembers the links of others that are ports of our bridges by our doing, in a file that is written before the change.
type borrowed struct {
	mu    sync.Mutex
	file  bootFile[borrowedLink]
	links map[string]borrowedLink // by index: a name may change
}

// borrowedLink is a link as it was before us.
type borrowedLink struct {
	Name   string
	Up     bool
	Bridge string // of ours
}

func openBorrowed(path string) (*borrowed, error) {
	file, links, err := openBootFile[borrowedLink](path)
	return &borrowed{file: file, links: links}, err
}

func (b *borrowed) get(index int) (was borrowedLink, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was, ok = b.links[strconv.Itoa(index)]
	return was, ok
}

// taking remembers a link that is about to become a port; how it was the first time stays.
func (b *borrowed) taking(l *link, bridge string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := strconv.Itoa(l.index)
	was, ok := b.links[key]
	if ok && was.Bridge == bridge {
		return nil
	}
	if !ok {
		was = borrowedLink{Name: l.Name, Up: l.Up}
	}
	was.Bridge = bridge
	b.links[key] = was
	return b.file.save(b.links)
}

// givenBack forgets a link.
func (b *borrowed) givenBack(index int) error {
	return b.forget(func(key string, _ borrowedLink) bool { return key == strconv.Itoa(index) })
}

// bridgeGone forgets the ports of a bridge: they are free.
func (b *borrowed) bridgeGone(bridge string) error {
	return b.forget(func(_ string, was borrowedLink) bool { return was.Bridge == bridge })
}

func (b *borrowed) forget(which func(key string, was borrowedLink) bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	many := len(b.links)
	maps.DeleteFunc(b.links, which)
	if len(b.links) == many {
		return nil
	}
	return b.file.save(b.links)
}

// portOf returns the Port that a link is with this master. Others' ports of our bridges are nobody's business: the bridge's alias
// names its own, and that of a moment ago is remembered. One that is down does not serve as a port, which is told by its having no master.
func (b *borrowed) portOf(l *link, master dataplane.Link) (p dataplane.Port, ok bool) {
	if l.marked || master.Owner == "" || master.Kind != dataplane.Bridge {
		return p, false
	}
	if _, taken := b.get(l.index); !taken && master.Uplink != l.Name {
		return p, false
	}
	p = dataplane.Port{Link: l.Name, Master: master.Name}
	if !l.Up {
		p.Master = ""
	}
	return p, true
}

// ports observes the ports of our bridges that are links of others.
func (o *observation) ports(b *borrowed) {
	if len(o.foreignPorts) == 0 {
		return
	}
	bridges := map[int]dataplane.Link{}
	for _, l := range o.ours {
		if l.Kind == dataplane.Bridge {
			bridges[l.index] = l.Link
		}
	}
	for _, l := range o.foreignPorts {
		if p, ok := b.portOf(&l, bridges[l.master]); ok {
			o.others = append(o.others, p)
		}
	}
}

// applyPort makes a link of others a port of our bridge, or gives it back. What was laid into the batch before is sent, as the bridge may be
// in it.
func (j *job) applyPort(t *task, p dataplane.Port) error {
	if j.space.path != dataplane.HostNetns {
		return errors.New("only the host has such objects")
	}
	j.flush()
	l, err := j.ask(func(b *netlink.Batch) { encodeGetLink(b, p.Link) })
	if err != nil {
		return err
	}
	var master *link
	if l != nil && l.master != 0 {
		if master, err = j.ask(func(b *netlink.Batch) { encodeGetLinkAt(b, l.master) }); err != nil {
			return err
		}
	}
	if t.Op == dataplane.Del {
		return j.givePort(l, master)
	}
	return j.takePort(l, master, p)
}

func (j *job) takePort(l, master *link, p dataplane.Port) error {
	switch {
	case l == nil:
		return fmt.Errorf("link %q: %w", p.Link, unix.ENODEV)
	case l.marked:
		return fmt.Errorf("link %q is one of flatnet's own (%s)", p.Link, l.Owner)
	case master != nil && !j.mayTakeFrom(l, master):
		return fmt.Errorf("link %q is a port of %q and %w", p.Link, master.Name, ErrNotOurs)
	}
	index, err := linkIndex(j.space.conn, p.Master)
	if err != nil {
		return err
	}
	if err := j.k.borrowed.taking(l, p.Master); err != nil {
		return fmt.Errorf("remember how link %q was: %w", p.Link, err)
	}
	if l.master != index {
		if err := j.setMaster(l.index, index); err != nil {
			return err
		}
	}
	return j.setUp(l.index, true)
}

func (j *job) mayTakeFrom(l, master *link) bool {
	_, ours := j.k.borrowed.portOf(l, master.Link)
	return ours
}

// givePort takes a link out of our bridge. First it goes down again if it was down before, as only a port is known to be ours to change.
func (j *job) givePort(l, master *link) error {
	if l == nil {
		return nil
	}
	if master == nil || !j.mayTakeFrom(l, master) {
		return j.k.borrowed.givenBack(l.index)
	}
	if was, ok := j.k.borrowed.get(l.index); ok && !was.Up && l.Up {
		if err := ignoringGone(j.setUp(l.index, false)); err != nil {
			return err
		}
	}
	if err := ignoringGone(j.setMaster(l.index, 0)); err != nil {
		return err
	}
	return j.k.borrowed.givenBack(l.index)
}

func (j *job) setMaster(index, master int) error {
	var b netlink.Batch
	b.Begin(unix.RTM_NEWLINK, 0)
	b.Raw(infoMsg(index, 0, 0))
	b.Uint32(unix.IFLA_MASTER, uint32(master))
	return errors.Join(j.space.conn.Do(&b, nil)...)
}

func (j *job) setUp(index int, up bool) error {
	var b netlink.Batch
	b.Begin(unix.RTM_NEWLINK, 0)
	b.Raw(infoMsg(index, linkFlags(dataplane.Link{Up: up}), unix.IFF_UP))
	return errors.Join(j.space.conn.Do(&b, nil)...)
}

// ask looks a link up; nil is that it is not there.
func (j *job) ask(encode func(*netlink.Batch)) (l *link, err error) {
	var b netlink.Batch
	encode(&b)
	errs := j.space.conn.Do(&b, func(_ int, m netlink.Message) {
		if found, ok := parseLink(m.Data); ok {
			l = &found
		}
	})
	return l, ignoring(errors.Join(errs...), unix.ENODEV)
}

func encodeGetLinkAt(b *netlink.Batch, index int) {
	b.Begin(unix.RTM_GETLINK, 0)
	b.Raw(infoMsg(index, 0, 0))
	b.Uint32(unix.IFLA_EXT_MASK, extSkipStats)
}
