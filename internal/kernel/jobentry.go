package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// errNoTunnel says that neighbours and FDB entries are written to tunnel links only: there they are known to be ours.
var errNoTunnel = errors.New("is no tunnel of ours")

func (j *job) encodeNeighbour(t *task, n dataplane.Neighbour) error {
	index, err := j.tunnelIndex(n.Link)
	switch {
	case t.Op == dataplane.Del && err != nil:
		return ignoring(ignoringGone(err), errNoTunnel)
	case err != nil:
		return err
	case t.Op == dataplane.Del:
		encodeNeighbour(&j.batch, unix.RTM_DELNEIGH, 0, n, index)
	default:
		encodeNeighbour(&j.batch, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, n, index)
	}
	return nil
}

// encodeFDB replaces an entry in one step, so that no packet finds it missing.
func (j *job) encodeFDB(t *task, f dataplane.FDB) error {
	index, err := j.tunnelIndex(f.Link)
	switch {
	case t.Op == dataplane.Del && err != nil:
		return ignoring(ignoringGone(err), errNoTunnel)
	case err != nil:
		return err
	case t.Op == dataplane.Del:
		encodeFDB(&j.batch, unix.RTM_DELNEIGH, 0, f, index)
	default:
		encodeFDB(&j.batch, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, f, index)
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
