package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// execute starts a further command in a workload.
type execute struct{ app *app }

func newExec(a *app) *cobra.Command {
	c := &execute{app: a}
	cmd := command(a, "exec NAME [--] COMMAND [ARG...]", "start a further command in a workload", "sudo flatnet exec web -- ip route", cobra.MinimumNArgs(2), c.run)
	cmd.Flags().SetInterspersed(false)
	dockerTerminal(cmd)
	cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return a.complete(workloadNames)(cmd, args, part)
	}
	return cmd
}

func (c *execute) run(ctx context.Context, args []string, _ io.Writer) error {
	name, args := args[0], args[1:]
	if args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		return badUsage("which command?")
	}
	w, err := c.app.client().Workload(ctx, name)
	if err != nil {
		return err
	}
	if err := mustRun(w); err != nil {
		return err
	}
	if err := mayEnter(w.Sharing, "exec "+name); err != nil {
		return err
	}
	return execIn(c.app, w, args)
}

// mustRun refuses a workload that there is nothing to enter of: a command for it would run on the host's network.
func mustRun(w api.Workload) error {
	switch {
	case w.State == "exited" && w.Process.Code < 0:
		return notRunning(w, "does not run (exited while nobody looked)")
	case w.State == "exited":
		return notRunning(w, fmt.Sprintf("does not run (exited with status %d)", w.Process.Code))
	case w.Netns == "":
		return noNamespace(w)
	}
	return nil
}

func notRunning(w api.Workload, why string) error {
	return api.Fail(api.ExitConflict, api.Problem{Code: api.CodeNotRunning, Reason: fmt.Sprintf("workload %q %s", w.Name, why),
		Fix: "remove it and start a new one", Example: "flatnet rm " + w.Name})
}

func noNamespace(w api.Workload) error {
	why := "has no network namespace any more"
	if shared, joins := strings.CutPrefix(w.Sharing, "container:"); joins {
		why += fmt.Sprintf(": that of workload %q, which it shares, is gone", shared)
	}
	return notRunning(w, why)
}

func execIn(a *app, w api.Workload, args []string) error {
	v, err := viewOf(w)
	if err != nil {
		return err
	}
	if w.Process.PID != 0 && !w.Process.Exited {
		v.Join, v.Cgroup = w.Process.PID, cgroupOf(w.Process.PID)
	}
	signals := catchSignals()
	hadTerminal := foregroundGroup() == unix.Getpgrp()
	s, err := startCommand(launch{v, args}, a.stdio(), func(int) error { return nil })
	if err != nil {
		return err
	}
	warn(a.stderr, s.warnings)
	if code := s.attend(signals, hadTerminal); code != 0 {
		return exitStatus(code)
	}
	return nil
}
