package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel/netns"
)

// wire is a LAN with hosts on it, each a namespace with one link; this program's namespace has the switch and is everybody's router.
type wire struct {
	label string
	hosts int
}

const wireLAN = "198.51.100.%d"

// newWire makes an empty LAN.
func newWire(ctx context.Context, label string) (*wire, error) {
	w := &wire{label: label}
	if err := noBridgeFilter(); err != nil {
		return nil, err
	}
	return w, ip(ctx, "link add "+w.link()+" type bridge", "addr add "+fmt.Sprintf(wireLAN, 254)+"/24 dev "+w.link(), "link set "+w.link()+" up", "link set lo up")
}

func (w *wire) link() string { return "lan-" + w.label }

func (w *wire) close() { _ = exec.Command("ip", "link", "del", w.link()).Run() }

// wired is one host.
type wired struct {
	label, addr string
	wire        *wire
}

func (h wired) netns() string { return "/run/netns/host-" + h.label }

// mac is that of its network card, which stays the same over a reboot.
func (h wired) mac() string {
	return fmt.Sprintf("02:00:5e:00:53:%02x", netip.MustParseAddr(h.addr).As4()[3])
}

// plug makes a host.
func (w *wire) plug(ctx context.Context) (wired, error) {
	w.hosts++
	h := wired{label: fmt.Sprintf("%s%d", w.label, w.hosts), addr: fmt.Sprintf(wireLAN, w.hosts), wire: w}
	return h, h.boot(ctx)
}

// boot makes the host's namespace anew, with nothing in it but its link: what a reboot leaves of a kernel.
func (h wired) boot(ctx context.Context) error {
	if _, err := os.Stat(h.netns()); err == nil {
		if err := ip(ctx, "netns del host-"+h.label); err != nil {
			return err
		}
		_ = ip(ctx, "link del p-"+h.label) // goes by itself, but later
	}
	if err := netns.Create(h.netns()); err != nil {
		return err
	}
	err := ip(ctx, "link add p-"+h.label+" type veth peer name eth0 address "+h.mac()+" netns host-"+h.label, "link set p-"+h.label+" master "+h.wire.link()+" up",
		"-n host-"+h.label+" link set lo up", "-n host-"+h.label+" addr add "+h.addr+"/24 dev eth0", "-n host-"+h.label+" link set eth0 up",
		"-n host-"+h.label+" route add default via "+fmt.Sprintf(wireLAN, 254))
	if err != nil {
		return err
	}
	return within(h.netns(), noBridgeFilter)
}

// noBridgeFilter keeps bridges of the namespace from showing what they forward to iptables, as each such look costs time.
func noBridgeFilter() error {
	err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0o644)
	if os.IsNotExist(err) {
		return nil // br_netfilter is not loaded
	}
	return err
}

// found starts flatnetd on a host and lets it begin a cluster, with an etcd of its own.
func (h wired) found(ctx context.Context, b *bench) (*daemon, error) {
	d, err := startDaemonIn(ctx, b, h.label)
	if err != nil {
		return nil, err
	}
	if _, err := d.client.InitCluster(ctx, api.Init{Name: h.label}, api.Force); err != nil {
		return nil, fmt.Errorf("begin the cluster: %w", err)
	}
	return d, nil
}

// join types what the cluster's first host says to type.
func (h wired) join(ctx context.Context, b *bench, line string) error {
	words := append(strings.Fields(strings.TrimPrefix(strings.TrimPrefix(line, "sudo "), "flatnet ")), "--name", h.label, "--socket", filepath.Join("/run", h.label, "flatnetd.sock"))
	var out []byte
	err := within(h.netns(), func() (err error) {
		out, err = exec.CommandContext(ctx, filepath.Join(filepath.Dir(b.daemon), "flatnet"), words...).CombinedOutput()
		return err
	})
	if err != nil {
		return fmt.Errorf("join: %w: %s", err, out)
	}
	return nil
}

// workload makes a namespace and attaches it to the cluster's network.
func (d *daemon) workload(ctx context.Context, i int) (netip.Addr, error) {
	if err := netns.Create(d.netns(i)); err != nil {
		return netip.Addr{}, err
	}
	w, err := d.client.CreateWorkload(ctx, api.WorkloadSpec{Name: labName(i), Netns: d.netns(i), Endpoints: []api.EndpointSpec{{Network: benchNetwork}}})
	if err != nil {
		return netip.Addr{}, err
	}
	p, err := netip.ParsePrefix(w.Object.Endpoints[0].IPs[0])
	return p.Addr(), err
}

// ip runs commands of ip in this program's namespace.
func ip(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		if out, err := exec.CommandContext(ctx, "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", line, err, out)
		}
	}
	return nil
}
