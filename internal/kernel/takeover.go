package kernel

import (
	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// takesOver reports whether a link that is not ours is the very tunnel that is wanted, which another program made and left: flannel.1
// of a flanneld that was ended. The kernel has one VXLAN link of a VNI and port only; so it is marked and kept, with all that goes through it.
func (l *link) takesOver(want dataplane.Link) bool {
	return want.Kind == dataplane.VXLAN && l.Kind == dataplane.VXLAN && l.Name == want.Name && l.alias == "" && !l.odd && l.Becomes(want)
}

// takeOverLink has a link that takesOver be dealt with as one of ours, whose mark it gets.
func (j *job) takeOverLink(t *task, l dataplane.Link) bool {
	if !j.k.heir || j.space.path != dataplane.HostNetns || !t.seen.takesOver(l) {
		return false
	}
	t.seen.marked = true
	return true
}

// takesOver reports whether a route that is not ours may become ours: it leads into a tunnel of ours, or does the very same.
func (j *job) takesOver(found route, r dataplane.Route) bool {
	if !j.k.heir || j.space.path != dataplane.HostNetns || found.kind != unix.RTN_UNICAST || found.cloned || len(found.hops) != 1 {
		return false
	}
	names := map[int]string{}
	if index, err := j.indexOf(r.Link); err == nil {
		names[index] = r.Link
	}
	is := found.object(names)
	if is.Key() != r.Key() {
		return false
	}
	if is == r {
		return true
	}
	_, err := j.tunnelIndex(r.Link)
	return err == nil && is.Link == r.Link
}
