package kerneltest

import (
	"fmt"
	"syscall"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// borrowed is a link of others as it was before it became a port of ours, as the kernel package's file has it.
type borrowed struct {
	link *link // that one, not another of its name
	up   bool

	bridge string // of ours
}

// port is the Port that a link is: of others, in a bridge of ours whose alias names it, or that we put it into. One that is down is told
// without its master.
func (s *space) port(l *link) (p dataplane.Port, ok bool) {
	master := s.links[l.Master]
	if l.Owner != "" || master == nil || master.Owner == "" || s.path != dataplane.HostNetns {
		return p, false
	}
	if was := s.borrowed[l.Name]; master.Uplink != l.Name && was.link != l {
		return p, false
	}
	p = dataplane.Port{Link: l.Name, Master: l.Master}
	if !l.Up {
		p.Master = ""
	}
	return p, true
}

func (f *Fake) putPort(s *space, p dataplane.Port) error {
	l, master := s.links[p.Link], s.links[p.Master]
	switch {
	case s.path != dataplane.HostNetns:
		return syscall.EINVAL
	case l == nil:
		return fmt.Errorf("link %q: %w", p.Link, syscall.ENODEV)
	case l.Owner != "":
		return fmt.Errorf("link %q is one of flatnet's own", p.Link)
	case master == nil:
		return fmt.Errorf("link %q: %w", p.Master, syscall.ENODEV)
	}
	if _, ours := s.port(l); l.Master != "" && !ours {
		return fmt.Errorf("link %q is a port of %q: %w", p.Link, l.Master, syscall.EEXIST)
	}
	was := s.borrowed[l.Name]
	if was.link != l {
		was = borrowed{link: l, up: l.Up}
	}
	was.bridge = p.Master
	s.borrowed[l.Name] = was
	l.Master, l.Up = p.Master, true
	f.tell(s.path, p)
	return nil
}

// removePort gives a link back as it was; one that is no port of ours is left as it is.
func (f *Fake) removePort(s *space, p dataplane.Port) {
	l := s.links[p.Link]
	if l != nil {
		if _, ours := s.port(l); ours {
			if was := s.borrowed[l.Name]; was.link == l && !was.up {
				l.Up = false
				s.goDown(l.Name)
			}
			l.Master = ""
			f.tell(s.path, p)
		}
	}
	delete(s.borrowed, p.Link)
}

func (f *Fake) putProxy(s *space, p dataplane.ProxyNeighbour) error {
	if s.links[p.Link] == nil {
		return fmt.Errorf("link %q: %w", p.Link, syscall.ENODEV)
	}
	if _, taken := s.foreign[p.Key()]; taken {
		return syscall.EEXIST
	}
	s.objects[p.Key()] = p
	f.tell(s.path, p)
	return nil
}
