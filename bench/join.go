package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"github.com/flatnet/flatnet/api"
)

// newHosts measures how long a host takes until a workload on it answers one of another node: from `flatnet join` on a host that was
// none of the cluster, and from flatnetd's start on a node that has rebooted.
func newHosts(ctx context.Context, b *bench) error {
	rounds, long := 10, 10*time.Second
	if b.quick {
		rounds, long = 2, time.Second
	}
	w, err := newWire(ctx, "j")
	if err != nil {
		return err
	}
	defer w.close()
	first, err := w.plug(ctx)
	if err != nil {
		return err
	}
	server, err := first.found(ctx, b)
	if err != nil {
		return err
	}
	defer server.stop()
	if _, err := server.workload(ctx, 0); err != nil {
		return err
	}
	var joins, starts []time.Duration
	for i := range rounds {
		h, err := w.plug(ctx)
		if err != nil {
			return err
		}
		node, took, err := h.untilJoined(ctx, b, server)
		if node != nil {
			node.stop()
		}
		if err != nil {
			return err
		}
		joins = append(joins, took)
		if node, took, err = h.untilBack(ctx, b, server); err != nil {
			return err
		}
		starts = append(starts, took)
		if i == rounds-1 {
			err = node.idleNode(long)
		}
		if node.stop(); err != nil {
			return err
		}
	}
	printTimes("from `flatnet join` to the first answer", joins)
	printTimes("from flatnetd's start on a rebooted node to the first answer", starts)
	return nil
}

// untilJoined is a host's first life.
func (h wired) untilJoined(ctx context.Context, b *bench, server *daemon) (*daemon, time.Duration, error) {
	d, err := startDaemonIn(ctx, b, h.label)
	if err != nil {
		return nil, 0, err
	}
	token, err := server.client.CreateToken(ctx, api.TokenSpec{})
	if err != nil {
		return d, 0, err
	}
	begin := time.Now()
	if err := h.join(ctx, b, token.Join); err != nil {
		return d, 0, err
	}
	err = d.untilAnswer(ctx, server, 0)
	return d, time.Since(begin), err
}

// untilBack is its second, after a reboot.
func (h wired) untilBack(ctx context.Context, b *bench, server *daemon) (*daemon, time.Duration, error) {
	if err := h.boot(ctx); err != nil {
		return nil, 0, err
	}
	begin := time.Now()
	d, err := startDaemonIn(ctx, b, h.label)
	if err != nil {
		return nil, 0, err
	}
	err = d.untilAnswer(ctx, server, 1)
	return d, time.Since(begin), err
}

// untilAnswer makes a workload and returns when it answers the server's.
func (d *daemon) untilAnswer(ctx context.Context, server *daemon, i int) error {
	addr, err := d.workload(ctx, i)
	if err != nil {
		return err
	}
	return within(server.netns(0), func() error { return askUntilAnswer(addr) })
}

// askUntilAnswer sends echo requests, one every two milliseconds, until one is answered.
func askUntilAnswer(addr netip.Addr) error {
	const pause, patience = 2 * time.Millisecond, 10 * time.Second
	socket, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return err
	}
	defer socket.Close()
	packet := make([]byte, 1500)
	for seq, end := 0, time.Now().Add(patience); time.Now().Before(end); seq++ {
		echo, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: seq}}).Marshal(nil)
		if err != nil {
			return err
		}
		_, _ = socket.WriteTo(echo, &net.IPAddr{IP: addr.AsSlice()}) // there may be no route yet
		_ = socket.SetReadDeadline(time.Now().Add(pause))
		n, from, err := socket.ReadFrom(packet)
		if err != nil {
			continue
		}
		if m, err := icmp.ParseMessage(1, packet[:n]); err == nil && m.Type == ipv4.ICMPTypeEchoReply && from.String() == addr.String() {
			return nil
		}
	}
	return fmt.Errorf("%s does not answer within %v", addr, patience)
}

func printTimes(what string, times []time.Duration) {
	slices.Sort(times)
	fmt.Printf("%-62s median %4.0f ms, best %4.0f, worst %4.0f (%d rounds)\n", what, millis(times[len(times)/2]), millis(times[0]), millis(times[len(times)-1]), len(times))
}

// idleNode tells whether the daemon of a node that is no server has started any process so far, and what it uses while it idles.
func (d *daemon) idleNode(long time.Duration) error {
	before, err := cpuOf(d.pid)
	if err != nil {
		return err
	}
	time.Sleep(long)
	after, err := cpuOf(d.pid)
	if err != nil {
		return err
	}
	resident, err := residentKiB(d.pid)
	if err != nil {
		return err
	}
	forks, err := hasForked(d.pid)
	if err != nil {
		return err
	}
	text := "no process was started since flatnetd's start"
	if forks {
		text = "processes WERE started since flatnetd's start"
	}
	fmt.Printf("a node that is no server, %s idle: %.3f %% of a CPU; %s; resident %s\n", long, 100*float64(after-before)/float64(long), text, resident)
	return nil
}

// hasForked reports whether a process has children, or had any: page faults of those that were waited for are counted at it, and no
// program starts without one (proc_pid_stat(5), cminflt).
func hasForked(pid int) (bool, error) {
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return false, err
	}
	for _, file := range children {
		if text, err := os.ReadFile(file); err == nil && len(text) > 0 {
			return true, nil
		}
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false, err
	}
	const cminflt = 11 - 3 // counted from after the name, which may have spaces
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	return len(fields) <= cminflt || fields[cminflt] != "0", nil
}
