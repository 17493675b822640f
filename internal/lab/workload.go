package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/lab/probe"
	"golang.org/x/sys/unix"
)

// Workload is a workload of a host, started by flatnet run.
type Workload struct {
	Name string
	host *Host
}

// servedPort is where each workload greets whoever asks, by the address that it sees.
const servedPort = 80

// Host is where it runs.
func (w *Workload) Host() *Host { return w.host }

// Netns is the path of its network namespace, as this process can enter it.
func (w *Workload) Netns() string { return w.host.Path("/run/netns/" + w.Name) }

// Show is what flatnetd says of it.
func (w *Workload) Show(ctx context.Context) (api.Workload, error) {
	client := w.host.Client()
	defer client.Close()
	return client.Workload(ctx, w.Name)
}

// Address is its first address on its first network.
func (w *Workload) Address(ctx context.Context) (netip.Addr, error) {
	shown, err := w.Show(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, e := range shown.Endpoints {
		for _, ip := range e.IPs {
			if p, err := netip.ParsePrefix(ip); err == nil {
				return p.Addr(), nil
			}
			if a, err := netip.ParseAddr(ip); err == nil {
				return a, nil
			}
		}
	}
	return netip.Addr{}, fmt.Errorf("workload %q has no address", w.Name)
}

// Exec carries out a command in the workload, as flatnet exec does, and returns what it printed on both outputs. The names
// of the other workloads are in its hosts file.
func (w *Workload) Exec(ctx context.Context, command ...string) (string, error) {
	return w.host.Flatnet(ctx, append([]string{"exec", w.Name, "--"}, command...)...)
}

// Start starts a command in the workload.
func (w *Workload) Start(cmd *exec.Cmd) error {
	inside := append([]string{w.host.lab.program("flatnet"), "exec", w.Name, "--"}, cmd.Args...)
	cmd.Path, cmd.Args, cmd.Err = inside[0], inside, nil
	return w.host.Machine.Start(cmd)
}

// run starts a workload on a network.
func (h *Host) run(ctx context.Context, name, network string) error {
	_, err := h.Flatnet(ctx, h.runArgs(name, network)...)
	return err
}

func (h *Host) runArgs(name, network string) []string {
	return []string{"run", "-d", "--name", name, "--network", network, "--", h.lab.program("flatnetd"), "lab", WordWorkload}
}

// Serve is the command of a workload: it lays the lab's names over the file that flatnetd writes, in the workload's own mount
// namespace, and answers.
func Serve() error {
	if err := mount(hostsFile, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return probe.Serve(servedPort)
}

// teachNames writes the names of all workloads and hosts where each looks them up. Names of workloads on other hosts are
// nobody else's to tell: flatnet has no DNS yet.
func (l *Lab) teachNames(ctx context.Context) error {
	lines := []string{localNames}
	for _, h := range l.hosts {
		for _, a := range h.Addresses() {
			lines = append(lines, a.Addr().String()+" "+h.Name)
		}
	}
	for _, w := range l.Workloads() {
		shown, err := w.Show(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", w.host.Name, w.host.told(err))
		}
		for _, e := range shown.Endpoints {
			for _, ip := range e.IPs {
				addr, _, _ := strings.Cut(ip, "/")
				lines = append(lines, addr+" "+w.Name)
			}
		}
	}
	for _, h := range l.hosts {
		// In place: it is mounted.
		if err := os.WriteFile(h.Path(hostsFile), []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}
