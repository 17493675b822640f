package reach

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
)

// What an echo request has around its data.
var echoHeaders = [2]int{20 + 8, 40 + 8} // IPv4, IPv6

// sizes pings with the largest packets that a network carries between two workloads, and with one byte more: the sender hears of that from its
// own link, or, on a LAN that carries more, from the node.
func (f *fabric) sizes(network string, mtu int, to ...string) {
	f.Helper()
	for _, name := range to {
		target := f.seat(network + "-" + name)
		for _, from := range []string{network + "-a1", "lan1"} {
			for i, a := range target.addrs {
				if from == "lan1" && mtu >= 1500 {
					continue
				}
				f.size(f.seat(from), a, mtu, i)
			}
		}
	}
}

func (f *fabric) size(from *seat, to netip.Addr, mtu, family int) {
	f.Helper()
	ping := func(size int) string {
		_, _ = from.Try("ip", "route", "flush", "cache")
		_, _ = from.Try("ip", "-6", "route", "flush", "cache")
		out, _ := from.Try("ping", "-n", "-M", "do", "-c1", "-W1", "-s", strconv.Itoa(size-echoHeaders[family]), to.String())
		return out
	}
	last := ""
	kerneltest.Eventually(f.T, fmt.Sprintf("%s reaches %s with %d bytes", from.Name, to, mtu), func() bool {
		last = ping(mtu)
		return strings.Contains(last, "1 received")
	})
	kerneltest.Eventually(f.T, fmt.Sprintf("%s is told that %d bytes are too many for %s", from.Name, mtu+1, to), func() bool {
		last = ping(mtu + 1)
		if strings.Contains(last, "1 received") {
			f.Fatalf("%s reaches %s with %d bytes, where the MTU is %d:\n%s", from.Name, to, mtu+1, mtu, last)
		}
		return strings.Contains(last, fmt.Sprintf("mtu = %d", mtu)) || strings.Contains(last, fmt.Sprintf("mtu=%d", mtu)) || strings.Contains(last, fmt.Sprintf("mtu: %d", mtu))
	})
}

// pipe is a TCP connection between two workloads.
type pipe struct{ client, server net.Conn }

func (f *fabric) pipe(from, to *seat, family int) pipe {
	f.Helper()
	var p pipe
	var l net.Listener
	to.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(to.addrs[family], 0).String())
		return err
	})
	defer l.Close()
	from.Do(func() (err error) {
		p.client, err = net.DialTimeout("tcp", l.Addr().String(), f.patience)
		return err
	})
	var err error
	if p.server, err = l.Accept(); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { p.client.Close(); p.server.Close() })
	return p
}

// bulk sends a mebibyte each way.
func (f *fabric) bulk(p pipe) {
	f.Helper()
	const size = 1 << 20
	for _, way := range [][2]net.Conn{{p.client, p.server}, {p.server, p.client}} {
		sent := make(chan error, 1)
		deadline := time.Now().Add(2 * f.patience)
		_, _ = way[0].SetDeadline(deadline), way[1].SetDeadline(deadline) // of a closed connection the next line tells
		go func() {
			_, err := way[0].Write(make([]byte, size))
			sent <- err
		}()
		n, err := io.ReadFull(way[1], make([]byte, size))
		if err != nil {
			f.Errorf("%s → %s: %d bytes arrived: %v", way[0].LocalAddr(), way[1].LocalAddr(), n, err)
		}
		if err := <-sent; err != nil {
			f.Errorf("%s → %s: %v", way[0].LocalAddr(), way[1].LocalAddr(), err)
		}
	}
}

// switches changes the backend of a network there and back: connections go on, new ones are made, and the sizes follow.
func (f *fabric) switches() {
	f.Helper()
	a, b := f.seat("hostgw-a1"), f.seat("hostgw-b1")
	pipes := []pipe{f.pipe(a, b, 0), f.pipe(a, b, 1)}
	for _, step := range []struct {
		backend, link string
		mtu           int
	}{{"host-gw", "eth0", 1500}, {"vxlan", "fx-hostgw", 1450}, {"host-gw", "eth0", 1450}, {"vxlan", "fx-hostgw", 1450}} { // larger packets only half a minute after
		edit := api.NetworkEdit{Cluster: &api.ClusterEdit{Backend: &step.backend}}
		if _, err := f.node("a").rig.Client().EditNetwork(context.Background(), "hostgw", edit); err != nil {
			f.Fatal(err)
		}
		for _, n := range f.nodes[:2] {
			n.rig.Eventually(n.Name+" has the backend "+step.backend, func() bool {
				to := map[string]*seat{"a": b, "b": a}[n.Name]
				return strings.Contains(n.Run("ip", "route", "get", to.addrs[0].String()), "dev "+step.link) &&
					strings.Contains(n.Run("ip", "route", "get", to.addrs[1].String()), "dev "+step.link)
			})
		}
		pipes = append(pipes, f.pipe(a, b, 0), f.pipe(a, b, 1))
		for _, p := range pipes {
			f.bulk(p)
		}
		if step.backend == "vxlan" || step.mtu == 1500 {
			f.sizes("hostgw", step.mtu, "b1", "a2")
		}
	}
}
