package main

import (
	"fmt"
	"math/bits"
	"net/netip"
	"strings"

	"github.com/flatnet/flatnet/api"
)

// withBits writes a dotted mask as a number of bits: 10.8.0.0/255.255.255.0 is 10.8.0.0/24. All else stays as it is.
func withBits(flag, text string) (string, error) {
	addr, dotted, _ := strings.Cut(text, "/")
	mask, err := netip.ParseAddr(dotted)
	if err != nil || !mask.Is4() {
		return text, nil
	}
	b := mask.As4()
	n := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	ones := bits.LeadingZeros32(^n)
	if bits.OnesCount32(n) != ones {
		return "", badUsage("%s %s: %s is no mask; write the number of bits, as 10.8.0.0/24", flag, text, dotted)
	}
	return fmt.Sprintf("%s/%d", addr, ones), nil
}

// rangePrefix is a range of addresses as the prefix that it is. It may be written from first to last, and then leave out what is
// never given to a workload: the subnet's own address, its gateway and its broadcast.
func rangePrefix(s api.SubnetSpec, text string) (string, error) {
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		return withBits("--ip-range", text)
	}
	first, err1 := netip.ParseAddr(strings.TrimSpace(from))
	last, err2 := netip.ParseAddr(strings.TrimSpace(to))
	if err1 != nil || err2 != nil || first.Is4() != last.Is4() || last.Less(first) {
		return "", badUsage("--ip-range %s: want a prefix, as 10.8.0.128/25, or its first and last address", text)
	}
	around := around(first, last)
	if onlyUnused(s, around.Masked().Addr(), first) && onlyUnused(s, last.Next(), lastOf(around).Next()) {
		return around.String(), nil
	}
	in := within(first, last)
	return "", badUsage("--ip-range %s is no prefix; the largest one in it: %s (%s to %s), the one around it: %s (%s to %s)",
		text, in, in.Addr(), lastOf(in), around, around.Addr(), lastOf(around))
}

// onlyUnused reports whether no workload would get one of the addresses from first up to, but not with, end.
func onlyUnused(s api.SubnetSpec, first, end netip.Addr) bool {
	const most = 3
	subnet, err := netip.ParsePrefix(s.Subnet)
	gateway := s.Gateway
	if err == nil && gateway == "" {
		gateway = subnet.Masked().Addr().Next().String()
	}
	for i := 0; first.IsValid() && first != end; i++ {
		unused := err == nil && (first == subnet.Masked().Addr() || first == lastOf(subnet) && first.Is4() || first.String() == gateway)
		if !unused || i == most {
			return false
		}
		first = first.Next()
	}
	return true
}

// around is the smallest prefix that holds both addresses.
func around(first, last netip.Addr) netip.Prefix {
	n := first.BitLen()
	for ; !netip.PrefixFrom(first, n).Masked().Contains(last); n-- {
	}
	return netip.PrefixFrom(first, n).Masked()
}

// within is the largest prefix from first to last; of several the one that begins first.
func within(first, last netip.Addr) netip.Prefix {
	for n := around(first, last).Bits(); n < first.BitLen(); n++ {
		p := netip.PrefixFrom(first, n).Masked()
		if p.Addr() != first {
			p = netip.PrefixFrom(lastOf(p).Next(), n)
		}
		if p.IsValid() && !last.Less(lastOf(p)) {
			return p
		}
	}
	return netip.PrefixFrom(first, first.BitLen())
}

// lastOf is a prefix's last address.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b) // as long as it came
	return a
}
