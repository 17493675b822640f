package kerneltest

import (
	"fmt"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// Event is a notification of the fake kernel: something of that namespace was made, changed or removed. Like the real
// one's it is only a hint.
type Event struct {
	Netns   string
	Object  dataplane.Object // as it is now, or was before it went
	Gone    bool
	Foreign bool // it is not ours
}

type watcher struct{ events chan Event }

// watcherBacklog is how many events a slow watcher may be behind before some are lost, as with a real socket's buffer.
const watcherBacklog = 4096

// Watch returns what changes from now on, by us and by others, until stop is called. Events are lost when 4096 wait.
func (f *Fake) Watch() (events <-chan Event, stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &watcher{events: make(chan Event, watcherBacklog)}
	f.watchers = append(f.watchers, w)
	return w.events, func() { f.unwatch(w) }
}

func (f *Fake) unwatch(w *watcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, other := range f.watchers {
		if other == w {
			f.watchers = append(f.watchers[:i:i], f.watchers[i+1:]...)
			close(w.events)
			return
		}
	}
}

// tell notifies all watchers, after the change; f.mu is held.
func (f *Fake) tell(netns string, o dataplane.Object) {
	if len(f.watchers) == 0 {
		return
	}
	e := Event{Netns: netns, Object: o, Gone: !f.spaces[netns].has(o)}
	if l, ok := o.(dataplane.Link); ok {
		e.Foreign = l.Owner == ""
	}
	f.send(e)
}

func (f *Fake) tellForeign(netns string, o dataplane.Object) {
	f.send(Event{Netns: netns, Object: o, Gone: !f.spaces[netns].has(o), Foreign: true})
}

func (s *space) has(o dataplane.Object) bool {
	if s == nil {
		return false
	}
	if l, ok := o.(dataplane.Link); ok {
		_, ok := s.links[l.Name]
		return ok
	}
	if p, ok := o.(dataplane.Port); ok {
		l := s.links[p.Link]
		if l == nil {
			return false
		}
		_, is := s.port(l)
		return is
	}
	_, ours := s.objects[o.Key()]
	_, foreign := s.foreign[o.Key()]
	return ours || foreign
}

func (f *Fake) send(e Event) {
	for _, w := range f.watchers {
		select {
		case w.events <- e:
		default:
		}
	}
}

// AddNetns makes a namespace that is not ours: the netns of a container engine.
func (f *Fake) AddNetns(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, taken := f.spaces[path]; !taken {
		f.spaces[path] = newSpace(path, false)
	}
}

// RemoveNetns removes a namespace, whosever, as its last user does by ending.
func (f *Fake) RemoveNetns(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.removeNetns(path, false)
}

// AddForeign puts links, addresses and routes there that are not ours; a link's Owner is dropped. Neighbours and FDB entries of a tunnel
// link of ours are taken for ours, whoever put them there.
func (f *Fake) AddForeign(netns string, objects ...dataplane.Object) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.spaces[netns]
	if !ok {
		return noNetns(netns)
	}
	for _, o := range objects {
		if l, ok := o.(dataplane.Link); ok {
			l.Owner = ""
			s.links[l.Name] = &link{Link: l, in: s}
			o = l
		} else if s.isOurs(linkOf(o)) && isEntry(o) {
			s.objects[o.Key()] = o
			f.tell(netns, o)
			continue
		} else {
			s.foreign[o.Key()] = o
		}
		f.tellForeign(netns, o)
	}
	return nil
}

// Delete removes the object of that key as somebody else's `ip … del` or `nft delete` does, with all that goes with it:
// also foreign ones and the far end of a veth.
func (f *Fake) Delete(netns string, key dataplane.Key) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.spaces[netns]
	if !ok {
		return noNetns(netns)
	}
	switch o := key.(type) {
	case dataplane.Link:
		l, ok := s.links[o.Name]
		if !ok {
			return fmt.Errorf("delete link %s: no such link", o.Name)
		}
		f.removeLink(l)
		return nil
	case dataplane.Netns:
		return f.removeNetns(o.Path, false)
	}
	if p, ok := key.(dataplane.Port); ok {
		l, ok := s.links[p.Link]
		if !ok {
			return fmt.Errorf("free link %s: no such link", p.Link)
		}
		free := l.Link
		free.Master = ""
		return f.configure(l, free)
	}
	if o, ok := s.foreign[key]; ok {
		delete(s.foreign, key)
		f.tellForeign(netns, o)
		return nil
	}
	if _, ok := s.objects[key]; !ok {
		return fmt.Errorf("delete %s: not there", key)
	}
	return f.remove(s, key)
}

// Move takes a link to another namespace, as `ip link set NAME netns …` does: it loses its master, its addresses and routes, and
// is down there.
func (f *Fake) Move(netns, name, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.spaces[netns]
	target, there := f.spaces[to]
	if !ok || !there {
		return noNetns(netns + " or " + to)
	}
	l, ok := s.links[name]
	if !ok || target.links[name] != nil {
		return fmt.Errorf("move link %s: not there, or the name is taken", name)
	}
	f.dropLink(l)
	l.in, l.Up, l.Master = target, false, ""
	target.links[name] = l
	f.tell(to, l.Link)
	return nil
}

// Change overwrites one of our objects as somebody else would: a link set down or renumbered, a sysctl written.
func (f *Fake) Change(netns string, o dataplane.Object) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.spaces[netns]
	if !ok {
		return noNetns(netns)
	}
	switch o := o.(type) {
	case dataplane.Link:
		l, ok := s.links[o.Name]
		if !ok {
			return fmt.Errorf("change link %s: no such link", o.Name)
		}
		return f.configure(l, o)
	case dataplane.Sysctl:
		s.sysctls[o.Name] = o.Value
		f.tell(netns, o) // a real kernel tells of few of them
		return nil
	}
	s.objects[o.Key()] = o
	f.tell(netns, o)
	return nil
}

// Sysctl is the value in effect, "0" when nobody wrote one.
func (f *Fake) Sysctl(netns, name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := f.spaces[netns]; ok {
		return s.sysctl(name)
	}
	return ""
}

// FlushNFT is `nft flush ruleset`.
func (f *Fake) FlushNFT(netns string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.spaces[netns]
	if !ok {
		return
	}
	for k, o := range s.objects {
		if dataplane.FamilyOf(o) != "" {
			delete(s.objects, k)
			f.tell(netns, o)
		}
	}
}
