package lab

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/internal/model"
)

// Command is one that is carried out in a machine of the lab, in words of ip and nft.
type Command struct {
	Where string // a host, lan, or thisMachine
	Line  string // for a shell
}

// thisMachine is where the power of hosts is cut: their first processes are seen only there.
const thisMachine = "this machine"

// String is the command as it would be typed there: h1# ip link set eth0 mtu 1400.
func (c Command) String() string { return c.Where + "# " + c.Line }

// Broken is a fault that was made and has to be undone.
type Broken struct {
	Fault string
	Hosts []string
	Undo  []Command
}

// Fault is something that goes wrong.
type Fault struct {
	Name string
	Is   string // what is done
	See  string // what one should then see
	Hint string // a command that shows it: HOST is the broken one, WORKLOAD one on it, ELSEWHERE another host, OTHER a workload there

	plan  func(ctx context.Context, l *Lab, hosts []*Host) (do, undo []Command, err error)
	after func(ctx context.Context, l *Lab, hosts []*Host) ([]Command, error) // more than commands can do; it returns those that come to the same
	back  func(ctx context.Context, l *Lab, hosts []*Host) ([]Command, error)
	whole bool // without a host it is a fault of the LAN, or of all; else of the last host
}

// FaultNamed is one of Faults.
func FaultNamed(name string) (Fault, error) {
	all := Faults()
	i := slices.IndexFunc(all, func(f Fault) bool { return f.Name == name })
	if i < 0 {
		var known []string
		for _, f := range all {
			known = append(known, f.Name)
		}
		return Fault{}, model.Problem{Code: codeFault, Reason: fmt.Sprintf("there is no fault %q", name), Fix: "faults: " + strings.Join(known, ", ")}
	}
	return all[i], nil
}

// Break makes a fault on hosts, given by their names; without names on the LAN, or on the last host, as the fault says. It
// returns the commands that were carried out.
func (l *Lab) Break(ctx context.Context, fault string, hosts ...string) (done []Command, err error) {
	f, err := FaultNamed(fault)
	if err != nil {
		return nil, err
	}
	on, err := l.pick(f, hosts)
	if err != nil {
		return nil, err
	}
	for _, b := range l.state.Broken {
		if b.Fault == f.Name && slices.Equal(b.Hosts, hostNames(on)) {
			return nil, model.Problem{Code: codeFault, Reason: fmt.Sprintf("%s is made already", describe(b)), Fix: "mend it first", Example: "flatnet lab fix " + l.flags() + f.Name}
		}
	}
	return done, l.change(func() error {
		done, err = l.breakIt(ctx, f, on)
		return err
	})
}

func (l *Lab) breakIt(ctx context.Context, f Fault, on []*Host) ([]Command, error) {
	do, undo, err := f.plan(ctx, l, on)
	if err != nil {
		return nil, err
	}
	if len(undo) > 0 || f.back != nil { // on record first: half a fault can be fixed, too
		err := l.record(func(s *state) { s.Broken = append(s.Broken, Broken{f.Name, hostNames(on), undo}) })
		if err != nil {
			return nil, err
		}
	}
	for i, c := range do {
		if err := l.carryOut(ctx, c); err != nil {
			return do[:i], err
		}
	}
	if f.after != nil {
		more, err := f.after(ctx, l, on)
		return append(do, more...), err
	}
	return do, nil
}

// pick finds the hosts that a fault is for.
func (l *Lab) pick(f Fault, hosts []string) ([]*Host, error) {
	var on []*Host
	for _, name := range hosts {
		h := l.Host(name)
		if h == nil {
			return nil, model.Problem{Code: codeNoLab, Reason: fmt.Sprintf("lab %q has no host %q", l.Name(), name), Fix: "hosts: " + strings.Join(hostNames(l.hosts), ", ")}
		}
		on = append(on, h)
	}
	if len(on) == 0 && !f.whole {
		on = l.hosts[len(l.hosts)-1:]
	}
	return on, nil
}

func hostNames(hosts []*Host) []string {
	all := []string{}
	for _, h := range hosts {
		all = append(all, h.Name)
	}
	return all
}

func describe(b Broken) string {
	if len(b.Hosts) == 0 {
		return b.Fault
	}
	return b.Fault + " on " + strings.Join(b.Hosts, ", ")
}

// Fix undoes what was broken, the last first: one kind of fault, or with "" all. It returns the commands that were carried
// out. What flatnetd puts back by itself is not undone.
func (l *Lab) Fix(ctx context.Context, fault string) (done []Command, err error) {
	if fault != "" {
		if _, err := FaultNamed(fault); err != nil {
			return nil, err
		}
	}
	return done, l.change(func() error {
		for _, b := range slices.Backward(slices.Clone(l.state.Broken)) {
			if fault != "" && b.Fault != fault {
				continue
			}
			commands, err := l.fixIt(ctx, b)
			done = append(done, commands...)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (l *Lab) fixIt(ctx context.Context, b Broken) (done []Command, err error) {
	f, err := FaultNamed(b.Fault)
	if err != nil {
		return nil, err
	}
	for _, c := range b.Undo {
		if m := l.machine(c.Where); m == nil || !m.Running() {
			continue // what was broken there is gone with the machine's power
		}
		if err := l.carryOut(ctx, c); err != nil {
			return done, err
		}
		done = append(done, c)
	}
	if f.back != nil {
		var hosts []*Host
		for _, name := range b.Hosts {
			hosts = append(hosts, l.Host(name))
		}
		more, err := f.back(ctx, l, hosts)
		done = append(done, more...)
		if err != nil {
			return done, err
		}
	}
	return done, l.record(func(s *state) {
		s.Broken = slices.DeleteFunc(s.Broken, func(o Broken) bool { return o.Fault == b.Fault && slices.Equal(o.Hosts, b.Hosts) })
	})
}

func (l *Lab) carryOut(ctx context.Context, c Command) error {
	m := l.machine(c.Where)
	if m == nil {
		return fmt.Errorf("no machine %q", c.Where)
	}
	program, _, _ := strings.Cut(c.Line, " ")
	from := map[string]string{"nft": "nftables", "ip": "iproute2", "bridge": "iproute2"}[program]
	if err := needs(program, from); from != "" && err != nil {
		return err
	}
	_, err := m.Exec(ctx, "sh", "-c", c.Line)
	return err
}

// machine is a host, or the LAN, by its name; nil when there is none.
func (l *Lab) machine(name string) *Machine {
	for _, m := range l.machines() {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// Explain tells what was broken on hosts, what one should see and how to go on.
func (l *Lab) Explain(f Fault, done []Command, hosts ...string) string {
	var b strings.Builder
	for _, c := range done {
		fmt.Fprintln(&b, c)
	}
	fmt.Fprintf(&b, "%s\n", f.See)
	if f.Hint != "" {
		fmt.Fprintf(&b, "look: %s\n", l.look(f.Hint, hosts))
	}
	return strings.TrimSpace(b.String())
}

// look puts hosts and workloads of the lab into a hint; a word that none stands for stays.
func (l *Lab) look(hint string, broken []string) string {
	if len(broken) == 0 {
		broken = hostNames(l.hosts[len(l.hosts)-1:])
	}
	fill := map[string]string{"HOST": broken[0]}
	for _, h := range slices.Backward(l.hosts) { // so that the first of each is what stays
		host, workload := "ELSEWHERE", "OTHER"
		if slices.Contains(broken, h.Name) {
			host, workload = "HOST", "WORKLOAD"
		}
		fill[host] = h.Name
		if len(h.Spec.Workloads) > 0 {
			fill[workload] = h.Spec.Workloads[0]
		}
	}
	hint = strings.Replace(hint, "flatnet lab exec ", "flatnet lab exec "+l.flags(), 1)
	return placeholders.ReplaceAllStringFunc(hint, func(word string) string { return cmp.Or(fill[word], word) })
}

var placeholders = regexp.MustCompile(`\b(HOST|WORKLOAD|ELSEWHERE|OTHER)\b`)
