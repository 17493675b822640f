package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel/netns"
)

// daemon is a flatnetd in a host namespace of its own.
type daemon struct {
	label  string
	client *api.Client
	cmd    *exec.Cmd
	pid    int
}

func startDaemon(ctx context.Context, b *bench, label string) (*daemon, error) {
	if err := netns.Create("/run/netns/host-" + label); err != nil {
		return nil, err
	}
	return startDaemonIn(ctx, b, label)
}

// startDaemonIn is startDaemon in a host namespace that is there.
func startDaemonIn(ctx context.Context, b *bench, label string) (*daemon, error) {
	dir := filepath.Join("/run", label)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	host := "/run/netns/host-" + label
	socket := filepath.Join(dir, "flatnetd.sock")
	d := &daemon{label: label, client: api.New(socket)}
	d.cmd = exec.Command(b.daemon, "--state-dir", filepath.Join(dir, "state"), "--run-dir", filepath.Join(dir, "run"),
		"--netns-dir", filepath.Join(dir, "netns"), "--socket", socket)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := within(host, d.cmd.Start); err != nil {
		return nil, err
	}
	d.pid = d.cmd.Process.Pid
	return d, d.wait(ctx, log.Name())
}

// wait returns when the daemon answers.
func (d *daemon) wait(ctx context.Context, log string) error {
	const patience = 10 * time.Second
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := d.client.Version(ctx); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	text, _ := os.ReadFile(log)
	return fmt.Errorf("flatnetd does not answer; it says:\n%s", text)
}

func (d *daemon) stop() {
	d.client.Close()
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

func (d *daemon) netns(i int) string { return "/run/netns/" + d.label + "-" + labName(i) }

// createLab makes the lab the only network.
func (d *daemon) createLab(ctx context.Context, subnets ...string) error {
	spec := &api.NetworkSpec{}
	for _, s := range subnets {
		spec.Subnets = append(spec.Subnets, api.SubnetSpec{Subnet: s})
	}
	if _, err := d.client.DeleteNetwork(ctx, "default"); err != nil {
		return fmt.Errorf("delete the default network: %w", err)
	}
	_, err := d.client.CreateNetwork(ctx, api.Manifest{
		APIVersion: api.APIVersion, Kind: api.KindNetwork, Metadata: api.Metadata{Name: labNetwork},
		Network: spec,
	})
	if err != nil {
		return fmt.Errorf("create the lab: %w", err)
	}
	return nil
}
