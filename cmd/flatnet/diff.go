package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// diff shows what apply would change.
type diff struct {
	app   *app
	files []string
}

func newDiff(a *app) *cobra.Command {
	c := &diff{app: a}
	cmd := command(a, "diff -f FILE|DIR|- [flags]", "show what apply would change; exit status 1 when that is anything", "flatnet diff -f lab.yaml", cobra.NoArgs, c.run)
	fileFlag(cmd, &c.files)
	return cmd
}

func (c *diff) run(ctx context.Context, _ []string, stdout io.Writer) error {
	docs, err := readDocuments(c.app, c.files)
	if err != nil {
		return err
	}
	stored, err := c.app.client().Manifests(ctx)
	if err != nil {
		return err
	}
	would, err := c.app.client().Apply(ctx, api.Manifests(docs), api.DryRun)
	if err != nil {
		return locate(err, docs)
	}
	changed, err := writeManifestDiff(stdout, stored, would.Object)
	if err != nil {
		return err
	}
	if len(would.Steps) > 0 {
		fmt.Fprintln(stdout, "# on this host:")
		writeStepTexts(stdout, would.Steps)
	}
	if changed || len(would.Steps) > 0 {
		return exitStatus(api.ExitNegative)
	}
	return nil
}

// writeManifestDiff prints a unified diff of each manifest that differs from the stored one.
func writeManifestDiff(w io.Writer, stored, wanted []api.Manifest) (changed bool, err error) {
	have := map[string]api.Manifest{}
	for _, m := range stored {
		have[m.String()] = m
	}
	for _, m := range wanted {
		before := ""
		if old, ok := have[m.String()]; ok {
			if before, err = manifestText(old); err != nil {
				return changed, err
			}
		}
		after, err := manifestText(m)
		if err != nil {
			return changed, err
		}
		if before == after {
			continue
		}
		changed = true
		fmt.Fprintf(w, "--- stored %s\n+++ wanted %s\n", nameOf(m), nameOf(m))
		for _, line := range diffLines(splitLines(before), splitLines(after)) {
			fmt.Fprintln(w, line)
		}
	}
	return changed, nil
}

func manifestText(m api.Manifest) (string, error) {
	var b bytes.Buffer
	err := api.WriteManifests(&b, []api.Manifest{m})
	return b.String(), err
}

func splitLines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}

// diffLines marks lines with " ", "-" and "+" by their longest common subsequence; manifests have tens of lines.
func diffLines(a, b []string) []string {
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out []string
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out = append(out, " "+a[i])
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || common[i+1][j] >= common[i][j+1]):
			out = append(out, "-"+a[i])
			i++
		default:
			out = append(out, "+"+b[j])
			j++
		}
	}
	return out
}
