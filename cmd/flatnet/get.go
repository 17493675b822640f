package main

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// get prints what is stored, as apply takes it.
type get struct {
	app    *app
	output string
}

func newGet(a *app) *cobra.Command {
	c := &get{app: a}
	cmd := command(a, "get [KIND [NAME]] [flags]", "print what is stored, as apply takes it", "flatnet get -o yaml > all.yaml\nflatnet get network lab", cobra.MaximumNArgs(2), c.run)
	cmd.Flags().StringVarP(&c.output, "output", "o", "yaml", "yaml, json or name")
	_ = cmd.RegisterFlagCompletionFunc("output", words("yaml", "json", "name"))
	cmd.ValidArgs = []string{"network", "forward"}
	cmd.ValidArgsFunction = nil
	return cmd
}

func (c *get) run(ctx context.Context, args []string, stdout io.Writer) error {
	kind, name, err := kindAndName(args)
	if err != nil {
		return err
	}
	ms, err := c.app.client().Manifests(ctx)
	if err != nil {
		return err
	}
	ms = slices.DeleteFunc(ms, func(m api.Manifest) bool {
		return kind != "" && m.Kind != kind || name != "" && m.Metadata.Name != name
	})
	if name != "" && len(ms) == 0 {
		return api.Fail(api.ExitNegative, api.Problem{Code: api.CodeNotFound, Reason: "there is no " + strings.ToLower(kind) + " " + name, Example: "flatnet get -o name"})
	}
	switch c.output {
	case "yaml":
		return api.WriteManifests(stdout, ms)
	case "json":
		if ms == nil {
			ms = []api.Manifest{}
		}
		return writeValue(stdout, "json", ms)
	case "name":
		for _, m := range ms {
			io.WriteString(stdout, nameOf(m)+"\n")
		}
		return nil
	}
	return badUsage("-o takes yaml, json or name, not %q", c.output)
}

// kindAndName reads `network lab` or `network/lab`, in any number and case as kubectl does.
func kindAndName(args []string) (kind, name string, err error) {
	if len(args) == 0 {
		return "", "", nil
	}
	word, name, _ := strings.Cut(args[0], "/")
	if len(args) == 2 {
		name = args[1]
	}
	for _, k := range api.Kinds() {
		low := strings.ToLower(k)
		if w := strings.ToLower(word); w == low || w == low+"s" || len(w) >= 3 && strings.HasPrefix(low, w) {
			return k, name, nil
		}
	}
	return "", "", badUsage("there is no kind %q; kinds: %s", word, strings.ToLower(strings.Join(api.Kinds(), ", ")))
}
