package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/fabric"
	"github.com/flatnet/flatnet/internal/model"
)

// The codes of what is wrong with what stands in the cluster's store, or with what hung on it.
const (
	FindingUnsound  = "FN5408" // something in the store cannot be used
	FindingStranded = "FN5409" // a workload's address is of a block that this host does not hold any more
)

// storedFindings are what of the cluster's store this host cannot use, and who is cut off as a block is not this host's any more. The
// caller holds Agent.mu.
func (a *Agent) storedFindings() []api.Finding {
	if a.fabric == nil {
		return nil
	}
	return slices.Concat(unsoundFindings(a.fabric.seen), a.strandedFindings())
}

// mostUnsound is how many things that cannot be used are told of: who writes nonsense may write much of it.
const mostUnsound = 20

func unsoundFindings(p fabric.Picture) []api.Finding {
	var list []api.Finding
	for _, what := range slices.Sorted(maps.Keys(p.Refused)) {
		if strings.HasPrefix(what, "node ") {
			continue // told by itself: it is not reached
		}
		if len(list) == mostUnsound {
			list = append(list, api.Finding{Code: FindingUnsound, Level: levelWarning, What: fmt.Sprintf("and %d more of the cluster's store", len(p.Refused)-mostUnsound)})
			break
		}
		list = append(list, api.Finding{Code: FindingUnsound, Level: levelWarning, What: fmt.Sprintf("in the cluster's store, not used: %s: %s", printable(what), printable(p.Refused[what]))})
	}
	return list
}

// printable is a text that may be anybody's, on one line of a terminal.
func printable(text string) string {
	const most = 300
	if len(text) > most {
		text = text[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

func (a *Agent) strandedFindings() []api.Finding {
	var list []api.Finding
	v := a.state.view
	for _, name := range slices.Sorted(maps.Keys(v.Workloads)) {
		for _, e := range v.Workloads[name].Endpoints {
			n := v.Networks[e.Network]
			if n.Mode != model.Cluster || !n.Active {
				continue
			}
			for _, addr := range e.Addrs {
				if _, ok := n.Subnet(addr); !ok {
					list = append(list, api.Finding{Code: FindingStranded, Level: levelError, Owner: a.blockOwner(n, addr),
						What: fmt.Sprintf("workload %q is at %s of network %q, which is in no block that this host may use now: other hosts do not reach it", name, addr, e.Network),
						Fix:  "run it again, and it gets another address; if the block is only overdue it is back when the cluster's store answers"})
				}
			}
		}
	}
	return list
}

// blockOwner says whose an address is by now.
func (a *Agent) blockOwner(n model.Network, addr netip.Addr) string {
	for key, l := range a.state.view.Leases {
		if key.Network == n.Name && key.Block.Contains(addr) {
			return fmt.Sprintf("node %s %s holds %s", a.state.view.Members[l.Node].Name, l.Node, key.Block)
		}
	}
	for key, is := range a.fabric.seen.Fenced {
		if key.Network == n.Name && key.Block.Contains(addr) {
			return fmt.Sprintf("block %s: %s", key.Block, is)
		}
	}
	return ""
}
