package dataplane

import (
	"fmt"
	"math"
	"math/bits"
)

// Shaper holds back what leaves by a link of ours: the root qdisc of kind tbf, a bucket of Burst tokens that fills with Rate. What finds
// too few waits in a queue; what finds no room there is dropped.
type Shaper struct {
	Link  string // identity
	Rate  uint64 // bytes per second, more than 0
	Burst uint32 // bytes; of those that the kernel can keep, see NewShaper
	Queue uint32 // bytes; "limit" in tc's words
}

// NewShaper is a Shaper with the least burst not below that many bytes that the kernel tells as it was told: it counts the time that a burst
// takes at the rate, in ticks of 64 ns, of which there are 2³². A burst of more than those 274 s is cut.
func NewShaper(link string, rate, burst, queue uint64) Shaper {
	s := Shaper{Link: link, Rate: rate, Queue: uint32(min(queue, math.MaxUint32))}
	s.Burst = uint32(min(burst, math.MaxUint32))
	s.Burst = BurstOf(rate, s.Ticks())
	return s
}

// In a second, in which the bucket fills by Rate: the kernel's unit (PSCHED_SHIFT of net/pkt_sched.h; /proc/net/psched has it).
const (
	tickNanos   = 64
	secondNanos = 1_000_000_000
)

// Ticks is the time that Burst takes at Rate.
func (s Shaper) Ticks() uint32 {
	hi, lo := bits.Mul64(s.Rate, tickNanos)
	if s.Rate == 0 || hi > 0 {
		return 0
	}
	nanos := uint64(s.Burst) * secondNanos
	ticks := nanos / lo
	if nanos%lo > 0 {
		ticks++
	}
	return uint32(min(ticks, math.MaxUint32))
}

// BurstOf is the Burst, in bytes, of which the kernel tells that many ticks at a rate in bytes per second.
func BurstOf(rate uint64, ticks uint32) uint32 {
	hi, lo := bits.Mul64(rate, uint64(ticks)*tickNanos)
	if hi >= secondNanos {
		return math.MaxUint32
	}
	burst, _ := bits.Div64(hi, lo, secondNanos)
	return uint32(min(burst, math.MaxUint32))
}

// Key is the link's name: a link has one root qdisc.
func (s Shaper) Key() Key { return Shaper{Link: s.Link} }

func (s Shaper) kind() kind { return kindShaper }

func (s Shaper) String() string { return fmt.Sprintf("qdisc dev %s root %s", s.Link, s.params()) }

func (s Shaper) params() string {
	return fmt.Sprintf("tbf rate %dbit burst %d limit %d", s.Rate*8, s.Burst, s.Queue)
}

// Redirect has all that comes in by a link of ours leave by another before it is looked at further: a link of kind IFB, from which it comes
// back as if nothing had been, but held back by the Shaper there. The kernel has no queue for what comes in.
type Redirect struct {
	Link string // identity
	Via  string // of kind IFB
}

// Key is the link's name.
func (r Redirect) Key() Key { return Redirect{Link: r.Link} }

func (r Redirect) kind() kind { return kindRedirect }

func (r Redirect) String() string {
	return fmt.Sprintf("filter dev %s ingress redirect dev %s", r.Link, r.Via)
}

// ShaperHandle and RedirectPriority are our marks on a qdisc and on a filter. Others' on our links are left alone, but for the root qdisc of a
// link that has a Shaper.
const (
	ShaperHandle     = 157 // tc has it in hexadecimal: 9d:
	RedirectPriority = 157
)

func (s Shaper) command(op Op) string {
	if op == Del {
		return fmt.Sprintf("tc qdisc del dev %s root handle %x:", s.Link, ShaperHandle)
	}
	return fmt.Sprintf("tc qdisc replace dev %s root handle %x: %s", s.Link, ShaperHandle, s.params())
}

// commands of a redirect: one that leads elsewhere now is deleted and added.
func (r Redirect) commands(op Op) []string {
	del := fmt.Sprintf("tc filter del dev %s ingress protocol all pref %d", r.Link, RedirectPriority)
	add := fmt.Sprintf("tc filter add dev %s ingress protocol all pref %d u32 match u32 0 0 action mirred egress redirect dev %s",
		r.Link, RedirectPriority, r.Via)
	switch op {
	case Add:
		return []string{fmt.Sprintf("tc qdisc add dev %s clsact", r.Link), add}
	case Del:
		return []string{del}
	}
	return []string{del, add}
}
