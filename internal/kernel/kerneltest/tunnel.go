package kerneltest

import (
	"fmt"
	"syscall"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// tunnelFree is EEXIST while another link has the VNI at the port, for packets of the same family.
func (s *space) tunnelFree(want dataplane.Link) error {
	if want.Kind != dataplane.VXLAN {
		return nil
	}
	for _, l := range s.links {
		a, b := l.Tunnel, want.Tunnel
		if l.Kind == want.Kind && l.Name != want.Name && a.VNI == b.VNI && a.Port == b.Port && a.Local.Is6() == b.Local.Is6() {
			return fmt.Errorf("link %q has VNI %d at port %d: %w", l.Name, b.VNI, b.Port, syscall.EEXIST)
		}
	}
	return nil
}

// putEntry adds or changes a neighbour or an FDB entry.
func (f *Fake) putEntry(s *space, o dataplane.Object, on string) error {
	switch l := s.links[on]; {
	case l == nil:
		return fmt.Errorf("link %q: %w", on, syscall.ENODEV)
	case l.Kind != dataplane.VXLAN || l.Owner == "":
		return fmt.Errorf("link %q is no tunnel of ours", on)
	}
	s.objects[o.Key()] = o
	f.tell(s.path, o)
	return nil
}

func (s *space) isOurs(link string) bool { return s.links[link] != nil && s.links[link].Owner != "" }

func isEntry(o dataplane.Object) bool {
	switch o.(type) {
	case dataplane.Neighbour, dataplane.FDB:
		return true
	}
	return false
}

// dropNeighbours is what a link loses when it goes down, or its MAC address or ARP flag changes (net/core/neighbour.c neigh_changeaddr).
func (f *Fake) dropNeighbours(l *link) {
	for k, o := range l.in.objects {
		if n, ok := o.(dataplane.Neighbour); ok && n.Link == l.Name {
			delete(l.in.objects, k)
			f.tell(l.in.path, n)
		}
	}
}
