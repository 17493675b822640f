package agent

import (
	"maps"
	"slices"

	"github.com/flatnet/flatnet/internal/model"
)

// straighten makes workloads fit their networks after a crash between the writing of a network and that of its workloads: what the edit
// of the network would have done to them is done now. Else it finds nothing to do. No edit of a cluster's network does anything to workloads:
// its subnets are the blocks that this host holds at the moment, and a workload has an address in one of them.
func (a *Agent) straighten() {
	for _, name := range slices.Sorted(maps.Keys(a.view().Networks)) {
		n := a.view().Networks[name]
		if n.Mode == model.Cluster {
			continue
		}
		c, err := a.changing(a.view(), n, n, consent{renumber: true, force: true})
		if err != nil {
			a.deps.Log.Error("make workloads fit their network", "network", name, "err", err)
		}
		if len(c.edit.workloads) == 0 {
			continue
		}
		a.state.apply(edit{workloads: c.edit.workloads})
		for w, now := range c.edit.workloads {
			a.straightened(w, *now)
		}
		a.event("changed", "network/"+name, "its workloads follow a change that was cut short: "+c.text())
	}
}

// straightened writes a workload down as one whose namespace is to be completed.
func (a *Agent) straightened(name string, w model.Workload) {
	w.Settling = true
	if err := a.deps.Journal.Put(w); err != nil {
		a.deps.Log.Warn("note that a workload follows its network", "workload", name, "err", err)
	}
	if !slices.Contains(a.unsettled, name) {
		a.unsettled = append(a.unsettled, name)
	}
}
