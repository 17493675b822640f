package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
)

func (j *job) encodeAddress(t *task, a dataplane.Address) error {
	index, err := j.indexOf(a.Link)
	if t.Op == dataplane.Del {
		if err == nil {
			encodeAddress(&j.batch, unix.RTM_DELADDR, 0, a, index)
		}
		return ignoringGone(err)
	}
	if err != nil {
		return err
	}
	flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_EXCL)
	if t.how == change {
		flags = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	}
	if t.how == retake {
		encodeAddress(&j.batch, unix.RTM_DELADDR, 0, a, index)
	}
	encodeAddress(&j.batch, unix.RTM_NEWADDR, flags, a, index)
	return nil
}

// fixAddress is for an address that is there already: the link is ours, and the address is the one it must have. One without our mark
// gets it, in place: with a link's last address its routes would go.
func (j *job) fixAddress(t *task, a dataplane.Address) error {
	index, err := linkIndex(j.space.conn, a.Link)
	if err != nil {
		return err
	}
	t.how = change
	err = dumpAddresses(j.space.conn, index, func() {}, func(found address) {
		if found.prefix == a.Prefix && found.ours() {
			t.how = skip
		}
	})
	if err != nil || t.how != skip || j.space.path != dataplane.HostNetns {
		return err
	}
	on, err := readLink(j.space.conn, a.Link)
	if err != nil || on == nil || !on.Up {
		return err
	}
	routes, err := connectedRoutes(j.space.conn)
	if err == nil && isBare(a.Prefix, index, routes) {
		t.how = retake
	}
	return err
}

func (j *job) encodeRoute(t *task, r dataplane.Route) error {
	if r.Link == "" {
		return errors.New("no link")
	}
	index, err := j.indexOf(r.Link)
	if t.Op == dataplane.Del {
		if err == nil {
			encodeRoute(&j.batch, unix.RTM_DELROUTE, 0, r, index)
		}
		return ignoringGone(err)
	}
	if err != nil {
		return err
	}
	flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_EXCL)
	if t.Op == dataplane.Replace || t.how == change {
		flags = unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	}
	encodeRoute(&j.batch, unix.RTM_NEWROUTE, flags, r, index)
	return nil
}

// fixRoute is for a route whose destination and metric are taken in its table: it is replaced when the other is ours.
func (j *job) fixRoute(t *task, r dataplane.Route) error {
	if err := j.lookAtRoutes(); err != nil {
		return err
	}
	found := j.routes[r.Key()]
	if !found.ours() && !j.takesOver(found, r) {
		return fmt.Errorf("a route of that destination and metric %w", ErrNotOurs)
	}
	t.how = change
	return nil
}

// lookAtRoutes reads all routes, once a job: there may be as many as are in the way.
func (j *job) lookAtRoutes() error {
	if j.routes != nil {
		return nil
	}
	return dumpRoutes(j.space.conn, 0, func() { j.routes = map[dataplane.Key]route{} }, func(r route) {
		if len(r.hops) > 0 {
			key := r.object(nil).Key()
			if _, ours := j.routes[key]; !ours || r.ours() {
				j.routes[key] = r
			}
		}
	})
}
