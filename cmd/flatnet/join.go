package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// joinCluster makes this host a node of a cluster.
type joinCluster struct {
	entry
	token string
}

func newJoin(a *app) *cobra.Command {
	c := &joinCluster{entry: entry{app: a, yes: true}} // who has a token has said what they want
	cmd := command(a, "join ADDRESS[:PORT] --token TOKEN [flags]", "make this host a node of a cluster", "sudo flatnet join 192.0.2.1 --token fn1.Q7…", cobra.ExactArgs(1), c.run)
	cmd.Long = "ADDRESS is that of a server of the cluster; `flatnet init` and `flatnet token create` print the whole command there.\n" +
		"Ports, path MTU, clock and addresses are looked at before anything changes. It may be repeated until it has succeeded."
	c.flags(cmd)
	cmd.Flags().BoolP("yes", "y", false, "as of init and leave: nothing is asked here")
	_ = cmd.Flags().MarkHidden("yes")
	cmd.Flags().StringVar(&c.token, "token", "", "what lets this host in (FLATNET_TOKEN)")
	return cmd
}

func (c *joinCluster) run(ctx context.Context, args []string, stdout io.Writer) error {
	if c.token == "" {
		c.token = c.app.getenv("FLATNET_TOKEN")
	}
	if c.token == "" {
		return badUsage("a host joins with --token TOKEN; `flatnet token create` on a server makes one")
	}
	j := api.Join{Address: args[0], Token: c.token, Underlay: c.underlay, Name: c.name}
	client := c.app.client()
	return c.enter(stdout, "", func(how ...api.Option) (api.Membership, error) {
		return client.JoinCluster(ctx, j, how...)
	}, func(m api.Membership) {
		fmt.Fprintf(c.app.stderr, "picked     %s %s because %s\n", m.Link, strings.Join(m.Underlay, " "), m.Why)
		fmt.Fprintf(c.app.stderr, "joined as %s %s.  %snext: flatnet host ls\n", m.Name, strings.Join(m.Blocks, " "), wellWays(m))
		for _, w := range m.Ways {
			if w.Problem != "" {
				fmt.Fprintf(c.app.stderr, "  not well %s\n           fix: %s\n", w.Problem, w.Fix)
			}
		}
		fmt.Fprintln(stdout, m.ID)
	})
}

// wellWays are the ways to others that were proven: h2 <-> h1 overlay 0.5 ms.
func wellWays(m api.Membership) string {
	var b strings.Builder
	for _, w := range m.Ways {
		if w.Problem == "" {
			fmt.Fprintf(&b, "%s <-> %s overlay %.1f ms.  ", m.Name, w.Host, float64(w.RTT)/1e6)
		}
	}
	return b.String()
}
