package checkup

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// CodePoolFull is a pool of a cluster's network that has hardly a block left.
const CodePoolFull = "FN5427"

// scarce is the part of a pool's blocks, one in so many, below which it is told that they come to an end.
const scarce = 10

// fullPools: a host may have as many blocks as its workloads need, and so one host may have taken those that the next ones would need. Where each
// host has one, a pool is as large as it was meant to be.
func fullPools(f Facts, n model.Network) []api.Finding {
	var list []api.Finding
	for _, p := range n.Cluster.Pools {
		held := map[string]int{}
		taken := uint64(0)
		for key, l := range f.View.Leases {
			if _, is := p.Index(key.Block); is && key.Network == n.Name {
				held[l.Node]++
				taken++
			}
		}
		for _, r := range n.Cluster.Reserved {
			if _, is := p.Index(r.Block); is && f.View.Leases[model.LeaseKey{Network: n.Name, Block: r.Block}] == (model.Lease{}) {
				taken++
			}
		}
		free := p.Count() - min(taken, p.Count())
		if free > p.Count()/scarce || p.Count() < scarce && free > 0 {
			continue
		}
		found := api.Finding{Code: CodePoolFull, Level: note, What: fmt.Sprintf("network %s: of the %d blocks of %s %d are left for hosts that join or need more", n.Name, p.Count(), p.Prefix, free),
			Owner: few(holders(f.View, held)), Fix: morePools(n)}
		if slices.ContainsFunc(slices.Collect(maps.Values(held)), func(blocks int) bool { return blocks > 1 }) {
			found.Level = warning
		}
		list = append(list, found)
	}
	return list
}

// holders are those who hold the most come first.
func holders(v model.View, held map[string]int) []string {
	ids := slices.SortedFunc(maps.Keys(held), func(a, b string) int {
		return cmp.Or(held[b]-held[a], cmp.Compare(v.Members[a].Name, v.Members[b].Name), cmp.Compare(a, b))
	})
	var lines []string
	for _, id := range ids {
		name := cmp.Or(v.Members[id].Name, id)
		lines = append(lines, fmt.Sprintf("%s holds %d", name, held[id]))
	}
	return lines
}

// morePools is the command that adds one to the pools of now.
func morePools(n model.Network) string {
	command := "on a server: flatnet net set " + n.Name
	for _, p := range n.Cluster.Pools {
		command += fmt.Sprintf(" --pool %s:%d", p.Prefix, p.Bits)
	}
	return command + " --pool ANOTHER"
}
