package reconcile

import (
	"slices"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// withoutImplied parts the changes into those to carry out and what the kernel then does by itself: with one end of a veth the other goes,
// with a tunnel its neighbours and FDB entries, with what is limited its shaper and redirect, and with a namespace, or a link of a workload, all that is on it.
func withoutImplied(changes []Change) (rest, implied []Change) {
	g := goneWith(changes)
	if len(g.links)+len(g.spaces) == 0 {
		return changes, nil
	}
	for _, c := range changes {
		if g.spaces[c.Netns] {
			implied = append(implied, c)
			continue
		}
		by := func(s dataplane.Step) bool { return g.implies(c.Netns, s) }
		if !slices.ContainsFunc(c.Plan, by) {
			rest = append(rest, c)
			continue
		}
		var does, follows dataplane.Plan
		for _, s := range c.Plan {
			if by(s) {
				follows = append(follows, s)
			} else {
				does = append(does, s)
			}
		}
		implied = append(implied, Change{c.Netns, follows})
		if len(does) > 0 {
			rest = append(rest, Change{c.Netns, does})
		}
	}
	return rest, implied
}

// gone is what takes other things along.
type gone struct {
	links  map[end]bool
	spaces map[string]bool // by path
}

type end struct{ netns, link string }

func goneWith(changes []Change) gone {
	g := gone{map[end]bool{}, map[string]bool{}}
	for _, c := range changes {
		for _, s := range c.Plan {
			if s.Op != dataplane.Del {
				continue
			}
			switch o := s.Object.(type) {
			case dataplane.Netns:
				g.spaces[o.Path] = true
			case dataplane.Link:
				g.links[end{c.Netns, o.Name}] = true
				if o.Peer != "" {
					g.links[end{o.PeerNetns, o.Peer}] = true
				}
			}
		}
	}
	return g
}

// implies reports whether a step need not be done.
func (g gone) implies(netns string, s dataplane.Step) bool {
	if s.Op != dataplane.Del {
		return false
	}
	switch o := s.Object.(type) { // of these there may be thousands
	case dataplane.Neighbour:
		return g.links[end{netns, o.Link}]
	case dataplane.FDB:
		return g.links[end{netns, o.Link}]
	case dataplane.Shaper:
		return g.links[end{netns, o.Link}]
	case dataplane.Redirect:
		return g.links[end{netns, o.Link}]
	}
	if netns == dataplane.HostNetns {
		return false
	}
	switch o := s.Object.(type) {
	case dataplane.Link:
		return o.Peer == "" // the far end, or lo
	case dataplane.Address:
		return g.links[end{netns, o.Link}]
	case dataplane.Route:
		return g.links[end{netns, o.Link}]
	}
	return false
}
