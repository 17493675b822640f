package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// watched is a host with ports of all sorts, a Kernel that watches it and therefore looks shortly, and one that does not.
func watched(t *testing.T, ports int) (short, full *kernel.Kernel, want dataplane.State) {
	unshare(t)
	short, full = open(t, t.TempDir()), open(t, t.TempDir())
	quiet(t)
	ns := workload(t, "all")
	want = state(bridge("fn-a"), bridge("fn-b"), addr("fn-a", "10.1.0.1/16"), sysctl("net/ipv4/conf/fn-a/arp_ignore", "fn-a", "1"))
	for i := range ports {
		v := veth(fmt.Sprintf("fv-%d", i), []string{"fn-a", "fn-b", ""}[i%3], ns)
		v.Peer = fmt.Sprintf("eth%d", i)
		v.Isolated, v.Hairpin = i%3 == 0, i%3 == 1
		want.Put(v)
	}
	tracked := sysctl("net/ipv4/conf/fv-0/arp_ignore", "fv-0", "1")
	want.Put(tracked)
	reach(t, short, "", want)
	full.Track("", tracked, sysctl("net/ipv4/conf/fn-a/arp_ignore", "fn-a", ""))
	watch(t, short)
	if !short.LooksShort() || full.LooksShort() {
		t.Fatal("only a Kernel that watches and has looked in full may look shortly")
	}
	return short, full, want
}

// TestShortLookSeesWhatAFullOneSees changes what is ours by hand. Nothing of it waits for a notification, but aliases.
func TestShortLookSeesWhatAFullOneSees(t *testing.T) {
	short, full, want := watched(t, 6)
	run(t, "ip link add br-x type bridge")
	run(t, "ip link add foreign type veth peer name other")
	for _, line := range []string{
		"ip link set fv-0 down",
		"ip link set fv-0 nomaster",
		"ip link set fv-1 master fn-a",
		"ip link set fv-1 master br-x",
		"ip link set fv-2 master fn-b",
		"ip link set fv-0 type bridge_slave isolated off",
		"ip link set fv-1 type bridge_slave hairpin off",
		"ip link set fv-3 mtu 1400",
		"ip link set fv-4 address 02:00:00:00:00:77",
		"ip link set fv-4 arp off",
		"ip link set fv-4 down",
		"ip link set fn-b mtu 1300",
		"ip link del fv-0",
		"ip link del fv-1",
		"ip link del fv-2",
		"ip link del fn-b",
		"ip addr flush dev fn-a",
		"sysctl -qw net.ipv4.conf.fn-a.arp_ignore=0",
		"sysctl -qw net.ipv4.conf.fv-0.arp_ignore=0",
		"ip link set foreign master fn-a",
		"ip link set foreign alias flatnet_net/x",
	} {
		reach(t, short, "", want)
		run(t, line)
		got, is := observe(t, short, ""), observe(t, full, "")
		if d := dataplane.Diff(is, got); len(d) > 0 {
			t.Errorf("%s: a short look misses\n%s", line, d)
		}
		if strings.Contains(line, "foreign") != (len(dataplane.Diff(want, got)) == 0) {
			t.Errorf("%s: from what is wanted a short look differs in\n%s", line, dataplane.Diff(want, got))
		}
	}
	if !short.LooksShort() {
		t.Error("the last look was not short")
	}
}

// TestShortLookSeesWhatWeJustDid changes marks by plan, and makes ports: a look right after knows of it.
func TestShortLookSeesWhatWeJustDid(t *testing.T) {
	short, _, want := watched(t, 6)
	for n := range 60 {
		port := want[dataplane.Link{Name: "fv-1"}.Key()].(dataplane.Link)
		port.Owner = fmt.Sprintf("ep/fv-1/eth%d", n)
		want = with(want, port)
		reach(t, short, "", want)
		made := veth("fv-new", "fn-a", port.PeerNetns)
		made.Peer = "new"
		reach(t, short, "", with(want, made))
		reach(t, short, "", want)
	}
	if !short.LooksShort() {
		t.Error("the last look was not short")
	}
}

func TestShortLookKnowsAnAliasWhenItIsTold(t *testing.T) {
	short, full, want := watched(t, 3)
	for _, alias := range []string{"flatnet ep/other/eth0", "mine"} {
		apply(t, short, "", dataplane.Diff(want, observe(t, short, ""))) // makes the link anew
		reach(t, short, "", want)
		if out, err := exec.Command("ip", "link", "set", "fv-0", "alias", alias).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		is := observe(t, full, "")
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			d := dataplane.Diff(is, observe(t, short, ""))
			if len(d) == 0 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("alias %q: a short look still misses\n%s", alias, d)
			}
		}
	}
}

// TestShortLookMissesNothingWhilePortsComeAndGo: a dump of ports passes over one when one before it goes meanwhile.
func TestShortLookMissesNothingWhilePortsComeAndGo(t *testing.T) {
	short, _, want := watched(t, 300)
	run(t, "ip link add br-x type bridge")
	var add, del strings.Builder
	for i := range 100 {
		fmt.Fprintf(&add, "link add x%d master br-x type veth peer name y%d\n", i, i)
		fmt.Fprintf(&del, "link del x%d\n", i)
	}
	ended := make(chan error, 1)
	cmd := exec.Command("ip", "-batch", "-") // in this thread's namespace
	cmd.Stdin = strings.NewReader(strings.Repeat(add.String()+del.String(), 2))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { ended <- cmd.Wait() }()
	for looks := 0; ; {
		have, err := short.Observe(context.Background(), "")
		if err == nil {
			looks++
		} else if !errors.Is(err, netlink.ErrInterrupted) {
			t.Fatal(err)
		}
		if d := dataplane.Diff(want, have); err == nil && len(d) > 0 {
			t.Fatalf("look %d misses\n%s", looks, d)
		}
		select {
		case err := <-ended:
			if err != nil || looks < 5 {
				t.Fatalf("%d looks: %v", looks, err)
			}
			return
		default:
		}
	}
}
