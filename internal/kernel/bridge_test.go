package kernel_test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// told is what the kernel tells of links while fn runs, one `up` or `down` with its name and master each.
func told(t *testing.T, fn func()) (lines []string) {
	t.Helper()
	l, err := netlink.Listen(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fn()
	_, err = l.Drain(func(m netlink.Message) error {
		if m.Type != unix.RTM_NEWLINK || m.Data[0] != unix.AF_UNSPEC {
			return nil
		}
		name, master := "", uint32(0)
		for typ, a := range netlink.Attrs(m.Data[unix.SizeofIfInfomsg:]) {
			switch typ {
			case unix.IFLA_IFNAME:
				name = a.String()
			case unix.IFLA_MASTER:
				master = a.Uint32()
			}
		}
		state := map[bool]string{true: "up", false: "down"}[binary.NativeEndian.Uint32(m.Data[8:])&unix.IFF_UP != 0]
		lines = append(lines, fmt.Sprintf("%s %s port=%t", name, state, master != 0))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func snooping(t *testing.T, bridge string) string {
	t.Helper()
	_, rest, _ := strings.Cut(run(t, "ip -d link show dev "+bridge), "mcast_snooping ")
	return strings.Fields(rest + " none")[0]
}

// A bridge that somebody deleted gets its ports back before it goes up: the kernel works through all of them for each that is put into
// one that is up.
func TestBridgeGoesUpAfterItsPorts(t *testing.T) {
	k := host(t)
	want := state(bridge("fn-a"), addr("fn-a", "10.1.0.1/24"))
	for i := range 5 {
		port := veth(fmt.Sprintf("fv-%d", i), "fn-a", workload(t, fmt.Sprint(i)))
		port.Isolated, port.Hairpin = i%2 == 0, i%3 == 0
		want = with(want, port)
	}
	reach(t, k, "", want)
	for _, damage := range []string{"ip link del fn-a", "ip link set fn-a down"} {
		run(t, damage)
		ports := 0
		for _, line := range told(t, func() { reach(t, k, "", want) }) {
			switch {
			case strings.HasSuffix(line, "up port=true"):
				ports++
			case line == "fn-a up port=false" && ports == 0 && damage == "ip link del fn-a":
				t.Errorf("after %q the bridge is up before it has ports", damage)
			}
		}
	}
}

// A bridge listens which groups are where when it has a NIC in it, as somebody on the LAN may ask for them. After that it is nothing of ours:
// it stays as somebody sets it.
func TestSnooping(t *testing.T) {
	k := host(t)
	nic(t, "nic0")
	want := state(bridge("fn-a"), veth("fv-a", "fn-a", workload(t, "a")), uplinked("fn-b", "nic0"), dataplane.Port{Link: "nic0", Master: "fn-b"})
	reach(t, k, "", want)
	are := func(a, b string) {
		t.Helper()
		if gotA, gotB := snooping(t, "fn-a"), snooping(t, "fn-b"); gotA != a || gotB != b {
			t.Errorf("mcast_snooping is %s without and %s with a NIC, want %s and %s", gotA, gotB, a, b)
		}
	}
	are("0", "1")
	for _, line := range []string{"ip link set fn-a type bridge mcast_snooping 1", "ip link set fn-b type bridge mcast_snooping 0",
		"ip link set fn-a down", "ip link set fn-b down", "ip link set fv-a nomaster"} {
		run(t, line)
	}
	reach(t, k, "", want)
	are("1", "0")
	run(t, "ip link set fn-a type bridge mcast_snooping 0")
	want = with(with(with(want, uplinked("fn-a", "nic0")), bridge("fn-b")), dataplane.Port{Link: "nic0", Master: "fn-a"}) // the NIC moves
	reach(t, k, "", want)
	are("1", "0")
	for _, line := range []string{"ip link set fn-a down", "ip link set fv-a nomaster", "ip link set fn-b down"} { // and back, while they are down
		run(t, line)
	}
	want = with(with(with(want, bridge("fn-a")), uplinked("fn-b", "nic0")), dataplane.Port{Link: "nic0", Master: "fn-b"})
	reach(t, k, "", want)
	are("0", "1")
}

// What of a link is as it should be is not sent again: for each change that is told of a link, the kernel walks through all IPv6 routes.
func TestUpdatesTellOnlyWhatChanges(t *testing.T) {
	k := host(t)
	ns := workload(t, "a")
	port := veth("fv-a", "fn-a", ns)
	reach(t, k, "", state(bridge("fn-a"), port))
	reach(t, k, ns, state(lo(true), farVeth("fv-a")))
	for range 1000 { // the kernel tells of a carrier later
		if strings.Contains(run(t, "ip link show dev fv-a"), "state UP") {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, c := range []struct {
		damage string
		change func(*dataplane.Link)
		most   int
	}{
		{"bridge link set dev fv-a hairpin on", nil, 0},
		{"", func(l *dataplane.Link) { l.Isolated = true }, 0},
		{"ip link set fv-a mtu 1400", nil, 1},
	} {
		if c.damage != "" {
			run(t, c.damage)
		}
		want := port
		if c.change != nil {
			c.change(&want)
		}
		lines := told(t, func() { reach(t, k, "", state(bridge("fn-a"), want)) })
		if len(lines) > c.most {
			t.Errorf("after %q the kernel tells\n%s", c.damage, strings.Join(lines, "\n"))
		}
	}
}
