package agent

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/flatnet/flatnet/api"
)

// look is what was found when kernel and rules were read.
type look struct {
	at       time.Time
	findings []api.Finding
}

// lookAge is how old a look may be for Status: who asks every second must not have the kernel read every second.
const lookAge = 30 * time.Second

// looks keeps the last look. One at a time looks; who asks meanwhile waits and has the same.
type looks struct {
	mu   sync.Mutex
	last look
}

// recent is the last look, or a new one when that is too old.
func (l *looks) recent(now time.Time, anew func() look) look {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last.at.IsZero() || now.Sub(l.last.at) > lookAge {
		l.last = anew()
	}
	return l.last
}

// note replaces the last look; by none when something was mended since.
func (l *looks) note(seen look) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = seen
}

// Status is the daemon's health at a glance: what it knows, and what the last look found that is more than a note.
func (a *Agent) Status(ctx context.Context) (api.Status, error) {
	seen := a.looks.recent(a.deps.Now(), func() look { return a.look(context.WithoutCancel(ctx), false) })
	findings := slices.DeleteFunc(slices.Concat(a.known(), seen.findings), func(f api.Finding) bool {
		return f.Level != levelWarning && f.Level != levelError
	})
	repairs := a.rec.Stats().Repairs
	a.mu.RLock()
	defer a.mu.RUnlock()
	v := a.state.view
	s := api.Status{
		Version: a.config.Version, Since: a.since.UTC(), Networks: len(v.Networks), Workloads: len(v.Workloads), Forwards: len(v.AllForwards()),
		Repairs: repairs, Looked: seen.at.UTC(), Findings: findings, Features: a.deps.Host.Features(),
	}
	s.Cluster = a.clusterHealth()
	if s.Findings == nil {
		s.Findings = []api.Finding{}
	}
	return s, nil
}
