package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// doctor looks for what stands in the way on this host, and mends what it is asked to.
type doctor struct {
	app    *app
	change change
	output string
	fix    string
	yes    bool
}

func newDoctor(a *app) *cobra.Command {
	c := &doctor{app: a}
	cmd := command(a, "doctor [flags]", "find what stands in the way on this host; exit status 1 when that is anything",
		"flatnet doctor\nflatnet doctor --fix FN5002", cobra.NoArgs, c.run)
	cmd.Flags().StringVarP(&c.output, "output", "o", "", "json or yaml")
	cmd.Flags().StringVar(&c.fix, "fix", "", "carry out the fix of this code, after asking")
	cmd.Flags().BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	c.change.flags(cmd)
	return cmd
}

func (c *doctor) run(ctx context.Context, _ []string, stdout io.Writer) error {
	if c.fix != "" {
		return c.mend(ctx, stdout)
	}
	findings, err := c.app.client().Doctor(ctx)
	if err != nil {
		return err
	}
	switch c.output {
	case "json", "yaml":
		if findings == nil {
			findings = []api.Finding{}
		}
		err = writeValue(stdout, c.output, findings)
	case "":
		writeFindings(stdout, findings)
		switch {
		case len(findings) == 0:
			fmt.Fprintln(stdout, "all is well")
		case !sick(findings):
			fmt.Fprintln(stdout, "all is well; the notes are for you to judge")
		}
	default:
		err = badUsage("-o takes json or yaml, not %q", c.output)
	}
	if err == nil && sick(findings) {
		err = exitStatus(api.ExitNegative)
	}
	return err
}

// mend shows the steps of a fix, asks, and carries them out.
func (c *doctor) mend(ctx context.Context, stdout io.Writer) error {
	code := strings.ToUpper(c.fix)
	steps, err := c.app.client().Fix(ctx, code, api.DryRun)
	if err != nil {
		return err
	}
	writeSteps(stdout, steps)
	if c.change.dry() || len(steps) == 0 {
		return nil
	}
	if err := c.app.confirm(c.yes, "do this?"); err != nil {
		return err
	}
	return c.app.step("fix "+code, func() error {
		_, err := c.app.client().Fix(ctx, code)
		return err
	})
}

func sick(findings []api.Finding) bool {
	for _, f := range findings {
		if f.Level == "warning" || f.Level == "error" {
			return true
		}
	}
	return false
}

func writeFindings(w io.Writer, findings []api.Finding) {
	for _, f := range findings {
		line := strings.TrimSpace(f.Level + " " + f.Code)
		fmt.Fprintf(w, "%s: %s\n", line, api.IndentRest(f.What))
		if f.Owner != "" {
			fmt.Fprintf(w, "  %s\n", api.IndentRest(f.Owner))
		}
		if f.Fix != "" {
			fmt.Fprintf(w, "  fix: %s\n", api.IndentRest(f.Fix))
		}
		if f.Fixable && !strings.Contains(f.Fix, "doctor --fix") {
			fmt.Fprintf(w, "  flatnet can do it: sudo flatnet doctor --fix %s\n", f.Code)
		}
	}
}
