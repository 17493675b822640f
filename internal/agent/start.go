package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
	"github.com/flatnet/flatnet/internal/render"
	"github.com/flatnet/flatnet/internal/store"
)

// start loads what is asked for, looks at the host, and makes the kernel equal. What the kernel refuses is told and tried
// again later: one network that cannot be made keeps no other from working.
func (a *Agent) start(ctx context.Context) error {
	node, err := a.deps.Host.Node(ctx)
	if err != nil {
		return fmt.Errorf("read the host's links and routes: %w", err)
	}
	a.state.view.Node = node
	install, err := a.load(ctx)
	if err != nil {
		return err
	}
	if install.Leaving {
		return a.finishUninstall(ctx)
	}
	if err := a.settle(ctx, install); err != nil {
		return err
	}
	a.hostLocal.sweep(a.view().Workloads)
	a.straighten()
	if err := a.findNamespaces(ctx); err != nil {
		return err
	}
	a.findProcesses(ctx)
	parts, errs := a.state.parts()
	a.note(errs)
	changes, err := a.rec.Set(ctx, parts)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err = errors.Join(err, a.complete(ctx)); err != nil {
		a.deps.Log.Error("make the kernel as asked", "err", err)
		a.event("error", "node", err.Error())
	}
	a.sweepFiles()
	a.writeAllFiles()
	a.checkOverlaps()
	a.event("ready", "node", startText(a.view()), did(changes)...)
	return nil
}

func startText(v model.View) string {
	return fmt.Sprintf("%d networks, %d workloads, %d standing forwards", len(v.Networks), len(v.Workloads), len(v.Forwards))
}

// load reads store and journal. A record that cannot be read ends the start: leaving it out would take something away.
func (a *Agent) load(ctx context.Context) (store.Installation, error) {
	snap, err := a.deps.Store.Load(ctx)
	if err != nil {
		return store.Installation{}, err
	}
	networks, errN := snap.Networks()
	forwards, errF := snap.Forwards()
	sticky, errS := snap.Sticky()
	install, known, errI := snap.Installation()
	workloads := a.deps.Journal.Load()
	if err := errors.Join(errN, errF, errS, errI); err != nil {
		return install, err
	}
	for name, w := range workloads {
		if w.Settling {
			a.unsettled = append(a.unsettled, name)
			w.Settling = false
			workloads[name] = w
		}
	}
	e := edit{networks: pointers(networks), forwards: pointers(forwards), workloads: pointers(workloads)}
	a.state.apply(e)
	a.sticky.load(sticky)
	for _, w := range a.deps.Journal.Past() {
		w.Endpoints = slices.DeleteFunc(slices.Clone(w.Endpoints), func(e model.Endpoint) bool { return !a.mayBe(e.Network) })
		a.sticky.remember(w)
	}
	if !known {
		return a.install(ctx)
	}
	a.state.seed = install.ULASeed
	return install, nil
}

// mayBe reports whether a network that a workload of the past was on is there still. Those of the cluster are not in this host's store, and
// may be unknown until the cluster's answers: what is remembered is a preference only.
func (a *Agent) mayBe(network string) bool {
	_, there := a.state.view.Networks[network]
	return there || a.fabric != nil && !a.fabric.seen.Known
}

func pointers[V any](m map[string]V) map[string]*V {
	p := make(map[string]*V, len(m))
	for name, v := range m {
		p[name] = &v
	}
	return p
}

// install begins a new installation: with one nat network, which is written down before the installation is, so that a crash
// between the two begins again.
func (a *Agent) install(ctx context.Context) (store.Installation, error) {
	install := store.Installation{BootID: a.config.BootID}
	rand.Read(install.ULASeed[:])
	a.state.seed = install.ULASeed
	changes := []store.Change{}
	if _, there := a.view().Networks[DefaultNetwork]; !there {
		n, err := readNetwork(a.state, api.Manifest{Metadata: api.Metadata{Name: DefaultNetwork}, Network: &api.NetworkSpec{}}, a.deps.Now().UTC())
		if err != nil {
			a.deps.Log.Warn("no default network", "err", err)
		} else {
			changes = append(changes, store.PutNetwork(n, store.Any))
			a.state.apply(putNetwork(n))
		}
	}
	_, err := a.deps.Store.Write(ctx, append(changes, store.PutInstallation(install, store.Any))...)
	return install, recordProblem(err)
}

// settle makes networks active or not as their Autostart says, once after each boot of the machine.
func (a *Agent) settle(ctx context.Context, install store.Installation) error {
	if install.BootID == a.config.BootID {
		return nil
	}
	e := edit{networks: map[string]*model.Network{}}
	for name, n := range a.view().Networks {
		if n.Active != n.Autostart {
			n.Active = n.Autostart
			e.networks[name] = &n
		}
	}
	inverse := a.state.apply(e)
	install.BootID = a.config.BootID
	_, err := a.deps.Store.Write(ctx, append(stored(e, inverse), store.PutInstallation(install, store.Any))...)
	return recordProblem(err)
}

// findNamespaces notes the identities of namespaces that others made, and which of them are gone. Containers of those are forgotten: their
// addresses leak over no crash.
func (a *Agent) findNamespaces(ctx context.Context) error {
	for name, w := range a.view().Workloads {
		if w.Sharing != model.Own || w.Managed || w.Netns == "" {
			continue
		}
		reason := a.gone(ctx, w, w.NetnsID)
		switch {
		case reason == "":
			a.isNamespace(w, w.NetnsID)
		case w.ByRuntime() && len(a.state.joined[name]) == 0:
			if err := a.deps.Journal.Delete(name); err != nil {
				return err
			}
			a.state.apply(deleteWorkload(name))
			a.hostLocal.keep(name, nil)
			a.event("detached", "workload/"+name, reason)
		default:
			a.state.lost[name] = reason
			a.event("lost", "workload/"+name, reason)
		}
	}
	return nil
}

// findProcesses watches the commands that still run, and notes those that ended while nobody looked.
func (a *Agent) findProcesses(ctx context.Context) {
	for _, name := range slices.Sorted(maps.Keys(a.view().Workloads)) {
		w := a.view().Workloads[name]
		if !running(w) {
			continue
		}
		if err := a.follow(ctx, w); err != nil {
			a.deps.Log.Error("watch a workload's command", "workload", name, "err", err)
		}
	}
}

// complete sets up the namespaces that a crash left half done.
func (a *Agent) complete(ctx context.Context) error {
	done := map[string]model.Workload{}
	var errs []error
	for _, name := range a.unsettled {
		w, ok := a.view().Workloads[name]
		if _, lost := a.state.lost[name]; !ok || lost {
			continue
		}
		if err := a.rec.Complete(ctx, w.Netns); err != nil {
			errs = append(errs, fmt.Errorf("workload %q: %w", name, err))
			continue
		}
		done[name] = w
	}
	a.settled(done)
	return errors.Join(errs...)
}

// note remembers what could not be rendered, by network or workload.
func (a *Agent) note(errs []error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.broken = map[string]string{}
	a.noteBroken(errs)
}

// noteAgain is note for some parts: those that could be rendered are not broken any more.
func (a *Agent) noteAgain(parts map[string]dataplane.Host, errs []error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for part := range parts {
		delete(a.broken, strings.TrimPrefix(part, render.NetworkPart("")))
	}
	a.noteBroken(errs)
}

func (a *Agent) noteBroken(errs []error) {
	for _, err := range errs {
		a.deps.Log.Error("render", "err", err)
		var p *partError
		if errors.As(err, &p) {
			a.broken[strings.TrimPrefix(p.part, render.NetworkPart(""))] = p.err.Error()
		}
	}
}

// repaired hears from reconcile what had drifted.
func (a *Agent) repaired(changes []reconcile.Change) {
	done := did(changes)
	a.event(eventRepaired, "node", fmt.Sprintf("%d steps", len(done)), done...)
}
