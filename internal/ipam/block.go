package ipam

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"time"

	"github.com/flatnet/flatnet/internal/model"
)

// BlockAsk is what decides which block a node should claim next.
type BlockAsk struct {
	Network  string
	Pools    []model.BlockPool       // of one family: a node holds blocks of each family by themselves
	Node     string                  // member ID
	Taken    func(netip.Prefix) bool // held by anybody, also by the node itself
	Reserved map[netip.Prefix]string // block → the node that alone may have it; "" for nobody
	Here     []netip.Prefix          // blocks that workloads of the node have addresses in, and that it does not hold
	Last     []netip.Prefix          // blocks that the node has held, the latest first
	Lost     int                     // races lost since the last success: how often others were faster
}

// NextBlock returns the block to claim: one that its workloads are in, else one reserved for the node, else one that it has held, else a free one of the
// pools in order. While others are not in the way that is the lowest; a node that has lost a race begins elsewhere, at a
// place that follows from its id, so that many nodes which start at once do not chase each other from block to block.
//
// The error is a *NoBlockError.
func NextBlock(ask BlockAsk) (netip.Prefix, error) {
	for _, b := range ask.former() {
		if ask.Free(b) {
			return b, nil
		}
	}
	for _, p := range ask.Pools {
		for b := range p.Blocks(ask.start(p)) {
			if ask.Free(b) {
				return b, nil
			}
		}
	}
	return netip.Prefix{}, &NoBlockError{Network: ask.Network, Pools: ask.Pools, Reserved: len(ask.Reserved)}
}

// former are the blocks that the node has a reason to come back to: those that its workloads have addresses in, its reservations, lowest first,
// and its last ones.
func (ask BlockAsk) former() []netip.Prefix {
	var own []netip.Prefix
	for b, node := range ask.Reserved {
		if node != "" && node == ask.Node {
			own = append(own, b)
		}
	}
	slices.SortFunc(own, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Concat(ask.Here, own, ask.Last)
}

// Free reports whether the node may claim a block.
func (ask BlockAsk) Free(b netip.Prefix) bool {
	if node, reserved := ask.Reserved[b]; reserved && (node == "" || node != ask.Node) {
		return false
	}
	inPool := slices.ContainsFunc(ask.Pools, func(p model.BlockPool) bool { _, ok := p.Index(b); return ok })
	return inPool && !ask.Taken(b)
}

// start is the number of the block to begin with.
func (ask BlockAsk) start(p model.BlockPool) uint64 {
	if ask.Lost == 0 || p.Count() == 0 {
		return 0
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s/%s/%d", ask.Network, ask.Node, ask.Lost)
	return h.Sum64() % p.Count()
}

// NoBlockError says that a network has no block left to claim.
type NoBlockError struct {
	Network  string
	Pools    []model.BlockPool
	Reserved int // blocks kept for certain nodes, or for nobody
}

func (e *NoBlockError) Error() string {
	s := fmt.Sprintf("network %q: no block is free", e.Network)
	for i, p := range e.Pools {
		word := ","
		if i == 0 {
			word = " in"
		}
		s += fmt.Sprintf("%s %s (%d of /%d)", word, p.Prefix, p.Count(), p.Bits)
	}
	if e.Reserved > 0 {
		s += fmt.Sprintf("; %d reserved", e.Reserved)
	}
	return s
}

// Problem says it to a person.
func (e *NoBlockError) Problem() model.Problem {
	return model.Problem{Code: model.CodeNoBlock, Reason: e.Error(), Fix: "take nodes out that never come back, add a pool, or make smaller blocks", Example: "flatnet host ls -o wide"}
}

// HeldBlock is a block of a node, and what is in use of it.
type HeldBlock struct {
	Block netip.Prefix
	Size  float64       // addresses that can be given: see Size
	Used  int           // of them
	Empty time.Duration // for how long none is in use; 0 while one is
}

// What is kept free: a node with less asks for another block before its workloads have to
// wait for the cluster, and gives one back only when it would not ask again at once.
const (
	leastSpare   = 4      // addresses, or all of a smaller block
	growBelow    = 1. / 8 // of a block's size
	releaseAbove = 1. / 2
)

// Grows reports whether a node should claim another block of a family. It has none, or little is free in those it has.
func Grows(held []HeldBlock) bool {
	return freeIn(held) < reserve(held, growBelow)
}

// Releases are the blocks that a node should give back: empty for at least rest, and not missed, as what is left has room
// for half a block more. A node always keeps one. The emptiest for the longest go first.
func Releases(held []HeldBlock, rest time.Duration) []netip.Prefix {
	left := slices.Clone(held)
	slices.SortStableFunc(left, func(a, b HeldBlock) int { return cmp.Compare(b.Empty, a.Empty) })
	var away []netip.Prefix
	for len(left) > 1 && left[0].Used == 0 && left[0].Empty >= rest {
		others := left[1:]
		if freeIn(others) < reserve(others, releaseAbove) {
			break
		}
		away = append(away, left[0].Block)
		left = others
	}
	return away
}

func freeIn(held []HeldBlock) float64 {
	free := 0.0
	for _, h := range held {
		free += h.Size - float64(h.Used)
	}
	return free
}

// reserve is how many addresses should be free: a share of the largest block, at least a few. With no blocks it is more
// than they can have.
func reserve(held []HeldBlock, share float64) float64 {
	largest := 0.0
	for _, h := range held {
		largest = max(largest, h.Size)
	}
	if largest == 0 {
		return 1
	}
	return max(largest*share, min(leastSpare, largest/2))
}
