package agent

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/checkup"
	"github.com/flatnet/flatnet/internal/agent/fabric"
	"github.com/flatnet/flatnet/internal/agent/membership"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/render"
)

// sameLife reports whether two pictures have the same nodes, alive or not; it costs nothing.
func sameLife(p, o fabric.Picture) bool {
	pointer := func(m any) uintptr { return reflect.ValueOf(m).Pointer() }
	return p.Live == o.Live && pointer(p.Alive) == pointer(o.Alive) && pointer(p.Members) == pointer(o.Members)
}

// noteSilent remembers since when nodes are silent. While the store is away nothing is known of that. The caller holds Agent.mu.
func (a *Agent) noteSilent(m *member, p fabric.Picture) {
	if !p.Live || sameLife(p, m.seen) {
		return
	}
	silent := map[string]time.Time{}
	for id := range p.Members {
		if id == p.Self || p.Alive[id] {
			continue
		}
		since, known := m.silent[id]
		if _, there := m.seen.Members[id]; !known && (m.seen.Alive[id] || there && m.seen.Live) {
			since = a.deps.Now()
		}
		silent[id] = since
	}
	m.silent = silent
}

// mostSilent is how many nodes that fell silent or spoke again at one moment are told of one by one: else it is the store, or a switch.
const mostSilent = 10

// tellSilent tells of nodes that give no sign of life any more, and of those that do again.
func (a *Agent) tellSilent(was, p fabric.Picture) {
	if !was.Live || !p.Live || sameLife(was, p) {
		return
	}
	var fell, spoke []string
	for id, m := range p.Members {
		if _, before := was.Members[id]; !before || id == p.Self || was.Alive[id] == p.Alive[id] {
			continue
		}
		if p.Alive[id] {
			spoke = append(spoke, m.Name)
		} else {
			fell = append(fell, m.Name)
		}
	}
	a.tellEach("silent", "no sign of life for half a minute", fell)
	a.tellEach("alive", "alive", spoke)
}

func (a *Agent) tellEach(typ, text string, names []string) {
	slices.Sort(names)
	if len(names) > mostSilent {
		a.event(typ, "node", fmt.Sprintf("%d hosts: %s", len(names), text))
		return
	}
	for _, name := range names {
		a.event(typ, "host/"+printable(name), text)
	}
}

// silentNodes are those without a sign of life, for the doctor. The caller holds Agent.mu.
func (a *Agent) silentNodes() []checkup.Silent {
	var list []checkup.Silent
	for _, id := range slices.Sorted(maps.Keys(a.fabric.silent)) {
		list = append(list, checkup.Silent{Node: printable(nodeName(a.state.view, id)), Since: a.fabric.silent[id]})
	}
	return list
}

// hosts are the cluster's, with what this host knows of how they are reached.
func (a *Agent) hosts(ctx context.Context, p *membership.Membership) ([]api.Host, error) {
	list, err := p.Hosts(ctx)
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.fabric == nil {
		return list, err
	}
	for i, h := range list {
		if h.Problem != "" {
			continue
		}
		since, silent := a.fabric.silent[h.ID]
		switch {
		case h.Self && a.fabric.seen.Twin:
			list[i].Problem = "another machine says that it is this host (" + checkup.CodeTwin + ")"
		case silent && h.State == "silent":
			list[i].Problem = checkup.SinceText(since)
		default:
			list[i].Problem = a.noWayTo(h.ID)
		}
	}
	return list, err
}

// noWayTo says why no network leads to a node, when there are some and none does. The caller holds Agent.mu.
func (a *Agent) noWayTo(id string) string {
	why := ""
	for _, name := range slices.Sorted(maps.Keys(a.state.view.Networks)) {
		n := a.state.view.Networks[name]
		if n.Mode != model.Cluster || !n.Active || !n.Cluster.On(a.state.view.Members[id]) {
			continue
		}
		refused := a.state.refused[render.PeerPart(name, id)]
		if refused == "" {
			return ""
		}
		if why == "" {
			why = "network " + name + ": " + refused
		}
	}
	return why
}

// clusterHealth is this host's cluster at a glance; nil when it is in none. The caller holds Agent.mu.
func (a *Agent) clusterHealth() *api.ClusterHealth {
	if a.fabric == nil {
		return nil
	}
	seen := a.fabric.seen
	h := &api.ClusterHealth{Hosts: len(seen.Members), Live: seen.Live, Twin: seen.Twin}
	if a.place != nil {
		h.Name = a.place.Cluster()
	}
	for id := range seen.Members {
		if seen.Alive[id] {
			h.Alive++
		}
	}
	if !seen.Live && !a.fabric.away.IsZero() {
		away := a.fabric.away.UTC()
		h.Away = &away
	}
	return h
}
