package kernel

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// To delete a link the kernel waits, for some 20 ms, until no packet uses it any more; for all links of a group it waits once
// (net/core/rtnetlink.c rtnl_group_dellink). So several are put into a group of their own first. For few, on the host, it waits without us.
const (
	enoughForGroup = 3
	firstGroup     = newborn + 1 // any that no link is in will do
)

// beginningLinkDeletions are the first tasks that delete links, as many as follow each other.
func beginningLinkDeletions(tasks []*task) []*task {
	for i, t := range tasks {
		if _, isLink := t.Object.(dataplane.Link); !isLink || t.Op != dataplane.Del {
			return tasks[:i]
		}
	}
	return tasks
}

// deletesApart reports whether links are deleted apart from the batch.
func (j *job) deletesApart(links []*task) bool {
	return len(links) >= enoughForGroup || len(links) > 0 && j.space.path == dataplane.HostNetns
}

// deleteLinks deletes links as a group, or one by one when they are few or that fails.
func (j *job) deleteLinks(tasks []*task) {
	var doomed []*task
	for _, t := range tasks {
		if t.err == nil && mayDelete(t) {
			doomed = append(doomed, t)
		}
	}
	if len(doomed) < enoughForGroup || j.deleteGroup(doomed) != nil {
		for _, t := range doomed {
			t.err = j.deleteLink(t.seen.index)
		}
	}
	for _, t := range tasks {
		delete(j.tunnels, t.Object.(dataplane.Link).Name)
		j.settle(t)
	}
}

func (j *job) deleteLink(index int) error {
	if j.space.path == dataplane.HostNetns {
		return j.k.broom.delete(j.space, index)
	}
	var b netlink.Batch
	encodeDelete(&b, index)
	if errs := j.space.conn.Do(&b, nil); errs != nil {
		return errs[0]
	}
	return nil
}

func (j *job) deleteGroup(doomed []*task) error {
	group, err := j.freeGroup()
	if err != nil {
		return err
	}
	for some := range slices.Chunk(doomed, netlink.MaxBatch) {
		var b netlink.Batch
		for _, t := range some {
			b.Begin(unix.RTM_NEWLINK, 0)
			b.Raw(infoMsg(t.seen.index, 0, 0))
			b.Uint32(unix.IFLA_GROUP, group)
		}
		for _, err := range j.space.conn.Do(&b, nil) {
			if ignoringGone(err) != nil {
				return err
			}
		}
	}
	var b netlink.Batch
	b.Begin(unix.RTM_DELLINK, 0)
	b.Raw(infoMsg(0, 0, 0))
	b.Uint32(unix.IFLA_GROUP, group)
	if errs := j.space.conn.Do(&b, nil); errs != nil {
		return ignoringGone(errs[0])
	}
	return nil
}

// freeGroup finds a group that no link is in, and that no other job of ours uses.
func (j *job) freeGroup() (uint32, error) {
	used := map[uint32]bool{}
	err := dumpLinks(j.space.conn, func() { clear(used) }, func(l link) { used[l.group] = true })
	group := firstGroup + j.k.groups.Add(1)
	for used[group] {
		group = firstGroup + j.k.groups.Add(1)
	}
	return group, err
}
