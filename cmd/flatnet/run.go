package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// run starts a command in a new workload.
type run struct {
	app    *app
	change change

	name                               string
	detach, rm, isolate                bool
	guard                              bool
	guardSet                           func() bool
	networks, publish, ips, ip6, label []string
	mac                                string
	limits                             limits
}

func newRun(a *app) *cobra.Command {
	c := &run{app: a}
	cmd := command(a, "run [flags] [--] COMMAND [ARG...]", "start a command on a network of its own choice",
		"sudo flatnet run -d --name web -p 8080:80 -- python3 -m http.server 80\nsudo flatnet run --network lab,ip=10.8.0.9 --network quiet -- bash", cobra.MinimumNArgs(1), c.run)
	cmd.Long = "The command runs as the caller, in a network namespace made for it, with a resolv.conf and hosts of its own and\n" +
		"the rest of this machine as it is. In the foreground it has the terminal, and the workload goes when it ends.\n" +
		"--network NET[,ip=ADDRESS][,mac=MAC][,ifname=LINK][,priority=N][,guard=false][,isolate][,ingress-rate=RATE][,egress-rate=RATE],\n" +
		"or none, host, container:NAME"
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.BoolVarP(&c.detach, "detach", "d", false, "go to the background; the output is kept: flatnet logs NAME")
	f.StringVar(&c.name, "name", "", "name of the workload (default: made up)")
	f.StringArrayVar(&c.networks, "network", nil, "where to attach (default: the network default); may be repeated")
	f.StringArrayVarP(&c.publish, "publish", "p", nil, "[ip:]port[-range]:port[-range][/tcp|udp|sctp], the host's ports first")
	f.Var(listed{&c.ips}, "ip", "static address on the only network")
	f.Var(listed{&c.ip6}, "ip6", "docker's word for a second --ip")
	f.StringVar(&c.mac, "mac", "", "MAC on the only network")
	f.StringVar(&c.mac, "mac-address", "", "docker's word for --mac")
	_ = f.MarkHidden("ip6")
	_ = f.MarkHidden("mac-address")
	f.BoolVar(&c.rm, "rm", false, "with -d: remove the workload when the command ends")
	f.StringArrayVarP(&c.label, "label", "l", nil, "key=value; may be repeated")
	f.BoolVar(&c.guard, "guard", true, "only the endpoint's own MAC and addresses may be used")
	f.BoolVar(&c.isolate, "isolate", false, "reaches the gateway but no other isolated endpoint")
	c.limits.flags(cmd)
	c.guardSet = func() bool { return f.Changed("guard") }
	c.change.flags(cmd)
	dockerTerminal(cmd)
	_ = cmd.RegisterFlagCompletionFunc("network", a.complete(runNetworkNames))
	cmd.ValidArgsFunction = nil
	return cmd
}

func runNetworkNames(ctx context.Context, c *api.Client) []string {
	names := append(networkNames(ctx, c), "none", "host")
	for _, w := range workloadNames(ctx, c) {
		names = append(names, "container:"+w)
	}
	return names
}

func (c *run) run(ctx context.Context, args []string, stdout io.Writer) error {
	spec, err := c.spec()
	if err != nil {
		return err
	}
	if c.change.dry() {
		done, err := c.app.client().CreateWorkload(ctx, spec, api.DryRun)
		if err != nil {
			return err
		}
		writeSteps(stdout, done.Steps)
		fmt.Fprintf(stdout, "# then, in it: %s\n", strings.Join(args, " "))
		return nil
	}
	if err := mayEnter(spec.Sharing, "run"); err != nil {
		return err
	}
	signals := catchSignals()
	done, err := c.app.client().CreateWorkload(ctx, spec)
	if err != nil {
		return err
	}
	if c.detach {
		return c.background(ctx, done.Object, args, stdout)
	}
	return c.foreground(ctx, done.Object, args, signals)
}

// mayEnter tells early, before anything is made, that entering a namespace is root's.
func mayEnter(sharing, verb string) error {
	if sharing == "host" || os.Geteuid() == 0 {
		return nil
	}
	return api.Fail(api.ExitNotPermitted, api.Problem{Code: api.CodeNotPermitted,
		Reason: "only root may enter a network namespace", Example: "sudo flatnet " + verb + " …"})
}

// spec says with the flags what the daemon is asked for.
func (c *run) spec() (api.WorkloadSpec, error) {
	s := api.WorkloadSpec{Name: c.name, Publish: c.publish, Remove: c.rm || !c.detach}
	var err error
	if s.Labels, err = parseLabels(c.label); err != nil {
		return s, err
	}
	networks := c.networks
	if len(networks) == 0 {
		networks = []string{"default"}
	}
	for _, n := range networks {
		if n == "none" || n == "host" || strings.HasPrefix(n, "container:") {
			if len(networks) > 1 {
				return s, badUsage("--network %s stands alone: it is no network", n)
			}
			s.Sharing = n
			return s, c.refuseEndpointFlags(n)
		}
		e, err := parseNetworkFlag(n)
		if err != nil {
			return s, err
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s, c.endpointFlags(s.Endpoints)
}

func (c *run) refuseEndpointFlags(network string) error {
	if len(c.ips)+len(c.ip6) > 0 || c.mac != "" || c.isolate || c.guardSet() || c.limits != (limits{}) {
		return badUsage("--network %s has no endpoint of its own: no --ip, --mac, --guard, --isolate, --ingress-rate or --egress-rate", network)
	}
	return nil
}

// endpointFlags puts the flags that are not part of --network to the endpoints.
func (c *run) endpointFlags(eps []api.EndpointSpec) error {
	ips := append(append([]string{}, c.ips...), c.ip6...)
	if len(eps) > 1 && (len(ips) > 0 || c.mac != "") {
		return badUsage("with several networks say it with each: --network %s,ip=…,mac=…", eps[0].Network)
	}
	if len(ips) > 0 {
		eps[0].IPs = append(eps[0].IPs, ips...)
	}
	if c.mac != "" {
		eps[0].MAC = c.mac
	}
	for i := range eps {
		if c.guardSet() && eps[i].Guard == nil {
			eps[i].Guard = &c.guard
		}
		if c.isolate && eps[i].Isolated == nil {
			eps[i].Isolated = &c.isolate
		}
		eps[i].Bandwidth = c.limits.with(eps[i].Bandwidth)
	}
	return nil
}

// parseNetworkFlag reads NET[,key=value...]; docker's name=NET in the first place is understood as well.
func parseNetworkFlag(s string) (api.EndpointSpec, error) {
	first, rest, more := strings.Cut(s, ",")
	e := api.EndpointSpec{Network: strings.TrimPrefix(first, "name=")}
	if e.Network == "" || strings.Contains(e.Network, "=") {
		return e, badUsage("--network %q does not begin with the name of a network", s)
	}
	for more {
		var option string
		option, rest, more = strings.Cut(rest, ",")
		if err := setEndpointOption(&e, option); err != nil {
			return e, badUsage("--network %s: %w", s, err)
		}
	}
	return e, nil
}

func setEndpointOption(e *api.EndpointSpec, option string) error {
	key, value, hasValue := strings.Cut(option, "=")
	switch key {
	case "ip", "ip6":
		e.IPs = append(e.IPs, value)
	case "mac", "mac-address":
		e.MAC = value
	case "ifname":
		e.IfName = value
	case "priority", "gw-priority":
		if _, err := fmt.Sscanf(value, "%d", &e.Priority); err != nil {
			return fmt.Errorf("%s=%q: want a whole number", key, value)
		}
		return nil
	case "ingress-rate", "egress-rate":
		var l limits
		err := l.option(key, value)
		e.Bandwidth = l.with(e.Bandwidth)
		return err
	case "guard", "isolate":
		on := value == "true" || !hasValue
		if !on && value != "false" {
			return fmt.Errorf("%s=%q: want true or false", key, value)
		}
		if key == "guard" {
			e.Guard = &on
		} else {
			e.Isolated = &on
		}
		return nil
	default:
		return fmt.Errorf("there is no option %q; options: ip, mac, ifname, priority, guard, isolate, ingress-rate, egress-rate", key)
	}
	if value == "" {
		return fmt.Errorf("%s needs a value: %s=…", key, key)
	}
	return nil
}

// foreground runs the command with the terminal and removes the workload when it ends.
func (c *run) foreground(ctx context.Context, w api.Workload, args []string, signals chan os.Signal) error {
	client := c.app.client()
	err := runForeground(ctx, c.app, client, w, args, signals)
	if rerr := removeWorkload(ctx, client, w.Name, foregroundPatience); rerr != nil {
		fmt.Fprintf(c.app.stderr, "workload %s is still there: %s\n  remove it: flatnet rm -f %s\n", w.Name, rerr, w.Name)
	}
	return err
}

// background hands the workload to a supervisor of its own and prints its name once the command runs.
func (c *run) background(ctx context.Context, w api.Workload, args []string, stdout io.Writer) error {
	err := startSupervisor(w, c.app.config.Socket, c.rm, args)
	if err != nil {
		if rerr := removeWorkload(ctx, c.app.client(), w.Name, foregroundPatience); rerr != nil {
			fmt.Fprintf(c.app.stderr, "workload %s is still there: %s\n", w.Name, rerr)
		}
		return err
	}
	fmt.Fprintln(stdout, w.Name)
	return nil
}
