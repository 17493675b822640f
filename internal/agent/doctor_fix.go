package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/checkup"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
)

// Fix carries out what was found under a code, where that is safe and touches nothing of others.
func (a *Agent) Fix(ctx context.Context, code string, dryRun bool) ([]api.Step, error) {
	switch code {
	case FindingDrift, FindingForwarding:
		return a.Repair(ctx, dryRun)
	case FindingInnerDrift:
		return a.repairInside(ctx, dryRun)
	case checkup.CodeInnerRoute:
		return a.restoreRoutes(ctx, dryRun)
	case "":
		return nil, model.Problem{Code: model.CodeMalformed, Path: "code", Reason: "which code?", Fix: "one that doctor shows as fixable", Example: FindingDrift}
	}
	return nil, model.Problem{Code: model.CodeNotFixable, Path: "code", Reason: fmt.Sprintf("flatnet itself cannot fix %q", short(code)),
		Fix: fmt.Sprintf("it can fix %s, %s, %s and %s; for others doctor shows the commands to type", FindingDrift, FindingInnerDrift, FindingForwarding, checkup.CodeInnerRoute), Example: "flatnet doctor"}
}

// repairInside makes the namespaces of workloads as they were when attached. Only who asks for it gets that: the inside is
// the workload's own.
func (a *Agent) repairInside(ctx context.Context, dryRun bool) ([]api.Step, error) {
	if err := a.begin(ctx); err != nil {
		return nil, err
	}
	defer a.end()
	changes, err := a.rec.Drift(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // that namespace is gone, and doctor says so
	}
	changes = slices.DeleteFunc(changes, func(c reconcile.Change) bool { return c.Netns == dataplane.HostNetns })
	if err != nil || dryRun || len(changes) == 0 {
		return steps(changes), err
	}
	var paths []string
	for _, c := range changes {
		paths = append(paths, c.Netns)
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	defer a.looks.note(look{})
	if err := a.rec.Complete(ctx, paths...); err != nil {
		return nil, kernelProblem(err, "")
	}
	done := did(changes)
	a.event(eventRepaired, "node", fmt.Sprintf("%d steps inside workloads, as asked", len(done)), done...)
	return steps(changes), nil
}

// restoreRoutes gives workloads their default routes back, in place of whatever is there now.
func (a *Agent) restoreRoutes(ctx context.Context, dryRun bool) ([]api.Step, error) {
	if err := a.begin(ctx); err != nil {
		return nil, err
	}
	defer a.end()
	if a.deps.Surveyor == nil {
		return nil, nil
	}
	a.mu.RLock()
	v := a.state.snapshot()
	a.mu.RUnlock()
	facts, err := a.facts(ctx, v, true)
	if err != nil {
		return nil, err
	}
	var changes []reconcile.Change
	plans := checkup.InnerPlans(facts)
	for _, netns := range slices.Sorted(maps.Keys(plans)) {
		changes = append(changes, reconcile.Change{Netns: netns, Plan: plans[netns]})
	}
	if dryRun || len(changes) == 0 {
		return steps(changes), nil
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	defer a.looks.note(look{})
	for _, c := range changes {
		if err := a.deps.Kernel.Apply(ctx, c.Netns, c.Plan); err != nil {
			return nil, kernelProblem(err, "")
		}
	}
	done := did(changes)
	a.event(eventRepaired, "node", fmt.Sprintf("%d steps inside workloads, as asked", len(done)), done...)
	return steps(changes), nil
}
