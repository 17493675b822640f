package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

func newHost(a *app) *cobra.Command {
	g := group("host", "the hosts of the cluster: ls, rm", "flatnet host ls -o wide", newHostLs(a), newHostRm(a))
	g.Aliases = []string{"hosts", "node", "nodes"}
	return g
}

// hostLs lists the hosts of the cluster.
type hostLs struct {
	app  *app
	list listing
}

func newHostLs(a *app) *cobra.Command {
	c := &hostLs{app: a}
	cmd := command(a, "ls [flags]", "list the hosts of the cluster", "flatnet host ls -o wide", cobra.NoArgs, c.run)
	cmd.Aliases = []string{"list"}
	c.list.flags(cmd)
	return cmd
}

func (c *hostLs) run(ctx context.Context, _ []string, stdout io.Writer) error {
	hosts, err := c.app.client().Hosts(ctx)
	if err != nil {
		return err
	}
	return table[api.Host]{
		columns: []column[api.Host]{
			{"NAME", false, func(h api.Host) string { return h.Name }},
			{"STATE", false, hostState},
			{"UNDERLAY", false, func(h api.Host) string { return strings.Join(h.Underlay, ",") }},
			{"BLOCKS", false, func(h api.Host) string { return strings.Join(h.Blocks, ",") }},
			{"ROLE", false, hostRole},
			{"ID", true, func(h api.Host) string { return h.ID }},
			{"MTU", true, func(h api.Host) string { return fmt.Sprint(h.MTU) }},
			{"VERSION", true, func(h api.Host) string { return h.Version }},
			{"PROBLEM", true, func(h api.Host) string { return h.Problem }},
		},
		name: func(h api.Host) string { return h.Name },
	}.show(stdout, c.list, hosts)
}

func hostState(h api.Host) string {
	if h.Problem != "" && h.State != "silent" {
		return "refused"
	}
	return h.State
}

func hostRole(h api.Host) string {
	var words []string
	if h.Server {
		words = append(words, "server")
	}
	if h.Self {
		words = append(words, "this host")
	}
	return strings.Join(words, ", ")
}

// hostRm takes hosts out of the cluster.
type hostRm struct {
	app   *app
	force bool
}

func newHostRm(a *app) *cobra.Command {
	c := &hostRm{app: a}
	cmd := command(a, "rm HOST... [flags]", "take hosts that are gone out of the cluster, by name or ID; on a server", "sudo flatnet host rm h3", cobra.MinimumNArgs(1), c.run)
	cmd.Long = "Its rights and its blocks go at once. A host that is still there leaves by itself: `flatnet leave`."
	cmd.Aliases = []string{"delete"}
	cmd.Flags().BoolVarP(&c.force, "force", "f", false, "also one that is alive")
	cmd.ValidArgsFunction = a.complete(hostNames)
	return cmd
}

func (c *hostRm) run(ctx context.Context, args []string, stdout io.Writer) error {
	var how []api.Option
	if c.force {
		how = append(how, api.Force)
	}
	return each(args, func(name string) error {
		h, err := c.app.client().RemoveHost(ctx, name, how...)
		if err != nil {
			return err
		}
		fmt.Fprintln(stdout, h.Name)
		return nil
	})
}

func hostNames(ctx context.Context, c *api.Client) []string {
	hosts, _ := c.Hosts(ctx)
	return namesOf(hosts, func(h api.Host) string { return h.Name })
}
