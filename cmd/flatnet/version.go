package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// versions tells the versions of this tool and of the daemon.
type versions struct {
	app    *app
	client bool
	output string
}

func newVersion(a *app) *cobra.Command {
	c := &versions{app: a}
	cmd := command(a, "version [flags]", "the versions of this tool and of the daemon", "flatnet version", cobra.NoArgs, c.run)
	cmd.Flags().BoolVar(&c.client, "client", false, "do not ask the daemon")
	cmd.Flags().StringVarP(&c.output, "output", "o", "", "json or yaml")
	return cmd
}

func (c *versions) run(ctx context.Context, _ []string, stdout io.Writer) error {
	both := struct {
		Client string       `json:"client"`
		Daemon *api.Version `json:"daemon,omitempty"`
	}{Client: version}
	var err error
	if !c.client {
		var v api.Version
		if v, err = c.app.client().Version(ctx); err == nil {
			both.Daemon = &v
		}
	}
	switch c.output {
	case "json", "yaml":
		if werr := writeValue(stdout, c.output, both); werr != nil {
			return werr
		}
	case "":
		fmt.Fprintf(stdout, "flatnet   %s\n", both.Client)
		if both.Daemon != nil {
			fmt.Fprintf(stdout, "flatnetd  %s  (api %s, process %d)\n", both.Daemon.Version, strings.Join(both.Daemon.API, " "), both.Daemon.PID)
		}
	default:
		return badUsage("-o takes json or yaml, not %q", c.output)
	}
	return err
}
