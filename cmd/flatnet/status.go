package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// status shows the daemon's health at a glance.
type status struct {
	app    *app
	output string
}

func newStatus(a *app) *cobra.Command {
	c := &status{app: a}
	cmd := command(a, "status [flags]", "the daemon's health at a glance", "flatnet status", cobra.NoArgs, c.run)
	cmd.Flags().StringVarP(&c.output, "output", "o", "", "json or yaml")
	return cmd
}

func (c *status) run(ctx context.Context, _ []string, stdout io.Writer) error {
	s, err := c.app.client().Status(ctx)
	if err != nil {
		return err
	}
	switch c.output {
	case "json", "yaml":
		return writeValue(stdout, c.output, s)
	case "":
		c.write(stdout, s)
		return nil
	}
	return badUsage("-o takes json or yaml, not %q", c.output)
}

func (c *status) write(w io.Writer, s api.Status) {
	facts := []fact{
		{"flatnetd", []string{fmt.Sprintf("%s, up %s (since %s)", s.Version, c.app.age(s.Since), s.Since.UTC().Format(time.DateTime+" UTC"))}},
		{"networks", []string{fmt.Sprint(s.Networks)}}, {"workloads", []string{fmt.Sprint(s.Workloads)}},
		{"forwards", []string{fmt.Sprint(s.Forwards)}}, {"repairs", []string{fmt.Sprintf("%d steps since the daemon started", s.Repairs)}},
	}
	if s.Cluster != nil {
		facts = append(facts, fact{"cluster", clusterLines(*s.Cluster)})
	}
	var features []string
	for k, v := range s.Features {
		features = append(features, k+": "+v)
	}
	slices.Sort(features)
	facts = append(facts, fact{"features", features}, fact{"looked", []string{c.app.age(s.Looked) + " ago (flatnet doctor looks now)"}})
	writeFacts(w, facts)
	if len(s.Findings) == 0 {
		fmt.Fprintln(w, "\nall is well")
		return
	}
	fmt.Fprintln(w)
	writeFindings(w, s.Findings)
}

func clusterLines(c api.ClusterHealth) []string {
	lines := []string{fmt.Sprintf("%s: %d of %d hosts alive; the store answers", c.Name, c.Alive, c.Hosts)}
	if !c.Live {
		lines[0] = fmt.Sprintf("%s: %d hosts; the store does not answer", c.Name, c.Hosts)
		if c.Away != nil {
			lines[0] += " since " + c.Away.UTC().Format(time.DateTime+" UTC")
		}
	}
	if c.Twin {
		lines = append(lines, "another machine says that it is this host: flatnet doctor")
	}
	return lines
}
