package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// connect attaches a workload to one more network while it runs.
type connect struct {
	app    *app
	change change

	ips, ip6         []string
	mac, ifname      string
	priority         int
	isolate, noGuard bool
	limits           limits
}

// newConnect is docker's network connect too, below flatnet net.
func newConnect(a *app, path string) *cobra.Command {
	c := &connect{app: a}
	cmd := command(a, "connect NETWORK WORKLOAD [flags]", "attach a workload to one more network while it runs",
		path+" connect lab web\n"+path+" connect lab web --ip 10.8.0.9 --priority 10", cobra.ExactArgs(2), c.run)
	cmd.Long = "The endpoints that it has stay as they are, with their connections. The default route goes by the endpoint of highest priority,\n" +
		"of several by the first; what comes in by another network is answered by that one."
	f := cmd.Flags()
	f.Var(listed{&c.ips}, "ip", "static address; may be repeated, one in each subnet")
	f.Var(listed{&c.ip6}, "ip6", "docker's word for a second --ip")
	f.StringVar(&c.mac, "mac", "", "MAC (default: made from the names)")
	f.StringVar(&c.mac, "mac-address", "", "docker's word for --mac")
	f.StringVar(&c.ifname, "ifname", "", "name of the link inside (default: the first free of eth0, eth1, …)")
	f.IntVar(&c.priority, "priority", 0, "the endpoint with the highest has the default route")
	f.IntVar(&c.priority, "gw-priority", 0, "docker's word for --priority")
	f.BoolVar(&c.isolate, "isolate", false, "reaches the gateway but no other isolated endpoint")
	f.BoolVar(&c.noGuard, "no-guard", false, "may use any source address")
	c.limits.flags(cmd)
	for _, hidden := range []string{"ip6", "mac-address", "gw-priority"} {
		_ = f.MarkHidden(hidden)
	}
	c.change.flags(cmd)
	cmd.ValidArgsFunction = a.completeEach(networkNames, workloadNames)
	return cmd
}

func (c *connect) spec(network string) api.EndpointSpec {
	s := api.EndpointSpec{Network: network, IPs: append(append([]string{}, c.ips...), c.ip6...), MAC: c.mac, IfName: c.ifname, Priority: c.priority,
		Bandwidth: c.limits.with(nil)}
	if c.isolate {
		s.Isolated = &c.isolate
	}
	if c.noGuard {
		guard := false
		s.Guard = &guard
	}
	return s
}

func (c *connect) run(ctx context.Context, args []string, stdout io.Writer) error {
	network, workload := args[0], args[1]
	done, err := c.app.client().Connect(ctx, workload, c.spec(network), c.change.options()...)
	if err != nil {
		return c.app.ifSwapped(ctx, "connect", network, workload, err)
	}
	e, _ := endpointOn(done.Object, network)
	c.change.done(stdout, endpointName(e), done.Steps)
	if !c.change.dry() {
		fmt.Fprintf(c.app.stderr, "  %s%s\n", strings.Join(append([]string{network}, e.IPs...), " "), defaultRouteText(done.Object))
	}
	return nil
}

// ifSwapped is the error, or a better one when the network's name is a workload's, and the other way round.
func (a *app) ifSwapped(ctx context.Context, verb, network, workload string, err error) error {
	var e *api.Error
	if !errors.As(err, &e) || len(e.Problems) == 0 || e.Problems[0].Code != api.CodeNotFound {
		return err
	}
	if _, werr := a.client().Workload(ctx, network); werr != nil {
		return err
	}
	if _, nerr := a.client().Network(ctx, workload); nerr != nil {
		return err
	}
	return badUsage("%s is a workload and %s a network: swapped, the network comes first: flatnet %s %s %s", network, workload, verb, workload, network)
}

func endpointOn(w api.Workload, network string) (api.Endpoint, bool) {
	for _, e := range w.Endpoints {
		if e.Network == network {
			return e, true
		}
	}
	return api.Endpoint{}, false
}

// defaultRouteText says by which endpoint a workload leaves; nothing when it has one or no way out.
func defaultRouteText(w api.Workload) string {
	for _, e := range w.Endpoints {
		if e.DefaultRoute && len(w.Endpoints) > 1 {
			return fmt.Sprintf("  the default route goes by %s (%s)", e.IfName, e.Network)
		}
	}
	return ""
}

// disconnect takes a workload off a network while it runs.
type disconnect struct {
	app    *app
	change change
	force  bool
}

func newDisconnect(a *app, path string) *cobra.Command {
	c := &disconnect{app: a}
	cmd := command(a, "disconnect NETWORK WORKLOAD [flags]", "take a workload off a network while it runs",
		path+" disconnect lab web", cobra.ExactArgs(2), c.run)
	cmd.Flags().BoolVarP(&c.force, "force", "f", false, "also when ports are published by it: they go too")
	c.change.flags(cmd)
	cmd.ValidArgsFunction = a.completeEach(networkNames, workloadNames)
	return cmd
}

func (c *disconnect) run(ctx context.Context, args []string, stdout io.Writer) error {
	network, workload := args[0], args[1]
	var how []api.Option
	if c.force {
		how = append(how, api.Force)
	}
	done, err := c.app.client().Disconnect(ctx, workload, network, c.change.options(how...)...)
	if err != nil {
		return c.app.ifSwapped(ctx, "disconnect", network, workload, err)
	}
	c.change.done(stdout, workload, done.Steps)
	if text := defaultRouteText(done.Object); text != "" && !c.change.dry() {
		fmt.Fprintln(c.app.stderr, text)
	}
	return nil
}
