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

// entry is what the two ways into a cluster have in common.
type entry struct {
	app              *app
	yes, force, plan bool
	output           string
	underlay         []string
	name             string
}

func (e *entry) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&e.plan, "plan", false, "only look whether and how it would be done")
	f.BoolVar(&e.force, "force", false, "go on in spite of what the checks find")
	f.Var(listed{&e.underlay}, "underlay", "where the other hosts reach this one: a link, or an address of each family")
	f.Var(listed{&e.underlay}, "advertise", "the same as --underlay")
	f.StringVar(&e.name, "name", "", "name of this host in the cluster (default: the host name)")
	f.StringVarP(&e.output, "output", "o", "", "json or yaml")
	_ = cmd.RegisterFlagCompletionFunc("output", words("json", "yaml"))
}

// initialise begins a cluster on this host.
type initialise struct {
	entry
	pools, etcd   []string
	ca, cert, key string // files
}

func newInit(a *app) *cobra.Command {
	c := &initialise{entry: entry{app: a}}
	cmd := command(a, "init [flags]", "begin a cluster: this host is its first, and lets others in", "sudo flatnet init\nsudo flatnet init -y --underlay eth1 --pool 10.244.0.0/16", cobra.NoArgs, c.run)
	cmd.Long = "It shows what it finds and would do, and asks once. Then etcd runs here, with certificates that flatnet makes, and a network\n" +
		"`cluster` is on every host that joins. A pool is a prefix, or PREFIX:BITS to say how large the hosts' blocks are."
	c.flags(cmd)
	f := cmd.Flags()
	f.BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	f.Var(listed{&c.pools}, "pool", "range of addresses that the hosts share (default 10.244.0.0/16; one of each family for both)")
	f.Var(listed{&c.etcd}, "etcd", "URL of an etcd that runs already (default: flatnet runs one)")
	f.StringVar(&c.ca, "etcd-ca", "", "file: the authority of that etcd's certificate")
	f.StringVar(&c.cert, "etcd-cert", "", "file: the certificate that flatnet shows it, on all hosts")
	f.StringVar(&c.key, "etcd-key", "", "file: the key of that")
	return cmd
}

func (c *initialise) run(ctx context.Context, _ []string, stdout io.Writer) error {
	i := api.Init{Underlay: c.underlay, Pools: c.pools, Name: c.name}
	var err error
	if i.Etcd, err = c.external(); err != nil {
		return err
	}
	client := c.app.client()
	return c.enter(stdout, "begin a cluster on this host?", func(how ...api.Option) (api.Membership, error) {
		return client.InitCluster(ctx, i, how...)
	}, func(m api.Membership) {
		fmt.Fprintf(c.app.stderr, "ready as %s %s.  On each other machine run (valid %d min, for %d machines):\n", m.Name, strings.Join(m.Blocks, " "),
			int(m.Token.Expires.Sub(m.Token.Created).Minutes()), m.Token.Uses)
		fmt.Fprintf(stdout, "sudo %s\n", m.Token.Join)
	})
}

// external reads the files that an etcd of others needs.
func (c *initialise) external() (*api.ExternalEtcd, error) {
	if len(c.etcd) == 0 {
		if c.ca+c.cert+c.key != "" {
			return nil, badUsage("--etcd-ca, --etcd-cert and --etcd-key are for --etcd URL")
		}
		return nil, nil
	}
	e := &api.ExternalEtcd{Endpoints: c.etcd}
	for _, f := range []struct {
		name string
		into *string
	}{{c.ca, &e.CA}, {c.cert, &e.Cert}, {c.key, &e.Key}} {
		if f.name == "" {
			continue
		}
		text, err := os.ReadFile(f.name)
		if err != nil {
			return nil, badUsage("%s", err)
		}
		*f.into = string(text)
	}
	return e, nil
}

// enter shows what would be done, asks, does it and tells.
func (e *entry) enter(stdout io.Writer, question string, do func(...api.Option) (api.Membership, error), tell func(api.Membership)) error {
	if e.output != "" && e.output != "json" && e.output != "yaml" {
		return badUsage("-o takes json or yaml, not %q", e.output)
	}
	var how []api.Option
	if e.force {
		how = append(how, api.Force)
	}
	if !e.yes || e.plan {
		would, err := do(append(how, api.DryRun)...)
		if err != nil {
			return err
		}
		if e.plan && e.output != "" {
			return writeValue(stdout, e.output, would)
		}
		out := e.app.stderr
		if e.plan {
			out = stdout
		}
		writeEntry(out, would)
		if e.plan {
			return e.verdict(would)
		}
		if e.verdict(would) == nil || e.force { // else the daemon says what is wrong, and how to repair it
			if err := e.app.confirm(false, question); err != nil {
				return err
			}
		}
	}
	m, err := do(how...)
	if err != nil {
		return err
	}
	if e.output != "" {
		return writeValue(stdout, e.output, m)
	}
	if e.yes {
		writeChecks(e.app.stderr, m)
	}
	tell(m)
	return nil
}

// verdict is a negative answer when a check has failed.
func (e *entry) verdict(m api.Membership) error {
	for _, c := range m.Checks {
		if !c.OK {
			return exitStatus(api.ExitNegative)
		}
	}
	return nil
}

func writeEntry(w io.Writer, m api.Membership) {
	fmt.Fprintf(w, "this host: %s at %s %s, because %s; mtu %d\n", m.Name, m.Link, strings.Join(m.Underlay, " "), m.Why, m.MTU)
	if len(m.Networks) > 0 {
		fmt.Fprintf(w, "networks:  %s\n", strings.TrimSpace(strings.Join(m.Networks, " ")+" "+strings.Join(m.Blocks, " ")))
	}
	writeChecks(w, m)
}

// writeChecks has one line for what is well, and one for each that is not.
func writeChecks(w io.Writer, m api.Membership) {
	var good, bad []string
	for _, c := range m.Checks {
		if c.OK {
			good = append(good, c.What+" "+c.Result)
		} else {
			bad = append(bad, c.What+": "+c.Result)
		}
	}
	if len(m.Checks) > 0 {
		fmt.Fprintf(w, "checks:    %s\n", strings.Join(good, "  "))
	}
	for _, b := range bad {
		fmt.Fprintf(w, "  not well %s\n", b)
	}
}
