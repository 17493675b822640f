package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/flatnet/flatnet/api"
	"golang.org/x/sys/unix"
)

// started is a command that runs.
type started struct {
	cmd      *exec.Cmd
	warnings []string
}

// startCommand starts a command in a view with the given standard files. Before the command is executed, known is called
// with its process id; when that fails the command never begins.
func startCommand(l launch, stdio [3]*os.File, known func(pid int) error) (*started, error) {
	t, theirs, err := talkPair()
	if err != nil {
		return nil, err
	}
	defer t.file.Close()
	cmd := exec.Command("/proc/self/exe", wordExec)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdio[0], stdio[1], stdio[2]
	cmd.ExtraFiles = []*os.File{theirs}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return nil, err
	}
	s := &started{cmd: cmd}
	if err := s.launch(t, l, known); err != nil {
		_ = cmd.Process.Kill() // it has not begun; usually it has ended by itself
		_ = cmd.Wait()
		return nil, err
	}
	return s, nil
}

func (s *started) launch(t *talk, l launch, known func(pid int) error) error {
	if err := t.enc.Encode(l); err != nil {
		return fmt.Errorf("tell the child what to do: %w", err)
	}
	var r reply
	if err := t.dec.Decode(&r); err != nil {
		return errors.New("interrupted before the command began")
	}
	if err := r.err(); err != nil {
		return err
	}
	s.warnings = r.Warnings
	if err := known(s.cmd.Process.Pid); err != nil {
		return err
	}
	if err := t.enc.Encode(true); err != nil {
		return errors.New("interrupted before the command began")
	}
	r = reply{}
	if err := t.dec.Decode(&r); err != nil {
		return nil // executing closed the other end
	}
	return r.err()
}

// wait returns the exit status as shells count it: 128 and the signal for a command that was killed by one.
func (s *started) wait() int {
	_ = s.cmd.Wait() // the state below says all
	ws, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return s.cmd.ProcessState.ExitCode()
}

// forwardedSignals reach the command when they are sent to its starter. The others either come from the terminal, which sends
// them to the whole foreground group and thus to the command itself, or stop and continue both alike.
func forwardedSignals() []os.Signal {
	return []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2}
}

// catchSignals keeps signals from ending this process from now on.
func catchSignals() chan os.Signal {
	c := make(chan os.Signal, 16)
	signal.Notify(c, forwardedSignals()...)
	return c
}

// forward passes signals on until the returned function is called.
func (s *started) forward(signals chan os.Signal) (stop func()) {
	done := make(chan struct{})
	go func() {
		for {
			select {
			case sig := <-signals:
				if !sentByTerminal(sig) {
					_ = s.cmd.Process.Signal(sig) // it may have ended
				}
			case <-done:
				return
			}
		}
	}()
	return func() { signal.Stop(signals); close(done) }
}

// sentByTerminal reports whether the command has had the signal already: it shares our process group, and the terminal
// signals the whole group in its foreground.
func sentByTerminal(sig os.Signal) bool {
	if sig != unix.SIGINT && sig != unix.SIGQUIT {
		return false
	}
	return foregroundGroup() == unix.Getpgrp()
}

// foregroundGroup is the process group that has the controlling terminal; 0 without one.
func foregroundGroup() int {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	if err != nil {
		return 0
	}
	return group
}

// takeTerminalBack makes our group the foreground one again after a command that had made its own and could not give it
// back, as a shell that was killed.
func takeTerminalBack() {
	fd, err := unix.Open("/dev/tty", unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	signal.Ignore(unix.SIGTTOU)
	_ = unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, unix.Getpgrp())
	signal.Reset(unix.SIGTTOU)
}

// attend forwards signals to the command until it ends, and returns its exit status.
func (s *started) attend(signals chan os.Signal, hadTerminal bool) int {
	stop := s.forward(signals)
	code := s.wait()
	stop()
	if hadTerminal {
		takeTerminalBack()
	}
	return code
}

// How long the foreground waits for a daemon that restarts, and a supervisor.
const (
	foregroundPatience = 15 * time.Second
	supervisorPatience = 10 * time.Minute
)

// patiently repeats a call while the daemon is not reachable.
func patiently(ctx context.Context, patience time.Duration, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pause := 20 * time.Millisecond
	for {
		err := call(ctx)
		if err == nil || !api.IsUnreachable(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
		pause = min(2*pause, 2*time.Second)
	}
}

// reportStart tells the daemon which process is the workload's.
func reportStart(ctx context.Context, c *api.Client, w string, args []string, patience time.Duration) func(int) error {
	return func(pid int) error {
		return patiently(ctx, patience, func(ctx context.Context) error {
			_, err := c.ReportProcess(ctx, w, api.Process{PID: pid, Command: strings.Join(args, " ")})
			return err
		})
	}
}

// reportEnd tells the daemon how it ended; a workload that is gone needs no report.
func reportEnd(ctx context.Context, c *api.Client, w string, pid, code int, args []string, patience time.Duration) error {
	err := patiently(ctx, patience, func(ctx context.Context) error {
		_, err := c.ReportProcess(ctx, w, api.Process{PID: pid, Command: strings.Join(args, " "), Exited: true, Code: code})
		return err
	})
	if api.IsNotFound(err) {
		return nil
	}
	return err
}

func removeWorkload(ctx context.Context, c *api.Client, name string, patience time.Duration) error {
	err := patiently(ctx, patience, func(ctx context.Context) error {
		_, err := c.DeleteWorkload(ctx, name)
		return err
	})
	if api.IsNotFound(err) {
		return nil
	}
	return err
}

// runForeground runs a workload's command with our own standard files. The error carries its exit status.
func runForeground(ctx context.Context, a *app, c *api.Client, w api.Workload, args []string, signals chan os.Signal) error {
	v, err := viewOf(w)
	if err != nil {
		return err
	}
	cgroup := makeCgroup(w.Name, a.debug)
	defer cgroup.remove()
	v.Cgroup = cgroup.dir
	hadTerminal := foregroundGroup() == unix.Getpgrp()
	s, err := startCommand(launch{v, args}, a.stdio(), reportStart(ctx, c, w.Name, args, foregroundPatience))
	if err != nil {
		return err
	}
	warn(a.stderr, s.warnings)
	code := s.attend(signals, hadTerminal)
	cgroup.kill()
	if err := reportEnd(ctx, c, w.Name, s.cmd.Process.Pid, code, args, foregroundPatience); err != nil {
		fmt.Fprintf(a.stderr, "flatnet: the daemon was not told how the command ended: %s\n", err)
	}
	if code != 0 {
		return exitStatus(code)
	}
	return nil
}

func warn(w io.Writer, warnings []string) {
	for _, s := range warnings {
		fmt.Fprintf(w, "flatnet: %s\n", s)
	}
}

// stdio are the descriptors to hand to a command.
func (a *app) stdio() [3]*os.File {
	files := [3]*os.File{os.Stdin, os.Stdout, os.Stderr}
	for i, f := range []any{a.stdin, a.stdout, a.stderr} {
		if file, ok := f.(*os.File); ok {
			files[i] = file
		}
	}
	return files
}

// debug prints what only helps to find out why, when FLATNET_DEBUG is set.
func (a *app) debug(format string, args ...any) {
	if a.getenv("FLATNET_DEBUG") != "" {
		fmt.Fprintf(a.stderr, "debug: "+format+"\n", args...)
	}
}
