package kernel_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/internal/model"
)

// handMade is a host as tutorials build it: a bridge with a namespace on it, and two ways out.
func handMade(t *testing.T) (k *kernel.Kernel, ns string) {
	k = host(t)
	ns = workload(t, "ns1")
	for _, line := range []string{
		"ip link set lo up", "ip link add wan type veth peer name far", "ip link set wan up", "ip link set far up",
		"ip addr add 192.0.2.10/24 dev wan", "sysctl -qw net.ipv4.ip_forward=1",
		"ip link add br0 type bridge", "ip link set br0 up", "ip addr add 10.1.0.1/24 dev br0",
		"ip link add veth1 type veth peer name eth0 address 02:00:00:00:00:07 netns " + ns, "ip link set veth1 master br0 up",
		"nsenter --net=" + ns + " ip addr add 10.1.0.7/24 dev eth0", "nsenter --net=" + ns + " ip link set eth0 up",
	} {
		run(t, line)
	}
	return k, ns
}

func TestSurveyTellsDefaultRoutesApart(t *testing.T) {
	k, _ := handMade(t)
	for _, line := range []string{
		"ip route add default via 192.0.2.1", "ip route append default via 192.0.2.2",
		"ip route add default metric 9 nexthop via 192.0.2.3 nexthop via 192.0.2.4", "ip route add default via 192.0.2.5 table 77",
		"ip -6 addr add 2001:db8::1/64 dev wan nodad", "ip -6 route add default via 2001:db8::ff",
	} {
		run(t, line)
	}
	s, err := k.Survey(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(s.ByRules) != 1 || s.ByRules[0].Hops[0].Via.String() != "192.0.2.5" {
		t.Errorf("of other tables: %+v", s.ByRules)
	}
	var got []string
	for _, d := range s.Defaults {
		line := d.Proto
		for _, h := range d.Hops {
			line += " " + h.Via.String() + " " + h.Link
		}
		got = append(got, line)
	}
	want := []string{"boot 192.0.2.1 wan", "boot 192.0.2.2 wan", "boot 192.0.2.3 wan 192.0.2.4 wan", "boot 2001:db8::ff wan"}
	if len(got) != len(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %q, want %q", got[i], want[i])
		}
	}
	if s.Defaults[3].Metric != 0 || !s.Defaults[3].V6 {
		t.Errorf("of IPv6: %+v", s.Defaults[3])
	}
}

func TestNamespacesOnTheHostAreFound(t *testing.T) {
	k, ns := handMade(t)
	dir := filepath.Dir(ns)
	elsewhere := filepath.Join(dir, "elsewhere")
	if err := netns.Create(elsewhere); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netns.Delete(elsewhere) })
	all, err := k.Attached(context.Background(), dir)
	if err != nil || len(all) != 1 || all[0].Link != "veth1" || all[0].Netns != ns {
		t.Fatalf("got %+v, %v", all, err)
	}
	inside, err := k.Survey(context.Background(), ns)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range inside.Links {
		if l.Index == all[0].Inner && (l.Name != "eth0" || len(l.Addrs) == 0 || l.Addrs[0].String() != "10.1.0.7/24") {
			t.Errorf("the other end is %+v", l)
		}
	}
	if none, err := k.Attached(context.Background(), filepath.Join(dir, "nowhere")); err != nil || len(none) != 0 {
		t.Errorf("of no directory: %v, %v", none, err)
	}
}

func TestSwitches(t *testing.T) {
	k, ns := handMade(t)
	run(t, "sysctl -qw net.ipv4.conf.wan.forwarding=0")
	run(t, "nsenter --net="+ns+" ping -c1 -W5 10.1.0.1")
	s, err := k.Switches(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if s.Forwards["wan"] || !s.Forwards["br0"] {
		t.Errorf("forwarding: %v", s.Forwards)
	}
	if port := s.Ports["br0"][model.MAC{2, 0, 0, 0, 0, 7}]; port != "veth1" || len(s.Ports["br0"]) != 1 {
		t.Errorf("ports of br0: %v", s.Ports)
	}
}
