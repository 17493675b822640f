package dataplane_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// Diff's laws, over random states: its plan leads from one to the other, a second one is empty, and the order in which
// objects came does not matter.
func TestDiffLaws(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		want, have := randomState(r), randomState(r)
		plan := dataplane.Diff(want, have)
		if got := plan.Apply(have); !maps.Equal(got, want) {
			t.Fatalf("want\n%v\nhave\n%v\nplan\n%smade\n%v", want, have, plan, got)
		}
		if again := dataplane.Diff(want, plan.Apply(have)); len(again) != 0 {
			t.Fatalf("a second plan is not empty:\n%s", again)
		}
		if other := dataplane.Diff(maps.Clone(want), maps.Clone(have)); other.String() != plan.String() {
			t.Fatalf("the order differs from run to run:\n%s\n%s", plan, other)
		}
	}
}

// What depends on another object comes after it when added and before it when deleted.
func TestPlanOrder(t *testing.T) {
	all := dataplane.State{}
	set := dataplane.Set{Family: dataplane.Inet, Name: "nets", Type: dataplane.Types{dataplane.IfName}}
	if err := all.Put(
		dataplane.Route{Dest: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.0.1"), Link: "br0"},
		dataplane.Address{Link: "br0", Prefix: netip.MustParsePrefix("10.0.0.1/24")},
		dataplane.Sysctl{Name: "net/ipv4/conf/br0/arp_ignore", Link: "br0", Value: "1"},
		dataplane.Link{Name: "a", Kind: dataplane.Veth, Master: "br0"},
		dataplane.Link{Name: "br0", Kind: dataplane.Bridge},
		set.Element(dataplane.Tuple{Link: "br0"}),
		dataplane.Rule{Family: dataplane.Inet, Chain: "input", Verdict: dataplane.Verdict{Do: dataplane.Accept}},
		dataplane.Chain{Family: dataplane.Inet, Name: "input"},
		set,
		dataplane.Table{Family: dataplane.Inet},
		dataplane.Netns{Path: "/run/netns/a"},
		dataplane.Sysctl{Name: "net/ipv6/conf/all/forwarding", Value: "1"},
		dataplane.Sysctl{Name: "net/ipv6/conf/eth0/accept_ra", Value: "2"},
	); err != nil {
		t.Fatal(err)
	}
	up := dataplane.Diff(all, nil)
	const want = `add sysctl net/ipv6/conf/eth0/accept_ra=2
add sysctl net/ipv6/conf/all/forwarding=1
add netns /run/netns/a
add table inet flatnet
add set inet flatnet nets { type ifname; }
add chain inet flatnet input
add rule inet flatnet input accept
add element inet flatnet nets { "br0" }
add link br0 type bridge
add link a master br0 type veth
add sysctl net/ipv4/conf/br0/arp_ignore=1
add address 10.0.0.1/24 dev br0
add route default via 10.0.0.1 dev br0
`
	if up.String() != want {
		t.Errorf("up:\n%s\nwant:\n%s", up, want)
	}
	table := dataplane.Table{Family: dataplane.Inet}
	down := dataplane.Diff(dataplane.State{table: table}, all)
	up = slices.DeleteFunc(up, func(s dataplane.Step) bool { return s.Object == table })
	for i, s := range down {
		if mirror := up[len(up)-1-i]; s.Object != mirror.Object {
			t.Errorf("down step %d is %q, want the mirror of %q", i, s, mirror)
		}
	}
	if n := len(dataplane.Diff(nil, all)); n != len(all)-4 {
		t.Errorf("with the table gone %d steps are left, want its 4 objects to go with it", n)
	}
}

func TestPutRefusesTwoClaims(t *testing.T) {
	s := dataplane.State{}
	if err := s.Put(dataplane.Link{Name: "br0", MTU: 1500}, dataplane.Link{Name: "br0", MTU: 1500}); err != nil {
		t.Errorf("the same object twice: %v", err)
	}
	if err := s.Put(dataplane.Link{Name: "br0", MTU: 1400}); err == nil {
		t.Error("two MTUs for one link were taken")
	}
}

func TestAliasRoundTrip(t *testing.T) {
	for _, l := range []dataplane.Link{
		{Owner: "net/lab"},
		{Owner: "net/lan", Uplink: "eth1"},
		{Owner: "ep/web/eth0", Peer: "eth0", PeerNetns: "/run/netns/web"},
	} {
		if read, ok := dataplane.ParseAlias(l.Alias()); !ok || read != l {
			t.Errorf("alias %q read back as %v %v", l.Alias(), read, ok)
		}
	}
	for _, foreign := range []string{"", "uplink", "flatnet", "flatnetwork x"} {
		if _, ok := dataplane.ParseAlias(foreign); ok {
			t.Errorf("alias %q was taken for ours", foreign)
		}
	}
}

// A pass in which nothing changed is what a node does all day.
func BenchmarkDiffNothing(b *testing.B) {
	s := dataplane.State{}
	for i := range 3000 {
		_ = s.Put(dataplane.Link{Name: fmt.Sprintf("fv-w%d", i), Kind: dataplane.Veth, MTU: 1500, Up: true})
	}
	have := maps.Clone(s)
	b.ReportAllocs()
	for b.Loop() {
		if len(dataplane.Diff(s, have)) != 0 {
			b.Fatal("differs")
		}
	}
}

func randomState(r *rand.Rand) dataplane.State {
	s := dataplane.State{}
	for range r.IntN(12) {
		_ = s.Put(randomObject(r))
	}
	if table := (dataplane.Table{Family: dataplane.Inet}); s[table] == nil {
		s.Take(dataplane.Step{Op: dataplane.Del, Object: table})
	}
	return s
}

func randomObject(r *rand.Rand) dataplane.Object {
	name := string(rune('a' + r.IntN(3)))
	addr := netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(2)), byte(r.IntN(3))})
	set := dataplane.Set{Family: dataplane.Inet, Name: name, Type: dataplane.Types{dataplane.IPv4Addr}, Value: dataplane.Types{dataplane.InetService}}
	switch r.IntN(12) {
	case 11:
		return dataplane.NewShaper(name, 1000*(1+r.Uint64N(2)), 3000, 6000)
	case 10:
		return dataplane.Redirect{Link: name, Via: "b"}
	case 9:
		return dataplane.Table{Family: dataplane.Inet}
	case 0:
		return dataplane.Link{Name: name, Kind: dataplane.Bridge, MTU: 1400 + r.IntN(3), Up: r.IntN(2) == 0}
	case 1:
		return dataplane.Link{Name: name, Kind: dataplane.Veth, Master: "b", Isolated: r.IntN(2) == 0}
	case 2:
		return dataplane.Address{Link: name, Prefix: netip.PrefixFrom(addr, 24)}
	case 3:
		return dataplane.Route{Dest: netip.PrefixFrom(addr, 32), Link: name}
	case 4:
		return dataplane.Sysctl{Name: "net/ipv4/conf/" + name + "/arp_ignore", Value: fmt.Sprint(r.IntN(2))}
	case 5:
		return dataplane.Chain{Family: dataplane.Inet, Name: name, Priority: r.IntN(2)}
	case 6:
		return dataplane.Rule{Family: dataplane.Inet, Chain: name, Pos: r.IntN(3), Comment: fmt.Sprint(r.IntN(2))}
	case 7:
		return set
	}
	return set.Element(dataplane.Tuple{Addr: addr}).To(dataplane.Tuple{Port: uint16(r.IntN(2))})
}

// What cannot stand beside its successor goes first; everything else after.
func TestDiffMakesRoom(t *testing.T) {
	ranges := dataplane.Set{Family: dataplane.Inet, Name: "subnets4", Type: dataplane.Types{dataplane.IfName, dataplane.IPv4Addr}, Interval: true}
	names := dataplane.Set{Family: dataplane.Inet, Name: "nets", Type: dataplane.Types{dataplane.IfName}}
	state := func(last, link, v6, v4, gateway string) dataplane.State {
		s := dataplane.State{}
		if err := s.Put(
			ranges.Element(dataplane.Tuple{Link: "br0", Addr: netip.MustParseAddr("10.0.0.0"), AddrLast: netip.MustParseAddr(last)}),
			names.Element(dataplane.Tuple{Link: link}),
			dataplane.Address{Link: "br0", Prefix: netip.MustParsePrefix(v6)},
			dataplane.Address{Link: "br0", Prefix: netip.MustParsePrefix(v4)},
			dataplane.Address{Link: "br0", Prefix: netip.MustParsePrefix("10.2.0.1/24")},
			dataplane.Route{Dest: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr(gateway), Link: "br0"},
		); err != nil {
			t.Fatal(err)
		}
		return s
	}
	const want = `del element inet flatnet subnets4 { "br0" . 10.0.0.0-10.0.0.255 }
add element inet flatnet nets { "br1" }
add element inet flatnet subnets4 { "br0" . 10.0.0.0-10.0.255.255 }
del address fd00::1/64 dev br0 nodad
add address 10.0.0.2/24 dev br0
add address fd00::1/48 dev br0 nodad
del address 10.0.0.1/24 dev br0
replace route default via 10.0.0.1 dev br0
del element inet flatnet nets { "br0" }
`
	plan := dataplane.Diff(state("10.0.255.255", "br1", "fd00::1/48", "10.0.0.2/24", "10.0.0.1"), state("10.0.0.255", "br0", "fd00::1/64", "10.0.0.1/24", "10.0.0.3"))
	if plan.String() != want {
		t.Errorf("got\n%swant\n%s", plan, want)
	}
}
