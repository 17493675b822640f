package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/flatnet/flatnet/internal/model"
)

func subnet(prefix, gateway, within string, reserved ...string) model.Subnet {
	s := model.Subnet{Prefix: netip.MustParsePrefix(prefix)}
	if gateway != "" {
		s.Gateway = netip.MustParseAddr(gateway)
	}
	if within != "" {
		s.Range = netip.MustParsePrefix(within)
	}
	for _, r := range reserved {
		s.Reserved = append(s.Reserved, netip.MustParseAddr(r))
	}
	return s
}

type set map[netip.Addr]bool

func (s set) has(a netip.Addr) bool { return s[a] }

func TestFirstAddresses(t *testing.T) {
	cases := []struct {
		name   string
		subnet model.Subnet
		prefer string
		want   []string
	}{
		{"gateway first", subnet("10.0.0.0/24", "10.0.0.1", ""), "", []string{"10.0.0.2", "10.0.0.3"}},
		{"gateway last", subnet("10.0.0.0/24", "10.0.0.254", ""), "", []string{"10.0.0.1", "10.0.0.2"}},
		{"gateway in the middle", subnet("10.0.0.0/29", "10.0.0.3", ""), "", []string{"10.0.0.1", "10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6", "exhausted"}},
		{"no gateway", subnet("10.0.0.0/30", "", ""), "", []string{"10.0.0.1", "10.0.0.2", "exhausted"}},
		{"reserved", subnet("10.0.0.0/29", "10.0.0.1", "", "10.0.0.2", "10.0.0.4"), "", []string{"10.0.0.3", "10.0.0.5", "10.0.0.6", "exhausted"}},
		{"range", subnet("10.0.0.0/24", "10.0.0.1", "10.0.0.252/30"), "", []string{"10.0.0.252", "10.0.0.253", "10.0.0.254", "exhausted"}},
		{"range at the start", subnet("10.0.0.0/24", "10.0.0.1", "10.0.0.0/30"), "", []string{"10.0.0.2", "10.0.0.3", "exhausted"}},
		{"subnet-router anycast", subnet("fd00::/126", "fd00::1", ""), "", []string{"fd00::2", "fd00::3", "exhausted"}},
		{"the last of IPv4", subnet("255.255.255.252/30", "255.255.255.253", ""), "", []string{"255.255.255.254", "exhausted"}},
		{"sticky", subnet("10.0.0.0/24", "10.0.0.1", ""), "10.0.0.77", []string{"10.0.0.77", "10.0.0.78"}},
		{"sticky outside the range", subnet("10.0.0.0/24", "10.0.0.1", "10.0.0.128/25"), "10.0.0.77", []string{"10.0.0.128", "10.0.0.129"}},
		{"sticky in another subnet", subnet("10.0.0.0/24", "10.0.0.1", ""), "10.0.9.77", []string{"10.0.0.2", "10.0.0.3"}},
		{"sticky is the gateway by now", subnet("10.0.0.0/24", "10.0.0.77", ""), "10.0.0.77", []string{"10.0.0.78"}},
		{"sticky is the broadcast address", subnet("10.0.0.0/24", "10.0.0.1", ""), "10.0.0.255", []string{"10.0.0.2"}},
		{"around the end", subnet("10.0.0.0/29", "10.0.0.1", ""), "10.0.0.6", []string{"10.0.0.6", "10.0.0.2", "10.0.0.3"}},
	}
	for _, c := range cases {
		used := set{}
		var prefer netip.Addr
		if c.prefer != "" {
			prefer = netip.MustParseAddr(c.prefer)
		}
		for _, want := range c.want {
			a, err := Next(c.subnet, used.has, prefer)
			got := a.String()
			if err != nil {
				got = "exhausted"
			}
			if got != want {
				t.Errorf("%s: got %s, %v; want %s (used %v)", c.name, got, err, want, used)
			}
			used[a] = true
		}
	}
}

func TestExhaustionSaysHowManyAreInUse(t *testing.T) {
	all := func(netip.Addr) bool { return true }
	_, err := Next(subnet("10.0.0.0/24", "10.0.0.1", "10.0.0.128/25", "10.0.0.130"), all, netip.Addr{})
	var e *ExhaustedError
	if !errors.As(err, &e) || e.InUse != 126 {
		t.Fatalf("got %v", err)
	}
	if got, want := err.Error(), "subnet 10.0.0.0/24: no address is free within range 10.0.0.128/25: all 126 are in use or remembered"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	want := `FN2109: network "lab": ` + err.Error() + "; remove workloads, widen the range, or add a subnet"
	if got := e.Problem("lab").Error(); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// Laws, over random subnets: every address is inside, none is given twice, and Size says how many there are.
func TestEveryAddressIsGivenOnce(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s := randomSubnet(rnd)
		used := set{}
		var last netip.Addr
		for {
			if len(used) > 0 && rnd.IntN(4) == 0 {
				for a := range used { // give one back
					delete(used, a)
					break
				}
			}
			hint := last
			if rnd.IntN(3) == 0 {
				hint = netip.Addr{}
			} else if last.IsValid() {
				hint = last.Next()
			}
			a, err := Next(s, used.has, hint)
			if err != nil {
				if float64(len(used)) != Size(s) {
					t.Fatalf("seed %d: %+v: exhausted at %d, Size %v", seed, s, len(used), Size(s))
				}
				break
			}
			switch {
			case used[a]:
				t.Fatalf("seed %d: %+v: %s given twice", seed, s, a)
			case !Range(s).Contains(a) || !s.Usable(a) || a == s.Gateway:
				t.Fatalf("seed %d: %+v: %s is not to be given", seed, s, a)
			}
			for _, r := range s.Reserved {
				if a == r {
					t.Fatalf("seed %d: %+v: %s is reserved", seed, s, a)
				}
			}
			used[a], last = true, a
		}
	}
}

func randomSubnet(rnd *rand.Rand) model.Subnet {
	base, bits := "10.9.0.0", 24+rnd.IntN(7)
	if rnd.IntN(2) == 0 {
		base, bits = "fd00:9::", 120+rnd.IntN(7)
	}
	p := netip.PrefixFrom(netip.MustParseAddr(base), bits)
	pick := func() netip.Addr {
		a := p.Addr()
		for range rnd.IntN(1 << (p.Addr().BitLen() - bits)) {
			a = a.Next()
		}
		return a
	}
	s := model.Subnet{Prefix: p, Gateway: model.FirstAddr(p)}
	if g := pick(); s.Usable(g) {
		s.Gateway = g
	}
	if more := p.Addr().BitLen() - bits; rnd.IntN(2) == 0 {
		s.Range = netip.PrefixFrom(pick(), bits+rnd.IntN(more)).Masked()
	}
	for range rnd.IntN(4) {
		s.Reserved = append(s.Reserved, pick())
	}
	return s
}

func TestSizes(t *testing.T) {
	cases := []struct {
		subnet model.Subnet
		want   float64
	}{
		{subnet("10.0.0.0/24", "10.0.0.1", ""), 253},
		{subnet("10.0.0.0/24", "", ""), 254},
		{subnet("10.0.0.0/24", "10.0.0.1", "10.0.0.128/25", "10.0.0.130", "10.0.0.130", "10.0.0.9"), 126},
		{subnet("fd00::/64", "fd00::1", ""), 18446744073709551614},
	}
	for _, c := range cases {
		if got := Size(c.subnet); got != c.want {
			t.Errorf("Size(%+v) = %v, want %v", c.subnet, got, c.want)
		}
	}
}

// With the hint the cost stays the same however many are in use.
func BenchmarkNext(b *testing.B) {
	s := subnet("10.0.0.0/16", "10.0.0.1", "")
	for _, n := range []int{1, 1000, 60000} {
		used := set{}
		var last netip.Addr
		for range n {
			last, _ = Next(s, used.has, last)
			used[last] = true
		}
		b.Run(fmt.Sprintf("hint/%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := Next(s, used.has, last.Next()); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("none/%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := Next(s, used.has, netip.Addr{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
