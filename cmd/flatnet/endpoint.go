package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

func newEndpoint(a *app) *cobra.Command {
	g := group("ep", "endpoints: ls, inspect", "flatnet ep ls", newEpLs(a), newEpInspect(a))
	g.Aliases = []string{"endpoint", "endpoints"}
	return g
}

// epLs lists the attachments of all workloads.
type epLs struct {
	app     *app
	list    listing
	network string
}

func newEpLs(a *app) *cobra.Command {
	c := &epLs{app: a}
	cmd := command(a, "ls [flags]", "list endpoints", "flatnet ep ls --network lab", cobra.NoArgs, c.run)
	cmd.Aliases = []string{"list"}
	cmd.Flags().StringVar(&c.network, "network", "", "only those on this network")
	_ = cmd.RegisterFlagCompletionFunc("network", a.complete(networkNames))
	c.list.flags(cmd)
	return cmd
}

func (c *epLs) run(ctx context.Context, _ []string, stdout io.Writer) error {
	eps, err := c.app.endpoints(ctx)
	if err != nil {
		return err
	}
	if c.network != "" {
		eps = slices.DeleteFunc(eps, func(e api.Endpoint) bool { return e.Network != c.network })
	}
	return table[api.Endpoint]{
		columns: []column[api.Endpoint]{
			{"ENDPOINT", false, endpointName},
			{"NET", false, func(e api.Endpoint) string { return e.Network }},
			{"IP", false, func(e api.Endpoint) string { return strings.Join(e.IPs, ",") }},
			{"MAC", false, func(e api.Endpoint) string { return e.MAC }},
			{"HOST-IF", false, func(e api.Endpoint) string { return e.HostLink }},
			{"PEER-IF", false, func(e api.Endpoint) string { return e.IfName }},
			{"NETNS", false, func(e api.Endpoint) string { return e.Netns }},
			{"PID", false, func(e api.Endpoint) string { return pidCell(e.PID) }},
			{"GATEWAY", true, func(e api.Endpoint) string { return strings.Join(e.Gateways, ",") }},
			{"GUARD", true, func(e api.Endpoint) string { return yesNo(e.Guard) }},
			{"ISOLATED", true, func(e api.Endpoint) string { return yesNo(e.Isolated) }},
			{"PRIORITY", true, func(e api.Endpoint) string { return strconv.Itoa(e.Priority) }},
			{"DEFAULT", true, func(e api.Endpoint) string { return yesNo(e.DefaultRoute) }},
		},
		name: endpointName,
	}.show(stdout, c.list, eps)
}

// endpoints collects the endpoints of all workloads.
func (a *app) endpoints(ctx context.Context) ([]api.Endpoint, error) {
	ws, err := a.client().Workloads(ctx)
	if err != nil {
		return nil, err
	}
	var eps []api.Endpoint
	for _, w := range ws {
		eps = append(eps, w.Endpoints...)
	}
	return eps, nil
}

func endpointName(e api.Endpoint) string { return e.Workload + "/" + e.IfName }

func pidCell(pid int) string {
	if pid == 0 {
		return ""
	}
	return strconv.Itoa(pid)
}

// epInspect shows endpoints in full.
type epInspect struct {
	app            *app
	output, format string
}

func newEpInspect(a *app) *cobra.Command {
	c := &epInspect{app: a}
	cmd := command(a, "inspect WORKLOAD[/LINK]... [flags]", "show endpoints in full", "flatnet ep inspect web/eth0", cobra.MinimumNArgs(1), c.run)
	cmd.Aliases = []string{"show"}
	cmd.Flags().StringVarP(&c.output, "output", "o", "", "json or yaml")
	cmd.Flags().StringVarP(&c.format, "format", "f", "", "Go template over the endpoint: '{{.MAC}}'")
	cmd.ValidArgsFunction = a.complete(workloadNames)
	return cmd
}

func (c *epInspect) run(ctx context.Context, args []string, stdout io.Writer) error {
	all, err := c.app.endpoints(ctx)
	if err != nil {
		return err
	}
	var eps []api.Endpoint
	for _, arg := range args {
		found := slices.Clone(all)
		found = slices.DeleteFunc(found, func(e api.Endpoint) bool { return endpointName(e) != arg && e.Workload != arg })
		if len(found) == 0 {
			return api.Fail(api.ExitNegative, api.Problem{Code: api.CodeNotFound, Reason: fmt.Sprintf("there is no endpoint %q", arg), Example: "flatnet ep ls"})
		}
		eps = append(eps, found...)
	}
	switch {
	case c.format != "":
		return formatEach(stdout, c.format, eps)
	case c.output == "json" || c.output == "yaml":
		return writeValue(stdout, c.output, eps)
	case c.output != "":
		return badUsage("-o takes json or yaml, not %q", c.output)
	}
	for i, e := range eps {
		if i > 0 {
			fmt.Fprintln(stdout)
		}
		writeFacts(stdout, endpointFacts(e))
	}
	return nil
}

func endpointFacts(e api.Endpoint) []fact {
	return []fact{
		{"endpoint", []string{endpointName(e)}}, {"network", []string{e.Network}}, {"ip", e.IPs}, {"gateway", e.Gateways},
		{"mac", []string{e.MAC}}, {"link on the host", []string{e.HostLink}}, {"link inside", []string{e.IfName}},
		{"netns", []string{e.Netns}}, {"pid", []string{pidCell(e.PID)}}, {"guard", []string{yesNo(e.Guard)}}, {"isolated", []string{yesNo(e.Isolated)}},
		{"limits", limitTexts(e.Bandwidth)}, {"priority", []string{strconv.Itoa(e.Priority)}}, {"default route", []string{yesNo(e.DefaultRoute)}},
	}
}
