package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

func newToken(a *app) *cobra.Command {
	g := group("token", "what lets hosts join the cluster: create, ls, rm", "sudo flatnet token create", newTokenCreate(a), newTokenLs(a), newTokenRm(a))
	g.Aliases = []string{"tokens"}
	return g
}

// tokenCreate makes a token.
type tokenCreate struct {
	app    *app
	ttl    time.Duration
	uses   int
	output string
}

func newTokenCreate(a *app) *cobra.Command {
	c := &tokenCreate{app: a}
	cmd := command(a, "create [flags]", "make a token, and print the command that joins with it; on a server", "sudo flatnet token create --ttl 1h --uses 3", cobra.NoArgs, c.run)
	f := cmd.Flags()
	f.DurationVar(&c.ttl, "ttl", 15*time.Minute, "how long it is valid")
	f.IntVar(&c.uses, "uses", 10, "how many hosts may join with it")
	f.StringVarP(&c.output, "output", "o", "", "json, yaml or name")
	return cmd
}

func (c *tokenCreate) run(ctx context.Context, _ []string, stdout io.Writer) error {
	if c.ttl < time.Second || c.uses < 1 {
		return badUsage("a token is valid for a second at least, and for a host")
	}
	t, err := c.app.client().CreateToken(ctx, api.TokenSpec{Seconds: int(c.ttl / time.Second), Uses: c.uses})
	if err != nil {
		return err
	}
	switch c.output {
	case "json", "yaml":
		return writeValue(stdout, c.output, t)
	case "name":
		fmt.Fprintln(stdout, t.Name)
	case "":
		fmt.Fprintf(stdout, "sudo %s\n", t.Join)
		fmt.Fprintf(c.app.stderr, "valid for %v, for %s; take it back: flatnet token rm %s\n", t.Expires.Sub(t.Created), counted(t.Uses, "host"), t.Name)
	default:
		return badUsage("-o takes json, yaml or name, not %q", c.output)
	}
	return nil
}

// tokenLs lists tokens.
type tokenLs struct {
	app  *app
	list listing
}

func newTokenLs(a *app) *cobra.Command {
	c := &tokenLs{app: a}
	cmd := command(a, "ls [flags]", "list the tokens; on a server", "flatnet token ls", cobra.NoArgs, c.run)
	cmd.Aliases = []string{"list"}
	c.list.flags(cmd)
	return cmd
}

func (c *tokenLs) run(ctx context.Context, _ []string, stdout io.Writer) error {
	tokens, err := c.app.client().Tokens(ctx)
	if err != nil {
		return err
	}
	return table[api.Token]{
		columns: []column[api.Token]{
			{"NAME", false, func(t api.Token) string { return t.Name }},
			{"USED", false, func(t api.Token) string { return fmt.Sprintf("%d of %d", len(t.Used), t.Uses) }},
			{"STATE", false, c.state},
			{"EXPIRES", true, func(t api.Token) string { return t.Expires.UTC().Format(time.DateTime + " UTC") }},
		},
		name: func(t api.Token) string { return t.Name },
	}.show(stdout, c.list, tokens)
}

func (c *tokenLs) state(t api.Token) string {
	left := t.Expires.Sub(c.app.now())
	switch {
	case left <= 0:
		return "expired"
	case len(t.Used) >= t.Uses:
		return "used up"
	}
	return fmt.Sprintf("valid for %v", left.Round(time.Second))
}

// tokenRm takes tokens back.
type tokenRm struct{ app *app }

func newTokenRm(a *app) *cobra.Command {
	c := &tokenRm{app: a}
	cmd := command(a, "rm NAME...", "take tokens back: nobody joins with them any more; on a server", "sudo flatnet token rm 3f9a1c22b7d0", cobra.MinimumNArgs(1), c.run)
	cmd.Aliases = []string{"delete", "revoke"}
	cmd.ValidArgsFunction = a.complete(tokenNames)
	return cmd
}

func (c *tokenRm) run(ctx context.Context, args []string, stdout io.Writer) error {
	return each(args, func(name string) error {
		if _, err := c.app.client().RevokeToken(ctx, name); err != nil {
			return err
		}
		fmt.Fprintln(stdout, name)
		return nil
	})
}

func tokenNames(ctx context.Context, c *api.Client) []string {
	tokens, _ := c.Tokens(ctx)
	return namesOf(tokens, func(t api.Token) string { return t.Name })
}
