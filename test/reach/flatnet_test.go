package reach

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/model"
)

// flatnet is the real daemon at work on the lab's host, and the command line tool that speaks to it.
type flatnet struct {
	l    *lab
	bin  string // directory of the programs
	dir  string // of the daemon's state and log
	cmd  *exec.Cmd
	done chan error
}

// newFlatnet starts the daemon on the host.
func newFlatnet(l *lab) *flatnet {
	l.Helper()
	if err := programs(); err != nil {
		l.Fatal(err)
	}
	f := &flatnet{l: l, bin: built, dir: l.TempDir()}
	f.start()
	l.Cleanup(f.stop)
	return f
}

// built is the directory of the programs, which TestMain removes.
var built string

// programs builds the programs once.
var programs = sync.OnceValue(func() (err error) {
	if built, err = os.MkdirTemp("", "reach"); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-o", built, "./cmd/flatnetd", "./cmd/flatnet")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	return nil
})

func (f *flatnet) start() {
	f.l.Helper()
	log, err := os.OpenFile(f.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		f.l.Fatal(err)
	}
	defer log.Close()
	f.cmd = exec.Command(filepath.Join(f.bin, "flatnetd"), "--state-dir", f.dir)
	f.cmd.Stdout, f.cmd.Stderr = log, log
	if err := f.l.host.Start(f.cmd); err != nil {
		f.l.Fatal(err)
	}
	f.done = make(chan error, 1)
	go func() { f.done <- f.cmd.Wait() }()
	kerneltest.Eventually(f.l.T, "flatnetd", func() bool {
		_, err := f.try("status")
		return err == nil
	})
}

func (f *flatnet) logFile() string { return filepath.Join(f.dir, "log") }

// stop ends the daemon, and shows its log when the test failed.
func (f *flatnet) stop() {
	if err := f.cmd.Process.Signal(syscall.SIGTERM); err == nil {
		if err := <-f.done; err != nil {
			f.l.Errorf("flatnetd: %v", err)
		}
	}
	if text, err := os.ReadFile(f.logFile()); err == nil && f.l.Failed() {
		f.l.Logf("flatnetd's log:\n%s", text)
	}
}

// uninstall takes everything away, after which the daemon ends by itself.
func (f *flatnet) uninstall() {
	f.l.Helper()
	f.must("uninstall", "-y")
	if err := <-f.done; err != nil {
		f.l.Errorf("flatnetd after an uninstall: %v", err)
	}
	f.done <- nil
}

// try runs the command line tool on the host.
func (f *flatnet) try(args ...string) (string, error) {
	return f.l.host.Try(append([]string{filepath.Join(f.bin, "flatnet")}, args...)...)
}

// must is try for what has to succeed.
func (f *flatnet) must(args ...string) string {
	f.l.Helper()
	out, err := f.try(args...)
	if err != nil {
		f.l.Fatalf("flatnet %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// network creates one as the row of the table says.
func (f *flatnet) network(n model.Network) {
	f.l.Helper()
	args := []string{"net", "create", n.Name, "--mode", string(n.Mode)}
	for _, s := range n.Subnets {
		args = append(args, "--subnet", s.Prefix.String())
		if n.Mode == model.Bridged {
			args = append(args, "--gateway", s.Gateway.String())
		}
	}
	for flag, value := range map[string]string{"--uplink": n.Uplink, "--bridge": n.Bridge} {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	if n.Masquerade {
		args = append(args, "--masquerade")
	}
	if n.ProxyARP {
		args = append(args, "--proxy-arp")
	}
	if n.NoHostAdapter {
		args = append(args, "--no-host-adapter")
	}
	if n.IsolatePorts {
		args = append(args, "--isolate-ports")
	}
	f.must(args...)
}

// workload starts one that sleeps, with the number-th addresses.
func (f *flatnet) workload(name string, n *network, number int, flags ...string) {
	f.l.Helper()
	network := n.name
	if n.numbered() {
		for _, a := range n.addrs(number) {
			network += fmt.Sprintf(",ip=%s", a)
		}
	}
	args := append([]string{"run", "-d", "--name", name, "--network", network}, flags...)
	f.must(append(args, "--", "sleep", "infinity")...)
}

func (f *flatnet) netns(name string) string { return filepath.Join("/run/netns", name) }

// forward publishes ports of a workload, in the words of `-p`.
func (f *flatnet) forward(workload string, ports ...string) {
	f.l.Helper()
	f.must(append([]string{"net", "forward", "add", workload}, ports...)...)
}
