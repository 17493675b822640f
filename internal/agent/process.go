package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/process"
	"github.com/flatnet/flatnet/internal/model"
)

// cgroupParent is where the command line tool makes a cgroup for each workload's command; stop ends all that is in it.
const cgroupParent = "flatnet"

// SetProcess notes the command that was started in a workload, or that it ended.
func (a *Agent) SetProcess(ctx context.Context, name string, p api.Process) (api.Workload, error) {
	if err := a.begin(ctx); err != nil {
		return api.Workload{}, err
	}
	defer a.end()
	w, ok := a.view().Workloads[name]
	if !ok {
		return api.Workload{}, notFound("workload", name, a.view().Workloads)
	}
	err := checkReport(w, p)
	switch {
	case err != nil:
	case p.Exited:
		err = a.ended(ctx, w, p.Code)
	default:
		err = a.began(ctx, w, p)
	}
	if err != nil {
		return api.Workload{}, fmt.Errorf("workload %q: %w", name, err)
	}
	return a.Workload(name)
}

// checkReport refuses what no command can be or end with, and the end of another command than the workload's: one that ran
// under the same name before.
func checkReport(w model.Workload, p api.Process) error {
	var ps model.Problems
	if p.PID <= 0 {
		ps = append(ps, model.Problem{Code: model.CodeMalformed, Path: "pid", Reason: fmt.Sprintf("%d is no process", p.PID), Fix: "a positive number"})
	}
	if p.Code < 0 || p.Code > 255 {
		ps = append(ps, model.Problem{Code: model.CodeMalformed, Path: "code", Reason: fmt.Sprintf("%d is no exit status", p.Code), Fix: "0 to 255; 128 and its number for a signal"})
	}
	if !p.Exited && p.Code != 0 {
		ps = append(ps, model.Problem{Code: model.CodeMalformed, Path: "code", Reason: "a command that has not ended has no exit status", Fix: "leave it out, or set exited"})
	}
	if len(ps) == 0 && p.Exited && p.PID != w.Process.PID {
		reason := fmt.Sprintf("workload %q runs no command, so process %d was not its command", w.Name, p.PID)
		if w.Process.PID != 0 {
			reason = fmt.Sprintf("the command of workload %q is process %d, not %d", w.Name, w.Process.PID, p.PID)
		}
		ps = append(ps, model.Problem{Code: model.CodeNotRunning, Path: "pid", Reason: reason, Fix: "report the end of the process that was reported as started"})
	}
	return ps.Err()
}

func (a *Agent) began(ctx context.Context, w model.Workload, p api.Process) error {
	if running(w) && w.Process.PID != p.PID {
		return model.Problem{Code: model.CodeInUse, Reason: fmt.Sprintf("workload %q runs a command already", w.Name),
			Owner: fmt.Sprintf("process %d: %s", w.Process.PID, w.Process.Command), Fix: "stop it first", Example: "flatnet stop " + w.Name}
	}
	if w.Process.Exited {
		return model.Problem{Code: model.CodeInUse, Reason: fmt.Sprintf("the command of workload %q has ended, and with it its endpoints", w.Name),
			Fix: "remove it and run it anew", Example: "flatnet rm " + w.Name}
	}
	start, err := a.deps.Processes.Start(p.PID)
	if err != nil {
		return model.Problem{Code: model.CodeNotFound, Path: "pid", Reason: fmt.Sprintf("there is no process %d", p.PID)}
	}
	w.Process = model.Process{PID: p.PID, Start: start, Command: short(p.Command)}
	if _, err := a.commit(ctx, putWorkload(w), false); err != nil {
		return err
	}
	a.event("started", "workload/"+w.Name, fmt.Sprintf("process %d: %s", p.PID, w.Process.Command))
	a.deps.Processes.Forget(w.Name)
	return a.follow(ctx, w)
}

// follow watches a workload's process; one that has ended already is taken note of at once.
func (a *Agent) follow(ctx context.Context, w model.Workload) error {
	err := a.deps.Processes.Add(w.Name, w.Process.PID, w.Process.Start)
	if errors.Is(err, process.ErrGone) {
		return a.ended(ctx, w, unknownExit)
	}
	return err
}

// unknownExit is the status of a command whose end nobody saw.
const unknownExit = -1

// exited is told by the watcher.
func (a *Agent) exited(name string, code int) { a.noteEnd(name, code, false) }

// noteEnd notes the end of a command; when that fails, which is told the first time, later.
func (a *Agent) noteEnd(name string, code int, again bool) {
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	if err := a.begin(ctx); err != nil {
		return // stopping: the next start will find it gone
	}
	defer a.end()
	w, ok := a.view().Workloads[name]
	if !ok || !running(w) {
		return
	}
	err := a.ended(ctx, w, code)
	if err == nil {
		return
	}
	if !again {
		a.deps.Log.Error("note the end of a workload's command", "workload", name, "err", err)
		a.event("error", "workload/"+name, err.Error())
	}
	a.mu.Lock()
	a.late[name] = code
	a.mu.Unlock()
	offer(a.again, struct{}{})
}

// ended notes that a command ended. The workload stays listed unless it was to be removed then; its endpoints and addresses
// go, unless others still share its namespace: then they go with the last of those.
func (a *Agent) ended(ctx context.Context, w model.Workload, code int) error {
	if w.Process.Exited && (w.Process.Code != unknownExit || code == unknownExit) {
		return nil
	}
	first := !w.Process.Exited
	w.Process.Exited, w.Process.Code = true, code
	published := a.forwardsTo(w)
	e := edit{workloads: map[string]*model.Workload{w.Name: &w}}
	if len(a.users(w.Name)) == 0 {
		e.workloads[w.Name] = released(w)
	}
	if target, ok := a.releasable(w); ok {
		published = append(published, a.forwardsTo(target)...)
		e.workloads[target.Name] = released(target)
	}
	steps, err := a.commit(ctx, e, false)
	if err != nil {
		return err
	}
	a.deps.Processes.Forget(w.Name)
	a.flush(ctx, published)
	for name, left := range e.workloads {
		if left == nil {
			a.removeFiles(name)
		}
	}
	if first {
		a.event("exited", "workload/"+w.Name, exitText(code), steps...)
	}
	return nil
}

// released is what is left of a workload whose command ended: nothing but its name, or not even that.
func released(w model.Workload) *model.Workload {
	if w.Remove {
		return nil
	}
	w.Endpoints, w.Forwards, w.Netns, w.Managed = nil, nil, "", false
	return &w
}

// releasable is the ended workload whose namespace w was the last to share.
func (a *Agent) releasable(w model.Workload) (model.Workload, bool) {
	target, ok := a.view().Workloads[w.Join]
	if !ok || !target.Process.Exited || target.Netns == "" {
		return target, false
	}
	for other := range a.state.joined[w.Join] {
		if other != w.Name && !a.view().Workloads[other].Process.Exited {
			return target, false
		}
	}
	return target, true
}

func exitText(code int) string {
	switch {
	case code == unknownExit:
		return "ended while nobody looked"
	case code > 128:
		return fmt.Sprintf("ended by signal %d", code-128)
	}
	return fmt.Sprintf("ended with status %d", code)
}

// StopWorkload ends a workload's command and what it started. One whose namespace others share goes on, except by force.
func (a *Agent) StopWorkload(ctx context.Context, name string, timeout time.Duration, force bool) (api.Workload, error) {
	a.mu.RLock()
	w, ok := a.state.view.Workloads[name]
	known := a.state.view.Workloads
	users := a.users(name)
	a.mu.RUnlock()
	if !ok {
		a.mu.RLock()
		defer a.mu.RUnlock()
		return api.Workload{}, notFound("workload", name, known)
	}
	if w.ByRuntime() && !force {
		return api.Workload{}, byRuntime(w, fmt.Sprintf("workload %q is a container of a container runtime, which has its command", name), model.Problem{Fix: "stop it with its runtime"})
	}
	if !running(w) {
		return a.Workload(name)
	}
	if len(users) > 0 && !force {
		return api.Workload{}, model.Problem{Code: model.CodeInUse, Reason: fmt.Sprintf("others share the namespace of workload %q", name), Owner: listed(users),
			Fix: "stop those first, or with --force only this one: they keep its namespace", Example: "flatnet stop --force " + name}
	}
	// Nothing is locked meanwhile: a command may take its time.
	if err := a.deps.Processes.Stop(ctx, w.Process.PID, w.Process.Start, cgroupParent+"/"+w.Name, timeout); err != nil {
		return api.Workload{}, fmt.Errorf("workload %q: stop: %w", name, err)
	}
	return a.awaitEnd(ctx, w)
}

// awaitEnd waits until the watcher has noted the end of the process, so that who stops sees it stopped.
func (a *Agent) awaitEnd(ctx context.Context, was model.Workload) (api.Workload, error) {
	deadline := time.NewTimer(opTimeout)
	defer deadline.Stop()
	_, next, more := a.events.after(a.events.last())
	for {
		w, err := a.Workload(was.Name)
		if err != nil {
			return a.lastOf(was), nil // it was to be removed with its command
		}
		if w.Process.Exited || w.Process.PID != was.Process.PID {
			return w, err
		}
		select {
		case <-more:
			_, next, more = a.events.after(next)
		case <-ctx.Done():
			return w, ctx.Err()
		case <-deadline.C:
			return w, model.Problem{Code: model.CodeInternal, Reason: fmt.Sprintf("the end of process %d was not noticed", was.Process.PID)}
		}
	}
}

// lastOf describes a workload that is no more.
func (a *Agent) lastOf(w model.Workload) api.Workload {
	w.Process.Exited = true
	w.Endpoints, w.Forwards = nil, nil
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.describeWorkload(w)
}
