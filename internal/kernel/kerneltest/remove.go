package kerneltest

import (
	"net/netip"
	"syscall"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// remove deletes one of our objects with all that goes with it; what is absent or foreign is left alone.
func (f *Fake) remove(s *space, o dataplane.Object) error {
	switch o := o.(type) {
	case dataplane.Netns:
		return f.removeNetns(o.Path, true)
	case dataplane.Link:
		return f.removeOurLink(s, o)
	case dataplane.Address:
		f.removeAddress(s, o)
		return nil
	case dataplane.Sysctl:
		s.resetSysctl(o)
		return nil
	case dataplane.Port:
		f.removePort(s, o)
		return nil
	case dataplane.Route, dataplane.RouteRule, dataplane.ProxyNeighbour, dataplane.Neighbour, dataplane.FDB,
		dataplane.Shaper, dataplane.Redirect:
		if _, ok := s.objects[o.Key()]; ok {
			delete(s.objects, o.Key())
			f.tell(s.path, o)
		}
		return nil
	}
	return f.removeNFT(s, o)
}

func (f *Fake) removeNetns(path string, onlyManaged bool) error {
	s, ok := f.spaces[path]
	if !ok || path == dataplane.HostNetns {
		return nil
	}
	if onlyManaged && !s.managed {
		return syscall.EPERM
	}
	for _, l := range s.links {
		if l.Kind != dataplane.Loopback {
			f.removeLink(l)
		}
	}
	delete(f.spaces, path)
	delete(f.spaces[dataplane.HostNetns].objects, dataplane.Netns{Path: path}.Key())
	f.tell(dataplane.HostNetns, dataplane.Netns{Path: path})
	return nil
}

// removeOurLink deletes a link with our alias. lo and the far end of a veth are never deleted by themselves.
func (f *Fake) removeOurLink(s *space, o dataplane.Link) error {
	l, ok := s.links[o.Name]
	if !ok || l.Owner == "" || l.Kind == dataplane.Loopback || l.Kind == dataplane.Veth && l.Peer == "" {
		return nil
	}
	f.removeLink(l)
	for name, was := range s.borrowed {
		if was.bridge == o.Name {
			delete(s.borrowed, name)
		}
	}
	return nil
}

// removeLink deletes a link, whosever, and a veth's other end.
func (f *Fake) removeLink(l *link) {
	f.dropLink(l)
	if l.peer != nil && l.peer.in.links[l.peer.Name] == l.peer {
		f.dropLink(l.peer)
	}
}

func (f *Fake) freePorts(bridge *link) {
	s := bridge.in
	for _, port := range s.links {
		if port.Master != bridge.Name {
			continue
		}
		p, wasPort := s.port(port)
		port.Master, port.Isolated, port.Hairpin = "", false, false
		f.tell(s.path, port.Link)
		if wasPort {
			f.tell(s.path, p)
		}
	}
}

func (f *Fake) dropLink(l *link) {
	s := l.in
	f.freePorts(l)
	p, wasPort := s.port(l)
	delete(s.links, l.Name)
	if wasPort {
		f.tell(s.path, p)
	}
	for _, state := range []dataplane.State{s.objects, s.foreign} {
		for k, o := range state {
			if linkOf(o) == l.Name {
				s.forget(o)
				delete(state, k)
			}
		}
	}
	f.strandRedirects(l)
	f.tell(s.path, l.Link)
}

func (s *space) forget(o dataplane.Object) {
	if v, ok := o.(dataplane.Sysctl); ok {
		delete(s.sysctls, v.Name)
	}
}

// linkOf is the link that an object cannot be without.
func linkOf(o dataplane.Object) string {
	switch o := o.(type) {
	case dataplane.Address:
		return o.Link
	case dataplane.Route:
		return o.Link
	case dataplane.ProxyNeighbour:
		return o.Link
	case dataplane.Neighbour:
		return o.Link
	case dataplane.FDB:
		return o.Link
	case dataplane.Shaper:
		return o.Link
	case dataplane.Redirect:
		return o.Link
	case dataplane.Sysctl:
		return o.Link
	}
	return ""
}

// removeAddress deletes an address of either owner. With it go IPv4 routes that prefer it as source, and with the last
// IPv4 address of a link all its IPv4 routes (net/ipv4/fib_frontend.c, fib_inetaddr_event).
func (f *Fake) removeAddress(s *space, a dataplane.Address) {
	_, mine := s.objects[a.Key()]
	delete(s.objects, a.Key())
	if !mine {
		return
	}
	f.tell(s.path, a)
	f.dropRoutesWithout(s, a)
}

func (f *Fake) dropRoutesWithout(s *space, a dataplane.Address) {
	gone := a.Prefix.Addr()
	last := gone.Is4() && !s.hasIPv4(a.Link)
	for _, state := range []dataplane.State{s.objects, s.foreign} {
		for k, o := range state {
			r, ok := o.(dataplane.Route)
			if !ok || !usesFamily(r.Dest, gone) {
				continue
			}
			switch {
			case last && r.Link == a.Link, gone.Is4() && r.Source == gone:
				delete(state, k)
				f.tell(s.path, r)
			case r.Source == gone: // IPv6 only loses the preference
				r.Source = netip.Addr{}
				state[k] = r
				f.tell(s.path, r)
			}
		}
	}
}

func usesFamily(p netip.Prefix, a netip.Addr) bool { return p.Addr().Is6() == a.Is6() }

func (s *space) hasIPv4(dev string) bool {
	return s.any(func(o dataplane.Object) bool {
		a, ok := o.(dataplane.Address)
		return ok && a.Link == dev && a.Prefix.Addr().Is4()
	})
}
