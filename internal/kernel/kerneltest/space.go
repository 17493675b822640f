package kerneltest

import (
	"fmt"
	"io/fs"
	"net/netip"
	"syscall"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// space is one network namespace.
type space struct {
	path     string
	managed  bool // made by a Netns object of ours
	links    map[string]*link
	objects  dataplane.State     // ours: all but links
	foreign  dataplane.State     // addresses and routes that others made
	sysctls  map[string]string   // the values in effect, whoever wrote them; absent ones read "0"
	borrowed map[string]borrowed // links that are our ports, by name
	changed  map[string]change   // the host's sysctls that outlive links, as the kernel package's file has them
}

// change is what a sysctl was before us, and what we wrote.
type change struct{ was, ours string }

// link is a link in its namespace. It is ours when it has an Owner, as the alias tells in the kernel.
type link struct {
	dataplane.Link
	in   *space
	peer *link // a veth's other end
	far  bool  // put there as the other end of one of ours
}

func newSpace(path string, managed bool) *space {
	s := &space{path: path, managed: managed, links: map[string]*link{}, objects: dataplane.State{},
		foreign: dataplane.State{}, sysctls: map[string]string{}, changed: map[string]change{}, borrowed: map[string]borrowed{}}
	s.links["lo"] = &link{Link: dataplane.Link{Name: "lo", Kind: dataplane.Loopback, Up: path == dataplane.HostNetns}, in: s}
	return s
}

// ours is what Observe tells: links with our alias, lo of a workload, and the objects of ours.
func (s *space) ours() dataplane.State {
	out := s.objects.Clone()
	for _, l := range s.links {
		if l.Owner != "" || l.Kind == dataplane.Loopback && s.path != dataplane.HostNetns {
			out[l.Key()] = l.Link
		}
		if p, ok := s.port(l); ok {
			out[p.Key()] = p
		}
	}
	for k, o := range out {
		if v, ok := o.(dataplane.Sysctl); ok {
			v.Value = s.sysctl(v.Name)
			out[k] = v
		}
	}
	return out
}

func (s *space) sysctl(name string) string {
	if v, ok := s.sysctls[name]; ok {
		return v
	}
	return "0"
}

func (f *Fake) makeNetns(n dataplane.Netns) error {
	if s, taken := f.spaces[n.Path]; taken {
		if !s.managed {
			return syscall.EEXIST
		}
		return nil
	}
	f.spaces[n.Path] = newSpace(n.Path, true)
	f.spaces[dataplane.HostNetns].objects[n.Key()] = n
	f.tell(dataplane.HostNetns, n)
	return nil
}

// putLink adds a link or changes the one that is there; what cannot change in place is made anew.
func (f *Fake) putLink(s *space, want dataplane.Link, step dataplane.Step) error {
	old, exists := s.links[want.Name]
	if far := want.Kind == dataplane.Veth && want.Peer == ""; far || want.Kind == dataplane.Loopback {
		if !exists {
			return syscall.ENODEV
		}
		if far && !old.far && old.Owner == "" {
			return syscall.EEXIST
		}
		return f.configure(old, want)
	}
	if exists && old.Owner == "" {
		return syscall.EEXIST
	}
	if err := s.tunnelFree(want); err != nil {
		return err
	}
	if !exists && step.Op == dataplane.Replace && !step.Anew {
		return syscall.ENODEV
	}
	if exists && !old.Becomes(want) {
		if step.Op == dataplane.Add {
			return syscall.EEXIST
		}
		f.removeLink(old)
		exists = false
	}
	if want.Master != "" && s.links[want.Master] == nil {
		return syscall.ENODEV
	}
	if !exists {
		made, err := f.makeLink(s, want)
		if err != nil {
			return err
		}
		old = made
	}
	return f.configure(old, want)
}

func (f *Fake) makeLink(s *space, want dataplane.Link) (*link, error) {
	made := &link{Link: dataplane.Link{Name: want.Name, Kind: want.Kind, Peer: want.Peer, PeerNetns: want.PeerNetns}, in: s}
	if want.Kind == dataplane.Veth {
		if err := f.makePeer(made, want.Owner); err != nil {
			return nil, err
		}
	}
	s.links[want.Name] = made
	return made, nil
}

// makePeer makes the other end. One of the same endpoint that is there already lost its near end to somebody who moved it.
func (f *Fake) makePeer(l *link, owner string) error {
	in := l.in
	if l.PeerNetns != "" {
		other, ok := f.spaces[l.PeerNetns]
		if !ok {
			return fmt.Errorf("peer: %w", noNetns(l.PeerNetns))
		}
		in = other
	}
	if old := in.links[l.Peer]; old != nil && old.far && (old.Owner == owner || old.Owner == "") {
		f.removeLink(old)
	}
	if _, taken := in.links[l.Peer]; taken || in == l.in && l.Peer == l.Name {
		return fmt.Errorf("peer %s: %w", l.Peer, syscall.EEXIST)
	}
	l.peer = &link{Link: dataplane.Link{Name: l.Peer, Kind: dataplane.Veth}, in: in, peer: l, far: true}
	in.links[l.Peer] = l.peer
	f.tell(in.path, l.peer.Link)
	return nil
}

// configure sets what can change while a link stands.
func (f *Fake) configure(l *link, want dataplane.Link) error {
	if want.Master != "" && l.in.links[want.Master] == nil {
		return syscall.ENODEV
	}
	if l.Kind == dataplane.Loopback {
		want = dataplane.Link{Name: "lo", Kind: dataplane.Loopback, Up: want.Up}
	}
	if want.Master == "" {
		want.Isolated, want.Hairpin = false, false // they are the port's, not the link's
	}
	wentDown, strange := l.Up && !want.Up, l.MAC != want.MAC || l.NoARP != want.NoARP
	changed := l.Link != want
	was, wasPort := l.in.port(l)
	l.Link = want
	if wentDown {
		l.in.goDown(want.Name)
	}
	if wentDown || strange {
		f.dropNeighbours(l)
	}
	if changed {
		f.tell(l.in.path, l.Link)
	}
	if is, isPort := l.in.port(l); is != was && isPort {
		f.tell(l.in.path, is)
	} else if wasPort && !isPort {
		f.tell(l.in.path, was)
	}
	return nil
}

// goDown is what a link loses by going down: its routes, proxied neighbours, and IPv6 addresses (net.ipv6.conf.*.keep_addr_on_down is 0).
func (s *space) goDown(name string) {
	for _, state := range []dataplane.State{s.objects, s.foreign} {
		for k, o := range state {
			switch o := o.(type) {
			case dataplane.Route:
				if o.Link == name {
					delete(state, k)
				}
			case dataplane.ProxyNeighbour:
				if o.Link == name {
					delete(state, k)
				}
			case dataplane.Address:
				if o.Link == name && o.Prefix.Addr().Is6() {
					delete(state, k)
				}
			}
		}
	}
}

func (f *Fake) putAddress(s *space, a dataplane.Address) error {
	if s.links[a.Link] == nil {
		return syscall.ENODEV
	}
	delete(s.foreign, a.Key()) // the kernel replaces the address's protocol number
	s.objects[a.Key()] = a
	f.tell(s.path, a)
	return nil
}

func (f *Fake) putRoute(s *space, r dataplane.Route) error {
	if _, taken := s.foreign[r.Key()]; taken {
		return syscall.EEXIST
	}
	if r.Link != "" {
		l := s.links[r.Link]
		if l == nil {
			return syscall.ENODEV
		}
		if !l.Up {
			return syscall.ENETDOWN
		}
	}
	if r.Via.IsValid() && !r.OnLink && !s.onLink(r.Via, r.Link) {
		return fmt.Errorf("nexthop has invalid gateway: %w", syscall.ENETUNREACH)
	}
	if r.Source.IsValid() && !s.hasAddress(r.Source) {
		return fmt.Errorf("invalid prefsrc address: %w", syscall.EINVAL)
	}
	s.objects[r.Key()] = r
	f.tell(s.path, r)
	return nil
}

// onLink reports whether a gateway can be spoken to without another gateway.
func (s *space) onLink(via netip.Addr, dev string) bool {
	if via.IsLinkLocalUnicast() && via.Is6() {
		return dev != ""
	}
	on := func(link string) bool { return dev == "" || dev == link }
	return s.any(func(o dataplane.Object) bool {
		switch o := o.(type) {
		case dataplane.Address:
			return on(o.Link) && o.Prefix.Masked().Contains(via)
		case dataplane.Route:
			return on(o.Link) && !o.Via.IsValid() && o.Dest.Contains(via)
		}
		return false
	})
}

func (s *space) hasAddress(a netip.Addr) bool {
	return s.any(func(o dataplane.Object) bool {
		addr, ok := o.(dataplane.Address)
		return ok && addr.Prefix.Addr() == a
	})
}

func (s *space) any(is func(dataplane.Object) bool) bool {
	for _, state := range []dataplane.State{s.objects, s.foreign} {
		for _, o := range state {
			if is(o) {
				return true
			}
		}
	}
	return false
}

// putSysctl writes a value; of those of the host that outlive our links it remembers what was before.
func (f *Fake) putSysctl(s *space, v dataplane.Sysctl) error {
	if v.Link != "" && s.links[v.Link] == nil {
		return fs.ErrNotExist
	}
	if now := s.sysctl(v.Name); s.outlives(v) && now != v.Value {
		c, again := s.changed[v.Name]
		if !again {
			c.was = now
		}
		c.ours = v.Value
		s.changed[v.Name] = c
	}
	s.sysctls[v.Name] = v.Value
	s.objects[v.Key()] = v
	return nil
}

func (s *space) outlives(v dataplane.Sysctl) bool {
	return v.Link == "" && s.path == dataplane.HostNetns
}

// resetSysctl puts back what was before us, unless somebody wrote another value since; a link's value becomes the default.
func (s *space) resetSysctl(v dataplane.Sysctl) {
	delete(s.objects, v.Key())
	if !s.outlives(v) {
		delete(s.sysctls, v.Name)
		return
	}
	c, ours := s.changed[v.Name]
	if ours && s.sysctl(v.Name) == c.ours {
		s.sysctls[v.Name] = c.was
	}
	delete(s.changed, v.Name)
}
