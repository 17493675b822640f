package reach

import (
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/flatnet/flatnet/test/reach/prober"
)

// How long to wait for an answer that must come, and for one that must not. What comes later than that is still noticed,
// as targets tell in the end what they saw; but of TCP they see only what was connected in time.
const (
	patience   = 30 * time.Second
	silence    = 250 * time.Millisecond
	silenceTCP = 1500 * time.Millisecond // longer than it takes the kernel to send a SYN again
)

// trial is a probe with what is expected of it.
type trial struct {
	cell       string // of the specification
	from       *actor
	kind       prober.Kind
	to         netip.Addr
	port       uint16
	fromPort   uint16
	by         *actor       // who must receive it; nil: nobody may, or
	never      *actor       // only this one may not: of what is for everybody
	refused    bool         // with never: the kernel of the machine addressed must say that nobody listens there
	unanswered bool         // with by: it arrives, and no answer comes back
	source     []netip.Addr // one of which the receiver must see; empty: any
	atPort     uint16       // at which it must arrive; 0: any
}

func (tr trial) String() string {
	want := "nothing arrives"
	if tr.never != nil {
		want = "nothing arrives at " + tr.never.Name
		if tr.refused {
			want += ", and it is refused"
		}
	}
	if tr.by != nil {
		want = "it reaches " + tr.by.Name
		if tr.unanswered {
			want += " unanswered"
		}
		if len(tr.source) > 0 {
			want += fmt.Sprintf(" from %v", tr.source)
		}
	}
	port := ""
	if tr.port != 0 {
		port = fmt.Sprintf(" port %d", tr.port)
	}
	return fmt.Sprintf("[%s] %s %s → %s%s: want %s", tr.cell, tr.kind, tr.from.Name, tr.to, port, want)
}

// wait is how long to wait for what becomes of the trial; patience for what must come.
func (tr trial) wait(patience time.Duration) time.Duration {
	switch {
	case tr.unanswered:
		return 4 * silence // time to look for the neighbour
	case tr.by != nil, tr.refused:
		return patience
	case tr.kind == prober.TCP:
		return silenceTCP
	}
	return silence
}

// every makes a trial of each kind.
func every(tr trial) []trial {
	var all []trial
	for _, kind := range prober.Kinds {
		tr.kind = kind
		all = append(all, tr)
	}
	return all
}

// report is what became of all trials.
type report struct {
	results map[uint32]prober.Result
	seen    map[uint32][]sighting
}

type sighting struct {
	by *actor
	prober.Seen
}

// try carries all trials out, every actor at once, and fails for those that end otherwise than expected.
func (l *lab) try(trials []trial) {
	l.Helper()
	begin := time.Now()
	wrong := l.failures(trials)
	l.Logf("%d probes in %.1f s", len(trials), time.Since(begin).Seconds())
	l.alive()
	if len(wrong) == 0 {
		return
	}
	var lines []string
	senders := map[string]bool{}
	for _, w := range wrong {
		lines = append(lines, w.why)
		senders[w.from.Name] = true
	}
	sort.Strings(lines)
	l.Errorf("%d of %d probes ended otherwise than the specification says; all of them with dumps are in %s\n%s", len(wrong), len(trials),
		l.dump(lines, sortedKeys(senders)...), strings.Join(digest(lines), "\n"))
}

// failure is a trial that ended otherwise than expected.
type failure struct {
	trial
	why string
}

func (l *lab) failures(trials []trial) []failure {
	l.Helper()
	tokens := make([]uint32, len(trials))
	probes := map[*actor][]prober.Probe{}
	for i, tr := range trials {
		l.token++
		tokens[i] = l.token
		probes[tr.from] = append(probes[tr.from], prober.Probe{Token: l.token, Kind: tr.kind, To: tr.to, Port: tr.port, FromPort: tr.fromPort, Wait: tr.wait(l.patience)})
	}
	r := l.carryOut(probes)
	var wrong []failure
	for i, tr := range trials {
		if why := r.judge(tr, tokens[i]); why != "" {
			wrong = append(wrong, failure{tr, fmt.Sprintf("%s: %s", tr, why)})
		}
	}
	return append(wrong, r.strays()...)
}

func sortedKeys(m map[string]bool) []string {
	var keys []string
	for k := range m {
		if k != "host" {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	return keys
}

// digest is the first three failures of each cell and kind, with how many more there are.
func digest(wrong []string) []string {
	var out []string
	count := map[string]int{}
	for _, w := range wrong {
		group := w[:strings.Index(w, "] ")+7]
		if count[group]++; count[group] <= 3 {
			out = append(out, w)
		}
	}
	for group, n := range count {
		if n > 3 {
			out = append(out, fmt.Sprintf("%s… and %d more", group, n-3))
		}
	}
	sort.Strings(out)
	return out
}

func (l *lab) carryOut(probes map[*actor][]prober.Probe) report {
	l.Helper()
	r := report{results: map[uint32]prober.Result{}, seen: map[uint32][]sighting{}}
	var mu sync.Mutex
	var all sync.WaitGroup
	for a, ps := range probes {
		all.Go(func() {
			results, err := a.agent.Probe(ps)
			if err != nil {
				l.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, res := range results {
				r.results[res.Token] = res
			}
		})
	}
	all.Wait()
	for _, a := range l.actors {
		seen, err := a.agent.Seen()
		if err != nil {
			l.Error(err)
		}
		for _, s := range seen {
			r.seen[s.Token] = append(r.seen[s.Token], sighting{a, s})
		}
	}
	return r
}

// strays are connections that were made, but too late for their probe.
func (r report) strays() []failure {
	var all []failure
	for _, s := range r.seen[0] {
		tr := trial{cell: "stray", from: s.by, kind: s.Kind, to: s.To}
		all = append(all, failure{tr, fmt.Sprintf("%s: connected from %s and then heard nothing", tr, s.From)})
	}
	return all
}

// judge says what is wrong with a trial's end; nothing when it is as expected.
func (r report) judge(tr trial, token uint32) string {
	res, seen := r.results[token], r.seen[token]
	if tr.never != nil {
		if tr.refused && res.Outcome != prober.Refused || res.Outcome == prober.Failed || slices.ContainsFunc(seen, func(s sighting) bool { return s.by == tr.never }) {
			return describe(res, seen)
		}
		return ""
	}
	if tr.by == nil {
		if res.Outcome == prober.Answered || res.Outcome == prober.Refused || res.Outcome == prober.Failed || len(seen) > 0 {
			return describe(res, seen)
		}
		return ""
	}
	want := prober.Answered
	if tr.unanswered {
		want = prober.Silence
	}
	ok := res.Outcome == want && len(seen) > 0
	for _, s := range seen {
		ok = ok && s.by == tr.by && (len(tr.source) == 0 || slices.Contains(tr.source, s.From)) && (tr.atPort == 0 || s.Port == tr.atPort)
	}
	if ok {
		return ""
	}
	return describe(res, seen)
}

func describe(res prober.Result, seen []sighting) string {
	s := fmt.Sprintf("%s %s", res.Outcome, res.Detail)
	for _, one := range seen {
		s += fmt.Sprintf("; %s saw it from %s to %s port %d", one.by.Name, one.From, one.To, one.Port)
	}
	return s
}

// alive proves that every agent still answers, so that silence was not that of a dead one.
func (l *lab) alive() {
	l.Helper()
	probes := map[*actor][]prober.Probe{}
	for _, a := range l.actors {
		for _, kind := range prober.Kinds {
			for _, lo := range addrs("127.0.0.1", "::1") {
				l.token++
				probes[a] = append(probes[a], prober.Probe{Token: l.token, Kind: kind, To: lo, Wait: l.patience})
			}
		}
	}
	r := l.carryOut(probes)
	for a, ps := range probes {
		for _, p := range ps {
			if res := r.results[p.Token]; res.Outcome != prober.Answered {
				l.Errorf("%s does not hear %s on %s: %s %s", a.Name, p.Kind, p.To, res.Outcome, res.Detail)
			}
		}
	}
}
