package checkup

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// CodeNoContainers is why container runtimes get nothing of flatnet's networks.
const CodeNoContainers = "FN5430"

// Containers are what container runtimes want of this host, and have.
type Containers struct {
	Configs []Config
	Cut     []Container // those on networks that are not started
}

// Config is a CNI configuration that leads to this daemon.
type Config struct {
	Name    string        // its file; of one that lies elsewhere its name
	Refused []api.Problem // why an ADD by it would fail now
}

// Container is one that a runtime attached.
type Container struct{ Name, Network string }

// ContainerFindings tell of each reason for which containers get no network, once for all whom it concerns.
func ContainerFindings(c Containers) []api.Finding {
	var list []api.Finding
	who := map[string][]string{} // by reason
	for _, config := range c.Configs {
		for _, p := range config.Refused {
			if who[p.Reason] == nil {
				list = append(list, api.Finding{Code: CodeNoContainers, Level: warning, What: p.Reason, Fix: commandOf(p)})
			}
			if !slices.Contains(who[p.Reason], config.Name) {
				who[p.Reason] = append(who[p.Reason], config.Name)
			}
		}
	}
	for i, f := range list {
		list[i].What, list[i].Owner = "containers that start get no network: "+f.What, few(who[f.What])
	}
	return append(list, cutOff(c.Cut)...)
}

// commandOf is what to do about a problem: the command where it names one.
func commandOf(p api.Problem) string {
	if p.Code == model.CodeNotFound && p.Example == "" {
		return "make it: flatnet net create NAME; or name another in the configuration; " + cmp.Or(p.Fix, "flatnet net ls")
	}
	if p.Example == "" || p.Fix == "" {
		return cmp.Or(p.Example, p.Fix, "flatnet cni status says more")
	}
	return p.Fix + ": " + p.Example
}

// cutOff are the containers of networks that somebody stopped: they run, and reach nobody.
func cutOff(containers []Container) []api.Finding {
	on := map[string][]string{}
	for _, c := range containers {
		on[c.Network] = append(on[c.Network], c.Name)
	}
	var list []api.Finding
	for _, network := range slices.Sorted(maps.Keys(on)) {
		slices.Sort(on[network])
		list = append(list, api.Finding{Code: CodeNoContainers, Level: warning, What: fmt.Sprintf("containers are cut off: network %q is not started", network),
			Owner: few(on[network]), Fix: "flatnet net start " + network})
	}
	return list
}
