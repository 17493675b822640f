// Package rig runs the real programs in the machines of a kerneltest.Topology: flatnetd with directories of its own, and
// flatnet talking to it. Tests tell their stories with it.
//
//	topo := kerneltest.NewTopology(t)
//	host := rig.New(t, topo.Machine("host"))
//	host.Flatnet("net", "create", "lab")
package rig

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
)

// Patience bounds every wait for something that takes milliseconds on an idle machine.
const Patience = 20 * time.Second

// Host is a machine with a flatnetd.
type Host struct {
	*kerneltest.Machine
	Dir    string // run/, state/, netns/ and flatnetd.log are in it
	Socket string

	t      testing.TB
	daemon *exec.Cmd
	log    *os.File
}

// New starts a flatnetd on the machine and waits until it answers. It is ended with the test.
func New(t testing.TB, m *kerneltest.Machine, flags ...string) *Host {
	t.Helper()
	dir, err := os.MkdirTemp("", "flatnet") // t.TempDir() is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &Host{Machine: m, Dir: dir, Socket: filepath.Join(dir, "run", "flatnet.sock"), t: t}
	h.log, err = os.Create(filepath.Join(dir, "flatnetd.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.end)
	h.Start(flags...)
	return h
}

// Start starts the daemon again, after Kill or Stop.
func (h *Host) Start(flags ...string) {
	h.t.Helper()
	h.StartOnly(flags...)
	h.WaitReady()
}

// StartOnly is Start without the wait.
func (h *Host) StartOnly(flags ...string) {
	h.t.Helper()
	args := append([]string{"--state-dir", filepath.Join(h.Dir, "state"), "--run-dir", filepath.Join(h.Dir, "run"),
		"--netns-dir", h.NetnsDir(), "--socket", h.Socket}, flags...)
	cmd := exec.Command(Program(h.t, "flatnetd"), args...)
	cmd.Stdout, cmd.Stderr = h.log, h.log
	if err := h.Machine.Start(cmd); err != nil {
		h.t.Fatalf("start flatnetd: %v", err)
	}
	h.daemon = cmd
}

// NetnsDir is where the daemon keeps the namespaces that it makes.
func (h *Host) NetnsDir() string { return filepath.Join(h.Dir, "netns") }

// WaitReady waits until the daemon has brought the host up and answers.
func (h *Host) WaitReady() {
	h.t.Helper()
	h.Eventually("flatnetd answers", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := h.Client().Version(ctx)
		return err == nil
	})
}

// Client speaks to the daemon.
func (h *Host) Client() *api.Client { return api.New(h.Socket) }

// Kill is kill -9.
func (h *Host) Kill() {
	_ = h.daemon.Process.Kill()
	_ = h.daemon.Wait()
	h.daemon = nil
}

// Signal sends the daemon a signal.
func (h *Host) Signal(s os.Signal) {
	h.t.Helper()
	if err := h.daemon.Process.Signal(s); err != nil {
		h.t.Error(err)
	}
}

// end removes what the host has, so that no namespace or process outlives the test.
func (h *Host) end() {
	if h.daemon == nil {
		h.Start()
	}
	if h.t.Failed() {
		if text, err := os.ReadFile(h.log.Name()); err == nil {
			h.t.Logf("flatnetd.log:\n%s", text)
		}
	}
	if out, err := h.Try("uninstall", "-y", "--force"); err != nil {
		h.t.Errorf("uninstall: %v\n%s", err, out)
	}
	_ = h.daemon.Process.Kill()
	_ = h.daemon.Wait()
	h.log.Close()
}

// Flatnet runs the command line tool on the host and returns what it printed; the test fails when it does.
func (h *Host) Flatnet(args ...string) string {
	h.t.Helper()
	out, err := h.Try(args...)
	if err != nil {
		h.t.Fatalf("flatnet %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// Try is Flatnet for a command that may fail; what it returns has its stderr too.
func (h *Host) Try(args ...string) (string, error) {
	cmd := exec.Command(Program(h.t, "flatnet"), args...)
	cmd.Env = append(os.Environ(), "FLATNET_SOCKET="+h.Socket)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := h.Machine.Start(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

// Workload is the machine that a workload of this host is.
func (h *Host) Workload(name string) *kerneltest.Machine {
	h.t.Helper()
	w, err := h.Client().Workload(context.Background(), name)
	if err != nil {
		h.t.Fatal(err)
	}
	return kerneltest.At(h.t, name, w.Netns)
}

// Eventually waits until is holds.
func (h *Host) Eventually(what string, is func() bool) {
	h.t.Helper()
	for end := time.Now().Add(Patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			text, _ := os.ReadFile(h.log.Name())
			h.t.Fatalf("not within %v: %s\nflatnetd.log:\n%s", Patience, what, text)
		}
	}
}

// builds makes each program once a process.
var builds struct {
	sync.Mutex
	dir  string
	done map[string]bool
}

// Program builds a command of ours and returns its path.
func Program(t testing.TB, name string) string {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	if builds.dir == "" {
		builds.dir = filepath.Join(os.TempDir(), "flatnet-rig-"+filepath.Base(os.Args[0]))
		builds.done = map[string]bool{}
	}
	path := filepath.Join(builds.dir, name)
	if builds.done[name] {
		return path
	}
	cmd := exec.Command("go", "build", "-o", path, "github.com/flatnet/flatnet/cmd/"+name)
	if name == "flatnet-cni" && runtime.GOARCH == "amd64" {
		cmd.Args = slices.Insert(cmd.Args, 2, "-ldflags=-E main.begin") // as make does
	}
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	builds.done[name] = true
	return path
}
