package main

import (
	"context"
	"io"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// plan shows how the kernel differs from what is stored.
type plan struct {
	app     *app
	output  string
	explain bool
}

func newPlan(a *app) *cobra.Command {
	c := &plan{app: a}
	cmd := command(a, "plan [flags]", "show what the kernel lacks or has too much; exit status 1 when that is anything", "flatnet plan --explain", cobra.NoArgs, c.run)
	cmd.Flags().StringVarP(&c.output, "output", "o", "", "json or yaml")
	cmd.Flags().BoolVar(&c.explain, "explain", false, "with the equal ip and nft commands")
	return cmd
}

func (c *plan) run(ctx context.Context, _ []string, stdout io.Writer) error {
	steps, err := c.app.client().Plan(ctx)
	if err != nil {
		return err
	}
	switch {
	case c.output == "json" || c.output == "yaml":
		if steps == nil {
			steps = []api.Step{}
		}
		err = writeValue(stdout, c.output, steps)
	case c.output != "":
		return badUsage("-o takes json or yaml, not %q", c.output)
	case c.explain && len(steps) > 0:
		writeSteps(stdout, steps)
	default:
		writeStepTexts(stdout, steps)
	}
	if err == nil && len(steps) > 0 {
		err = exitStatus(api.ExitNegative)
	}
	return err
}
