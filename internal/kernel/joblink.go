package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

func (j *job) encodeLink(t *task, l dataplane.Link) error {
	if t.how == down {
		l.Up = false
	}
	switch {
	case t.how == up:
		return j.encodeUp(t, l)
	case t.Op == dataplane.Del:
		if mayDelete(t) {
			encodeDelete(&j.batch, t.seen.index)
			delete(j.tunnels, l.Name)
		}
		return nil
	case !isMade(l):
		return j.encodeFound(t, l)
	case t.seen == nil && t.Op == dataplane.Replace && !t.Anew:
		return fmt.Errorf("it is gone since it was looked at: %w", unix.ENODEV)
	case t.seen == nil:
		return j.encodeCreate(t, l)
	case !t.seen.ours(j.space.path):
		return ErrNotOurs
	case t.how == retake || t.seen.odd || !t.seen.Becomes(l):
		return j.encodeCreate(t, l)
	}
	return j.encodeUpdate(t, l)
}

// mayDelete reports whether a link that is to be deleted is there and still ours. Far ends go with the end that we made, and
// lo never.
func mayDelete(t *task) bool {
	return t.seen != nil && t.seen.marked && isMade(t.seen.Link)
}

// encodeFound sets up a link that is there without a step of ours having made it in this namespace.
func (j *job) encodeFound(t *task, l dataplane.Link) error {
	switch {
	case t.seen == nil:
		return fmt.Errorf("its other end was not made yet: %w", unix.ENODEV)
	case t.seen.Kind != l.Kind:
		return fmt.Errorf("a link of type %q: %w", t.seen.Kind, ErrNotOurs)
	case l.Kind == dataplane.Veth && !t.seen.marked && !t.seen.isNewborn():
		return ErrNotOurs
	}
	return j.encodeUpdate(t, l)
}

func (j *job) encodeUpdate(t *task, l dataplane.Link) error {
	master, err := j.masterOf(l)
	if err != nil {
		return err
	}
	if j.space.path == dataplane.HostNetns && t.seen.alias != l.Alias() {
		j.k.told.forget(t.seen.index)
	}
	encodeUpdate(&j.batch, *t.seen, l, master)
	return nil
}

// encodeCreate makes a link, in the place of the one that was seen.
func (j *job) encodeCreate(t *task, l dataplane.Link) error {
	if l.Kind != dataplane.Bridge && l.Kind != dataplane.Veth && l.Kind != dataplane.VXLAN && l.Kind != dataplane.IFB {
		return fmt.Errorf("links of type %q can't be made", l.Kind)
	}
	if l.Alias() == "" {
		return errors.New("a link without owner could not be told from others'")
	}
	master, err := j.masterOf(l)
	if err != nil {
		return err
	}
	peer := -1
	if l.Kind == dataplane.Veth {
		if peer, err = j.peerNS(l.PeerNetns); err != nil {
			return err
		}
	}
	if err := j.checkTunnelFree(l); err != nil {
		return err
	}
	if t.seen != nil {
		encodeDelete(&j.batch, t.seen.index)
	}
	t.index = j.freeIndex()
	j.made[l.Name] = t.index
	if delete(j.tunnels, l.Name); l.Kind == dataplane.VXLAN {
		j.tunnels[l.Name] = t.index
		if err := j.listenTo(t.index); err != nil {
			return err
		}
	}
	j.k.memory.with(j.space.path, func(r *remembered) { r.made[l.Name] = t.index })
	encodeCreate(&j.batch, l, t.index, master, peer)
	return nil
}

func (j *job) masterOf(l dataplane.Link) (int, error) {
	if l.Master == "" {
		return 0, nil
	}
	return j.indexOf(l.Master)
}

func (j *job) settleLink(t *task, l dataplane.Link) {
	j.settleTunnel(t, l)
	j.settleQuiet(t, l)
	switch {
	case t.err == nil && t.Op == dataplane.Del:
		j.k.memory.with(j.space.path, func(r *remembered) { r.linkGone(l, j.space.path) })
		if l.Kind == dataplane.Bridge && j.space.path == dataplane.HostNetns {
			t.err = j.k.borrowed.bridgeGone(l.Name)
		}
		if l.PeerNetns != "" {
			j.k.memory.linkLeft(l.PeerNetns, l.Peer)
		}
	case t.err == nil:
		j.k.memory.with(j.space.path, func(r *remembered) { r.linkIs(l, j.space.path) })
	case t.index == 0:
	case errors.Is(t.err, unix.EBUSY): // somebody took the index meanwhile
		t.fix = func() error { return j.lookAgain(t, l) }
	case errors.Is(t.err, unix.EEXIST):
		t.fix = func() error { return j.fixLink(t, l) }
	default:
		j.undoLink(t, l)
		j.explainTunnel(t, l)
	}
}

// undoLink takes away a link that was made but not marked as ours, when the second message failed.
func (j *job) undoLink(t *task, l dataplane.Link) {
	if index, err := linkIndex(j.space.conn, l.Name); err != nil || index != t.index {
		return
	}
	var b netlink.Batch
	encodeDelete(&b, t.index)
	j.space.conn.Do(&b, nil)
}

// fixLink is for a link whose name, whose index, or whose peer's name is taken.
func (j *job) fixLink(t *task, l dataplane.Link) error {
	taken := j.taken(t.index)
	if err := j.lookAgain(t, l); err != nil {
		return err
	}
	switch {
	case t.seen == nil && taken:
		return nil // the index, not a name: once more with another
	case t.seen == nil && l.Peer != "":
		return j.freePeer(l)
	case t.seen != nil && !t.seen.ours(j.space.path) && !j.takeOverLink(t, l):
		return ErrNotOurs
	}
	return nil
}

// lookAgain reads the link anew.
func (j *job) lookAgain(t *task, l dataplane.Link) (err error) {
	t.index = 0
	t.seen, err = readLink(j.space.conn, l.Name)
	return err
}
