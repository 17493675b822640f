package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// freePeer takes away what has the name of a veth's other end, when it is the other end of the same endpoint: its near end was
// moved to another namespace or renamed by hand. With it that one goes too. What is not ours stays, and is the error; one that was not set up
// yet bears no owner.
func (j *job) freePeer(l dataplane.Link) error {
	if err := j.deletePeer(l); err != nil {
		return fmt.Errorf("its peer %q in netns %q: %w", l.Peer, l.PeerNetns, err)
	}
	return nil
}

func (j *job) deletePeer(l dataplane.Link) error {
	s := j.space
	if l.PeerNetns != "" {
		var err error
		if s, err = j.k.enter(l.PeerNetns); err != nil {
			return err
		}
		defer s.leave()
	}
	seen, err := readLink(s.conn, l.Peer)
	switch {
	case err != nil || seen == nil: // gone by now
		return err
	case !seen.isNewborn() && (!seen.marked || !isFar(seen.Link) || seen.Owner != l.Owner):
		return ErrNotOurs
	}
	var b netlink.Batch
	encodeDelete(&b, seen.index)
	if err := ignoring(errors.Join(s.conn.Do(&b, nil)...), unix.ENODEV); err != nil {
		return err
	}
	j.k.memory.linkLeft(l.PeerNetns, l.Peer)
	return nil
}

// readLink asks for a link by its name; nil when there is none.
func readLink(c *netlink.Conn, name string) (seen *link, err error) {
	var b netlink.Batch
	encodeGetLink(&b, name)
	errs := c.Do(&b, func(_ int, m netlink.Message) {
		if l, ok := parseLink(m.Data); ok {
			seen = &l
		}
	})
	return seen, ignoring(errors.Join(errs...), unix.ENODEV)
}
