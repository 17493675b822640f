package kernel_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestFlushConntrackFromTakesOnlyThatPrefix(t *testing.T) {
	k := host(t)
	for _, line := range []string{
		"ip link set lo up", "ip addr add 10.1.0.2/32 dev lo", "ip addr add 10.2.0.2/32 dev lo", "ip addr add fd00::2/128 dev lo nodad", "ip addr add fd01::2/128 dev lo nodad",
		"nft add table inet t", "nft add chain inet t c { type filter hook output priority 0 ; }", "nft add rule inet t c ct state new",
	} {
		run(t, line)
	}
	reachable(t, "fd00::2", "fd01::2")
	for _, from := range []string{"10.1.0.2", "10.2.0.2", "fd00::2", "fd01::2"} {
		exchange(t, from, false)
		exchange(t, from, true)
	}
	for _, test := range []struct {
		prefix    string
		unreplied bool
		want      int
	}{
		{"10.3.0.0/24", false, 0},
		{"10.1.0.0/24", true, 1},
		{"10.1.0.0/24", true, 0},
		{"10.1.0.0/24", false, 1},
		{"fd00::/64", true, 1},
		{"fd00::/15", false, 3},
		{"0.0.0.0/0", false, 2},
		{"::/0", false, 0},
	} {
		n, err := k.FlushConntrackFrom(context.Background(), netip.MustParsePrefix(test.prefix), test.unreplied)
		if n != test.want || err != nil {
			t.Errorf("from %s, unreplied only %v: flushed %d %v, want %d", test.prefix, test.unreplied, n, err, test.want)
		}
	}
}

// reachable waits until the kernel receives what is sent to addresses of its own: it adds their routes in the background, while the
// address command has returned already (net/ipv6/addrconf.c, addrconf_dad_work).
func reachable(t *testing.T, addrs ...string) {
	t.Helper()
	for _, a := range addrs {
		for deadline := time.Now().Add(20 * time.Second); !strings.Contains(run(t, "ip -6 route show table local"), "local "+a+" "); {
			if time.Now().After(deadline) {
				t.Fatalf("no local route to %s", a)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// exchange sends a datagram from an address to itself, and one back if it is to be answered.
func exchange(t *testing.T, addr string, answer bool) {
	t.Helper()
	open := func() *net.UDPConn {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(addr)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	a, b := open(), open()
	_, err := a.WriteTo([]byte("x"), b.LocalAddr())
	if err == nil && answer {
		_, err = b.WriteTo([]byte("x"), a.LocalAddr())
	}
	if err != nil {
		t.Fatal(err)
	}
}
