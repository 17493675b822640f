package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/etcd"
	"github.com/flatnet/flatnet/internal/store/etcd/server"
)

// The cluster's LAN: this program is etcd's machine and all the other nodes; the daemon that is measured is the first.
const (
	lanServer = "198.18.0.254"
	lanDaemon = "198.18.0.1"
	lanBits   = "15"
)

// largeClusters starts a flatnetd of a cluster with many other nodes: until the kernel has all ways to their blocks, when one of them
// changes, and what it needs meanwhile. etcd's part is not counted.
func largeClusters(ctx context.Context, b *bench) error {
	sizes := []int{100, 1000, 5000, 10000}
	if b.quick {
		sizes = []int{20}
	}
	fmt.Printf("%-9s %8s %12s %12s %14s %14s %12s\n", "backend", "nodes", "start, wall", "start, CPU", "a change, wall", "a change, CPU", "resident")
	for _, backend := range []string{"vxlan", "host-gw"} {
		for _, n := range sizes {
			if err := clusterOf(ctx, b, backend, n); err != nil {
				return fmt.Errorf("%s, %d nodes: %w", backend, n, err)
			}
		}
	}
	return nil
}

func clusterOf(ctx context.Context, b *bench, backend string, n int) error {
	label := fmt.Sprintf("%s%d", backend, n)
	lan, err := newLAN(ctx, label)
	if err != nil {
		return err
	}
	defer lan.close()
	d, err := lan.found(ctx, b, label, backend)
	if err != nil {
		return err
	}
	d.stop()
	if err := lan.populate(ctx, n); err != nil {
		return err
	}
	start := time.Now()
	if err := lan.restart(ctx, b, d); err != nil {
		return err
	}
	defer d.stop()
	wall, cpu, err := lan.untilAll(ctx, d, n, start)
	if err != nil {
		return err
	}
	if err := d.pause(); err != nil {
		return err
	}
	changeWall, changeCPU, err := lan.moveOne(ctx, d, backend, n/2)
	if err != nil {
		return err
	}
	resident, err := residentKiB(d.pid)
	if err != nil {
		return err
	}
	fmt.Printf("%-9s %8d %9.0f ms %9.0f ms %11.1f ms %11.1f ms %12s\n", backend, n, millis(wall), millis(cpu), millis(changeWall), millis(changeCPU), resident)
	return nil
}

// lan is the wire, etcd, and all nodes but one.
type lan struct {
	host   string // the daemon's namespace
	url    string
	etcd   *server.Server
	client *etcd.Client
}

func newLAN(ctx context.Context, label string) (*lan, error) {
	l := &lan{host: "/run/netns/host-" + label, url: "http://" + lanServer + ":2379"}
	for _, line := range []string{
		"netns add host-" + label,
		"link add lan0 type veth peer name eth0 netns host-" + label,
		"addr add " + lanServer + "/" + lanBits + " dev lan0", "link set lan0 up", "link set lo up",
		"-n host-" + label + " addr add " + lanDaemon + "/" + lanBits + " dev eth0", "-n host-" + label + " link set eth0 up",
		"-n host-" + label + " route add default via " + lanServer,
	} {
		if out, err := exec.CommandContext(ctx, "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ip %s: %w: %s", line, err, out)
		}
	}
	var err error
	l.etcd, err = server.Start(ctx, server.Config{Name: "bench", Dir: filepath.Join("/run", label+"-etcd"), ClientURL: l.url, PeerURL: "http://127.0.0.1:2380"})
	return l, err
}

func (l *lan) close() {
	if l.client != nil {
		l.client.Close()
	}
	l.etcd.Stop()
	_ = exec.Command("ip", "link", "del", "lan0").Run()
}

// found lets a daemon begin the cluster, and waits until it has its own block.
func (l *lan) found(ctx context.Context, b *bench, label, backend string) (*daemon, error) {
	d, err := startDaemonIn(ctx, b, label)
	if err != nil {
		return nil, err
	}
	m, err := d.client.InitCluster(ctx, api.Init{Pools: []string{"10.128.0.0/9:24"}, Etcd: &api.ExternalEtcd{Endpoints: []string{l.url}}}, api.Force)
	if err != nil {
		return nil, fmt.Errorf("begin the cluster: %w", err)
	}
	if l.client, err = etcd.Open(etcd.Config{Endpoints: []string{l.url}, Cluster: m.Cluster}); err != nil {
		return nil, err
	}
	if backend != "vxlan" {
		_, err = d.client.EditNetwork(ctx, benchNetwork, api.NetworkEdit{Cluster: &api.ClusterEdit{Backend: &backend}})
	}
	return d, err
}

const benchNetwork = "cluster"

// node is another node of the cluster; node 1 is the first but the daemon.
func node(i int) model.Member {
	at := netip.MustParseAddr(lanDaemon).As4()
	at[2], at[3] = byte(1+i/250), byte(1+i%250)
	return model.Member{ID: fmt.Sprintf("bench-%d", i), Name: fmt.Sprintf("bench-%d", i), Underlay4: netip.AddrFrom4(at), MTU: 1500, Version: "bench", Schema: store.Schema}
}

func block(i int) netip.Prefix {
	return model.BlockPool{Prefix: netip.MustParsePrefix("10.128.0.0/9"), Bits: 24}.Block(uint64(i))
}

// populate makes the other nodes, each with a block.
func (l *lan) populate(ctx context.Context, n int) error {
	var err error
	var mu sync.Mutex
	var all sync.WaitGroup
	next := make(chan int)
	for range 16 {
		all.Go(func() {
			for i := range next {
				m := node(i)
				_, put := l.client.Write(ctx, store.PutMember(m, store.Any))
				_, claim := l.client.Claim(ctx, model.Lease{Network: benchNetwork, Block: block(i), Node: m.ID})
				mu.Lock()
				err = errors.Join(err, put, claim)
				mu.Unlock()
			}
		})
	}
	for i := 1; i <= n; i++ {
		next <- i
	}
	close(next)
	all.Wait()
	return err
}

// restart starts the daemon as on a host that knows of no other node yet.
func (l *lan) restart(ctx context.Context, b *bench, d *daemon) error {
	for _, file := range []string{filepath.Join("/run", d.label, "state", "cluster", "picture.json")} {
		if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	started, err := startDaemonIn(ctx, b, d.label)
	if err == nil {
		*d = *started
	}
	return err
}

// untilAll waits until the kernel has a way to every other node, and says how long that took and what the daemon used for it.
func (l *lan) untilAll(ctx context.Context, d *daemon, n int, start time.Time) (wall, cpu time.Duration, err error) {
	have := 0
	for end := start.Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		out, err := exec.CommandContext(ctx, "ip", "-n", "host-"+d.label, "-o", "route", "show", "proto", "157").Output()
		if err != nil {
			return 0, 0, err
		}
		if have = strings.Count(string(out), "\n"); have < n {
			continue
		}
		wall = time.Since(start)
		cpu, err = cpuOf(d.pid)
		return wall, cpu, err
	}
	text, _ := os.ReadFile(filepath.Join("/run", d.label, "log"))
	return 0, 0, fmt.Errorf("%d of %d routes within a minute; flatnetd says:\n%s", have, n, text[max(0, len(text)-2000):])
}

// moveOne gives another node another underlay address and waits until the kernel follows.
func (l *lan) moveOne(ctx context.Context, d *daemon, backend string, i int) (wall, cpu time.Duration, err error) {
	m := node(i)
	m.Underlay4 = netip.MustParseAddr("198.19.255.254")
	before, err := cpuOf(d.pid)
	if err != nil {
		return 0, 0, err
	}
	tool := []string{"bridge", "-n", "host-" + d.label, "monitor", "fdb"}
	if backend == "host-gw" {
		tool = []string{"ip", "-n", "host-" + d.label, "monitor", "route"}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	monitor := exec.CommandContext(ctx, tool[0], tool[1:]...)
	lines, err := monitor.StdoutPipe()
	if err != nil {
		return 0, 0, err
	}
	if err := monitor.Start(); err != nil {
		return 0, 0, err
	}
	defer func() { _ = monitor.Wait() }()
	time.Sleep(200 * time.Millisecond)
	start := time.Now()
	if _, err := l.client.Write(ctx, store.PutMember(m, store.Any)); err != nil {
		return 0, 0, err
	}
	seen := bufio.NewScanner(lines)
	for seen.Scan() && !strings.Contains(seen.Text(), m.Underlay4.String()) {
	}
	wall = time.Since(start)
	cancel()
	if wall > 9*time.Second {
		return 0, 0, errors.New("the change never came")
	}
	time.Sleep(100 * time.Millisecond)
	after, err := cpuOf(d.pid)
	return wall, after - before, err
}
