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

// leave takes this host out of its cluster.
type leave struct {
	app              *app
	yes, force, plan bool
}

func newLeave(a *app) *cobra.Command {
	c := &leave{app: a}
	cmd := command(a, "leave [flags]", "take this host out of its cluster", "sudo flatnet leave", cobra.NoArgs, c.run)
	cmd.Long = "Its blocks are free for other hosts at once, and the cluster's networks go from this host. When the server leaves, the cluster ends."
	f := cmd.Flags()
	f.BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&c.force, "force", false, "also when the cluster cannot be told, or when other hosts lose their server")
	f.BoolVar(&c.plan, "plan", false, "only show what the host would leave")
	return cmd
}

func (c *leave) run(ctx context.Context, _ []string, stdout io.Writer) error {
	var how []api.Option
	if c.force {
		how = append(how, api.Force)
	}
	client := c.app.client()
	m, err := client.LeaveCluster(ctx, append(how, api.DryRun)...)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("cluster %s of %s as %s, with %s", m.Cluster, strings.Join(m.Servers, " "), m.Name, counted(len(m.Blocks), "block"))
	if lose := onNetworks(ctx, client, m.Networks); len(lose) > 0 {
		what += "; these are cut off from its networks: " + strings.Join(lose, ", ")
	}
	if c.plan {
		fmt.Fprintln(stdout, "would leave", what)
		return nil
	}
	if err := c.app.confirm(c.yes, "leave "+what+"?"); err != nil {
		return err
	}
	if m, err = client.LeaveCluster(ctx, how...); err != nil {
		return err
	}
	fmt.Fprintln(stdout, m.ID)
	if m.Remains != "" {
		fmt.Fprintln(c.app.stderr, "note:", m.Remains)
	}
	return nil
}

// onNetworks names the workloads on any of these networks; none when that is not known.
func onNetworks(ctx context.Context, client *api.Client, networks []string) []string {
	workloads, err := client.Workloads(ctx)
	if err != nil {
		return nil
	}
	var names []string
	for _, w := range workloads {
		for _, e := range w.Endpoints {
			if slices.Contains(networks, e.Network) {
				names = append(names, fmt.Sprintf("workload %s (%s)", w.Name, e.Network))
			}
		}
	}
	return names
}
