package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// netRm removes networks.
type netRm struct {
	app    *app
	change change
	force  bool
}

func newNetRm(a *app) *cobra.Command {
	c := &netRm{app: a}
	cmd := command(a, "rm NAME... [flags]", "remove networks", "flatnet net rm lab", cobra.MinimumNArgs(1), c.run)
	cmd.Aliases = []string{"delete", "remove", "undefine"}
	cmd.Flags().BoolVarP(&c.force, "force", "f", false, "also when workloads are attached: they lose that endpoint")
	c.change.flags(cmd)
	cmd.ValidArgsFunction = a.complete(networkNames)
	return cmd
}

func (c *netRm) run(ctx context.Context, args []string, stdout io.Writer) error {
	var how []api.Option
	if c.force {
		how = append(how, api.Force)
	}
	return each(args, func(name string) error {
		done, err := c.app.client().DeleteNetwork(ctx, name, c.change.options(how...)...)
		if err != nil {
			return meantFile(name, err)
		}
		c.change.done(stdout, name, done.Steps)
		return nil
	})
}

// netPrune removes the networks that nothing is attached to.
type netPrune struct {
	app    *app
	change change
	yes    bool
}

func newNetPrune(a *app) *cobra.Command {
	c := &netPrune{app: a}
	cmd := command(a, "prune [flags]", "remove active networks of this host without endpoints, but not default", "flatnet net prune -y", cobra.NoArgs, c.run)
	cmd.Flags().BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVarP(&c.yes, "force", "f", false, "docker's word for --yes")
	c.change.flags(cmd)
	return cmd
}

func (c *netPrune) run(ctx context.Context, _ []string, stdout io.Writer) error {
	nets, err := c.app.client().Networks(ctx)
	if err != nil {
		return err
	}
	var unused []string
	for _, n := range nets {
		// Of the cluster's networks others may have endpoints.
		if len(n.Status.Endpoints) == 0 && n.Name != "default" && n.Status.Scope != modeCluster && n.Status.State != "inactive" {
			unused = append(unused, n.Name)
		}
	}
	if len(unused) == 0 {
		fmt.Fprintln(c.app.stderr, "no network is unused")
		return nil
	}
	if c.change.dry() {
		return c.explain(ctx, unused, stdout)
	}
	if err := c.app.confirm(c.yes, fmt.Sprintf("remove %s?", strings.Join(unused, ", "))); err != nil {
		return err
	}
	rm := netRm{app: c.app, change: c.change}
	return rm.run(ctx, unused, stdout)
}

// explain says which networks would go, also those that the kernel has nothing of.
func (c *netPrune) explain(ctx context.Context, unused []string, stdout io.Writer) error {
	return each(unused, func(name string) error {
		done, err := c.app.client().DeleteNetwork(ctx, name, api.DryRun)
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "# remove network %s\n", name)
		if len(done.Steps) > 0 {
			writeSteps(stdout, done.Steps)
		}
		return nil
	})
}

// netSwitch starts or stops networks.
type netSwitch struct {
	app    *app
	change change
	do     func(c *api.Client, ctx context.Context, name string, how ...api.Option) (api.Changed[api.Network], error)
}

func newNetStart(a *app) *cobra.Command {
	c := &netSwitch{app: a, do: (*api.Client).StartNetwork}
	return c.command("start NAME... [flags]", "start defined networks", "flatnet net start lab")
}

func newNetStop(a *app) *cobra.Command {
	c := &netSwitch{app: a, do: (*api.Client).StopNetwork}
	return c.command("stop NAME... [flags]", "take networks down and keep their definition", "flatnet net stop lab")
}

func (c *netSwitch) command(use, short, example string) *cobra.Command {
	cmd := command(c.app, use, short, example, cobra.MinimumNArgs(1), c.run)
	c.change.flags(cmd)
	cmd.ValidArgsFunction = c.app.complete(networkNames)
	return cmd
}

func (c *netSwitch) run(ctx context.Context, args []string, stdout io.Writer) error {
	return each(args, func(name string) error {
		done, err := c.do(c.app.client(), ctx, name, c.change.options()...)
		if err != nil {
			return err
		}
		c.change.done(stdout, name, done.Steps)
		return nil
	})
}

// netAutostart says whether networks start with the daemon.
type netAutostart struct {
	app     *app
	disable bool
}

func newNetAutostart(a *app) *cobra.Command {
	c := &netAutostart{app: a}
	cmd := command(a, "autostart NAME... [flags]", "start networks with the daemon, or not", "flatnet net autostart lab --disable", cobra.MinimumNArgs(1), c.run)
	cmd.Flags().BoolVar(&c.disable, "disable", false, "do not start with the daemon")
	cmd.ValidArgsFunction = a.complete(networkNames)
	return cmd
}

func (c *netAutostart) run(ctx context.Context, args []string, stdout io.Writer) error {
	return each(args, func(name string) error {
		if _, err := c.app.client().SetAutostart(ctx, name, !c.disable); err != nil {
			return err
		}
		fmt.Fprintln(stdout, name)
		return nil
	})
}
