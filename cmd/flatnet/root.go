package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// newRoot lists every subcommand.
func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use: "flatnet", Short: "one flat network for containers and virtual machines, every packet explained",
		Example:       "  sudo flatnet run -p 8080:80 -- python3 -m http.server 80",
		SilenceErrors: true, SilenceUsage: true, Args: cobra.ArbitraryArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.loadConfig() },
		RunE:              func(cmd *cobra.Command, args []string) error { return welcome(cmd, args, a.stdout) },
	}
	root.Version = version
	root.Flags().BoolP("version", "v", false, "the version of this tool")
	root.SetVersionTemplate("flatnet {{.Version}}\n")
	root.PersistentFlags().StringVar(&a.socketFlag, "socket", "", "flatnetd's unix socket (FLATNET_SOCKET)")
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetUsageFunc(func(cmd *cobra.Command) error { return usage(cmd, cmd.ErrOrStderr()) })
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { _ = usage(cmd, cmd.OutOrStdout()) })
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if before := cmd.Flags().Args(); len(before) > 0 && wordOfOthers(cmd.Name(), before[0]) != "" {
			return unknownCommand(cmd, before[0])
		}
		return usageError{cmd, explainFlag(cmd, err)}
	})
	root.AddGroup(&cobra.Group{ID: "look", Title: "look"}, &cobra.Group{ID: "net", Title: "networks"},
		&cobra.Group{ID: "work", Title: "workloads"}, &cobra.Group{ID: "cluster", Title: "several hosts"}, &cobra.Group{ID: "files", Title: "files"}, &cobra.Group{ID: "host", Title: "this host"})
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("cluster", newInit(a), newJoin(a), newLeave(a), newHost(a), newToken(a))
	add("look", newStatus(a), newDoctor(a), newPlan(a), newEvents(a), newShow(a))
	add("net", newNet(a), newEndpoint(a), newConnect(a, "flatnet"), newDisconnect(a, "flatnet"))
	add("work", newRun(a), newExec(a), newPs(a), newLogs(a), newStop(a), newRm(a))
	add("files", newApply(a), newDiff(a), newGet(a))
	add("host", newLab(a), newCNI(a), newUninstall(a), newVersion(a), newCompletion(a))
	help := newHelp(a, root)
	help.GroupID = "host"
	root.SetHelpCommandGroupID("host")
	root.SetHelpCommand(help)
	return root
}

func welcome(cmd *cobra.Command, args []string, w io.Writer) error {
	if len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	_, err := fmt.Fprint(w, `look around             flatnet status        flatnet net ls        flatnet doctor
try a lab               sudo flatnet lab up
use it on this machine  sudo flatnet run -- ip addr        sudo flatnet net create lab
see what would be done  sudo flatnet net create lab --explain
help                    flatnet help           flatnet help from docker
`)
	return err
}

// runner is how every subcommand looks.
type runner func(ctx context.Context, args []string, stdout io.Writer) error

// command makes a subcommand of its usage line, one sentence, a real example, and what it does.
func command(a *app, use, short, example string, args cobra.PositionalArgs, run runner) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Example: "  " + strings.ReplaceAll(example, "\n", "\n  "), DisableFlagsInUseLine: true,
		Args: func(cmd *cobra.Command, got []string) error {
			if err := args(cmd, got); err != nil {
				return usageError{cmd, fmt.Errorf("got %d arguments; usage: %s", len(got), cmd.UseLine())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := run(cmd.Context(), args, a.stdout); err != nil {
				return failure{err}
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// group makes a command that only holds others.
func group(use, short, example string, cmds ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{Use: use, Short: short, Example: "  " + example, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return usageError{cmd, fmt.Errorf("%s needs a command", cmd.CommandPath())}
		}}
	g.AddCommand(cmds...)
	return g
}

func unknownCommand(cmd *cobra.Command, name string) error {
	err := fmt.Errorf("%s has no command %q", cmd.CommandPath(), name)
	if hint := wordOfOthers(cmd.Name(), name); hint != "" {
		err = fmt.Errorf("%w; here: %s", err, hint)
	} else if near, ok := meant(name, commandNames(cmd)); ok {
		err = fmt.Errorf("%w; did you mean %q?", err, near)
	}
	return usageError{cmd, err}
}

// usage prints the help of a command.
func usage(cmd *cobra.Command, w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", cmd.CommandPath(), cmd.Short)
	if cmd.Long != "" {
		fmt.Fprintf(&b, "\n%s\n", cmd.Long)
	}
	if cmd.Runnable() && !cmd.HasAvailableSubCommands() {
		fmt.Fprintf(&b, "\nusage:\n  %s\n", cmd.UseLine())
	}
	if len(cmd.Aliases) > 0 {
		fmt.Fprintf(&b, "\nalso: %s\n", strings.Join(cmd.Aliases, ", "))
	}
	if cmd.Example != "" {
		fmt.Fprintf(&b, "\nexample:\n%s\n", cmd.Example)
	}
	writeSubcommands(&b, cmd)
	if cmd.HasAvailableLocalFlags() {
		fmt.Fprintf(&b, "\nflags:\n%s", switchUsages(cmd.LocalFlags().FlagUsages()))
	}
	if !cmd.HasParent() {
		b.WriteString("\nmore: flatnet help COMMAND, flatnet help FN2107 (a code), flatnet help topics\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeSubcommands(b *strings.Builder, cmd *cobra.Command) {
	if !cmd.HasAvailableSubCommands() {
		return
	}
	groups := cmd.Groups()
	if len(groups) == 0 {
		groups = []*cobra.Group{{Title: "commands"}}
	}
	for _, g := range groups {
		fmt.Fprintf(b, "\n%s:\n", g.Title)
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() && c.GroupID == g.ID || c.Name() == "help" && c.GroupID == g.ID {
				fmt.Fprintf(b, "  %-12s %s\n", c.Name(), c.Short)
			}
		}
	}
}
