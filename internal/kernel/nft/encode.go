package nft

import (
	"fmt"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/nfnl"
)

// Encode returns what Apply sends for a plan when it has nothing to read, and the number of the message that is acknowledged. The ruleset
// must hold have of ours. It is for measuring what the kernel takes for it by itself.
func Encode(plan dataplane.Plan, have dataplane.State) (b []byte, acknowledged uint32, err error) {
	seen := &snapshot{chains: chainRules{}}
	for _, o := range have {
		if r, ok := o.(dataplane.Rule); ok {
			seen.chains.put(r.Pos, r)
		}
	}
	tx := compile(nftSteps(plan), seen)
	if tx.err != nil {
		return nil, 0, fmt.Errorf("nft: %w", tx.err)
	}
	return nfnl.Bytes(&tx.Batch), uint32(tx.Len() + 1), nil
}
