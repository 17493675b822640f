package agent

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/checkup"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
)

// past remembers the host's default routes, so that doctor can say what there was before somebody changed them.
type past struct {
	mu    sync.Mutex
	known bool
	facts []model.HostRoute // what the node told, when it was looked at
	now   [2]*checkup.Past  // of IPv4 and IPv6; nil: none
	was   [2]checkup.Past
	moved []span // when this host was leaving or entering a cluster
	by    string // who changed rules of ours last, as nft[4711]
}

// span is a time in which the kernel takes along what hangs on what we remove: nobody else did that.
type span struct{ from, to time.Time }

// moving notes that this host enters or leaves a cluster, until done is called and the kernel's messages have come.
func (p *past) moving(now func() time.Time) (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	began := now()
	p.moved = slices.DeleteFunc(p.moved, func(s span) bool { return began.Sub(s.to) > putBackFor })
	at := len(p.moved)
	p.moved = append(p.moved, span{began, began.Add(opTimeout)})
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if at < len(p.moved) && p.moved[at].from.Equal(began) {
			p.moved[at].to = now().Add(settleTime)
		}
	}
}

// settleTime is in which the drift that our own removing leaves has been seen.
const settleTime = 5 * time.Second

// ours reports whether what was mended at a time may be of our own leaving or entering.
func (p *past) ours(at time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.moved, func(s span) bool { return !at.Before(s.from) && at.Before(s.to) })
}

// blame notes who changed what is flatnet's; the kernel tells of rules only.
func (p *past) blame(by string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if by != "" {
		p.by = by
	}
}

func (p *past) blamed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.by
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

// note takes the default routes as they are now, and the addresses of links.
func (p *past) note(all []kernel.DefaultRoute, addrs map[string][]netip.Prefix, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.now {
		var now *checkup.Past
		if best := bestDefault(all, i == 1); best != nil {
			now = &checkup.Past{Route: *best, Addrs: ofFamily(addrs[best.Hops[0].Link], i == 1)}
		}
		old := p.now[i]
		same := old != nil && now != nil && sameDefault(old.Route, now.Route)
		switch {
		case now != nil && sameDefault(p.was[i].Route, now.Route):
			p.was[i] = checkup.Past{} // it came back
		case old != nil && !same:
			p.was[i] = checkup.Past{Route: old.Route, Addrs: old.Addrs, Until: at}
		}
		if same && len(now.Addrs) == 0 {
			now.Addrs = old.Addrs // they go before the route
		}
		p.now[i] = now
	}
}

// ofFamily are the global addresses of a family.
func ofFamily(all []netip.Prefix, v6 bool) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(all), func(p netip.Prefix) bool { return p.Addr().Is6() != v6 || p.Addr().IsLinkLocalUnicast() })
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
	addrs := map[string][]netip.Prefix{}
	for _, l := range node.Links {
		addrs[l.Name] = l.Addrs
	}
	a.past.note(all, addrs, a.deps.Now())
}

// eventRepaired is the type of events that tell of drift undone.
const eventRepaired = "repaired"

// putBackFor is how long doctor tells of repairs; events have older ones.
const putBackFor = 15 * time.Minute

// putBack is a step that was carried out once or more to undo what somebody did.
type putBack struct {
	step  string
	last  time.Time
	place int // among those of the last time
	moments
}

// moments are seconds, ascending: what was put back within one was changed at once.
type moments []time.Time

// putBacks are the lately repaired steps on the host, those that were last come first. What differs now was not put back.
func (a *Agent) putBacks(differs []reconcile.Change) []*putBack {
	var list []*putBack
	still := map[string]bool{}
	for _, c := range differs {
		for _, s := range c.Plan {
			still[s.String()] = true
		}
	}
	known := map[string]*putBack{}
	recent, _, _ := a.events.after(a.events.since(a.deps.Now().Add(-putBackFor)))
	for _, ev := range recent {
		if a.past.ours(ev.Time) {
			continue
		}
		for i, s := range ev.Steps {
			if ev.Type != eventRepaired || s.Netns != dataplane.HostNetns || still[s.Text] {
				continue
			}
			if known[s.Text] == nil {
				known[s.Text] = &putBack{step: s.Text}
				list = append(list, known[s.Text])
			}
			known[s.Text].add(ev.Time.Truncate(time.Second))
			known[s.Text].last, known[s.Text].place = ev.Time, i
		}
	}
	slices.SortStableFunc(list, func(a, b *putBack) int { return cmp.Or(b.last.Compare(a.last), a.place-b.place) })
	return list
}

// putBackFindings are what somebody changed of flatnet's lately, and was put back at once: who does it will do it again. Switching
// the host's forwarding switches that of its links.
func (a *Agent) putBackFindings(differs []reconcile.Change) []api.Finding {
	var list []api.Finding
	var switches, files, rest []string
	var hosts, all moments
	back := a.putBacks(differs)
	for _, r := range back {
		if name, ok := forwardSwitch(r.step); ok {
			switches = append(switches, strings.ReplaceAll(name, "/", "."))
			if text := checkup.SettingText(sysctlSettings("/"), name); text != "" {
				files = append(files, text)
			}
			hosts.add(r.moments...)
		}
	}
	for _, r := range back {
		if _, ok := forwardSwitch(r.step); !ok && (len(switches) == 0 || !strings.Contains(r.step, "/forwarding=")) {
			rest = append(rest, r.step)
			all.add(r.moments...)
		}
	}
	now := a.deps.Now()
	if len(switches) > 0 {
		verb := "was"
		if len(switches) > 1 {
			verb = "were"
		}
		list = append(list, api.Finding{Code: FindingForwarding, Level: levelNote, Owner: strings.Join(files, "\n"),
			What: fmt.Sprintf("%s %s set to another value %s, and set back at once", strings.Join(switches, " and "), verb, often(hosts, now))})
	}
	if len(rest) == 0 {
		return list
	}
	found := api.Finding{Code: FindingPutBack, Level: levelNote, What: fmt.Sprintf("somebody changed what is flatnet's %s, and it was put back at once: %s", often(all, now), fewOf(rest))}
	if by := a.past.blamed(); by != "" {
		found.Owner = "rules were last changed by " + by
	}
	return append(list, found)
}

func (m *moments) add(at ...time.Time) {
	all := append(*m, at...)
	slices.SortFunc(all, time.Time.Compare)
	*m = slices.CompactFunc(all, time.Time.Equal)
}

// fewOf is the beginning of a list that `flatnet events` has in full.
func fewOf(lines []string) string {
	const most = 3
	if len(lines) <= most {
		return strings.Join(lines, "; ")
	}
	return fmt.Sprintf("%s; and %d more, see flatnet events", strings.Join(lines[:most], "; "), len(lines)-most)
}

// often says how often and when last.
func often(m moments, now time.Time) string {
	last := m[len(m)-1]
	at := last.UTC().Format(time.TimeOnly) + " UTC, " + ago(now.Sub(last))
	if len(m) == 1 {
		return "at " + at
	}
	return fmt.Sprintf("%d times in the last %d minutes, last at %s", len(m), int(putBackFor.Minutes()), at)
}

func ago(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	}
	return fmt.Sprintf("%d min ago", int(d.Minutes()))
}
