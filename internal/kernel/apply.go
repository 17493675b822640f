package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// ErrNotOurs says that a link, route or namespace of that name is there and bears no mark of ours; it is left as it is.
var ErrNotOurs = errors.New("exists and is not ours")

// StepError is why one step of a Plan was not carried out.
type StepError struct {
	Step dataplane.Step
	Rest dataplane.Plan // steps that were not carried out for the same reason, for example of the same transaction
	Err  error
}

func (e *StepError) Error() string {
	if len(e.Rest) > 0 {
		return fmt.Sprintf("%s (and %d more steps): %s", e.Step, len(e.Rest), e.Err)
	}
	return fmt.Sprintf("%s: %s", e.Step, e.Err)
}

// Unwrap is the cause.
func (e *StepError) Unwrap() error { return e.Err }

// Apply carries out a plan in a namespace, its steps in order. A step that fails does not keep the others from being tried;
// the error joins a StepError for each. nft steps that follow each other are one transaction: all fail or none.
func (k *Kernel) Apply(ctx context.Context, netns string, p dataplane.Plan) error {
	if len(p) == 0 {
		return nil
	}
	s, err := k.enter(netns)
	if errors.Is(err, fs.ErrNotExist) && onlyDeletes(p) {
		k.memory.forget(netns)
		return nil // what was inside is gone too
	}
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	defer s.leave()
	if netns == dataplane.HostNetns {
		k.busy.RLock()
		defer k.busy.RUnlock()
		defer k.applied.Add(1)
	}
	doomed := doomedLinks(p)
	var errs []error
	for len(p) > 0 {
		what, run := firstRun(p)
		p = p[len(run):]
		if err := ctx.Err(); err != nil {
			errs = append(errs, everyStep(run, err)...)
			continue
		}
		switch what {
		case nftSteps:
			errs = append(errs, applyPart(ctx, k.nft, s, run)...)
		case bpfSteps:
			errs = append(errs, applyPart(ctx, k.bpf, s, run)...)
		case netnsSteps:
			errs = append(errs, k.applyNetns(run)...)
		case sysctlSteps:
			errs = append(errs, k.applySysctls(s, run, doomed)...)
		default:
			errs = append(errs, k.applyRoutes(s, run)...)
			k.await(ctx, s, run)
		}
	}
	return errors.Join(errs...)
}

// Applied is how many plans were carried out on the host so far, completely or not. While one is, no event is read.
func (k *Kernel) Applied() uint64 { return k.applied.Load() }

// subsystem is the part of the kernel that knows a kind of object.
type subsystem uint8

const (
	rtnetlinkSteps subsystem = iota
	nftSteps
	bpfSteps
	netnsSteps
	sysctlSteps
)

func subsystemOf(o dataplane.Object) subsystem {
	switch o.(type) {
	case dataplane.Netns:
		return netnsSteps
	case dataplane.Sysctl:
		return sysctlSteps
	case dataplane.Program, dataplane.LoopbackForward:
		return bpfSteps
	case dataplane.Link, dataplane.Port, dataplane.Address, dataplane.Route, dataplane.RouteRule, dataplane.ProxyNeighbour,
		dataplane.Neighbour, dataplane.FDB, dataplane.Shaper, dataplane.Redirect:
		return rtnetlinkSteps
	}
	return nftSteps
}

// firstRun is the longest beginning of a plan that is of one subsystem.
func firstRun(p dataplane.Plan) (subsystem, dataplane.Plan) {
	what := subsystemOf(p[0].Object)
	for i, step := range p {
		if subsystemOf(step.Object) != what {
			return what, p[:i]
		}
	}
	return what, p
}

func onlyDeletes(p dataplane.Plan) bool {
	for _, step := range p {
		if step.Op != dataplane.Del {
			return false
		}
	}
	return true
}

// doomedLinks are the names of the links that a plan deletes.
func doomedLinks(p dataplane.Plan) map[string]bool {
	var doomed map[string]bool
	for _, step := range p {
		if l, ok := step.Object.(dataplane.Link); ok && step.Op == dataplane.Del {
			if doomed == nil {
				doomed = map[string]bool{}
			}
			doomed[l.Name] = true
		}
	}
	return doomed
}

func applyPart(ctx context.Context, part Part, s *space, run dataplane.Plan) []error {
	if s.path != dataplane.HostNetns {
		return everyStep(run, errors.New("only the host has such objects"))
	}
	if part == nil {
		return everyStep(run, errors.New("this kernel was opened without it"))
	}
	if err := part.Apply(ctx, run); err != nil {
		return everyStep(run, err)
	}
	return nil
}

func (k *Kernel) applyNetns(run dataplane.Plan) []error {
	var errs []error
	for _, step := range run {
		path := step.Object.(dataplane.Netns).Path
		var err error
		if step.Op == dataplane.Del {
			if err = k.owned.Delete(path); err == nil {
				k.memory.forget(path)
			}
		} else {
			err = k.owned.Create(path)
		}
		if err != nil {
			errs = append(errs, &StepError{Step: step, Err: err})
		}
	}
	return errs
}

func everyStep(run dataplane.Plan, err error) []error {
	return []error{&StepError{Step: run[0], Rest: run[1:], Err: err}}
}

// ignoring is err, or nil when it is one of those that mean there is nothing to do.
func ignoring(err error, harmless ...error) error {
	for _, h := range harmless {
		if errors.Is(err, h) {
			return nil
		}
	}
	return err
}

// ignoringGone is for deletions.
func ignoringGone(err error) error {
	return ignoring(err, unix.ENODEV, unix.ESRCH, unix.ENOENT, unix.EADDRNOTAVAIL)
}
