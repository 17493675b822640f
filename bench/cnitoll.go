package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// cniGoal is what an ADD or DEL of ours may cost.
type cniGoal struct {
	cpu   float64 // ms, of plugin and daemon
	times float64 // as fast as the rival, in the median and at the 99th percentile
}

// toll is what an ADD or DEL cost. What threads of the kernel did for it later is in none of these: nobody can tell whose
// it was.
type toll struct {
	wall    time.Duration
	exec    time.Duration // of it, from the start of each plugin until it ended
	plugins time.Duration // CPU of the plugins and all that they started
	daemon  time.Duration // CPU of flatnetd, until a while later
	own     time.Duration // CPU of this process: libcni, starting plugins; of the floor all
}

// verbs are the tolls of one way.
type verbs struct {
	by       string
	add, del []toll
	rival    string  // that it is compared with, if it is ours
	goal     cniGoal // if it is ours
}

// weigh measures do, which it runs in the contender's host namespace.
func weigh(ctx context.Context, c contender, do func(context.Context) error) (t toll, err error) {
	ctx = context.WithValue(ctx, inPlugins{}, &t.exec)
	var before, after bills
	if before, err = readBills(c); err != nil {
		return t, err
	}
	run := func() error {
		begin := time.Now()
		err := do(ctx)
		t.wall = time.Since(begin)
		return err
	}
	if chain, ok := c.(*chain); ok {
		err = within(chain.host(), run)
	} else {
		err = run()
	}
	if err != nil {
		return t, err
	}
	own, err := cpuOf(os.Getpid())
	if err != nil {
		return t, err
	}
	time.Sleep(settling)
	if after, err = readBills(c); err != nil {
		return t, err
	}
	t.plugins, t.daemon, t.own = after.plugins-before.plugins, after.daemon-before.daemon, own-before.own
	return t, nil
}

// bills is the CPU time used so far.
type bills struct{ plugins, daemon, own time.Duration }

func readBills(c contender) (b bills, err error) {
	var children unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &children); err != nil {
		return b, err
	}
	b.plugins = time.Duration(children.Utime.Nano() + children.Stime.Nano())
	for _, pid := range c.pids() {
		cpu, err := cpuOf(pid)
		if err != nil {
			return b, err
		}
		b.daemon += cpu
	}
	b.own, err = cpuOf(os.Getpid())
	return b, err
}

// cost is the CPU time that the goals speak of: all but libcni's, which is the same for every plugin; all of the floor.
func (t toll) cost() time.Duration {
	if t.plugins == 0 {
		return t.own
	}
	return t.plugins + t.daemon
}

func printTollHead() {
	fmt.Printf("%-8s %-26s %-4s %7s %8s %8s %7s %8s %8s %8s %7s %7s\n", "PRESENT", "BY", "VERB",
		"CPU ms", "PLUGINS", "DAEMON", "LIBCNI", "P50 ms", "P99 ms", "IN PLUG.", "P50 ×", "P99 ×")
}

// printTolls prints a line for each way and verb, and returns which goals were missed. The last columns are how many times
// faster flatnet is than its rival.
func printTolls(present int, all []verbs) (missed []string) {
	rivals := map[string]verbs{}
	for _, v := range all {
		rivals[v.by] = v
	}
	for _, verb := range []struct {
		name string
		of   func(verbs) []toll
	}{{"ADD", func(v verbs) []toll { return v.add }}, {"DEL", func(v verbs) []toll { return v.del }}} {
		for _, v := range all {
			line := sum(verb.of(v))
			fmt.Printf("%-8d %-26s %-4s %7.2f %8.2f %8.2f %7.2f %8.2f %8.2f %8.2f", present, v.by, verb.name,
				line.cpu, line.plugins, line.daemon, line.own, line.p50, line.p99, line.exec)
			if v.rival == "" {
				fmt.Println()
				continue
			}
			rival := sum(verb.of(rivals[v.rival]))
			fmt.Printf(" %7.1f %7.1f\n", rival.p50/line.p50, rival.p99/line.p99)
			for _, miss := range line.missed(v.goal, rival) {
				missed = append(missed, fmt.Sprintf("%d present, %s, %s: %s", present, v.by, verb.name, miss))
			}
		}
	}
	return missed
}

// tollLine is a line of the table, in ms: means of CPU, as a garbage collection belongs to all whom it served, and
// percentiles of time.
type tollLine struct {
	cpu, plugins, daemon, own, p50, p99, exec float64
}

func sum(tolls []toll) tollLine {
	mean := func(of func(toll) time.Duration) float64 {
		var sum time.Duration
		for _, t := range tolls {
			sum += of(t)
		}
		return millis(sum) / float64(len(tolls))
	}
	part := func(of func(toll) time.Duration, percent int) float64 {
		sorted := slices.SortedFunc(slices.Values(tolls), func(a, b toll) int { return cmp.Compare(of(a), of(b)) })
		return millis(of(sorted[len(sorted)*percent/100]))
	}
	wall := func(t toll) time.Duration { return t.wall }
	return tollLine{
		cpu: mean(toll.cost), plugins: mean(func(t toll) time.Duration { return t.plugins }), daemon: mean(func(t toll) time.Duration { return t.daemon }),
		own: mean(func(t toll) time.Duration { return t.own }), p50: part(wall, 50), p99: part(wall, 99),
		exec: part(func(t toll) time.Duration { return t.exec }, 50),
	}
}

// missed tells which parts of the goal the line does not reach.
func (l tollLine) missed(g cniGoal, rival tollLine) (missed []string) {
	if l.cpu > g.cpu {
		missed = append(missed, fmt.Sprintf("%.1f ms of CPU, the goal is %.1f", l.cpu, g.cpu))
	}
	if times := rival.p50 / l.p50; times < g.times {
		missed = append(missed, fmt.Sprintf("the median is %.1f times faster, the goal is %.1f", times, g.times))
	}
	if times := rival.p99 / l.p99; times < g.times {
		missed = append(missed, fmt.Sprintf("the 99th percentile is %.1f times faster, the goal is %.1f", times, g.times))
	}
	return missed
}

// goalTogether is how many ADD a second are to end, ten at a time, on two CPUs.
const goalTogether = 300

func printCrowdHead() {
	fmt.Printf("\n%-8s %-26s %8s %8s %8s %8s %10s %10s\n", "PRESENT", "BY", "AT ONCE", "ADD/S", "DEL/S", "FAILED", "CPU ms/ADD", "CPU ms/DEL")
}

func printCrowds(present, ways int, crowds []crowd) (missed []string) {
	for _, c := range crowds {
		fmt.Printf("%-8d %-26s %8d %8.0f %8.0f %8d %10.2f %10.2f\n", present, c.by, ways, c.adds, c.dels, c.failed, millis(c.add), millis(c.del))
		if !c.ours {
			continue
		}
		if ways == 10 && c.adds < goalTogether {
			missed = append(missed, fmt.Sprintf("%s, 10 at once: %.0f ADD a second, the goal is %d", c.by, c.adds, goalTogether))
		}
		if c.failed > 0 {
			missed = append(missed, fmt.Sprintf("%s, %d at once: %d failed", c.by, ways, c.failed))
		}
	}
	return missed
}

func printMissed(missed []string) {
	if len(missed) == 0 {
		fmt.Println("all goals are met")
	}
	for _, m := range missed {
		fmt.Println("goal missed:", m)
	}
}
