package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

// failure marks an error of a command's work, as against one of its usage.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// usageError is a command line that makes no sense.
type usageError struct {
	cmd *cobra.Command
	error
}

// badUsage is a usageError from within a command's run; the command is filled in by report.
func badUsage(format string, args ...any) error { return usageError{nil, fmt.Errorf(format, args...)} }

// exitStatus ends the program with a status and no words: a negative answer, or the status of a workload's command.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// report prints an error and returns the exit status for it.
func (a *app) report(cmd *cobra.Command, err error) int {
	var worked failure
	if !errors.As(err, &worked) && !errors.As(err, &usageError{}) {
		err = usageError{cmd, err}
	}
	code := 0
	for _, e := range split(err) {
		if c := a.reportOne(cmd, e); code == 0 {
			code = c
		}
	}
	return code
}

// split takes apart what errors.Join joined.
func split(err error) []error {
	if f, ok := err.(failure); ok {
		err = f.error
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

func (a *app) reportOne(cmd *cobra.Command, err error) int {
	var status exitStatus
	var apiErr *api.Error
	var use usageError
	switch {
	case errors.As(err, &status):
		return int(status)
	case errors.As(err, &use):
		if use.cmd == nil {
			use.cmd = cmd
		}
		writeUsageError(a.stderr, a.paint("error"), use)
		return api.ExitUsage
	case errors.As(err, &apiErr):
		apiErr.Write(a.stderr, a.paint("error"))
		return apiErr.Exit
	}
	code := api.ExitInconclusive
	var cmdErr commandError
	if errors.As(err, &cmdErr) {
		code = cmdErr.code
	}
	fmt.Fprintf(a.stderr, "%s: %s\n", a.paint("error"), err)
	fmt.Fprint(a.stderr, api.LastLine("", code))
	return code
}

func writeUsageError(w io.Writer, word string, e usageError) {
	fmt.Fprintf(w, "%s: %s\n", word, e.error)
	if example, _, _ := strings.Cut(strings.TrimSpace(e.cmd.Example), "\n"); example != "" {
		fmt.Fprintf(w, "  example: %s\n", example)
	}
	topic := strings.TrimPrefix(e.cmd.CommandPath(), "flatnet")
	fmt.Fprint(w, api.LastLine("more: flatnet help"+topic, api.ExitUsage))
}

// paint colours a word when errors go to a terminal that wants it.
func (a *app) paint(word string) string {
	if !isTerminal(a.stderr) || a.getenv("NO_COLOR") != "" || a.getenv("TERM") == "dumb" {
		return word
	}
	return "\x1b[1;31m" + word + "\x1b[0m"
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && fdIsTerminal(int(f.Fd()))
}
