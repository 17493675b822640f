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
	if t.how == retake {
		encodeAddress(&j.batch, unix.RTM_DELADDR, 0, a, index)
	}
	encodeAddress(&j.batch, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, a, index)
	return nil
}

// fixAddress is for an address that is there already. One without our mark is made anew, as the mark can't be added: the
// link is ours, and the address is the one it must have.
func (j *job) fixAddress(t *task, a dataplane.Address) error {
	index, err := linkIndex(j.space.conn, a.Link)
	if err != nil {
		return err
	}
	t.how = retake
	return dumpAddresses(j.space.conn, index, func() {}, func(found address) {
		if found.prefix == a.Prefix && found.ours() {
			t.how = skip
		}
	})
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
	taken := fmt.Errorf("a route of that destination and metric %w", ErrNotOurs)
	err := dumpRoutes(j.space.conn, dataplane.RouteProtocol, func() {}, func(found route) {
		if found.ours() && found.object(nil).Key() == r.Key() {
			t.how, taken = change, nil
		}
	})
	return errors.Join(err, taken)
}
