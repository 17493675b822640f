package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// apply makes the objects be as files say.
type apply struct {
	app     *app
	change  change
	consent consent
	files   []string
}

func newApply(a *app) *cobra.Command {
	c := &apply{app: a}
	cmd := command(a, "apply -f FILE|DIR|- [flags]", "make networks and forwards be as files say", "flatnet apply -f lab.yaml", cobra.NoArgs, c.run)
	fileFlag(cmd, &c.files)
	c.consent.flags(cmd)
	c.change.flags(cmd)
	return cmd
}

func fileFlag(cmd *cobra.Command, files *[]string) {
	cmd.Flags().StringArrayVarP(files, "file", "f", nil, "file, directory or - for standard input; may be repeated")
	_ = cmd.MarkFlagFilename("file", "yaml", "yml", "json")
}

func (c *apply) run(ctx context.Context, _ []string, stdout io.Writer) error {
	docs, err := readDocuments(c.app, c.files)
	if err != nil {
		return err
	}
	if !c.change.dry() {
		if err := c.app.agree(c.consent.yes, "apply?", func(w io.Writer) error { return c.show(ctx, docs, w) }); err != nil {
			return err
		}
	}
	done, err := c.app.client().Apply(ctx, api.Manifests(docs), c.change.options(c.consent.options()...)...)
	if err != nil {
		return locate(err, docs)
	}
	if c.change.dry() {
		writeSteps(stdout, done.Steps)
		return nil
	}
	for _, m := range done.Object {
		fmt.Fprintf(stdout, "%s applied\n", nameOf(m))
	}
	return nil
}

// show says what would change, as diff does.
func (c *apply) show(ctx context.Context, docs []api.Document, w io.Writer) error {
	stored, err := c.app.client().Manifests(ctx)
	if err != nil {
		return err
	}
	would, err := c.app.client().Apply(ctx, api.Manifests(docs), append(c.consent.options(), api.DryRun)...)
	if err != nil {
		return locate(err, docs)
	}
	if _, err := writeManifestDiff(w, stored, would.Object); err != nil {
		return err
	}
	writePlan(w, would.Steps)
	return nil
}

func readDocuments(a *app, files []string) ([]api.Document, error) {
	if len(files) == 0 {
		return nil, badUsage("which file? give it with -f")
	}
	docs, err := api.ReadFiles(files, a.stdin)
	if err != nil {
		return nil, err
	}
	if len(docs) == 0 {
		return nil, badUsage("%s: no manifest in there", strings.Join(files, ", "))
	}
	return docs, nil
}

// nameOf is how kubectl writes an object: network/lab.
func nameOf(m api.Manifest) string { return strings.ToLower(m.Kind) + "/" + m.Metadata.Name }

var itemPath = regexp.MustCompile(`^(?:manifests)?\[(\d+)\]\.?(.*)$`)

// locate adds file and line to the problems that the daemon found: its paths begin with the manifest's number.
func locate(err error, docs []api.Document) error {
	var e *api.Error
	if !errors.As(err, &e) {
		return err
	}
	for i, p := range e.Problems {
		at, path := 0, p.Path
		if m := itemPath.FindStringSubmatch(p.Path); m != nil {
			at, _ = strconv.Atoi(m[1])
			path = strings.TrimLeft(m[2], ".")
		} else if len(docs) > 1 || p.Path == "" {
			continue
		}
		if at < len(docs) {
			e.Problems[i].File, e.Problems[i].Path = docs[at].Locate(path), path
		}
	}
	return e
}
