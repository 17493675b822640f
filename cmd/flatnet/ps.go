package main

import (
	"context"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// ps lists workloads.
type ps struct {
	app  *app
	list listing
	all  bool
}

func newPs(a *app) *cobra.Command {
	c := &ps{app: a}
	cmd := command(a, "ps [flags]", "list workloads", "flatnet ps -a", cobra.NoArgs, c.run)
	cmd.Flags().BoolVarP(&c.all, "all", "a", false, "also those whose command has ended")
	c.list.flags(cmd)
	return cmd
}

func (c *ps) run(ctx context.Context, _ []string, stdout io.Writer) error {
	ws, err := c.app.client().Workloads(ctx)
	if err != nil {
		return err
	}
	if !c.all {
		ws = slices.DeleteFunc(ws, func(w api.Workload) bool { return w.State == "exited" })
	}
	return table[api.Workload]{
		columns: []column[api.Workload]{
			{"NAME", false, func(w api.Workload) string { return w.Name }},
			{"STATE", false, stateCell},
			{"NETWORKS", false, networksCell},
			{"IPS", false, ipsCell},
			{"PORTS", false, portsCell},
			{"PID", false, pidOf},
			{"COMMAND", false, commandCell},
			{ageColumn, false, func(w api.Workload) string { return c.app.age(w.Created) }},
			{"NETNS", true, func(w api.Workload) string { return w.Netns }},
			{"LABELS", true, func(w api.Workload) string { return strings.Join(labels(w.Labels), ",") }},
		},
		name: func(w api.Workload) string { return w.Name },
		age:  func(w api.Workload) time.Time { return w.Created },
	}.show(stdout, c.list, ws)
}

func stateCell(w api.Workload) string {
	if w.State == "exited" {
		return "exited " + strconv.Itoa(w.Process.Code)
	}
	return w.State
}

func networksCell(w api.Workload) string {
	switch {
	case len(w.Endpoints) == 0 && w.Sharing == "" && w.State == "exited":
		return "" // its endpoints went with its command
	case len(w.Endpoints) == 0 && w.Sharing == "":
		return "none"
	case len(w.Endpoints) == 0:
		return w.Sharing
	}
	var nets []string
	for _, e := range w.Endpoints {
		nets = append(nets, e.Network)
	}
	return strings.Join(nets, ",")
}

// ipsCell shows addresses without their prefix length.
func ipsCell(w api.Workload) string {
	var ips []string
	for _, e := range w.Endpoints {
		for _, ip := range e.IPs {
			a, _, _ := strings.Cut(ip, "/")
			ips = append(ips, a)
		}
	}
	return strings.Join(ips, ",")
}

func portsCell(w api.Workload) string {
	var ports []string
	for _, f := range w.Forwards {
		ports = append(ports, f.Name+"->"+f.Ports)
	}
	return strings.Join(ports, ",")
}

func pidOf(w api.Workload) string {
	if w.Process.Exited {
		return ""
	}
	return pidCell(w.Process.PID)
}

// maxCommand bounds the COMMAND column, in characters.
const maxCommand = 40

func commandCell(w api.Workload) string {
	r := []rune(strings.Map(printable, w.Process.Command))
	if len(r) > maxCommand {
		return string(r[:maxCommand-1]) + "…"
	}
	return string(r)
}

// printable keeps control characters of a command line off the terminal.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}
