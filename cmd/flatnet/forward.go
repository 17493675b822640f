package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

func newForward(a *app) *cobra.Command {
	g := group("forward", "published ports: add, rm, ls", "flatnet net forward add web 8080:80", newForwardAdd(a), newForwardRm(a), newForwardLs(a))
	g.Aliases = []string{"forwards"}
	return g
}

// forwardAdd publishes ports of a workload.
type forwardAdd struct {
	app     *app
	change  change
	network string
}

func newForwardAdd(a *app) *cobra.Command {
	c := &forwardAdd{app: a}
	cmd := command(a, "add WORKLOAD PUBLISH... [flags]", "publish ports of a workload, also one that is not there yet",
		"flatnet net forward add web 8080:80 192.0.2.1:5353:53/udp", cobra.MinimumNArgs(2), c.run)
	cmd.Long = "PUBLISH is [ip:]port[-range]:port[-range][/tcp|udp|sctp], the host's ports first. All are published or none.\n" +
		"WORKLOAD is a name, also of one that comes later, or the address of one that is there."
	cmd.Flags().StringVar(&c.network, "network", "", "by the workload's endpoint on this network (default: its nat network)")
	c.change.flags(cmd)
	cmd.ValidArgsFunction = a.complete(workloadNames)
	return cmd
}

func (c *forwardAdd) run(ctx context.Context, args []string, stdout io.Writer) error {
	var specs []api.ForwardSpec
	for _, p := range args[1:] {
		specs = append(specs, api.ForwardSpec{Publish: p, Workload: args[0], Network: c.network})
	}
	done, err := c.app.client().CreateForwards(ctx, specs, c.change.options()...)
	if err != nil {
		return err
	}
	if c.change.dry() {
		writeSteps(stdout, done.Steps)
		return nil
	}
	for _, f := range done.Object {
		fmt.Fprintln(stdout, f.Name)
	}
	if len(done.Object) > 0 && !done.Object[0].Active {
		c.waits(ctx, args[0])
	}
	return nil
}

// waits tells of a workload that is not there yet: its name may be misspelt.
func (c *forwardAdd) waits(ctx context.Context, workload string) {
	names := workloadNames(ctx, c.app.client())
	if slices.Contains(names, workload) {
		return
	}
	text := fmt.Sprintf("note: there is no workload %q; what is published waits for it", workload)
	if near, ok := meant(workload, names); ok {
		text += fmt.Sprintf(", or did you mean %s?", near)
	}
	fmt.Fprintln(c.app.stderr, text)
}

// forwardRm takes published ports back.
type forwardRm struct {
	app    *app
	change change
}

func newForwardRm(a *app) *cobra.Command {
	c := &forwardRm{app: a}
	cmd := command(a, "rm NAME... [flags]", "take published ports back", "flatnet net forward rm tcp/8080", cobra.MinimumNArgs(1), c.run)
	cmd.Aliases = []string{"delete"}
	c.change.flags(cmd)
	cmd.ValidArgsFunction = a.complete(forwardNames)
	return cmd
}

func (c *forwardRm) run(ctx context.Context, args []string, stdout io.Writer) error {
	done, err := c.app.client().DeleteForwards(ctx, args, c.change.options()...)
	if err != nil {
		return err
	}
	if c.change.dry() {
		writeSteps(stdout, done.Steps)
		return nil
	}
	for _, name := range args {
		fmt.Fprintln(stdout, name)
	}
	return nil
}

// forwardLs lists published ports.
type forwardLs struct {
	app  *app
	list listing
}

func newForwardLs(a *app) *cobra.Command {
	c := &forwardLs{app: a}
	cmd := command(a, "ls [flags]", "list published ports", "flatnet net forward ls", cobra.NoArgs, c.run)
	cmd.Aliases = []string{"list"}
	c.list.flags(cmd)
	return cmd
}

func (c *forwardLs) run(ctx context.Context, _ []string, stdout io.Writer) error {
	forwards, err := c.app.client().Forwards(ctx)
	if err != nil {
		return err
	}
	return table[api.Forward]{
		columns: []column[api.Forward]{
			{"NAME", false, func(f api.Forward) string { return f.Name }},
			{"PROTO", false, func(f api.Forward) string { return f.Proto }},
			{"HOST-IP", false, func(f api.Forward) string { return orAny(f.HostIP) }},
			{"HOST-PORTS", false, func(f api.Forward) string { return f.HostPorts }},
			{"WORKLOAD", false, func(f api.Forward) string { return f.Workload }},
			{"PORTS", false, func(f api.Forward) string { return f.Ports }},
			{"STATE", false, forwardState},
			{"NETWORK", true, func(f api.Forward) string { return f.Network }},
			{"STANDING", true, func(f api.Forward) string { return yesNo(f.Standing) }},
		},
		name: func(f api.Forward) string { return f.Name },
	}.show(stdout, c.list, forwards)
}

func orAny(ip string) string {
	if ip == "" {
		return "any"
	}
	return ip
}

func forwardState(f api.Forward) string {
	if f.Active {
		return "active"
	}
	return "waiting"
}
