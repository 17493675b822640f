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

// netInspect shows networks in full.
type netInspect struct {
	app            *app
	output, format string
}

func newNetInspect(a *app) *cobra.Command {
	c := &netInspect{app: a}
	cmd := command(a, "inspect NAME... [flags]", "show networks in full",
		"flatnet net inspect default\nflatnet net inspect default -o docker", cobra.MinimumNArgs(1), c.run)
	cmd.Aliases = []string{"show", "info"}
	cmd.Flags().StringVarP(&c.output, "output", "o", "", "json, yaml, or docker for docker's shape")
	cmd.Flags().StringVarP(&c.format, "format", "f", "", "Go template over the network: '{{.Status.MTU}}'")
	cmd.ValidArgsFunction = a.complete(networkNames)
	_ = cmd.RegisterFlagCompletionFunc("output", words("json", "yaml", "docker"))
	return cmd
}

func (c *netInspect) run(ctx context.Context, args []string, stdout io.Writer) error {
	var nets []api.Network
	err := each(args, func(name string) error {
		n, err := c.app.client().Network(ctx, name)
		if err == nil {
			nets = append(nets, n)
		}
		return err
	})
	if werr := c.write(stdout, nets); werr != nil {
		return werr
	}
	return err
}

func (c *netInspect) write(w io.Writer, nets []api.Network) error {
	switch {
	case c.format != "" && c.output == "docker":
		return formatEach(w, c.format, dockerNetworks(nets))
	case c.format != "":
		return formatEach(w, c.format, nets)
	case c.output == "docker":
		return writeValue(w, "json", dockerNetworks(nets))
	case (c.output == "json" || c.output == "yaml") && len(nets) == 1:
		return writeValue(w, c.output, nets[0])
	case c.output == "json" || c.output == "yaml":
		return writeValue(w, c.output, nets)
	case c.output != "":
		return badUsage("-o takes json, yaml or docker, not %q", c.output)
	}
	for i, n := range nets {
		if i > 0 {
			fmt.Fprintln(w)
		}
		writeFacts(w, networkFacts(n))
	}
	return nil
}

func networkFacts(n api.Network) []fact {
	one := func(s string) []string { return []string{s} }
	var subnets, endpoints, forwards []string
	for _, s := range n.Status.Subnets {
		subnets = append(subnets, subnetLine(s))
	}
	for _, e := range n.Status.Endpoints {
		endpoints = append(endpoints, endpointLine(e))
	}
	for _, f := range n.Status.Forwards {
		forwards = append(forwards, forwardLine(f))
	}
	state := n.Status.State
	if n.Status.Reason != "" {
		state += ": " + n.Status.Reason
	}
	mtu := fmt.Sprint(n.Status.MTU)
	if n.Status.MTUNote != "" {
		if n.Spec.MTU == 0 {
			mtu += " = "
		}
		mtu += n.Status.MTUNote
	}
	facts := []fact{
		{"name", one(n.Name)}, {"id", one(n.ID)}, {"mode", one(n.Spec.Mode)}, {"state", one(state)}, {"scope", one(n.Status.Scope)},
		{"created", one(n.Status.Created.UTC().Format("2006-01-02 15:04:05 UTC"))},
		{"bridge", one(n.Status.Bridge)}, {"subnet", subnets}, {"mtu", one(mtu)},
		{"uplink", one(strings.Join(n.Status.Uplinks, ", "))}, {"nat", n.Status.NAT}, {"masquerade", routedOnly(n, n.Spec.Masquerade)}, {"proxy ARP", routedOnly(n, n.Spec.ProxyARP)}, {"return route", returnLines(n)}, {"dns", one(strings.Join(n.Spec.DNS, ", "))},
		{"host adapter", one(yesNo(hasHostAdapter(n)))}, {"guard", one(onUnless(n.Spec.Guard))},
		{"isolate ports", one(yesNo(n.Spec.IsolatePorts))}, {"autostart", one(onUnless(n.Spec.Autostart))},
		{"labels", labels(n.Labels)}, {"endpoints", endpoints}, {"forwards", forwards},
	}
	return slices.Insert(facts, afterCreated, clusterFacts(n)...)
}

// afterCreated is where in the facts of a network stands what a cluster network has beyond others.
const afterCreated = 6

// routedOnly is a switch that only routed networks have.
func routedOnly(n api.Network, on bool) []string {
	if n.Spec.Mode != "routed" {
		return nil
	}
	return []string{yesNo(on)}
}

// hasHostAdapter reports whether the host itself is on the network; in the other modes it never is.
func hasHostAdapter(n api.Network) bool {
	return slices.Contains([]string{"nat", "routed", "host-only", modeCluster}, n.Spec.Mode) && (n.Spec.HostAdapter == nil || *n.Spec.HostAdapter)
}

func onUnless(b *bool) string { return yesNo(b == nil || *b) }

func subnetLine(s api.SubnetStatus) string {
	parts := []string{s.Subnet}
	if s.Gateway != "" {
		parts = append(parts, "gateway "+s.Gateway)
	}
	if s.IPRange != "" && s.IPRange != s.Subnet {
		parts = append(parts, "range "+s.IPRange)
	}
	if len(s.Reserved) > 0 {
		parts = append(parts, "reserved "+strings.Join(s.Reserved, ","))
	}
	return strings.Join(parts, "  ") + fmt.Sprintf("  %d in use, %s free", s.InUse, freeText(s.Available))
}

// freeText is a number of addresses, as long as a person can do something with it.
func freeText(n float64) string {
	if n >= 1<<32 {
		return "many"
	}
	return fmt.Sprintf("%.0f", n)
}

func endpointLine(e api.Endpoint) string {
	parts := []string{endpointName(e)}
	if len(e.IPs) > 0 {
		parts = append(parts, strings.Join(e.IPs, " "))
	}
	parts = append(parts, e.MAC)
	if e.HostLink != "" { // the ends of a cable have none
		parts = append(parts, "on the host "+e.HostLink)
	}
	return strings.Join(parts, "  ")
}

func forwardLine(f api.Forward) string {
	line := fmt.Sprintf("%s -> %s:%s", f.Name, f.Workload, f.Ports)
	if !f.Active {
		line += "  (waits for the workload)"
	}
	return line
}
