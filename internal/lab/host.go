package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/flatnet/flatnet/api"
	"golang.org/x/sys/unix"
)

// Host is a machine with a flatnetd.
type Host struct {
	Machine
	Spec   HostSpec
	Number int     // from 1
	Place  int     // the last number of its underlay addresses; its Number until the address is changed
	Daemon Process // as the host sees it

	flatnetd string // of another version than the lab's; see Upgrade
}

// Address is the host's underlay address, IPv4; Addresses has the one of IPv6 too.
func (h *Host) Address() netip.Addr { return h.Addresses()[0].Addr() }

// Addresses are the host's underlay addresses with the length of their subnets.
func (h *Host) Addresses() []netip.Prefix { return onLAN(h.Spec.LAN, h.Place) }

// port is the link of the LAN that the host's cable ends in.
func (h *Host) port() string { return "p-" + h.Name }

// bridge is the LAN's link that the host's cable is a port of.
func (h *Host) bridge() string { return fmt.Sprintf("lan%d", h.Spec.LAN) }

// home is the host's directory: flatnetd.log, and the disks.
func (h *Host) home() string { return filepath.Join(h.lab.dir, h.Name) }

// Socket is flatnetd's, as this process can dial it.
func (h *Host) Socket() string { return h.Path(api.DefaultSocket) }

// Client speaks to the host's flatnetd.
func (h *Host) Client() *api.Client { return api.New(h.Socket()) }

// Flatnet runs the command line tool on the host and returns what it printed on both outputs.
func (h *Host) Flatnet(ctx context.Context, args ...string) (string, error) {
	return h.Exec(ctx, append([]string{h.lab.program("flatnet")}, args...)...)
}

// Log is what flatnetd has written.
func (h *Host) Log() string {
	text, _ := os.ReadFile(filepath.Join(h.home(), "flatnetd.log"))
	return string(text)
}

// Upgrade makes Start start another flatnetd from now on.
func (h *Host) Upgrade(flatnetd string) { h.flatnetd = flatnetd }

// Start starts flatnetd and waits until it answers.
func (h *Host) Start(ctx context.Context, flags ...string) error {
	if err := h.StartOnly(ctx, flags...); err != nil {
		return err
	}
	return h.WaitReady(ctx)
}

// StartOnly is Start without the wait. It outlives this process.
func (h *Host) StartOnly(ctx context.Context, flags ...string) error {
	log, err := os.OpenFile(filepath.Join(h.home(), "flatnetd.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	pid, err := h.detached(ctx, log, append([]string{cmp.Or(h.flatnetd, h.lab.program("flatnetd"))}, flags...)...)
	if err != nil {
		return err
	}
	daemon, err := processAt(h.Path("/proc"), pid)
	if err != nil {
		return fmt.Errorf("%s: flatnetd ended at once: %s", h.Name, lastLine(h.Log()))
	}
	return h.lab.record(func(*state) { h.Daemon = daemon })
}

// detached starts a process of the host that stays, and returns its number there.
func (h *Host) detached(ctx context.Context, log *os.File, command ...string) (int, error) {
	cmd := h.Command(ctx, append([]string{h.lab.program("flatnetd"), "lab", WordDetach}, command...)...)
	cmd.ExtraFiles = []*os.File{log}
	var out, diagnosis strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &diagnosis
	err := h.Machine.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return 0, fmt.Errorf("%s: start %s: %w: %s", h.Name, command[0], err, strings.TrimSpace(diagnosis.String()))
	}
	return strconv.Atoi(strings.TrimSpace(out.String()))
}

// WaitReady waits until flatnetd has brought the host up and answers.
func (h *Host) WaitReady(ctx context.Context) error {
	client := h.Client()
	defer client.Close()
	ended := false
	err := eventually(ctx, h.Name+": flatnetd answers", func() bool {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := client.Version(ctx)
		ended = err != nil && !h.Daemon.alive(h.Path("/proc"))
		return err == nil || ended
	})
	if ended {
		return fmt.Errorf("%s: flatnetd has ended: %s", h.Name, lastLine(h.Log()))
	}
	return err
}

// Serving reports whether flatnetd runs.
func (h *Host) Serving() bool { return h.Daemon.alive(h.Path("/proc")) }

// Signal sends flatnetd a signal.
func (h *Host) Signal(s unix.Signal) error { return h.Daemon.signal(h.Path("/proc"), s) }

// Kill9 ends flatnetd as a crash would. What it started, as an etcd, goes on.
func (h *Host) Kill9() error { return h.Daemon.end(context.Background(), h.Path("/proc")) }

// Stop asks flatnetd to end, and waits for it.
func (h *Host) Stop(ctx context.Context) error {
	if err := h.Signal(unix.SIGTERM); err != nil {
		return err
	}
	return eventually(ctx, h.Name+": flatnetd ends", func() bool { return !h.Serving() })
}

// PowerOff cuts the host's power: all its processes end, its namespaces go. Its disks stay.
func (h *Host) PowerOff(ctx context.Context) error {
	// The cable first: else what is still to be sent would get out, and connections with a silent other end keep their
	// namespace alive for a minute.
	_, err := h.lab.lan.Output(ctx, "ip", "link", "del", h.port())
	if err != nil && h.pluggedIn() {
		return err
	}
	return h.Holder.end(ctx, "/proc")
}

// pluggedIn reports whether the LAN has the host's cable.
func (h *Host) pluggedIn() bool {
	_, err := os.Stat(h.lab.lan.Path("/sys/class/net/" + h.port()))
	return err == nil
}

// PowerOn boots a host: namespaces, its cable, its addresses. Neither flatnetd nor workloads are started.
func (h *Host) PowerOn(ctx context.Context) error {
	if err := h.lab.hold(&h.Machine); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	return h.plugIn(ctx)
}

// Reboot is PowerOff, PowerOn and Start. The workloads are not started again.
func (h *Host) Reboot(ctx context.Context) error {
	return errors.Join(h.PowerOff(ctx), h.PowerOn(ctx), h.Start(ctx))
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
