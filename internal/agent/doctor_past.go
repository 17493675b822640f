package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/checkup"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/model"
)

// past remembers the host's default routes, so that doctor can say what there was before somebody changed them.
type past struct {
	mu    sync.Mutex
	known bool
	facts []model.HostRoute       // what the node told, when it was looked at
	now   [2]*kernel.DefaultRoute // of IPv4 and IPv6; nil: none
	was   [2]checkup.Past
}

func (p *past) before() [2]checkup.Past {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.was
}

// changed reports whether the node's default routes are others than those looked at last.
func (p *past) changed(node model.Node) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	facts := slices.DeleteFunc(slices.Clone(node.Routes), func(r model.HostRoute) bool { return r.Dest.Bits() != 0 })
	same := p.known && slices.Equal(facts, p.facts)
	p.known, p.facts = true, facts
	return !same
}

// note takes the default routes as they are now.
func (p *past) note(all []kernel.DefaultRoute, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.now {
		best := bestDefault(all, i == 1)
		if old := p.now[i]; old != nil && (best == nil || !sameDefault(*old, *best)) {
			p.was[i] = checkup.Past{Route: *old, Until: at}
		}
		if best != nil && sameDefault(p.was[i].Route, *best) {
			p.was[i] = checkup.Past{} // it came back
		}
		p.now[i] = best
	}
}

func bestDefault(all []kernel.DefaultRoute, v6 bool) *kernel.DefaultRoute {
	var best *kernel.DefaultRoute
	for _, d := range all {
		if d.V6 == v6 && (best == nil || d.Metric < best.Metric) {
			best = &d
		}
	}
	return best
}

func sameDefault(a, b kernel.DefaultRoute) bool {
	return a.V6 == b.V6 && a.Metric == b.Metric && slices.Equal(a.Hops, b.Hops)
}

// notePast looks at the default routes again when the facts of the host say that they may be others.
func (a *Agent) notePast(ctx context.Context, node model.Node) {
	if a.deps.Surveyor == nil || !a.past.changed(node) {
		return
	}
	all, err := a.deps.Surveyor.DefaultRoutes(ctx)
	if err != nil {
		a.deps.Log.Warn("read the default routes", "err", err)
		return
	}
	a.past.note(all, a.deps.Now())
}

// eventRepaired is the type of events that tell of drift undone.
const eventRepaired = "repaired"

// putBackFor is how long doctor tells of repairs.
const putBackFor = time.Hour

// putBackFindings are what somebody changed of flatnet's lately, and was put back at once: who does it will do it again.
func (a *Agent) putBackFindings() []api.Finding {
	type repair struct {
		times int
		last  time.Time
	}
	repairs := map[string]*repair{}
	var order []string
	recent, _, _ := a.events.after(a.events.since(a.deps.Now().Add(-putBackFor)))
	for _, ev := range recent {
		if ev.Type != eventRepaired {
			continue
		}
		for _, s := range ev.Steps {
			if s.Netns != "" {
				continue
			}
			if repairs[s.Text] == nil {
				repairs[s.Text] = &repair{}
				order = append(order, s.Text)
			}
			repairs[s.Text].times++
			repairs[s.Text].last = ev.Time
		}
	}
	var list []api.Finding
	var rest []string
	last, most := time.Time{}, 0
	for _, step := range order {
		r := repairs[step]
		if name, ok := forwardSwitch(step); ok {
			list = append(list, api.Finding{Code: FindingForwarding, Level: levelNote, Owner: checkup.SettingText(sysctlSettings("/"), name),
				What: fmt.Sprintf("%s was set to another value %s, and set back at once", strings.ReplaceAll(name, "/", "."), often(r.times, r.last))})
			continue
		}
		rest = append(rest, step)
		most = max(most, r.times)
		if r.last.After(last) {
			last = r.last
		}
	}
	if len(rest) > 0 {
		list = append(list, api.Finding{Code: FindingPutBack, Level: levelNote, What: fmt.Sprintf("somebody changed what is flatnet's %s, and it was put back at once: %s", often(most, last), listed(rest))})
	}
	return list
}

func often(times int, last time.Time) string {
	at := last.UTC().Format(time.TimeOnly) + " UTC"
	if times == 1 {
		return "at " + at
	}
	return fmt.Sprintf("%d times in the last hour, last at %s", times, at)
}
