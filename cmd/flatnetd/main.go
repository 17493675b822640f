// Flatnetd keeps this machine's networks: it answers on a unix socket, and holds the kernel to what was asked for. It runs
// as root with no more than these capabilities, and lets go of all others before it does anything:
//
//	CAP_NET_ADMIN        links, addresses, routes, nft, conntrack, sysctls of the network
//	CAP_SYS_ADMIN        network namespaces: making, entering and mounting them; BPF
//	CAP_SYS_PTRACE       whose process listens on a port; how a command that is not its child ended
//	CAP_DAC_READ_SEARCH  the same, for processes of other users
//	CAP_KILL             ending the command of a workload that another user started
//	CAP_CHOWN            giving the socket to its group
//
// A member of the socket's group may look at everything; only root may change, unless group-may says otherwise.
//
//	flatnetd --state-dir /var/lib/flatnet --run-dir /run/flatnet --group flatnet
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/flatnet/flatnet/internal/agent"
)

func main() {
	os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// The exit statuses of the daemon.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == wordLab {
		return runLab(args[1:], stdout, stderr)
	}
	c, err := readConfig(args, getenv, os.ReadFile, stderr)
	switch {
	case errors.Is(err, errHelp):
		return exitOK
	case err != nil:
		fmt.Fprintln(stderr, "flatnetd:", err)
		return exitUsage
	case c.Version:
		fmt.Fprintln(stdout, "flatnetd", release())
		return exitOK
	}
	if err := dropCapabilities(); err != nil {
		fmt.Fprintln(stderr, "flatnetd: drop capabilities:", err)
		return exitError
	}
	log := c.logger(stderr)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := serve(ctx, c, getenv, log); err != nil {
		log.Error("flatnetd ends", "err", err)
		return exitError
	}
	return exitOK
}

// serve runs the agent and tells the service manager how it goes.
func serve(ctx context.Context, c config, getenv func(string) string, log *slog.Logger) error {
	manager, err := newManager(getenv)
	if err != nil {
		return err
	}
	defer manager.close()
	go manager.watchdog(ctx)
	go manager.reloads(ctx, func() {})
	stopping := context.AfterFunc(ctx, func() { manager.tell("STOPPING=1") })
	defer stopping()
	elsewhere, err := c.Flannel.elsewhere(log)
	if err != nil {
		return err
	}
	err = agent.Serve(ctx, agent.Options{
		Elsewhere: elsewhere,
		StateDir:  c.StateDir, RunDir: c.RunDir, NetnsDir: c.NetnsDir, HostLocalDir: c.HostLocalDir, Socket: c.Socket, Group: c.Group, GroupChanges: c.GroupMay == "change", Version: release(), Log: log,
		Ready: func() {
			log.Info("ready", "version", release())
			manager.tell("READY=1")
		},
		Attach:       serveCNI(log),
		OneProcessor: getenv("GOMAXPROCS") == "",
	})
	if errors.Is(err, agent.ErrUninstalled) {
		log.Info("uninstalled")
		return nil
	}
	return err
}

// release is what the build says, else the module's version.
func release() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}

// version is set by the linker: -X main.version=…
var version string
