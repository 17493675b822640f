package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

// labWord is one command of labs. What it does is flatnetd's: a lab is made of flatnetd, and this tool speaks with its socket only.
type labWord struct {
	app *app
	cmd *cobra.Command
}

func newLab(a *app) *cobra.Command {
	up := labCommand(a, "up [flags]", "make hosts, each with a flatnetd, and workloads on them", "sudo flatnet lab up --hosts 3", cobra.NoArgs)
	up.Long = "The hosts are network namespaces with processes and files of their own, joined by a LAN that is one, too. Nothing of this\n" +
		"machine's network is touched, and `flatnet lab down` leaves nothing behind.\n" +
		"FILE is YAML: name, backend, routedUnderlay, init (arguments of flatnet init), and hosts: a list of name, lan (1 or 2), workloads (names)."
	up.Args = namedByFlag
	f := up.Flags()
	f.StringP("file", "f", "", "a file that describes the lab")
	f.Int("hosts", 2, "how many hosts, each with two workloads")
	f.String("backend", "vxlan", "how packets get from host to host: vxlan, host-gw; static: routes by hand, no cluster; none")
	f.Bool("routed-underlay", false, "two LANs with a router between them")
	ls := labCommand(a, "ls", "list the labs", "flatnet lab ls", cobra.NoArgs)
	ls.Aliases = []string{"list"}
	exec := labCommand(a, "exec HOST|WORKLOAD [--] COMMAND [ARG...]", "start a command on a host, in a workload, or on lan, the LAN between the hosts",
		"sudo flatnet lab exec web1 -- ping db2", cobra.MinimumNArgs(2))
	exec.Flags().SetInterspersed(false)
	backend := labCommand(a, "backend BACKEND", "change how packets get from host to host, while everything runs", "sudo flatnet lab backend host-gw", cobra.ExactArgs(1))
	backend.Flags().Bool("force", false, "also when hosts behind a router are cut off; it is told how many pairs do not answer then")
	breaks := labCommand(a, "break [FAULT [HOST...]]", "make something go wrong; without FAULT: list the faults", "sudo flatnet lab break mtu h1", cobra.ArbitraryArgs)
	breaks.Long = "It prints the commands that do it, of ip and nft most of all, what one should then see, and where to look."
	fix := labCommand(a, "fix [FAULT]", "undo what was broken", "sudo flatnet lab fix", cobra.MaximumNArgs(1))
	down := labCommand(a, "down", "take a lab away, and look whether anything is left", "sudo flatnet lab down", cobra.NoArgs)
	down.Args = namedByFlag
	for _, c := range []*cobra.Command{up, exec, backend, breaks, fix, down} {
		c.Flags().String("name", "", "the lab (default: FLATNET_LAB, or the only one)")
	}
	up.Flag("name").Usage = "the lab (default: the file's name, FLATNET_LAB, or by the number of hosts)"
	return group("lab", "several hosts on this machine, to try things out", "sudo flatnet lab up", up, ls, exec, backend, breaks, fix, down)
}

// namedByFlag refuses a lab's name as an argument, which the other commands have no place for.
func namedByFlag(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return usageError{cmd, fmt.Errorf("got %q; which lab is said by a flag: %s --name %s", args[0], cmd.CommandPath(), args[0])}
}

func labCommand(a *app, use, short, example string, args cobra.PositionalArgs) *cobra.Command {
	c := &labWord{app: a}
	c.cmd = command(a, use, short, example, args, c.run)
	return c.cmd
}

// run becomes flatnetd lab.
func (c *labWord) run(_ context.Context, args []string, _ io.Writer) error {
	program, err := daemonProgram()
	if err != nil {
		return err
	}
	return syscall.Exec(program, append([]string{program, "lab", c.cmd.Name()}, c.words(args)...), os.Environ())
}

// words are the flags that were given, and the arguments.
func (c *labWord) words(args []string) []string {
	var words []string
	for _, name := range []string{"file", "hosts", "backend", "routed-underlay", "force", "name"} {
		if f := c.cmd.Flags().Lookup(name); f != nil && f.Changed {
			words = append(words, "--"+name+"="+f.Value.String())
		}
	}
	if c.cmd.Name() != "exec" {
		return append(words, args...)
	}
	words = append(words, args[0], "--")
	if args[1] == "--" {
		args = args[1:]
	}
	return append(words, args[1:]...)
}

// daemonProgram is flatnetd's path: beside this program, or where it is installed.
func daemonProgram() (string, error) {
	if self, err := os.Executable(); err == nil {
		for _, dir := range []string{".", "../sbin"} {
			if path := filepath.Join(filepath.Dir(self), dir, "flatnetd"); exists(path) {
				return path, nil
			}
		}
	}
	path, err := exec.LookPath("flatnetd")
	if err != nil {
		return "", errors.New("flatnetd is neither beside this program nor in PATH")
	}
	return path, nil
}
