package reconcile

import "github.com/flatnet/flatnet/internal/dataplane"

// stripsLink reports whether a link of the host loses, by a change of its own, what is on it and stays wanted: all when it is made anew, and a
// tunnel its neighbours with its MAC address.
func (r *Reconciler) stripsLink(changes []Change) bool {
	for _, c := range changes {
		for _, s := range c.Plan {
			now, isLink := s.Object.(dataplane.Link)
			if c.Netns != dataplane.HostNetns || s.Op != dataplane.Replace || !isLink {
				continue
			}
			old, ok := r.have[c.Netns][now.Key()].(dataplane.Link)
			switch {
			case !ok:
			case now.Kind == dataplane.VXLAN && (!old.Becomes(now) || old.MAC != now.MAC || old.NoARP != now.NoARP || old.Up && !now.Up),
				!old.Becomes(now) && r.isLimited(now.Name):
				return true
			}
		}
	}
	return false
}

// isLimited reports whether what leaves or comes in by a link of the host is to be held back.
func (r *Reconciler) isLimited(link string) bool {
	want := r.want[dataplane.HostNetns]
	return want[dataplane.Shaper{Link: link}] != nil || want[dataplane.Redirect{Link: link}] != nil
}
