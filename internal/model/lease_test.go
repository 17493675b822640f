package model

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

func pool(s string, bits int) BlockPool { return BlockPool{Prefix: prefix(s), Bits: bits} }

func TestBlocksOfAPool(t *testing.T) {
	for _, c := range []struct {
		pool  BlockPool
		i     uint64
		want  string
		count uint64
	}{
		{pool("10.70.0.0/16", 24), 0, "10.70.0.0/24", 256},
		{pool("10.70.0.0/16", 24), 255, "10.70.255.0/24", 256},
		{pool("10.70.0.0/16", 26), 5, "10.70.1.64/26", 1024},
		{pool("10.70.3.0/24", 24), 0, "10.70.3.0/24", 1},
		{pool("fd00:70::/48", 64), 0x1234, "fd00:70:0:1234::/64", 65536},
		{pool("fd00::/16", 80), 1<<63 + 1, "fd00:8000:0:0:1::/80", 1<<64 - 1},
		{pool("fd00::/16", 112), 3, "fd00::3:0/112", 1<<64 - 1},
	} {
		got := c.pool.Block(c.i)
		if got.String() != c.want || c.pool.Count() != c.count {
			t.Errorf("%v: block %d is %v of %d, want %s of %d", c.pool, c.i, got, c.pool.Count(), c.want, c.count)
		}
		if i, ok := c.pool.Index(got); !ok || i != c.i && c.pool.Bits-c.pool.Prefix.Bits() <= 64 {
			t.Errorf("%v: index of %v is %d, %v", c.pool, got, i, ok)
		}
	}
	for _, p := range []BlockPool{{}, pool("10.70.0.0/16", 15), pool("10.70.0.0/16", 33), pool("10.70.0.1/16", 24), {Bits: 24}} {
		if p.Valid() || p.Count() != 0 {
			t.Errorf("%v is a pool of %d blocks", p, p.Count())
		}
	}
}

// Laws, for any pool: the block of an address holds it, has its number, and no other block touches it.
func TestEveryAddressHasOneBlock(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		p := pool("10.64.0.0/10", 10+rnd.IntN(23))
		if rnd.IntN(2) == 0 {
			p = pool("fd00:7000::/20", 20+rnd.IntN(60))
		}
		i := rnd.Uint64N(p.Count())
		b := p.Block(i)
		if at, ok := p.Index(b); !ok || at != i || !p.Prefix.Contains(b.Addr()) {
			t.Fatalf("seed %d: %v: block %d is %v, whose number is %d, %v", seed, p, i, b, at, ok)
		}
		for _, a := range []netip.Addr{b.Addr(), LastAddr(b)} {
			if of, ok := p.BlockOf(a); !ok || of != b {
				t.Fatalf("seed %d: %v: %v is in %v, want %v", seed, p, a, of, b)
			}
		}
		if i > 0 && p.Block(i-1).Overlaps(b) {
			t.Fatalf("seed %d: %v: blocks %d and %d overlap", seed, p, i-1, i)
		}
	}
}

func TestBlocksGoAroundOnce(t *testing.T) {
	var got []string
	for b := range pool("10.70.0.0/22", 24).Blocks(2) {
		got = append(got, b.String())
	}
	if want := "[10.70.2.0/24 10.70.3.0/24 10.70.0.0/24 10.70.1.0/24]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func member(id, underlay string) Member {
	return Member{ID: id, Name: "host-" + id, Underlay4: addr(underlay), MTU: 1500, Schema: 1}
}

func facts() ClusterFacts {
	return ClusterFacts{Self: "a",
		Pools: map[string][]BlockPool{
			"pods": {pool("10.70.0.0/16", 24), pool("fd00:70::/48", 64)},
			"blue": {pool("10.71.0.0/16", 26)},
			"wide": {pool("192.0.0.0/8", 24)},
		},
		Members: map[string]Member{"a": member("a", "192.0.2.1"), "b": member("b", "192.0.2.2"), "c": member("c", "198.51.100.3")},
	}
}

// lease reads NETWORK BLOCK NODE.
func lease(s string) Lease {
	f := strings.Fields(s)
	p, _ := netip.ParsePrefix(f[1])
	return Lease{Network: f[0], Block: p, Node: f[2]}
}

func TestHostileLeasesAreRefusedWithAReason(t *testing.T) {
	good := []string{"pods 10.70.1.0/24 a", "pods 10.70.2.0/24 b", "pods fd00:70:0:1::/64 a", "blue 10.71.0.64/26 a"}
	cases := []string{
		"pods 0.0.0.0/0 b", "pods ::/0 b", "pods none b", "pods 10.71.0.0/24 b", "pods 10.70.0.0/16 b", "pods 10.70.1.128/25 b", "pods 10.0.0.0/8 b",
		"pods 10.70.1.0/24 b", "pods 10.70.3.7/24 b", "pods 224.0.0.0/24 b", "pods 127.0.0.0/24 b", "pods ::ffff:10.70.5.0/120 b", "pods fe80::/64 b",
		"pods 203.0.113.0/24 b", "gone 10.70.1.0/24 b", "wide 192.0.2.0/24 b", "pods 10.70.9.0/24 nobody", "pods 10.70.9.0/24 a/b", "pods fd00:71::/64 b",
	}
	var leases []Lease
	for _, s := range append(good, cases...) {
		leases = append(leases, lease(s))
	}
	sound, refused := facts().SoundLeases(leases)
	if fmt.Sprint(sound) != fmt.Sprint(leases[:len(good)]) {
		t.Errorf("sound are %v", sound)
	}
	var b strings.Builder
	for _, r := range refused {
		fmt.Fprintf(&b, "%s\n    %s\n", r.Lease, r.Problem.Error())
	}
	if len(refused) != len(cases) {
		t.Errorf("%d of %d refused", len(refused), len(cases))
	}
	goldenLease(t, "leases", b.String())
}

func TestMembersAreJudged(t *testing.T) {
	f := facts()
	for id, m := range map[string]Member{
		"dup":    member("dup", "192.0.2.1"),
		"second": member("second", "198.51.100.3"),
		"nobody": {ID: "nobody", Name: "x", MTU: 1500, Schema: 1},
		"UPPER":  member("UPPER", "203.0.113.1"),
		"many":   {ID: "many", Name: "a b", Underlay4: addr("224.0.0.1"), Underlay6: addr("fe80::1"), MTU: 100},
		"inside": member("inside", "10.70.4.4"),
		"liar":   member("b", "203.0.113.9"),
		"mapped": member("mapped", "::ffff:203.0.113.5"),
		"old6":   {ID: "old6", Name: "old6", Underlay6: addr("2001:db8::9"), MTU: 1000, Schema: 1},
		"root":   member("root", "203.0.113.7"),
		"escape": {ID: "escape", Name: "escape", Underlay4: addr("203.0.113.8"), MTU: 1500, Schema: 1, Version: "1\x1b[31m"},
		"six":    {ID: "six", Name: "six", Underlay6: addr("2001:db8::6"), MTU: 1280, Schema: 3},
	} {
		f.Members[id] = m
	}
	delete(f.Pools, "wide")
	sound, refused := f.SoundMembers()
	var b strings.Builder
	for _, id := range []string{"UPPER", "dup", "escape", "inside", "liar", "many", "mapped", "nobody", "old6", "root", "second"} {
		fmt.Fprintf(&b, "%s\n", id)
		for line := range strings.Lines(refused[id].Error()) {
			fmt.Fprintf(&b, "    %s\n", strings.TrimSuffix(line, "\n"))
		}
	}
	if len(sound) != 4 || len(refused) != 11 {
		t.Errorf("sound are %v", sound)
	}
	goldenLease(t, "members", b.String())
}

// A member that says to be where another is takes nothing from it, whatever it calls itself.
func TestWhoSaysToBeWhereAnotherIsComesSecond(t *testing.T) {
	for _, thief := range []string{"0", "z"} {
		f := facts()
		delete(f.Pools, "wide")
		f.Members[thief] = member(thief, "192.0.2.2")
		order := map[string]int{"a": 1, "b": 2, "c": 3, thief: 4}
		f.Before = func(a, b string) bool { return order[a] < order[b] }
		sound, refused := f.SoundMembers()
		if _, stays := sound["b"]; !stays || len(sound) != 3 || len(refused[thief]) == 0 {
			t.Errorf("%s: sound are %v, refused %v", thief, sound, refused)
		}
	}
}

// What is refused harms nobody else: whatever is added, sound leases stay sound.
func FuzzLeases(f *testing.F) {
	f.Add("pods", "10.70.1.0/24", "b")
	f.Add("pods", "0.0.0.0/0", "b")
	f.Add("pods", "fd00:70::/48", "")
	f.Fuzz(func(t *testing.T, network, block, node string) {
		p, _ := netip.ParsePrefix(block)
		own := lease("pods 10.70.1.0/24 a")
		sound, _ := facts().SoundLeases([]Lease{own, {Network: network, Block: p, Node: node}})
		if len(sound) == 0 || sound[0] != own {
			t.Fatalf("%v harms: %v", p, sound)
		}
		for _, s := range sound[1:] {
			if s.Network == own.Network && s.Block.Overlaps(own.Block) || s.Block.Bits() == 0 {
				t.Fatalf("%v is taken for sound", s)
			}
		}
	})
}

func goldenLease(t *testing.T, name, got string) {
	t.Helper()
	const file = "testdata/lease.txtar"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	archive := txtar.Parse(text)
	for i, f := range archive.Files {
		if f.Name != name {
			continue
		}
		if *update {
			archive.Files[i].Data = []byte(got)
			if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
				t.Fatal(err)
			}
		} else if string(f.Data) != got {
			t.Errorf("%s: %s:\ngot:\n%swant:\n%s", file, name, got, f.Data)
		}
		return
	}
	t.Fatalf("%s: no case %s", file, name)
}

func BenchmarkSoundLeases(b *testing.B) {
	f := ClusterFacts{Pools: map[string][]BlockPool{"pods": {pool("10.64.0.0/10", 24)}}, Members: map[string]Member{}}
	var leases []Lease
	for i := range 5000 {
		m := member(fmt.Sprintf("n-%d", i), fmt.Sprintf("192.0.%d.%d", 2+i/250, 1+i%250))
		f.Members[m.ID] = m
		leases = append(leases, Lease{Network: "pods", Block: f.Pools["pods"][0].Block(uint64(i)), Node: m.ID})
	}
	for b.Loop() {
		if sound, _ := f.SoundLeases(leases); len(sound) != 5000 {
			b.Fatal(len(sound))
		}
	}
}

// What one request of a network may cost is bounded: a list of 50,000 prefixes kept a host busy for minutes.
func TestListsOfAClusterNetworkAreBounded(t *testing.T) {
	for path, fill := range map[string]func(*Overlay){
		"spec.cluster.noMasquerade": func(o *Overlay) {
			for i := range MaxKeep + 1 {
				o.Keep = append(o.Keep, netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 0}), 24))
			}
		},
		"spec.cluster.nodes":    func(o *Overlay) { o.Nodes = make([]string, MaxNodes+1) },
		"spec.cluster.reserved": func(o *Overlay) { o.Reserved = make([]Reservation, MaxReserved+1) },
	} {
		n := Network{Name: "pods", Mode: Cluster, Bridge: "fn-pods", Cluster: Overlay{Pools: []BlockPool{pool("10.70.0.0/16", 24)}, Backend: VXLAN, VNI: 1, Port: 8472}}
		if ps := Validate(View{}, n); len(ps) != 0 {
			t.Fatal(ps)
		}
		fill(&n.Cluster)
		if ps := Validate(View{}, n); len(ps) != 1 || ps[0].Code != CodeTooLarge || ps[0].Path != path {
			t.Errorf("%s: got %v", path, ps)
		}
	}
}
