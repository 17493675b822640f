package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel/netns"
)

// dataPath sends between workloads of two hosts, over flatnet's cluster network and over the same made by hand with ip and bridge: the same
// MTU, no nft, no connection tracking. They take turns in one run. The third way is flatnet's without its nft tables, while its daemons are
// stopped and cannot put them back: what is between the second and it is what the rules and connection tracking cost. Then flatnet's takes
// turns with what is made by hand and has the rules that flanneld writes.
func dataPath(ctx context.Context, b *bench) error {
	rounds := 9
	if b.quick {
		rounds = 1
	}
	w, err := newWire(ctx, "d")
	if err != nil {
		return err
	}
	defer w.close()
	var hosts [4]wired // two for flatnet, two by hand
	for i := range hosts {
		if hosts[i], err = w.plug(ctx); err != nil {
			return err
		}
	}
	server, err := hosts[0].found(ctx, b)
	if err != nil {
		return err
	}
	defer server.stop()
	other, err := startDaemonIn(ctx, b, hosts[1].label)
	if err != nil {
		return err
	}
	defer other.stop()
	token, err := server.client.CreateToken(ctx, api.TokenSpec{})
	if err != nil {
		return err
	}
	if err := hosts[1].join(ctx, b, token.Join); err != nil {
		return err
	}
	ours := track{name: "flatnet", from: server.netns(0), to: other.netns(0)}
	if _, err = server.workload(ctx, 0); err != nil {
		return err
	}
	if ours.at, err = other.workload(ctx, 0); err != nil {
		return err
	}
	fmt.Printf("%-8s %-24s %12s %12s %14s\n", "BACKEND", "BY", "TCP Gbit/s", "RR p50 µs", "UDP 64 B kpps")
	for _, backend := range []string{"vxlan", "host-gw"} {
		if _, err := server.client.EditNetwork(ctx, benchNetwork, api.NetworkEdit{Cluster: &api.ClusterEdit{Backend: &backend}}); err != nil {
			return err
		}
		hand, err := byHand(ctx, hosts[2], hosts[3], backend)
		if err != nil {
			return err
		}
		time.Sleep(time.Second) // for the change of backend to be over on both
		if err := raceTracks(backend, rounds, b.quick, hand, ours); err != nil {
			return err
		}
		bare := track{name: "flatnet without rules", from: ours.from, to: ours.to, at: ours.at}
		resume, err := withoutRules(ctx, []*daemon{server, other})
		if err == nil {
			err = raceTracks(backend, rounds, b.quick, hand, bare)
		}
		if err = errors.Join(err, resume()); err != nil {
			return err
		}
		ruled := hand
		ruled.name = "by hand, flannel's rules"
		takeAway, err := flannelRules(ctx, hosts[2:])
		if err == nil {
			err = raceTracks(backend, rounds, b.quick, ruled, ours)
		}
		if err = errors.Join(err, takeAway()); err != nil {
			return err
		}
	}
	fmt.Printf("net.bridge.bridge-nf-call-iptables: flatnet's hosts %s, by hand %s\n", bridgeFilter(hosts[0]), bridgeFilter(hosts[2]))
	return nil
}

// bridgeFilter is whether bridges of a host show what they forward to iptables.
func bridgeFilter(h wired) string {
	text := []byte("unknown")
	_ = within(h.netns(), func() (err error) {
		if text, err = os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-iptables"); err != nil {
			text = []byte("not there, as br_netfilter is not loaded")
		}
		return nil
	})
	return strings.TrimSpace(string(text))
}

// withoutRules stops daemons and takes their nft tables away; resume lets them go on, and put them back.
func withoutRules(ctx context.Context, daemons []*daemon) (resume func() error, err error) {
	resume = func() (err error) {
		for _, d := range daemons {
			err = errors.Join(err, d.cmd.Process.Signal(unix.SIGCONT))
		}
		time.Sleep(time.Second)
		return err
	}
	for _, d := range daemons {
		if err := d.cmd.Process.Signal(unix.SIGSTOP); err != nil {
			return resume, err
		}
		for _, family := range []string{"inet", "bridge"} {
			out, err := exec.CommandContext(ctx, "ip", "netns", "exec", "host-"+d.label, "nft", "delete", "table", family, "flatnet").CombinedOutput()
			if err != nil {
				return resume, fmt.Errorf("delete table %s: %w: %s", family, err, out)
			}
		}
	}
	return resume, nil
}

// flannelRules gives the hosts that were made by hand what flanneld --ip-masq writes where it uses nft (flannel 0.28), until takeAway.
func flannelRules(ctx context.Context, hosts []wired) (takeAway func() error, err error) {
	nft := func(h wired, text string) error {
		cmd := exec.CommandContext(ctx, "ip", "netns", "exec", "host-"+h.label, "nft", "-f", "-")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	}
	takeAway = func() (err error) {
		for _, h := range hosts {
			err = errors.Join(err, nft(h, "delete table ip flannel-ipv4"))
		}
		return err
	}
	for i, h := range hosts {
		own := fmt.Sprintf("10.99.%d.0/24", i+1)
		if err := nft(h, `table ip flannel-ipv4 {
	chain forward {
		type filter hook forward priority filter
		ip saddr 10.99.0.0/16 accept
		ip daddr 10.99.0.0/16 accept
	}
	chain postrtg {
		type nat hook postrouting priority srcnat
		meta mark 0x4000 return
		ip saddr `+own+` ip daddr 10.99.0.0/16 return
		ip saddr 10.99.0.0/16 ip daddr `+own+` return
		ip saddr != `+own+` ip daddr 10.99.0.0/16 return
		ip saddr 10.99.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
		ip saddr != 10.99.0.0/16 ip daddr 10.99.0.0/16 masquerade fully-random
	}
}`); err != nil {
			return takeAway, err
		}
	}
	return takeAway, nil
}

// track is two namespaces on two hosts, and the address of the second.
type track struct {
	name, from, to string
	at             netip.Addr
}

// byHand makes on two hosts what flatnet makes: a bridge with a workload on each, and the way between them.
func byHand(ctx context.Context, a, b wired, backend string) (track, error) {
	t := track{name: "by hand", from: "/run/netns/hand-" + a.label + backend, to: "/run/netns/hand-" + b.label + backend, at: netip.MustParseAddr("10.99.2.2")}
	for i, h := range []wired{a, b} {
		peer, own, far := []wired{b, a}[i], i+1, 2-i
		if err := h.boot(ctx); err != nil {
			return t, err
		}
		space := "hand-" + h.label + backend
		if err := netns.Create("/run/netns/" + space); err != nil {
			return t, err
		}
		mtu, n := 1500, "-n host-"+h.label+" "
		if backend == "vxlan" {
			mtu = 1450
		}
		lines := []string{
			n + "link add br0 type bridge", n + fmt.Sprintf("addr add 10.99.%d.1/24 dev br0", own), n + fmt.Sprintf("link set br0 mtu %d up", mtu),
			n + fmt.Sprintf("link add w0 mtu %d type veth peer name eth0 mtu %d netns %s", mtu, mtu, space), n + "link set w0 master br0 up",
			"-n " + space + fmt.Sprintf(" addr add 10.99.%d.2/24 dev eth0", own), "-n " + space + " link set eth0 up",
			"-n " + space + fmt.Sprintf(" route add default via 10.99.%d.1", own),
		}
		mac := func(i int) string { return fmt.Sprintf("02:00:00:00:00:%02x", i) }
		if backend == "vxlan" {
			lines = append(lines, n+fmt.Sprintf("link add vx0 address %s mtu %d type vxlan id 77 dstport 8472 local %s nolearning", mac(own), mtu, h.addr),
				n+fmt.Sprintf("addr add 10.99.%d.0/32 dev vx0", own), n+"link set vx0 up",
				n+fmt.Sprintf("neigh add 10.99.%d.0 lladdr %s dev vx0 nud permanent", far, mac(far)),
				n+fmt.Sprintf("route add 10.99.%d.0/24 via 10.99.%d.0 dev vx0 onlink src 10.99.%d.1", far, far, own))
		} else {
			lines = append(lines, n+fmt.Sprintf("route add 10.99.%d.0/24 via %s dev eth0 src 10.99.%d.1", far, peer.addr, own))
		}
		if err := ip(ctx, lines...); err != nil {
			return t, err
		}
		if backend == "vxlan" {
			if out, err := exec.CommandContext(ctx, "bridge", "-n", "host-"+h.label, "fdb", "add", mac(far), "dev", "vx0", "dst", peer.addr, "self", "permanent").CombinedOutput(); err != nil {
				return t, fmt.Errorf("bridge fdb: %w: %s", err, out)
			}
		}
		if err := within(h.netns(), func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) }); err != nil {
			return t, err
		}
	}
	return t, nil
}
