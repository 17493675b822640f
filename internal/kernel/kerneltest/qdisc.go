package kerneltest

import (
	"fmt"
	"syscall"

	"github.com/flatnet/flatnet/internal/dataplane"
)

func (f *Fake) putShaper(s *space, o dataplane.Shaper) error {
	if err := s.needsOurs(o.Link); err != nil {
		return err
	}
	s.objects[o.Key()] = o
	f.tell(s.path, o)
	return nil
}

func (f *Fake) putRedirect(s *space, o dataplane.Redirect) error {
	for _, name := range []string{o.Link, o.Via} {
		if err := s.needsOurs(name); err != nil {
			return err
		}
	}
	if s.links[o.Via].Kind != dataplane.IFB {
		return fmt.Errorf("link %q is no link of ours of type ifb", o.Via)
	}
	s.objects[o.Key()] = o
	f.tell(s.path, o)
	return nil
}

// needsOurs is an error if there is no such link of ours on the host.
func (s *space) needsOurs(link string) error {
	switch l := s.links[link]; {
	case s.path != dataplane.HostNetns:
		return fmt.Errorf("netns %s: only the host has such objects", s.path)
	case l == nil:
		return fmt.Errorf("link %q: %w", link, syscall.ENODEV)
	case l.Owner == "":
		return fmt.Errorf("link %q exists and is not ours", link)
	}
	return nil
}

// strandRedirects is for a link that is gone: what was to leave by it is dropped, and the kernel tells nobody.
func (f *Fake) strandRedirects(gone *link) {
	for k, o := range gone.in.objects {
		if r, ok := o.(dataplane.Redirect); ok && r.Via == gone.Name {
			r.Via = ""
			gone.in.objects[k] = r
		}
	}
}
