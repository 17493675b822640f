package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// uninstall removes all that flatnet made from this host.
type uninstall struct {
	app    *app
	change change
	plan   bool
	yes    bool
}

func newUninstall(a *app) *cobra.Command {
	c := &uninstall{app: a}
	cmd := command(a, "uninstall [flags]", "take away all that flatnet made, so that this host is as before", "flatnet uninstall --plan", cobra.NoArgs, c.run)
	cmd.Flags().BoolVar(&c.plan, "plan", false, "only show what would be taken away")
	cmd.Flags().BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	c.change.flags(cmd)
	return cmd
}

func (c *uninstall) run(ctx context.Context, _ []string, stdout io.Writer) error {
	client := c.app.client()
	workloads, err := client.Workloads(ctx)
	if err != nil {
		return err
	}
	steps, err := client.Uninstall(ctx, api.DryRun)
	if err != nil {
		return err
	}
	sharersFirst(workloads)
	if c.plan || c.change.dry() {
		for _, w := range workloads {
			fmt.Fprintf(stdout, "# end workload %s%s\n", w.Name, processWords(w))
		}
		writeSteps(stdout, steps)
		return nil
	}
	question := fmt.Sprintf("take away every network and forward of flatnet on this host and end %s (%s; see them: --plan)?", counted(len(workloads), "workload"), counted(len(steps), "step"))
	if err := c.app.confirm(c.yes, question); err != nil {
		return err
	}
	if err := c.endWorkloads(ctx, client, workloads); err != nil {
		return err
	}
	return c.app.step("networks and rules", func() error {
		done, err := client.Uninstall(ctx)
		if err == nil {
			writeStepTexts(stdout, done)
			sweepCgroups()
		}
		return err
	})
}

func (c *uninstall) endWorkloads(ctx context.Context, client *api.Client, workloads []api.Workload) error {
	for _, w := range workloads {
		err := c.app.step("workload "+w.Name, func() error {
			_, err := client.DeleteWorkload(ctx, w.Name, api.Force)
			if api.IsNotFound(err) { // it ended meanwhile
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// sharersFirst puts workloads before those whose namespace they share.
func sharersFirst(ws []api.Workload) {
	slices.SortStableFunc(ws, func(a, b api.Workload) int { return strings.Compare(b.Sharing, a.Sharing) })
}

func processWords(w api.Workload) string {
	if w.Process.PID == 0 || w.Process.Exited {
		return ""
	}
	return fmt.Sprintf(": process %d, %s", w.Process.PID, commandCell(w))
}
