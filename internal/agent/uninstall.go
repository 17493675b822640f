package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/store"
)

// Uninstall removes from the host all that flatnet made, and ends the agent. That it has begun is written down first: a crash
// on the way makes the next start go on with it. Only with force does it take their server from other hosts of a cluster.
func (a *Agent) Uninstall(ctx context.Context, dryRun, force bool) ([]api.Step, error) {
	if a.place != nil && !force {
		if err := a.place.MayEnd(ctx); err != nil {
			return nil, err
		}
	}
	if !dryRun {
		if err := a.leaveCluster(ctx); err != nil {
			return nil, err
		}
	}
	if err := a.begin(ctx); err != nil {
		return nil, err
	}
	defer a.end()
	if dryRun {
		changes, err := a.rec.Preview(map[string]dataplane.Host{}, true)
		return steps(changes), err
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	install := store.Installation{ULASeed: a.state.seed, BootID: a.config.BootID, Leaving: true}
	if _, err := a.deps.Store.Write(ctx, store.PutInstallation(install, store.Any)); err != nil {
		return nil, recordProblem(err)
	}
	did, err := a.remove(ctx)
	if err != nil {
		return did, err
	}
	a.event("uninstalled", "node", fmt.Sprintf("%d steps", len(did)))
	close(a.leave)
	return did, nil
}

// finishUninstall goes on with what a crash interrupted.
func (a *Agent) finishUninstall(ctx context.Context) error {
	if _, err := a.remove(ctx); err != nil {
		return err
	}
	return ErrUninstalled
}

// remove takes everything out of the kernel, then the files.
func (a *Agent) remove(ctx context.Context) ([]api.Step, error) {
	changes, err := a.rec.Set(ctx, map[string]dataplane.Host{})
	if err != nil {
		return steps(changes), kernelProblem(err, "")
	}
	a.hostLocal.sweep(nil)
	err = os.RemoveAll(filepath.Join(a.config.RunDir, workloadsDir))
	if a.deps.Remove != nil {
		err = errors.Join(err, a.deps.Remove())
	}
	return steps(changes), err
}
