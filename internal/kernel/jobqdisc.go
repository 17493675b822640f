package kernel

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// errNoIFB says that a redirect leads by links of that kind only: others do not give back what came in.
var errNoIFB = errors.New("is no link of ours of type ifb")

func (j *job) encodeShaper(t *task, s dataplane.Shaper) error {
	index, err := j.ownIndex(s.Link)
	switch {
	case t.Op == dataplane.Del && err != nil:
		return ignoring(ignoringGone(err), ErrNotOurs)
	case err != nil:
		return err
	case t.Op == dataplane.Del:
		encodeRootGone(&j.batch, index, handleShaper)
		return nil
	case t.how == retake:
		encodeRootGone(&j.batch, index, 0)
	}
	j.k.memory.with(j.space.path, func(r *remembered) { r.shaped[s.Link] = true })
	encodeShaper(&j.batch, s, index)
	return nil
}

// settleShaper is for after a root qdisc was written. One of another kind that has our handle can't be changed into ours.
func (j *job) settleShaper(t *task) {
	switch {
	case t.Op == dataplane.Del:
		t.err = ignoring(t.err, unix.EINVAL) // another one is there
	case errors.Is(t.err, unix.EINVAL) && t.how == plain:
		t.fix = func() error { t.how = retake; return nil }
	}
}

// ownIndex finds the index of a link of ours, also of one that the batch is to make.
func (j *job) ownIndex(name string) (int, error) {
	if j.space.path != dataplane.HostNetns {
		return 0, errors.New("only the host has such objects")
	}
	if index, ok := j.made[name]; ok {
		return index, nil
	}
	l, err := j.ownLink(name)
	if err != nil {
		return 0, err
	}
	return l.index, nil
}

func (j *job) ownLink(name string) (*link, error) {
	l, err := readLink(j.space.conn, name)
	switch {
	case err != nil:
		return nil, err
	case l == nil:
		return nil, fmt.Errorf("link %q: %w", name, unix.ENODEV)
	case !l.marked:
		return nil, fmt.Errorf("link %q %w", name, ErrNotOurs)
	}
	return l, nil
}

// applyRedirect sets the filter of what comes in by a link, or takes it away. What was laid into the batch before is sent, as the links may be
// in it.
func (j *job) applyRedirect(t *task, r dataplane.Redirect) error {
	j.flush()
	index, err := j.ownIndex(r.Link)
	switch {
	case t.Op == dataplane.Del && err != nil:
		return ignoring(ignoringGone(err), ErrNotOurs)
	case err != nil:
		return err
	case t.Op == dataplane.Del:
		return j.endRedirect(index)
	}
	via, err := j.ownLink(r.Via)
	switch {
	case err != nil:
		return err
	case via.Kind != dataplane.IFB:
		return fmt.Errorf("link %q %w", r.Via, errNoIFB)
	}
	j.k.memory.with(j.space.path, func(m *remembered) { m.shaped[r.Link] = true })
	var b netlink.Batch
	encodeClsact(&b, unix.RTM_NEWQDISC, unix.NLM_F_CREATE|unix.NLM_F_EXCL, index)
	encodeRedirectGone(&b, index)
	encodeRedirect(&b, index, via.index)
	errs := j.space.conn.Do(&b, nil)
	if errs == nil {
		return nil
	}
	return errors.Join(ignoring(errs[0], unix.EEXIST), ignoring(errs[1], unix.ENOENT, unix.EINVAL), errs[2])
}

// endRedirect takes the filter away, and the qdisc that it was in if nobody else has a filter there.
func (j *job) endRedirect(index int) error {
	var b netlink.Batch
	encodeRedirectGone(&b, index)
	if errs := j.space.conn.Do(&b, nil); errs != nil {
		return ignoring(ignoringGone(errs[0]), unix.EINVAL) // there is no such qdisc
	}
	others := 0
	for _, hook := range []uint32{parentIngress, parentEgress} {
		if err := dumpFilters(j.space.conn, index, hook, func() {}, func(control) { others++ }); err != nil {
			return err
		}
	}
	if others > 0 {
		return nil
	}
	b.Reset()
	encodeClsact(&b, unix.RTM_DELQDISC, 0, index)
	return ignoring(ignoringGone(errors.Join(j.space.conn.Do(&b, nil)...)), unix.EINVAL)
}
