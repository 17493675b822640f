package lab

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flatnet/flatnet/internal/model"
	"golang.org/x/sys/unix"
)

// Lab is one that is up, or has been left half-way. Its methods may be called by several goroutines, but those that change
// it, Break, Fix, Backend and Down, one at a time.
type Lab struct {
	dir   string
	tell  Tell
	lan   *Machine
	hosts []*Host

	mu    sync.Mutex // guards state and its file
	state state
	lock  *os.File // held while the lab is changed
}

// state is what is on record of a lab, in the file lab.json of its directory.
type state struct {
	Spec     Spec
	Programs map[string]string // flatnetd and flatnet: their paths
	Mark     string            // in the names of what would be left behind: of processes' arguments, control groups, links
	Cgroup   string            // path; "" when there is none
	Created  time.Time
	LAN      *Machine
	Hosts    []*Host
	Broken   []Broken
	Ready    bool // it came up; else it was left half-way
}

const (
	stateFile = "lab.json"
	lockFile  = "lock"
	lanName   = "lan"

	markPrefix = "flatnet-lab-"
)

// record writes the state; change is called before, under the lock that guards it.
func (l *Lab) record(change func(*state)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if change != nil {
		change(&l.state)
	}
	text, err := json.MarshalIndent(l.state, "", "  ")
	if err != nil {
		return err
	}
	file := filepath.Join(l.dir, stateFile)
	if err := os.WriteFile(file+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// Open finds a lab by its name; "" is the only one there is. tell may be nil.
func Open(dir, name string, tell Tell) (*Lab, error) {
	if dir == "" {
		dir = DefaultDir
	}
	if name == "" {
		var err error
		if name, err = only(dir); err != nil {
			return nil, err
		}
	}
	if !labNames.MatchString(name) {
		return nil, noLab(dir, name)
	}
	l := &Lab{dir: filepath.Join(dir, name), tell: tell}
	text, err := os.ReadFile(filepath.Join(l.dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(l.dir); err != nil {
			return nil, noLab(dir, name)
		}
		// Whoever made it was ended before anything was made but the directory.
		l.state = state{Spec: Spec{Name: name}, Mark: l.dir + "/unrecorded", LAN: &Machine{Name: lanName}}
	} else if err == nil {
		err = json.Unmarshal(text, &l.state)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab %q: %w", name, err)
	}
	l.adopt()
	return l, nil
}

// adopt makes the machines of the state the lab's.
func (l *Lab) adopt() {
	if l.tell == nil {
		l.tell = func(string, ...any) {}
	}
	l.lan, l.hosts = l.state.LAN, l.state.Hosts
	l.lan.lab = l
	for _, h := range l.hosts {
		h.lab = l
	}
}

// Names are the labs in a directory, those that were left half-way too.
func Names(dir string) ([]string, error) {
	if dir == "" {
		dir = DefaultDir
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []string
	for _, e := range entries {
		if e.IsDir() {
			all = append(all, e.Name())
		}
	}
	return all, err
}

func only(dir string) (string, error) {
	all, err := Names(dir)
	switch {
	case err != nil:
		return "", err
	case len(all) == 1:
		return all[0], nil
	case len(all) == 0:
		return "", model.Problem{Code: codeNoLab, Reason: "no lab is up", Example: "flatnet lab up"}
	}
	return "", model.Problem{Code: codeNoLab, Reason: "several labs are up: " + strings.Join(all, ", "), Fix: "say which: --name " + all[0]}
}

func noLab(dir, name string) error {
	all, _ := Names(dir)
	p := model.Problem{Code: codeNoLab, Reason: fmt.Sprintf("there is no lab %q", name), Example: "flatnet lab up --name " + name}
	if len(all) > 0 {
		p.Fix = "there are: " + strings.Join(all, ", ")
	}
	return p
}

// Name is the lab's.
func (l *Lab) Name() string { return l.state.Spec.Name }

// BackendName is how packets get from host to host.
func (l *Lab) BackendName() string { return l.state.Spec.Backend }

// Tell changes who is told what is done.
func (l *Lab) Tell(tell Tell) { l.tell = tell }

// Ready reports whether the lab came up; else whoever started it was ended before.
func (l *Lab) Ready() bool { return l.state.Ready }

// StateName is how it goes with the lab, in a word: up, half up or dead.
func (l *Lab) StateName() string {
	running := 0
	for _, m := range l.machines() {
		if m.Running() {
			running++
		}
	}
	switch {
	case running == 0:
		return "dead"
	case l.Ready():
		return "up"
	}
	return "half up"
}

// FaultNames are the faults that were made, for people; "-" when none.
func (l *Lab) FaultNames() string {
	var all []string
	for _, b := range l.state.Broken {
		all = append(all, describe(b))
	}
	if len(all) == 0 {
		return "-"
	}
	return strings.Join(all, "; ")
}

// Broken are the faults that have been made and not fixed.
func (l *Lab) Broken() []Broken { return slices.Clone(l.state.Broken) }

// Dir is where the lab's files are: NAME/flatnetd.log of each host, and its disks.
func (l *Lab) Dir() string { return l.dir }

// program is the path of flatnetd or flatnet.
func (l *Lab) program(name string) string { return l.state.Programs[name] }

// LAN is the machine between the hosts.
func (l *Lab) LAN() *Machine { return l.lan }

// Hosts are all hosts, in order.
func (l *Lab) Hosts() []*Host { return slices.Clone(l.hosts) }

// Host is a host by its name; nil when there is none.
func (l *Lab) Host(name string) *Host {
	for _, h := range l.hosts {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// Workloads are those of all hosts, in order.
func (l *Lab) Workloads() []*Workload {
	var all []*Workload
	for _, h := range l.hosts {
		for _, name := range h.Spec.Workloads {
			all = append(all, &Workload{Name: name, host: h})
		}
	}
	return all
}

// Workload is a workload by its name; nil when there is none.
func (l *Lab) Workload(name string) *Workload {
	for _, w := range l.Workloads() {
		if w.Name == name {
			return w
		}
	}
	return nil
}

// names are all hosts and workloads, for people who mistype one.
func (l *Lab) names() string {
	var all []string
	for _, h := range l.hosts {
		all = append(append(all, h.Name), h.Spec.Workloads...)
	}
	return strings.Join(append(all, lanName), ", ")
}

// change holds the lab's lock while f changes it: two at once would not know of each other's.
func (l *Lab) change(f func() error) error {
	if err := l.acquire(); err != nil {
		return err
	}
	defer l.release()
	return f()
}

func (l *Lab) acquire() error {
	f, err := os.OpenFile(filepath.Join(l.dir, lockFile), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return model.Problem{Code: codeTaken, Reason: fmt.Sprintf("lab %q is being changed by another command", l.Name()), Fix: "wait for its end"}
	}
	l.lock = f
	return nil
}

func (l *Lab) release() {
	l.lock.Close()
	l.lock = nil
}

// create makes the lab's directory, and a lab without machines.
func create(spec Spec) (*Lab, error) {
	programs, err := spec.programs()
	if err != nil {
		return nil, err
	}
	l := &Lab{dir: spec.dir(), tell: spec.Tell}
	l.state = state{Spec: spec, Programs: programs, Created: time.Now(), LAN: &Machine{Name: lanName}}
	for i, h := range spec.Hosts {
		l.state.Hosts = append(l.state.Hosts, &Host{Machine: Machine{Name: h.Name}, Spec: h, Number: i + 1, Place: i + 1})
	}
	l.adopt()
	l.state.Mark = fmt.Sprintf("%s%s-%s", markPrefix, spec.Name, strings.ToLower(rand.Text()[:8]))
	if root := cgroupRoot(); root != "" {
		sweepGroups(root)
		l.state.Cgroup = filepath.Join(root, l.state.Mark)
	}
	err = os.MkdirAll(spec.Dir, 0o755)
	if err == nil {
		err = os.Mkdir(l.dir, 0o755)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil, model.Problem{Code: codeTaken, Reason: fmt.Sprintf("a lab %q is up, or was left half-way", spec.Name),
			Fix: "take it down, or give this one a name of its own", Example: "flatnet lab down --name " + spec.Name}
	}
	if err == nil {
		err = errors.Join(l.acquire(), l.record(nil))
	}
	return l, err // what is made now is on record
}

// ran is the time since, for people.
func ran(since time.Time) string { return fmt.Sprintf("%.1fs", time.Since(since).Seconds()) }

// background is for what must be done although the caller has been asked to stop.
func background(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }
