package nft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// attempts bounds how often a transaction is tried while others change the ruleset.
const attempts = 20

// Apply carries out the nft steps of a plan, all in one transaction: after an error nothing has changed. Steps of other kinds
// are passed over. What is already so is success: deleting what is gone, adding what is there with the same value. A chain
// any of whose rules change is written anew as a whole.
func (c *Conn) Apply(ctx context.Context, plan dataplane.Plan) error {
	plan = nftSteps(plan)
	if len(plan) == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known.foresees(plan) && !deletesManyRanges(plan) && c.applyKnown(ctx, plan) == nil {
		return nil
	}
	c.known = known{}
	err := c.apply(ctx, plan)
	for n := 0; n < attempts && isStale(err); n++ {
		var settled bool
		settled, err = c.reapply(ctx, plan)
		if settled {
			break
		}
	}
	return err
}

// nftSteps are the steps that are ours to do.
func nftSteps(plan dataplane.Plan) dataplane.Plan {
	var ours dataplane.Plan
	for _, s := range plan {
		switch s.Object.(type) {
		case dataplane.Table, dataplane.Set, dataplane.Chain, dataplane.Rule, dataplane.Element:
			ours = append(ours, s)
		}
	}
	return ours
}

// isStale reports whether the kernel's state may be another than the plan was made for.
func isStale(err error) bool {
	for _, errno := range []unix.Errno{unix.ERESTART, unix.ENOENT, unix.EEXIST, unix.EBUSY, unix.ENOTEMPTY} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// applyKnown has the kernel refuse the transaction when the ruleset is no longer the known one. What it changes is known too,
// whatever others do from then on.
func (c *Conn) applyKnown(ctx context.Context, plan dataplane.Plan) error {
	err := c.send(ctx, compile(plan, &snapshot{generation: c.known.generation}))
	if err == nil {
		c.known.take(plan)
	}
	return err
}

// apply trusts that the plan fits what is there. Only chains are read first, when rules change.
func (c *Conn) apply(ctx context.Context, plan dataplane.Plan) error {
	if replacesContainers(plan) || deletesManyRanges(plan) {
		_, err := c.reapply(ctx, plan)
		return err
	}
	seen := &snapshot{}
	if changesRules(plan) {
		var err error
		if seen, err = c.readRules(ctx); err != nil {
			return err
		}
	}
	return c.send(ctx, compile(plan, seen))
}

// reapply reads what is there, and does what then remains to be done of the plan. settled says that trying again is no use.
func (c *Conn) reapply(ctx context.Context, plan dataplane.Plan) (settled bool, err error) {
	seen, err := c.read(ctx)
	if err != nil {
		return true, err
	}
	found, err := seen.known()
	if err != nil {
		return true, err
	}
	have := found.state
	want := withoutOrphans(plan.Apply(have), plan)
	rest := dataplane.Diff(want, have)
	tx := compile(rest, seen)
	if old := outworn(rest, have); len(old) > 0 {
		tx = renew(want, have, old, seen)
	}
	err = c.send(ctx, tx)
	return !errors.Is(err, unix.ERESTART), err
}

// withoutOrphans removes what lies in the tables that the plan deletes, and the elements of sets that it deletes.
func withoutOrphans(want dataplane.State, plan dataplane.Plan) dataplane.State {
	for _, step := range plan {
		if step.Op != dataplane.Del {
			continue
		}
		for key, o := range want {
			if dataplane.Within(o, step.Object) {
				delete(want, key)
			}
		}
	}
	return want
}

// replacesContainers reports whether a plan changes what nf_tables cannot change in place.
func replacesContainers(plan dataplane.Plan) bool {
	return slices.ContainsFunc(plan, func(s dataplane.Step) bool { return s.Op == dataplane.Replace && isContainer(s.Object) })
}

func isContainer(o dataplane.Object) bool {
	switch o.(type) {
	case dataplane.Set, dataplane.Chain:
		return true
	}
	return false
}

// The kernel's concatenated range set takes time in proportion to its size to delete one element: 1.8 µs for each that is there
// (6.18, measured), so that 1,000 of 1,000 take 1.8 s and block every other change meanwhile. Adding one takes 8 µs.
const (
	rangeDelete = 1800 * time.Nanosecond
	rangeAdd    = 8 * time.Microsecond
	renewSet    = 3 * time.Millisecond // writing all rules again
	manyRanges  = 16                   // below it the set is not even counted
)

func deletesManyRanges(plan dataplane.Plan) bool {
	for _, n := range rangeDeletions(plan) {
		if n >= manyRanges {
			return true
		}
	}
	return false
}

// rangeDeletions counts the elements deleted from each interval set.
func rangeDeletions(plan dataplane.Plan) map[dataplane.Set]int {
	n := map[dataplane.Set]int{}
	for _, s := range plan {
		if e, ok := s.Object.(dataplane.Element); ok && e.Set().Interval && s.Op != dataplane.Add {
			n[e.Set()]++
		}
	}
	return n
}

// outworn are the sets and chains that are deleted and made again: those that are replaced, and interval sets that lose so
// many elements that this is quicker.
func outworn(plan dataplane.Plan, have dataplane.State) []dataplane.Object {
	var old []dataplane.Object
	for _, s := range plan {
		if s.Op == dataplane.Replace && isContainer(s.Object) {
			old = append(old, have[s.Object.Key()])
		}
	}
	for set, deleted := range rangeDeletions(plan) {
		size := 0
		for _, o := range have {
			if dataplane.Within(o, set) {
				size++
			}
		}
		if time.Duration(deleted*size)*rangeDelete > renewSet+time.Duration(size-deleted)*rangeAdd {
			old = append(old, set)
		}
	}
	return old
}

func changesRules(plan dataplane.Plan) bool {
	return slices.ContainsFunc(plan, func(s dataplane.Step) bool {
		_, isRule := s.Object.(dataplane.Rule)
		return isRule
	})
}

// send carries out a transaction; with more refusals than a person would read, it tells the first ones.
func (c *Conn) send(ctx context.Context, tx *transaction) error {
	if tx.err != nil {
		return fmt.Errorf("nft: %w", tx.err)
	}
	refused, err := c.sock.Send(ctx, &tx.Batch)
	if err != nil {
		return fmt.Errorf("nft: transaction of %d messages: %w", tx.Len(), err)
	}
	var errs []error
	for i, about := range tx.about {
		if refused[i] != nil && len(errs) < 5 {
			errs = append(errs, fmt.Errorf("nft: %s: %w", strings.TrimSpace(about.String()), refused[i]))
		}
	}
	return errors.Join(errs...)
}
