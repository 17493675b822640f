package main

import (
	"context"
	"fmt"
	"io"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// consent is what the caller agrees to before networks are edited.
type consent struct{ yes, renumber, force bool }

func (c *consent) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&c.renumber, "renumber", false, "addresses that do not fit the subnets any more move, with their forwards and names")
	f.BoolVar(&c.force, "force", false, "published ports that the network cannot have any more go")
}

func (c *consent) options() []api.Option {
	var how []api.Option
	if c.renumber {
		how = append(how, api.Renumber)
	}
	if c.force {
		how = append(how, api.Force)
	}
	return how
}

// agree shows on a terminal what would be done and asks; without one it goes on, as a script has said what it wants.
func (a *app) agree(yes bool, question string, show func(io.Writer) error) error {
	if yes || !isTerminal(a.stdin) {
		return nil
	}
	if err := show(a.stderr); err != nil {
		return err
	}
	return a.confirm(false, question)
}

// mostShown is how many steps of a plan fit a question about it.
const mostShown = 30

// writePlan shows a plan before it is asked about.
func writePlan(w io.Writer, steps []api.Step) {
	if len(steps) == 0 {
		fmt.Fprintln(w, "# no link, address, route or rule of this host changes")
		return
	}
	fmt.Fprintf(w, "# on this host, %s:\n", counted(len(steps), "step"))
	writeStepTexts(w, steps[:min(len(steps), mostShown)])
	if more := len(steps) - mostShown; more > 0 {
		fmt.Fprintf(w, "… and %d more; --explain shows all\n", more)
	}
}

// editNetwork carries out an edit, after having shown it to who sits there.
func (c *consent) editNetwork(ctx context.Context, a *app, how change, old api.Network, e api.NetworkEdit, stdout io.Writer) error {
	edit := func(more ...api.Option) (api.Changed[api.Network], error) {
		return a.client().EditNetwork(ctx, old.Name, e, append(c.options(), more...)...)
	}
	if !how.dry() {
		err := a.agree(c.yes, fmt.Sprintf("change network %s?", old.Name), func(w io.Writer) error {
			would, err := edit(api.DryRun)
			if err != nil {
				return err
			}
			if _, err := writeManifestDiff(w, []api.Manifest{manifestOf(old)}, []api.Manifest{manifestOf(would.Object)}); err != nil {
				return err
			}
			writePlan(w, would.Steps)
			writeResolvers(w, e)
			return nil
		})
		if err != nil {
			return err
		}
	}
	done, err := edit(how.options()...)
	if err != nil {
		return err
	}
	if how.dry() && e.DNS != nil && len(done.Steps) == 0 {
		writeResolvers(stdout, e)
		return nil
	}
	how.done(stdout, done.Object.Name, done.Steps)
	if how.dry() {
		writeResolvers(stdout, e)
	} else {
		fmt.Fprintln(a.stderr, createdLine(done.Object, len(done.Steps)))
		if done.Object.Spec.Mode != modeCluster { // its routes are what they were
			writeReturn(a.stderr, done.Object)
		}
	}
	return nil
}

// writeResolvers tells of the files that an edit changes besides the kernel.
func writeResolvers(w io.Writer, e api.NetworkEdit) {
	if e.DNS != nil {
		fmt.Fprintln(w, "# write /etc/resolv.conf of the network's workloads")
	}
}

// manifestOf is the manifest that would make the network.
func manifestOf(n api.Network) api.Manifest {
	spec := n.Spec
	return api.Manifest{APIVersion: api.APIVersion, Kind: api.KindNetwork, Metadata: api.Metadata{Name: n.Name, Labels: n.Labels}, Network: &spec}
}

// writeReturn tells how the LAN comes to a routed network.
func writeReturn(w io.Writer, n api.Network) {
	for _, line := range returnLines(n) {
		fmt.Fprintln(w, "  "+line)
	}
}

func returnLines(n api.Network) []string {
	if n.Status.Return == nil {
		return nil
	}
	lines := []string{n.Status.Return.Note}
	for _, r := range n.Status.Return.Routes {
		lines = append(lines, "Linux    "+r.Linux, "Windows  "+r.Windows, "router   "+r.Router)
	}
	return lines
}
