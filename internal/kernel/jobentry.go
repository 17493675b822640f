package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// errNoTunnel says that neighbours and FDB entries are written to tunnel links only: there they are known to be ours.
var errNoTunnel = errors.New("is no tunnel of ours")

// encodeEntry replaces a neighbour or an FDB entry in one step, so that no packet finds it missing.
func encodeEntry[T dataplane.Object](j *job, t *task, o T, link string, encode func(b *netlink.Batch, typ, flags uint16, o T, index int)) error {
	index, err := j.tunnelIndex(link)
	switch {
	case t.Op == dataplane.Del && err != nil:
		return ignoring(ignoringGone(err), errNoTunnel)
	case err != nil:
		return err
	case t.Op == dataplane.Del:
		encode(&j.batch, unix.RTM_DELNEIGH, 0, o, index)
	default:
		encode(&j.batch, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, o, index)
	}
	return nil
}

// tunnelIndex finds the index of a tunnel link of ours, also of one that the batch is to make.
func (j *job) tunnelIndex(name string) (int, error) {
	if index, ok := j.tunnels[name]; ok {
		return index, nil
	}
	l, err := readLink(j.space.conn, name)
	switch {
	case err != nil:
		return 0, err
	case l == nil:
		return 0, fmt.Errorf("link %q: %w", name, unix.ENODEV)
	case !l.marked || l.Kind != dataplane.VXLAN:
		return 0, fmt.Errorf("link %q %w", name, errNoTunnel)
	}
	j.tunnels[name] = l.index
	return l.index, nil
}
