package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/flatnet/flatnet/internal/model"
	"golang.org/x/sys/unix"
)

// Attach runs a command with the caller's terminal on a host, in a workload or on the LAN, and returns its exit status. It
// stays in the caller's group of processes, so that it gets the terminal's signals itself.
func (l *Lab) Attach(ctx context.Context, where string, command []string, stdin io.Reader, stdout, stderr io.Writer) (status int, err error) {
	m, err := l.where(where, &command)
	if err != nil {
		return 0, err
	}
	cmd := m.Command(ctx, command...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	if dir, err := os.Getwd(); err == nil {
		if _, err := os.Stat(m.Path(dir)); err == nil {
			cmd.Dir = dir
		}
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	if err := m.Start(cmd); err != nil {
		return 0, err
	}
	go func() {
		for s := range signals {
			if s == unix.SIGTERM || s == unix.SIGHUP { // the other two come from the terminal
				_ = cmd.Process.Signal(s)
			}
		}
	}()
	return exitStatus(cmd.Wait())
}

// where finds the machine that a command for a host or workload is to be started in, and what to start there.
func (l *Lab) where(name string, command *[]string) (*Machine, error) {
	if m := l.machine(name); m != nil {
		return m, nil
	}
	w := l.Workload(name)
	if w == nil {
		return nil, model.Problem{Code: codeNoLab, Reason: fmt.Sprintf("lab %q has no host or workload %q", l.Name(), name), Fix: "there are: " + l.names()}
	}
	*command = append([]string{w.host.lab.program("flatnet"), "exec", w.Name, "--"}, *command...)
	return &w.host.Machine, nil
}

// exitStatus is the status of a command as shells tell it.
func exitStatus(err error) (int, error) {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0, err
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}
