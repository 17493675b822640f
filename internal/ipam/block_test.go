package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/model"
)

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range texts {
		all = append(all, netip.MustParsePrefix(s))
	}
	return all
}

func taken(texts ...string) func(netip.Prefix) bool {
	set := map[netip.Prefix]bool{}
	for _, p := range prefixes(texts...) {
		set[p] = true
	}
	return func(p netip.Prefix) bool { return set[p] }
}

func TestWhichBlockIsNext(t *testing.T) {
	pools := []model.BlockPool{{Prefix: netip.MustParsePrefix("10.70.0.0/22"), Bits: 24}, {Prefix: netip.MustParsePrefix("10.80.0.0/31"), Bits: 32}}
	reserved := map[netip.Prefix]string{netip.MustParsePrefix("10.70.0.0/24"): "", netip.MustParsePrefix("10.70.3.0/24"): "c"}
	for _, c := range []struct {
		name string
		ask  BlockAsk
		want string
	}{
		{"the lowest", BlockAsk{Taken: taken()}, "10.70.0.0/24"},
		{"behind what is taken", BlockAsk{Taken: taken("10.70.0.0/24", "10.70.1.0/24")}, "10.70.2.0/24"},
		{"the former", BlockAsk{Taken: taken(), Last: prefixes("10.70.2.0/24", "10.70.1.0/24")}, "10.70.2.0/24"},
		{"the one before it", BlockAsk{Taken: taken("10.70.2.0/24"), Last: prefixes("10.70.2.0/24", "10.70.1.0/24")}, "10.70.1.0/24"},
		{"a former of other pools", BlockAsk{Taken: taken(), Last: prefixes("10.99.2.0/24", "10.70.2.0/25")}, "10.70.0.0/24"},
		{"not what is reserved", BlockAsk{Taken: taken("10.70.1.0/24", "10.70.2.0/24"), Reserved: reserved}, "10.80.0.0/32"},
		{"a former that is reserved by now", BlockAsk{Taken: taken(), Last: prefixes("10.70.3.0/24"), Reserved: reserved}, "10.70.1.0/24"},
		{"its reservation", BlockAsk{Node: "c", Taken: taken(), Last: prefixes("10.70.2.0/24"), Reserved: reserved}, "10.70.3.0/24"},
		{"the next pool", BlockAsk{Taken: taken("10.70.0.0/24", "10.70.1.0/24", "10.70.2.0/24", "10.70.3.0/24", "10.80.0.0/32")}, "10.80.0.1/32"},
		{"elsewhere after a race", BlockAsk{Network: "pods", Node: "b", Taken: taken(), Lost: 2}, "10.70.1.0/24"},
		{"around the end", BlockAsk{Network: "pods", Node: "b", Taken: taken("10.70.1.0/24", "10.70.2.0/24", "10.70.3.0/24"), Lost: 2}, "10.70.0.0/24"},
	} {
		c.ask.Pools = pools
		if got, err := NextBlock(c.ask); err != nil || got.String() != c.want {
			t.Errorf("%s: got %v, %v; want %s", c.name, got, err, c.want)
		}
	}
	_, err := NextBlock(BlockAsk{Network: "pods", Pools: pools, Taken: func(netip.Prefix) bool { return true }, Reserved: reserved})
	var none *NoBlockError
	if want := `network "pods": no block is free in 10.70.0.0/22 (4 of /24), 10.80.0.0/31 (2 of /32); 2 reserved`; !errors.As(err, &none) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Many nodes that start at once on as many blocks as they are: each asks for what it sees free, one is the winner of each
// block, and soon all have one.
func TestManyNodesAtOnceFindABlockEach(t *testing.T) {
	for _, n := range []int{8, 256} {
		pools := []model.BlockPool{{Prefix: netip.MustParsePrefix("10.70.0.0/16"), Bits: 24}}
		if n == 8 {
			pools[0].Bits = 19
		}
		holder, waiting := map[netip.Prefix]int{}, map[int]int{}
		for i := range n {
			waiting[i] = 0
		}
		rounds := 0
		for ; len(waiting) > 0; rounds++ {
			seen := func(p netip.Prefix) bool { _, ok := holder[p]; return ok }
			asked := map[netip.Prefix][]int{}
			for node, lost := range waiting {
				b, err := NextBlock(BlockAsk{Network: "pods", Pools: pools, Node: fmt.Sprint("n-", node), Taken: seen, Lost: lost})
				if err != nil {
					t.Fatal(err)
				}
				asked[b] = append(asked[b], node)
			}
			for b, nodes := range asked {
				holder[b] = nodes[0]
				delete(waiting, nodes[0])
				for _, loser := range nodes[1:] {
					waiting[loser]++
				}
			}
		}
		if most := 12; rounds > most {
			t.Errorf("%d nodes needed %d rounds, more than %d", n, rounds, most)
		}
	}
}

// Laws, at random: a node never gives back what it would ask for again at once, and keeps at least one block.
func TestGrowthAndReleaseDoNotChaseEachOther(t *testing.T) {
	for seed := range uint64(500) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		var held []HeldBlock
		for range rnd.IntN(6) {
			h := HeldBlock{Block: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 70, byte(len(held)), 0}), 26), Size: float64(int(1) << rnd.IntN(9))}
			if h.Used = rnd.IntN(int(h.Size) + 1); rnd.IntN(2) == 0 {
				h.Used, h.Empty = 0, time.Duration(rnd.IntN(20))*time.Minute
			}
			held = append(held, h)
		}
		gone := map[netip.Prefix]bool{}
		for _, b := range Releases(held, 10*time.Minute) {
			gone[b] = true
		}
		var left []HeldBlock
		for _, h := range held {
			if !gone[h.Block] {
				left = append(left, h)
			} else if h.Used > 0 || h.Empty < 10*time.Minute {
				t.Fatalf("seed %d: %+v was given back", seed, h)
			}
		}
		if len(held) > 0 && len(left) == 0 || len(gone) > 0 && Grows(left) {
			t.Fatalf("seed %d: of %+v are left %+v", seed, held, left)
		}
	}
}

func TestWhenANodeGrows(t *testing.T) {
	b := func(size float64, used int) HeldBlock { return HeldBlock{Size: size, Used: used} }
	for _, c := range []struct {
		held []HeldBlock
		want bool
	}{
		{nil, true},
		{[]HeldBlock{b(253, 0)}, false},
		{[]HeldBlock{b(253, 221)}, false},
		{[]HeldBlock{b(253, 222)}, true},
		{[]HeldBlock{b(253, 253), b(253, 100)}, false},
		{[]HeldBlock{b(1, 0)}, false},
		{[]HeldBlock{b(1, 1)}, true},
		{[]HeldBlock{b(61, 57)}, true},
	} {
		if got := Grows(c.held); got != c.want {
			t.Errorf("%+v: grows %v, want %v", c.held, got, c.want)
		}
	}
}
