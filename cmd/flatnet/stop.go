package main

import (
	"context"
	"fmt"
	"io"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// stop ends the processes of workloads.
type stop struct {
	app     *app
	seconds int
	force   bool
}

func newStop(a *app) *cobra.Command {
	c := &stop{app: a}
	cmd := command(a, "stop NAME... [flags]", "end the processes of workloads: TERM, then KILL", "flatnet stop web", cobra.MinimumNArgs(1), c.run)
	cmd.Flags().IntVarP(&c.seconds, "time", "t", 10, "seconds between TERM and KILL")
	cmd.Flags().BoolVarP(&c.force, "force", "f", false, "also when others share its network namespace")
	cmd.ValidArgsFunction = a.complete(workloadNames)
	return cmd
}

func (c *stop) run(ctx context.Context, args []string, stdout io.Writer) error {
	var how []api.Option
	if c.force {
		how = append(how, api.Force)
	}
	return each(args, func(name string) error {
		if _, err := c.app.client().StopWorkload(ctx, name, api.Stop{TimeoutSeconds: c.seconds}, how...); err != nil {
			return err
		}
		fmt.Fprintln(stdout, name)
		return nil
	})
}

// rm removes workloads.
type rm struct {
	app    *app
	change change
	force  bool
}

func newRm(a *app) *cobra.Command {
	c := &rm{app: a}
	cmd := command(a, "rm NAME... [flags]", "remove workloads with their endpoints and ports", "flatnet rm -f web", cobra.MinimumNArgs(1), c.run)
	cmd.Aliases = []string{"delete"}
	cmd.Flags().BoolVarP(&c.force, "force", "f", false, "also when a process runs in it: it is killed")
	c.change.flags(cmd)
	cmd.ValidArgsFunction = a.complete(workloadNames)
	return cmd
}

func (c *rm) run(ctx context.Context, args []string, stdout io.Writer) error {
	var how []api.Option
	if c.force {
		how = append(how, api.Force)
	}
	return each(args, func(name string) error {
		done, err := c.app.client().DeleteWorkload(ctx, name, c.change.options(how...)...)
		if err != nil {
			return meantFile(name, err)
		}
		c.change.done(stdout, name, done.Steps)
		return nil
	})
}
