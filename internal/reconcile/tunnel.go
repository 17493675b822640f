package reconcile

import "github.com/flatnet/flatnet/internal/dataplane"

// stripsTunnel reports whether a tunnel link of the host loses, by a change of its own, what is on it: all when it is made anew, and its
// neighbours with its MAC address.
func (r *Reconciler) stripsTunnel(changes []Change) bool {
	for _, c := range changes {
		for _, s := range c.Plan {
			now, isLink := s.Object.(dataplane.Link)
			if c.Netns != dataplane.HostNetns || s.Op != dataplane.Replace || !isLink || now.Kind != dataplane.VXLAN {
				continue
			}
			old, ok := r.have[c.Netns][now.Key()].(dataplane.Link)
			if ok && (!old.Becomes(now) || old.MAC != now.MAC || old.NoARP != now.NoARP || old.Up && !now.Up) {
				return true
			}
		}
	}
	return false
}
