package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/internal/lab/probe"
	"github.com/flatnet/flatnet/internal/model"
)

// Pair is a workload that asks, and one that should answer.
type Pair struct {
	From, To string
	Err      error // why it does not; nil: it answers
}

// Pairs asks, in both directions, from every workload to every other: by ICMP, and by TCP, where the answer says which
// address the asker was seen with: it must be its own. The pairs of one host are among them.
func (l *Lab) Pairs(ctx context.Context) ([]Pair, error) {
	workloads := l.Workloads()
	addresses := map[string]netip.Addr{}
	for _, w := range workloads {
		a, err := w.Address(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.host.Name, w.host.told(err))
		}
		addresses[w.Name] = a
	}
	answers := make(chan Pair)
	pairs := 0
	for _, from := range workloads {
		for _, to := range workloads {
			if from.Name == to.Name {
				continue
			}
			pairs++
			go func() {
				answers <- Pair{from.Name, to.Name, from.ask(addresses[from.Name], addresses[to.Name])}
			}()
		}
	}
	all := make([]Pair, pairs)
	for i := range all {
		all[i] = <-answers
	}
	slices.SortFunc(all, func(a, b Pair) int { return strings.Compare(a.From+" "+a.To, b.From+" "+b.To) })
	return all, nil
}

// ask is one pair's question.
func (w *Workload) ask(own, to netip.Addr) error {
	return netns.Do(w.Netns(), func() error {
		if err := probe.Ping(to); err != nil {
			return fmt.Errorf("icmp: %w", err)
		}
		seen, err := probe.Fetch(netip.AddrPortFrom(to, servedPort))
		if err != nil {
			return fmt.Errorf("tcp: %w", err)
		}
		if seen != own {
			return fmt.Errorf("%s was seen as %s", own, seen)
		}
		return nil
	})
}

// Deaf are the pairs that don't answer.
func Deaf(pairs []Pair) []Pair {
	return slices.DeleteFunc(slices.Clone(pairs), func(p Pair) bool { return p.Err == nil })
}

// Answer waits until all pairs answer, and returns how many there are. A Problem lists those that don't. Where hosts are left
// alone there are none.
func (l *Lab) Answer(ctx context.Context) (pairs int, err error) {
	if l.BackendName() == None {
		return 0, nil
	}
	var all, deaf []Pair
	late := eventually(ctx, "all pairs answer", func() bool {
		if all, err = l.Pairs(ctx); err != nil {
			return false
		}
		deaf = Deaf(all)
		return len(deaf) == 0
	})
	if late == nil {
		return len(all), nil
	}
	if err != nil {
		return 0, err
	}
	var lines []string
	for _, p := range deaf {
		lines = append(lines, fmt.Sprintf("%s → %s: %v", p.From, p.To, p.Err))
	}
	return len(all), model.Problem{Code: codeDeaf, Reason: fmt.Sprintf("%d of %d directed pairs do not answer", len(deaf), len(all)),
		Owner: strings.Join(lines, "\n  ")}
}

// answer is Answer, told.
func (l *Lab) answer(ctx context.Context) error {
	since := time.Now()
	pairs, err := l.Answer(ctx)
	if err != nil {
		return err
	}
	l.tell("  %-72s ok %s", fmt.Sprintf("%s  all %d directed pairs answer", l.overlay(ctx), pairs), ran(since))
	return nil
}

// count tells how many pairs do not answer, where some need not.
func (l *Lab) count(ctx context.Context) error {
	pairs, err := l.Pairs(ctx)
	if err == nil {
		l.tell("  %s  %d of %d directed pairs do not answer", l.overlay(ctx), len(Deaf(pairs)), len(pairs))
	}
	return err
}

// overlay is the backend in a few words.
func (l *Lab) overlay(ctx context.Context) string {
	if l.BackendName() == Static {
		return "routes by hand"
	}
	about := "overlay " + l.BackendName()
	if l.BackendName() != "vxlan" {
		return about
	}
	tunnels, _ := l.hosts[0].tunnels(ctx)
	for _, t := range tunnels {
		about += fmt.Sprintf(" (vni %d, udp %d, mtu %d)", t.LinkInfo.Data.ID, t.LinkInfo.Data.Port, t.MTU)
	}
	return about
}
