package etcdserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Program is the name of what is run; it stands beside flatnetd.
const Program = "flatnet-etcd"

// Find returns the path of Program: beside the running program, else where PATH says.
func Find() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	beside := filepath.Join(filepath.Dir(self), Program)
	if _, err := os.Stat(beside); err == nil {
		return beside, nil
	}
	found, err := exec.LookPath(Program)
	if err != nil {
		return "", fmt.Errorf("%s is neither beside %s nor in PATH", Program, self)
	}
	return filepath.Abs(found)
}

// Config is what to run. Files are paths.
type Config struct {
	Program   string // path
	LockFile  string
	LogFile   string
	DataDir   string
	Name      string
	ClientURL string
	PeerURL   string
	CertFile  string
	KeyFile   string
	CAFile    string
}

func (c Config) args() []string {
	args := []string{"--name", c.Name, "--dir", c.DataDir, "--lock", c.LockFile, "--client-url", c.ClientURL, "--peer-url", c.PeerURL}
	if c.CertFile != "" {
		args = append(args, "--cert", c.CertFile, "--key", c.KeyFile, "--ca", c.CAFile)
	}
	return args
}

// Supervisor keeps one etcd running.
type Supervisor struct {
	Config Config
	Log    *slog.Logger
	Told   func(text string) // hears what happens, in words for people; may be nil
}

// How long it waits before it starts etcd again: longer each time, unless that has lived for a while.
const (
	firstPause   = 200 * time.Millisecond
	longestPause = 30 * time.Second
	lived        = time.Minute
)

// Run keeps etcd running until ctx ends.
func (s *Supervisor) Run(ctx context.Context) error {
	pause := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > lived {
			pause = firstPause
		}
		s.Log.Warn("etcd ended", "err", err, "again in", pause, "log", s.Config.LogFile)
		s.tell(fmt.Sprintf("etcd ended, starting it again in %v; its log is %s", pause, s.Config.LogFile))
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, longestPause)
	}
	return nil
}

func (s *Supervisor) tell(text string) {
	if s.Told != nil {
		s.Told(text)
	}
}

// once finds or starts etcd, and returns when it has ended, or ctx did.
func (s *Supervisor) once(ctx context.Context) error {
	p, err := find(s.Config.LockFile)
	if err != nil {
		return err
	}
	if p != nil && !slices.Equal(p.args(), s.Config.args()) {
		s.Log.Info("etcd runs with other settings, as the host's addresses have changed; it is started anew", "pid", p.pid)
		err = errors.Join(p.stop(ctx), p.close())
		p = nil
	}
	if err != nil {
		return err
	}
	if p == nil {
		return s.start(ctx)
	}
	defer p.close()
	s.Log.Info("etcd runs", "pid", p.pid)
	p.wait(ctx)
	return nil
}

// start starts etcd and waits for its end.
func (s *Supervisor) start(ctx context.Context) error {
	log, err := os.OpenFile(s.Config.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(s.Config.Program, s.Config.args()...)
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // signals to our terminal or group are not for it
	if err := cmd.Start(); err != nil {
		return err
	}
	s.Log.Info("etcd starts", "pid", cmd.Process.Pid, "command", strings.Join(cmd.Args, " "))
	s.tell(fmt.Sprintf("etcd starts at %s", s.Config.ClientURL))
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // outlives this call when ctx ends: somebody has to
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}
