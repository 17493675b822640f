package main

import (
	"context"
	"fmt"
	"io"

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
	steps, err := client.Uninstall(ctx, api.DryRun)
	if err != nil {
		return err
	}
	if c.plan || c.change.dry() {
		writeSteps(stdout, steps)
		return nil
	}
	if err := c.app.confirm(c.yes, fmt.Sprintf("take away every network, workload and forward of flatnet on this host (%d steps; see them: --plan)?", len(steps))); err != nil {
		return err
	}
	return c.app.step(fmt.Sprintf("uninstall: %d steps", len(steps)), func() error {
		done, err := client.Uninstall(ctx)
		if err == nil {
			writeStepTexts(stdout, done)
			sweepCgroups()
		}
		return err
	})
}
