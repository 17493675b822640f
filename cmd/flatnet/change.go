package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// change holds the flags that every changing command has.
type change struct{ explain, dryRun bool }

func (c *change) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.explain, "explain", false, "print the steps and the equal ip and nft commands instead of running them")
	cmd.Flags().BoolVar(&c.dryRun, "dry-run", false, "the same as --explain")
}

func (c *change) dry() bool { return c.explain || c.dryRun }

// options for the api calls.
func (c *change) options(more ...api.Option) []api.Option {
	if c.dry() {
		more = append(more, api.DryRun)
	}
	return more
}

// each calls one after the other and goes on after an error; all errors are returned together.
func each(names []string, do func(string) error) error {
	var errs errorList
	for _, n := range names {
		if err := do(n); err != nil {
			errs = append(errs, err)
			if api.IsUnreachable(err) {
				break
			}
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return errs
}

type errorList []error

func (l errorList) Error() string   { return fmt.Sprint([]error(l)) }
func (l errorList) Unwrap() []error { return l }

// confirm asks on stderr; without a terminal to answer, only -y is a yes.
func (a *app) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if !isTerminal(a.stdin) {
		return badUsage("%s nobody here to answer; -y means yes", question)
	}
	fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	line, _ := bufio.NewReader(a.stdin).ReadString('\n')
	if s := strings.ToLower(strings.TrimSpace(line)); s != "y" && s != "yes" {
		fmt.Fprintln(a.stderr, "nothing done")
		return exitStatus(api.ExitNegative)
	}
	return nil
}

// step prints one line of progress on stderr with the time that it took.
func (a *app) step(what string, do func() error) error {
	begin := a.now()
	err := do()
	word := "ok"
	if err != nil {
		word = "no"
	}
	fmt.Fprintf(a.stderr, "%-40s %s %.1fs\n", what, word, a.now().Sub(begin).Round(100*time.Millisecond).Seconds())
	return err
}

// done prints the name of a changed object, or with --explain what would be done.
func (c *change) done(w io.Writer, name string, steps []api.Step) {
	if c.dry() {
		writeSteps(w, steps)
		return
	}
	fmt.Fprintln(w, name)
}
