// Package ways asks whether packets get through between this host and others, by the very way that those of workloads take: encapsulated,
// with a checksum, and as large as they may be. It needs no privilege and nobody who listens: what is sent is to die there, and the other
// kernel says so (ICMP). Nothing is sent to a workload.
//
//	for _, a := range ways.Ask(ctx, []ways.Way{{Outer: peer, Self: own, Beyond: last, Gate: gateway, Block: block}}) {
//		fmt.Println(a.Inner.Answered, a.RTT, a.Large.Answered, a.Spoilt)
//	}
//
// Four kinds of datagrams are sent. One to an address beyond the other host, with one hop to live: it gets as far as a packet for a workload would,
// and the other host says that its time is over. That is before any rule about what is forwarded or comes in there. One like it, as large as the
// way takes. One to a closed port of the other host itself, which looks at the checksum before it says that nobody listens; if it says nothing, one
// without a checksum. And where the first is not answered, one outside of the tunnel.
//
// A kernel says such things to one address six times at once and then once a second (net.ipv4.icmp_ratelimit): silence counts only when something
// that was sent after it is answered, or a second later.
package ways

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// Way is what leads from this host to another one on one network.
type Way struct {
	Node    string       // of the other host
	Network string       //
	Outer   netip.Addr   // the other host on the underlay
	Self    netip.Addr   // this one there
	Beyond  netip.Addr   // an address of the other host's block that is not its own
	Gate    netip.Addr   // its own address there
	Block   netip.Prefix // that block
	Tunnel  bool         // a tunnel leads there
}

// Answer is what became of the packets by one way.
type Answer struct {
	Way
	Inner    Outcome       // of a small packet for what is beyond the other host
	RTT      time.Duration // of that, when it was answered
	Underlay Outcome       // of one outside of the tunnel; asked only when that within was not answered
	Size     int           // bytes of a large packet, as the way takes it
	Large    Outcome
	Fits     int  // bytes of the largest packet that was answered, when the large one was not; 0: not known
	Spoilt   bool // packets with a checksum are lost, those without one arrive
}

// Outcome is what became of a packet.
type Outcome struct {
	Answered bool
	Why      string // what is known of it when it was not: who said what; empty: silence
}

const (
	// once is how long an answer is waited for before the packet is sent again.
	once = 300 * time.Millisecond
	// refill is the time after which a kernel that has said too much says something again.
	refill = 1100 * time.Millisecond
	// atOnce is how many ways are asked at a time.
	atOnce = 32
)

// Ask tries all ways. Those that are well take a round trip or two, others up to three seconds.
func Ask(ctx context.Context, list []Way) []Answer {
	answers := make([]Answer, len(list))
	slots := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i, w := range list {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			answers[i] = w.ask(ctx)
		})
	}
	all.Wait()
	return answers
}

// Await returns when a small packet was answered by each of the ways, or ctx has ended.
func Await(ctx context.Context, list []Way) {
	const often = 30 * time.Millisecond
	var all sync.WaitGroup
	for _, w := range list {
		all.Go(func() {
			for ctx.Err() == nil {
				if o, _ := w.small().send(ctx, often); o.Answered {
					return
				}
				pause(ctx, often/3) // what was said at once is not said the same next time
			}
		})
	}
	all.Wait()
}

func (w Way) ask(ctx context.Context) Answer {
	a := Answer{Way: w}
	if a.Inner, a.RTT = w.small().send(ctx, once); !a.Inner.Answered {
		w.insist(ctx, &a)
	}
	if !a.Inner.Answered {
		return a
	}
	a.Underlay = Outcome{} // of no meaning: the other host's kernel was only out of words for a moment
	var both sync.WaitGroup
	both.Go(func() { w.askLarge(ctx, &a) })
	if w.Tunnel && w.Gate.Is4() {
		both.Go(func() { a.Spoilt = w.spoils(ctx) })
	}
	both.Wait()
	return a
}

// small is a packet for what is beyond.
func (w Way) small() packet {
	return packet{to: w.Beyond, hops: 1, theirs: func(a netip.Addr) bool { return a == w.Outer || w.Block.Contains(a) }}
}

// knock is a packet for the other host itself, to a port where nobody listens.
func (w Way) knock() packet {
	return packet{to: w.Gate, theirs: func(netip.Addr) bool { return true }}
}

// outside is one that takes no tunnel.
func (w Way) outside() packet {
	return packet{from: w.Self, to: w.Outer, theirs: func(netip.Addr) bool { return true }}
}

// insist asks again what was not answered, and what tells why.
func (w Way) insist(ctx context.Context, a *Answer) {
	bare := w.small()
	bare.unsummed = true
	var bareOutcome Outcome
	var all sync.WaitGroup
	all.Go(func() { a.Inner, a.RTT = w.small().again(ctx) })
	all.Go(func() { a.Underlay, _ = w.outside().again(ctx) })
	if w.Tunnel && w.Gate.Is4() {
		all.Go(func() { bareOutcome, _ = bare.again(ctx) })
	}
	all.Wait()
	if a.Inner.Answered || !bareOutcome.Answered && !a.Underlay.Answered {
		return
	}
	pause(ctx, refill) // what was answered may have been the last word for a second
	if a.Inner, a.RTT = w.small().send(ctx, once); a.Inner.Answered || !bareOutcome.Answered {
		return
	}
	bareOutcome, _ = bare.send(ctx, once)
	a.Spoilt = bareOutcome.Answered
}

// common are bytes of packets that other tunnels and access lines leave of 1500, less what a VXLAN over IPv6 takes.
var common = []int{1420, 1380, 1310, 1210, 508}

// askLarge sends the largest packet that the way takes, and when it gets lost smaller ones.
func (w Way) askLarge(ctx context.Context, a *Answer) {
	large := w.small()
	large.large = true
	for range 2 {
		a.Large, _ = large.send(ctx, once)
		if a.Size = large.sized(ctx); a.Large.Answered || a.Large.Why != "" {
			return
		}
	}
	const comparisons, agreed = 4, 2 // others may ask the other host meanwhile, and what its kernel can say then goes to them
	for seen, i := 0, 0; i < comparisons; i++ {
		pause(ctx, refill) // so that the large one comes first to what can be said again
		outcome, fits := w.compare(ctx, large, a.Size)
		if outcome.Answered {
			break
		}
		if fits > 0 {
			seen++
		}
		if a.Fits = max(a.Fits, fits); seen == agreed {
			a.Large = outcome
			return
		}
	}
	a.Large, a.Fits = Outcome{Answered: true}, 0 // or too little is answered, so nothing is known
}

// compare sends the large packet once more, and then smaller ones.
func (w Way) compare(ctx context.Context, large packet, size int) (o Outcome, fits int) {
	var all sync.WaitGroup
	all.Go(func() { o, _ = large.send(ctx, once) })
	pause(ctx, once/10)
	var mu sync.Mutex
	for _, bytes := range common {
		if bytes >= size {
			continue
		}
		pause(ctx, once/20) // the largest that passes comes first, should only one be answered
		smaller := w.small()
		smaller.size = bytes
		all.Go(func() {
			if got, _ := smaller.send(ctx, once); got.Answered {
				mu.Lock()
				fits = max(fits, bytes)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return o, fits
}

// spoils reports whether a checksum gets lost on the way.
func (w Way) spoils(ctx context.Context) bool {
	bare := w.knock()
	bare.unsummed = true
	for i := range 2 {
		if got, _ := w.knock().send(ctx, once); got.Answered {
			return false
		}
		if got, _ := bare.send(ctx, once); !got.Answered {
			return false // the other host lets nothing in: nothing is known
		}
		if i == 0 {
			pause(ctx, refill)
		}
	}
	return true
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
