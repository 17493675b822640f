// flatnet is the command line tool of flatnetd: networks, workloads and published ports on this host, each change shown in
// words of ip and nft. It speaks with the daemon's socket only; what it does itself is start the commands of workloads.
//
// Every subcommand is a struct in a file of its own with a method run(ctx, args, stdout) error; newRoot lists them.
package main

import (
	"context"
	"io"
	"os"
	"time"
)

// version is set by the linker: -X main.version=1.2.3
var version = "dev"

func main() {
	if code, ok := reexec(os.Args); ok {
		os.Exit(code)
	}
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, now: time.Now, getenv: os.Getenv, configFile: defaultConfigFile, cni: usualCNIPlaces()}
	os.Exit(a.main(context.Background(), os.Args[1:]))
}

// app is what the subcommands share: the terminal, the clock and the settings.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time
	getenv         func(string) string
	configFile     string
	socketFlag     string
	config         config
	cni            cniPlaces
	disk           disk
}

// main runs one command line and returns the exit status.
func (a *app) main(ctx context.Context, args []string) int {
	root := newRoot(a)
	root.SetArgs(append([]string{}, joinSwitches(args)...)) // cobra takes os.Args for nil
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	return a.report(cmd, err)
}
