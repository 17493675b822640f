package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"text/tabwriter"

	"github.com/flatnet/flatnet/internal/lab"
	"github.com/flatnet/flatnet/internal/lab/probe"
	"golang.org/x/sys/unix"
)

// wordLab is the first argument of `flatnetd lab`, which is what `flatnet lab` starts.
const wordLab = "lab"

// variableLab names the lab when no flag does.
const variableLab = "FLATNET_LAB"

// labCommand is one command of labs.
type labCommand struct {
	stdout, stderr io.Writer
	flags          *flag.FlagSet
	name           string // of the lab
}

// runLab carries out `flatnet lab ARGS` and returns the exit status.
func runLab(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		args = []string{"ls"}
	}
	word, args := args[0], args[1:]
	if code, ok := runInsideLab(word, args, stdout, stderr); ok {
		return code
	}
	commands := map[string]func(labCommand, context.Context, []string) (int, error){
		"up": labCommand.up, "ls": labCommand.ls, "exec": labCommand.exec, "backend": labCommand.backend,
		"break": labCommand.breakIt, "fix": labCommand.fix, "down": labCommand.down,
	}
	run, ok := commands[word]
	if !ok {
		fmt.Fprintf(stderr, "error: flatnet lab has no command %q; there are: up, ls, exec, backend, break, fix, down\n", word)
		return exitUsage
	}
	c := labCommand{stdout: stdout, stderr: stderr, flags: flag.NewFlagSet("flatnet lab "+word, flag.ContinueOnError)}
	c.flags.SetOutput(stderr)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	if word == "exec" { // its signals are the command's
		stop()
		ctx, stop = context.Background(), func() {}
	}
	defer stop()
	code, err := run(c, ctx, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errUsage):
		return exitUsage
	case err != nil:
		fmt.Fprintln(stderr, lab.Text(err))
		return lab.Exit(err)
	}
	return code
}

// runInsideLab does what the package lab starts this program again for.
func runInsideLab(word string, args []string, stdout, stderr io.Writer) (code int, ok bool) {
	var err error
	switch {
	case word == lab.WordHold && len(args) == 3:
		err = lab.Hold(args[0], args[1], args[2])
	case word == lab.WordDetach:
		err = lab.Detach(args, stdout)
	case word == lab.WordWorkload:
		err = lab.Serve()
	case word == lab.WordProbe && len(args) > 0:
		return probe.Main(args[0], args[1:]), true
	default:
		return 0, false
	}
	if err != nil {
		fmt.Fprintln(stderr, "flatnetd lab:", err)
		return exitError, true
	}
	return exitOK, true
}

var errUsage = errors.New("usage")

func (c labCommand) usage(format string, args ...any) error {
	fmt.Fprintf(c.stderr, "error: "+format+"\n", args...)
	return errUsage
}

// parse reads the flags and returns the other arguments.
func (c *labCommand) parse(args []string, least, most int) ([]string, error) {
	c.flags.StringVar(&c.name, "name", "", "the lab ("+variableLab+"; default: the only one)")
	var rest []string
	for { // flags may stand between and after the others
		if err := c.flags.Parse(args); errors.Is(err, flag.ErrHelp) {
			return nil, err
		} else if err != nil {
			return nil, errUsage // it has been printed
		}
		if c.flags.NArg() == 0 {
			break
		}
		rest, args = append(rest, c.flags.Arg(0)), c.flags.Args()[1:]
	}
	if len(rest) < least || len(rest) > most {
		return nil, c.usage("%s: got %d arguments: %s", c.flags.Name(), len(rest), strings.Join(rest, " "))
	}
	return rest, nil
}

func (c labCommand) say(format string, args ...any) { fmt.Fprintf(c.stdout, format+"\n", args...) }

func (c labCommand) open() (*lab.Lab, error) {
	return lab.Open("", cmp.Or(c.name, os.Getenv(variableLab)), c.say)
}

func (c labCommand) up(ctx context.Context, args []string) (int, error) {
	spec, err := c.spec(args, os.Getenv)
	if err != nil {
		return 0, err
	}
	spec.Tell = c.say
	_, err = lab.Up(ctx, spec)
	return exitOK, err
}

// spec is what is asked for: by flags, else by the file, else by the environment.
func (c labCommand) spec(args []string, getenv func(string) string) (spec lab.Spec, err error) {
	file := c.flags.String("file", "", "a file that describes the lab")
	hosts := c.flags.Int("hosts", 2, "how many hosts")
	backend := c.flags.String("backend", "", "how packets get from host to host: vxlan, host-gw; static: routes by hand, no cluster; none")
	routed := c.flags.Bool("routed-underlay", false, "two LANs with a router between them")
	if _, err := c.parse(args, 0, 0); err != nil {
		return spec, err
	}
	if *file != "" {
		if spec, err = lab.ReadSpec(*file); err != nil {
			return spec, err
		}
	}
	if c.given("hosts") {
		switch {
		case *hosts < 1 || *hosts > lab.MaxHosts:
			return spec, lab.Refused("--hosts", *hosts, fmt.Sprintf("a lab has from 1 to %d hosts", lab.MaxHosts))
		case len(spec.Hosts) > 0:
			return spec, lab.Refused("--hosts", *hosts, *file+" lists the hosts")
		}
		spec.Hosts = lab.Hosts(*hosts)
	}
	spec.Backend = cmp.Or(*backend, spec.Backend)
	spec.Name = cmp.Or(c.name, spec.Name, getenv(variableLab))
	spec.RoutedUnderlay = spec.RoutedUnderlay || *routed
	return spec, nil
}

// given reports whether a flag is on the command line.
func (c labCommand) given(name string) (is bool) {
	c.flags.Visit(func(f *flag.Flag) { is = is || f.Name == name })
	return is
}

func (c labCommand) ls(_ context.Context, args []string) (int, error) {
	if _, err := c.parse(args, 0, 0); err != nil {
		return 0, err
	}
	names, err := lab.Names("")
	if err != nil {
		return 0, err
	}
	w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tHOSTS\tWORKLOADS\tBACKEND\tSTATE\tFAULTS")
	for _, name := range names {
		l, err := lab.Open("", name, nil)
		if err != nil {
			continue // it went down meanwhile
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\n", name, len(l.Hosts()), len(l.Workloads()), l.BackendName(), l.StateName(), l.FaultNames())
	}
	return exitOK, w.Flush()
}

func (c labCommand) exec(ctx context.Context, args []string) (int, error) {
	var command []string
	for i, a := range args {
		if a == "--" {
			args, command = args[:i], args[i+1:]
			break
		}
	}
	rest, err := c.parse(args, 1, 1)
	if err != nil {
		return 0, err
	}
	if len(command) == 0 {
		return 0, c.usage("flatnet lab exec HOST|WORKLOAD -- COMMAND")
	}
	l, err := c.open()
	if err != nil {
		return 0, err
	}
	return l.Attach(ctx, rest[0], command, os.Stdin, c.stdout, c.stderr)
}

func (c labCommand) backend(ctx context.Context, args []string) (int, error) {
	force := c.flags.Bool("force", false, "also when hosts behind a router are cut off")
	rest, err := c.parse(args, 1, 1)
	if err != nil {
		return 0, err
	}
	l, err := c.open()
	if err != nil {
		return 0, err
	}
	if *force {
		return exitOK, l.Backend(ctx, rest[0], lab.Force)
	}
	return exitOK, l.Backend(ctx, rest[0])
}

func (c labCommand) breakIt(ctx context.Context, args []string) (int, error) {
	rest, err := c.parse(args, 0, 1+lab.MaxHosts)
	if err != nil {
		return 0, err
	}
	if len(rest) == 0 {
		w := tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "FAULT\tIS")
		for _, f := range lab.Faults() {
			fmt.Fprintf(w, "%s\t%s\n", f.Name, f.Is)
		}
		return exitOK, w.Flush()
	}
	l, err := c.open()
	if err != nil {
		return 0, err
	}
	done, err := l.Break(ctx, rest[0], rest[1:]...)
	if err != nil {
		return 0, err
	}
	f, err := lab.FaultNamed(rest[0])
	c.say("%s", l.Explain(f, done, rest[1:]...))
	return exitOK, err
}

func (c labCommand) fix(ctx context.Context, args []string) (int, error) {
	rest, err := c.parse(args, 0, 1)
	if err != nil {
		return 0, err
	}
	l, err := c.open()
	if err != nil {
		return 0, err
	}
	done, err := l.Fix(ctx, strings.Join(rest, ""))
	for _, command := range done {
		c.say("%s", command)
	}
	if err != nil {
		return 0, err
	}
	pairs, err := l.Answer(ctx)
	if err == nil && pairs > 0 { // without a cluster or a backend nobody is to answer
		c.say("all %d directed pairs answer", pairs)
	}
	return exitOK, err
}

func (c labCommand) down(ctx context.Context, args []string) (int, error) {
	if _, err := c.parse(args, 0, 0); err != nil {
		return 0, err
	}
	l, err := c.open()
	if err != nil {
		return 0, err
	}
	return exitOK, l.Down(ctx)
}
