package model

import (
	"fmt"
	"math"
)

// The limits that make sense, in bits per second: kubectl takes those too.
const (
	minRate = 1_000
	maxRate = 1_000_000_000_000_000
)

// maxBurst is what the kernel's 32 bits of bytes hold, in bits.
const maxBurst = 8 * math.MaxUint32

// bandwidth judges an endpoint's limits.
func bandwidth(n Network, b Bandwidth) Problems {
	if b == (Bandwidth{}) {
		return nil
	}
	if !n.HasBridge() {
		return Problems{{Code: CodeNoLimit, Path: "bandwidth", Reason: fmt.Sprintf("network %q is a cable, of which nothing is on the host that could hold packets back", n.Name),
			Fix: "leave the limit out, or attach to a network of another mode"}}
	}
	return append(limit("ingress", b.IngressRate, b.IngressBurst), limit("egress", b.EgressRate, b.EgressBurst)...)
}

// limit judges one direction.
func limit(direction string, rate, burst uint64) Problems {
	p := Problem{Code: CodeLimit, Path: "bandwidth." + direction + "Rate", Example: "10000000"}
	switch {
	case rate == 0 && burst == 0:
		return nil
	case rate == 0:
		p.Reason, p.Fix = fmt.Sprintf("%s has a burst and no rate", direction), "give a rate in bits per second too, or leave out the burst"
	case rate < minRate:
		p.Reason, p.Fix = fmt.Sprintf("a rate of %d bit/s would let nothing through in practice", rate), fmt.Sprintf("bits per second, at least %d", minRate)
	case rate > maxRate:
		p.Reason, p.Fix = fmt.Sprintf("a rate of %d bit/s is no limit to anything", rate), fmt.Sprintf("bits per second, at most %d", uint64(maxRate))
	case burst > maxBurst:
		p.Path, p.Reason = "bandwidth."+direction+"Burst", fmt.Sprintf("a burst of %d bits is more than the kernel can count", burst)
		p.Fix, p.Example = fmt.Sprintf("bits, at most %d (4 GiB)", uint64(maxBurst)), ""
	default:
		return nil
	}
	return Problems{p}
}
