package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// events follows what happens.
type events struct {
	app     *app
	output  string
	follow  bool
	since   time.Duration
	explain bool
}

func newEvents(a *app) *cobra.Command {
	c := &events{app: a}
	cmd := command(a, "events [flags]", "what happened: repairs, conflicts, starts and ends", "flatnet events -f --since 10m", cobra.NoArgs, c.run)
	cmd.Long = "The daemon remembers the last 1024, and forgets them when it is restarted; its log keeps them."
	c.flags(cmd)
	cmd.Flags().BoolVarP(&c.follow, "follow", "f", false, "go on until interrupted")
	return cmd
}

func (c *events) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&c.output, "output", "o", "", "json: one value a line")
	cmd.Flags().BoolVar(&c.explain, "explain", false, "with the steps of each event")
	cmd.Flags().DurationVar(&c.since, "since", 0, "only the last 10m, 1h …")
}

func (c *events) run(ctx context.Context, _ []string, stdout io.Writer) error {
	if c.output != "" && c.output != "json" {
		return badUsage("-o takes json, not %q", c.output)
	}
	var since time.Time
	if c.since > 0 {
		since = c.app.now().Add(-c.since)
	}
	for e, err := range c.app.client().Events(ctx, since, c.follow) {
		if err != nil {
			return err
		}
		if err := c.write(stdout, e); err != nil {
			return err
		}
	}
	return nil
}

func (c *events) write(w io.Writer, e api.Event) error {
	if c.output == "json" {
		return json.NewEncoder(w).Encode(e)
	}
	_, err := fmt.Fprintf(w, "%s  %-8s  %s  %s\n", e.Time.UTC().Format(time.DateTime), e.Type, e.Object, e.Text)
	if c.explain {
		for _, s := range e.Steps {
			fmt.Fprintf(w, "    %s\n", s.Text)
		}
	}
	return err
}
