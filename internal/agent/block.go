package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/flatnet/flatnet/internal/ipam"
	"github.com/flatnet/flatnet/internal/model"
)

// usedOf counts what is in use of a block of this host's own.
func (a *Agent) usedOf(network string, block netip.Prefix) ipam.HeldBlock {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.state.view.Networks[network].At([]netip.Prefix{block})
	h := ipam.HeldBlock{Block: block, Size: ipam.Size(n.Subnets[0])}
	for addr := range a.state.used[network] {
		if block.Contains(addr) {
			h.Used++
		}
	}
	if h.Used > 0 {
		delete(a.emptied, block)
		return h
	}
	if a.emptied == nil {
		a.emptied = map[netip.Prefix]time.Time{}
	}
	if _, known := a.emptied[block]; !known {
		a.emptied[block] = a.deps.Now()
	}
	h.Empty = a.deps.Now().Sub(a.emptied[block])
	return h
}

// here are the addresses that workloads have on a network.
func (a *Agent) here(network string) []netip.Addr {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return slices.Collect(maps.Keys(a.state.used[network]))
}

// grow waits for one block more of the cluster networks that a request for a workload found full, and reports whether it should be tried
// again. The caller has the token, which is given back meanwhile.
func (a *Agent) grow(ctx context.Context, err error, w model.Workload) bool {
	var ps model.Problems
	var p model.Problem
	full := errors.As(err, &p) && lacksBlock(p) ||
		errors.As(err, &ps) && slices.ContainsFunc(ps, lacksBlock)
	m := a.fabric
	if !full || m == nil {
		return false
	}
	found := map[string][]netip.Prefix{} // before the token is given back: what comes in between is what was waited for
	for _, e := range w.Endpoints {
		if blocks, cluster := a.blocksOf(e.Network); cluster {
			found[e.Network] = blocks
		}
	}
	grown := false
	_ = a.away(func() error {
		ctx, cancel := context.WithTimeout(ctx, growTime)
		defer cancel()
		for network, blocks := range found {
			grown = a.growNetwork(ctx, m, network, blocks) || grown
		}
		return nil
	})
	return grown
}

// lacksBlock knows the problems that one block more would solve.
func lacksBlock(p model.Problem) bool {
	return p.Code == model.CodeExhausted || p.Code == model.CodeNoBlock
}

// allocateBlock finds an address of each family that a cluster network has, in whichever of the host's blocks one is free.
func (a *Agent) allocateBlock(workload string, n model.Network, e *model.Endpoint) error {
	for _, v6 := range []bool{false, true} {
		pools := slices.ContainsFunc(n.Cluster.Pools, func(p model.BlockPool) bool { return p.Prefix.Addr().Is6() == v6 })
		if !pools || slices.ContainsFunc(e.Addrs, func(addr netip.Addr) bool { return addr.Is6() == v6 }) {
			continue
		}
		var err error = a.noBlock(n.Name)
		for _, s := range n.Subnets {
			if s.Prefix.Addr().Is6() != v6 {
				continue
			}
			var addr netip.Addr
			if addr, err = a.freeAddr(*e, s, workload); err == nil {
				e.Addrs = append(e.Addrs, addr)
				break
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) noBlock(network string) error {
	p := model.Problem{Code: model.CodeNoBlock, Reason: fmt.Sprintf("this host holds no block of network %q yet", network), Fix: "it asks for one as long as it has none; `flatnet net inspect` says how that goes"}
	if a.fabric != nil {
		if why := a.fabric.Why(network); why != "" {
			p.Owner = why
		}
	}
	return p
}

// growNetwork waits until a block more than those found full is there to be used.
func (a *Agent) growNetwork(ctx context.Context, m *member, network string, full []netip.Prefix) bool {
	if m.Grow(ctx, network, full) != nil {
		return false
	}
	held := m.Last().Blocks(network)
	for {
		if blocks, cluster := a.blocksOf(network); !cluster {
			return false
		} else if !slices.ContainsFunc(held, func(b netip.Prefix) bool { return !slices.Contains(blocks, b) }) {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(time.Millisecond):
		}
	}
}

// blocksOf are the blocks of an active network of the cluster that are in use on this host.
func (a *Agent) blocksOf(network string) (blocks []netip.Prefix, cluster bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	n := a.state.view.Networks[network]
	for _, s := range n.Subnets {
		blocks = append(blocks, s.Prefix)
	}
	return blocks, n.Mode == model.Cluster && n.Active
}

// growTime is how long a request waits for a block more.
const growTime = 5 * time.Second

// used tells the cluster's part that addresses came into use or went out of it.
func (a *Agent) used() {
	a.mu.RLock()
	m, uses := a.fabric, a.state.uses()
	said := m != nil && m.uses == uses
	a.mu.RUnlock()
	if m == nil {
		return
	}
	m.Used()
	if !said {
		m.Described()
	}
}
