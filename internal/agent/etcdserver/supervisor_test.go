package etcdserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/test/rig"
)

func TestMain(m *testing.M) { os.Exit(kerneltest.Main(m)) }

// server is a place for an etcd, with or without somebody who watches it.
type server struct {
	*testing.T
	config Config
}

func newServer(t *testing.T) server {
	t.Helper()
	dir := t.TempDir()
	s := server{t, Config{Program: rig.Program(t, Program), LockFile: filepath.Join(dir, "lock"), LogFile: filepath.Join(dir, "log"), DataDir: filepath.Join(dir, "data"),
		Name: "s1", ClientURL: "http://127.0.0.1:2379", PeerURL: "http://127.0.0.1:2380"}}
	t.Cleanup(func() {
		if err := Stop(context.Background(), s.config.LockFile); err != nil {
			t.Error(err)
		}
		if text, err := os.ReadFile(s.config.LogFile); err == nil && t.Failed() {
			t.Logf("log:\n%s", text)
		}
	})
	return s
}

// watch runs a supervisor, and returns what ends it.
func (s server) watch() (end func()) {
	s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- (&Supervisor{Config: s.config, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
	}()
	end = func() {
		cancel()
		if err := <-done; err != nil {
			s.Error(err)
		}
		done <- nil
	}
	s.Cleanup(end)
	return end
}

func (s server) eventually(what string, is func() bool) {
	s.Helper()
	for end := time.Now().Add(rig.Patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("not within %v: %s", rig.Patience, what)
		}
	}
}

// serves waits until somebody else than before answers at an address, and returns who.
func (s server) serves(addr string, before int) (pid int) {
	s.Helper()
	s.eventually("etcd serves at "+addr, func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		pid = Running(s.config.LockFile)
		return err == nil && pid != 0 && pid != before
	})
	return pid
}

func TestEtcdIsKeptRunning(t *testing.T) {
	s := newServer(t)
	end := s.watch()
	first := s.serves("127.0.0.1:2379", 0)

	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := s.serves("127.0.0.1:2379", first)

	end() // flatnetd ends, or is killed
	if now := Running(s.config.LockFile); now != second {
		t.Fatalf("without flatnetd process %d runs, before %d", now, second)
	}
	if sid, err := unix.Getsid(second); err != nil || sid != second {
		t.Errorf("it is in session %d, %v", sid, err)
	}

	end = s.watch() // comes back
	if err := unix.Kill(second, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	third := s.serves("127.0.0.1:2379", second) // only who watches the second one starts a third

	end()
	s.config.ClientURL = "http://127.0.0.2:2379" // the host's address has changed
	end = s.watch()
	s.serves("127.0.0.2:2379", third)

	end()
	if err := Stop(t.Context(), s.config.LockFile); err != nil {
		t.Fatal(err)
	}
	if now := Running(s.config.LockFile); now != 0 {
		t.Errorf("stopped, but process %d runs", now)
	}
}

func TestOfTwoOnTheSameDataOneServes(t *testing.T) {
	s := newServer(t)
	s.watch()
	first := s.serves("127.0.0.1:2379", 0)
	out, err := exec.Command(s.config.Program, s.config.args()...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("a second one: %v\n%s", err, out)
	}
	if now := Running(s.config.LockFile); now != first {
		t.Errorf("process %d serves, before %d", now, first)
	}
}

func TestItNeedsNoCapability(t *testing.T) {
	s := newServer(t)
	s.watch()
	pid := s.serves("127.0.0.1:2379", 0)
	s.eventually("no capability is left", func() bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		for _, status := range tasks {
			text, err := os.ReadFile(status)
			if err == nil && !containsLine(text, "CapEff:\t0000000000000000") {
				return false
			}
		}
		return len(tasks) > 0
	})
}

func TestItComesBackMoreAndMoreSlowly(t *testing.T) {
	s := newServer(t)
	s.config.Program = "/bin/false"
	told := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- (&Supervisor{Config: s.config, Log: slog.New(slog.DiscardHandler), Told: func(text string) { told <- text }}).Run(ctx)
	}()
	for _, want := range []string{"200ms", "400ms", "800ms"} {
		<-told // starts
		if text, expect := <-told, "etcd ended, starting it again in "+want+"; its log is "+s.config.LogFile; text != expect {
			t.Errorf("got %q, want %q", text, expect)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func containsLine(text []byte, line string) bool {
	return slices.Contains(strings.Split(string(text), "\n"), line)
}
