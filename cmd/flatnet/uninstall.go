package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// uninstall removes all that flatnet made from this host.
type uninstall struct {
	app    *app
	change change
	plan   bool
	yes    bool
	force  bool
}

func newUninstall(a *app) *cobra.Command {
	c := &uninstall{app: a}
	cmd := command(a, "uninstall [flags]", "take away all that flatnet made, so that this host is as before", "flatnet uninstall --plan", cobra.NoArgs, c.run)
	cmd.Flags().BoolVar(&c.plan, "plan", false, "only show what would be taken away")
	cmd.Flags().BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&c.force, "force", false, "also when other hosts of the cluster lose their server")
	c.change.flags(cmd)
	return cmd
}

func (c *uninstall) run(ctx context.Context, _ []string, stdout io.Writer) error {
	client := c.app.client()
	workloads, err := client.Workloads(ctx)
	if err != nil {
		return err
	}
	var how []api.Option
	if c.force {
		how = append(how, api.Force)
	}
	steps, err := client.Uninstall(ctx, append(how, api.DryRun)...)
	if err != nil {
		return err
	}
	cluster := goodbye(ctx, client)
	sharersFirst(workloads)
	runtimes, plugins, err := c.app.leaveRuntimes(ctx, workloads)
	if err != nil {
		return err
	}
	if c.plan || c.change.dry() {
		printFileSteps(stdout, append(runtimes, plugins...))
		if cluster != "" {
			fmt.Fprintln(stdout, "# "+cluster)
		}
		for _, w := range workloads {
			if ofRuntime(w) {
				fmt.Fprintf(stdout, "# cut container %s off; its runtime goes on with it\n", w.Name)
				continue
			}
			fmt.Fprintf(stdout, "# end workload %s%s\n", w.Name, processWords(w))
		}
		writeSteps(stdout, steps)
		return nil
	}
	if cluster != "" {
		cluster = ", " + cluster + ","
	}
	question := fmt.Sprintf("take away every network and forward of flatnet on this host%s and %s (%s; see them: --plan)?", cluster, farewell(workloads), counted(len(steps), "step"))
	if err := c.app.confirm(c.yes, question); err != nil {
		return err
	}
	if err := c.app.carryOut(stdout, runtimes); err != nil {
		return err
	}
	if err := c.endWorkloads(ctx, client, workloads); err != nil {
		return err
	}
	if err := c.app.carryOut(stdout, plugins); err != nil {
		return err
	}
	return c.app.step("networks and rules", func() error {
		done, err := client.Uninstall(ctx, how...)
		if err == nil {
			writeStepTexts(stdout, done)
			sweepCgroups()
		}
		return err
	})
}

// goodbye says what the uninstall does to a cluster; empty when the host is in none that can be named.
func goodbye(ctx context.Context, client *api.Client) string {
	m, err := client.Membership(ctx)
	if err != nil {
		return ""
	}
	if !m.Server {
		return fmt.Sprintf("leave cluster %s as %s, with %s", m.Cluster, m.Name, counted(len(m.Blocks), "block"))
	}
	text := fmt.Sprintf("end cluster %s, whose server this host is", m.Cluster)
	hosts, err := client.Hosts(ctx)
	if err != nil {
		return text + " (its hosts cannot be listed now)"
	}
	var others []string
	for _, h := range hosts {
		if !h.Self {
			others = append(others, h.Name+" "+h.State)
		}
	}
	if len(others) > 0 {
		text += ", under " + strings.Join(others, ", ")
	}
	return text
}

func (c *uninstall) endWorkloads(ctx context.Context, client *api.Client, workloads []api.Workload) error {
	for _, w := range workloads {
		kind := "workload "
		if ofRuntime(w) {
			kind = "container "
		}
		err := c.app.step(kind+w.Name, func() error {
			_, err := client.DeleteWorkload(ctx, w.Name, api.Force)
			if api.IsNotFound(err) { // it ended meanwhile
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ofRuntime reports whether a container runtime made a workload. What runs there is the runtime's: it goes on without a network.
func ofRuntime(w api.Workload) bool {
	return len(w.Endpoints) > 0 && w.Process.PID == 0 && !slices.ContainsFunc(w.Endpoints, func(e api.Endpoint) bool { return e.Attachment == nil })
}

// farewell says what becomes of workloads.
func farewell(workloads []api.Workload) string {
	containers := 0
	for _, w := range workloads {
		if ofRuntime(w) {
			containers++
		}
	}
	end, cut := "end "+counted(len(workloads)-containers, "workload"), "cut "+counted(containers, "container")+" of container runtimes off"
	switch containers {
	case 0:
		return end
	case len(workloads):
		return cut
	}
	return end + ", " + cut
}

// sharersFirst puts workloads before those whose namespace they share.
func sharersFirst(ws []api.Workload) {
	slices.SortStableFunc(ws, func(a, b api.Workload) int { return strings.Compare(b.Sharing, a.Sharing) })
}

func processWords(w api.Workload) string {
	if w.Process.PID == 0 || w.Process.Exited {
		return ""
	}
	return fmt.Sprintf(": process %d, %s", w.Process.PID, commandCell(w))
}
