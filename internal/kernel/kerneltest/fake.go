package kerneltest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// Kernel is what the fake stands in for: reconcile's interface of the same name.
type Kernel interface {
	Observe(ctx context.Context, netns string) (dataplane.State, error)
	Apply(ctx context.Context, netns string, p dataplane.Plan) error
}

// Fake is a kernel in memory. It starts with the host's namespace (path "") alone. All methods may be called by several
// goroutines at once.
//
// What it keeps of the real kernel, and of package kernel: a name taken by something foreign is EEXIST; addresses, routes and a link's sysctls
// need their link, ports their bridge, veths their peer's namespace, rules their chain and its sets, elements their set; a
// gateway must be on-link, or said to be, and the link up; neighbours and FDB entries need a tunnel link of ours, whose VNI at its port no
// other has; shapers and redirects need a link of ours, redirects one of kind IFB to lead by, without which they lead nowhere; with an end of a veth goes the other, with a link its addresses, routes, neighbours and
// sysctls, with a bridge the membership of its ports, with a table its content, with a namespace all in it. A deletion of
// what is absent and an addition of what is there succeed. Apply goes on after a step that fails.
type Fake struct {
	// BeforeStep, when set, is called before each step with its number from 1 on, and may call the fake. An error becomes
	// the step's, which is then not carried out; with ErrCrash the fake is dead from there on until Revive. To end a
	// goroutine between two steps it may call runtime.Goexit. Set it before the first use.
	BeforeStep func(n int, netns string, s dataplane.Step) error

	mu       sync.Mutex
	steps    int
	observes int
	dead     bool
	spaces   map[string]*space
	watchers []*watcher
}

// ErrCrash is what BeforeStep returns to kill the fake: that step and all later calls fail with it and change nothing.
var ErrCrash = errors.New("crashed")

// NewFake returns a kernel with an empty host namespace: lo only.
func NewFake() *Fake {
	return &Fake{spaces: map[string]*space{dataplane.HostNetns: newSpace(dataplane.HostNetns, false)}}
}

// Steps is how many steps were tried so far, by all Apply calls.
func (f *Fake) Steps() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.steps
}

// Observes is how often Observe was called.
func (f *Fake) Observes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.observes
}

// Revive is the start of a new process: it ends what ErrCrash began. What the kernel package keeps in memory only is
// forgotten: Observe reports the sysctls of links no more until they are applied again.
func (f *Fake) Revive() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = false
	for _, s := range f.spaces {
		for k, o := range s.objects {
			if v, ok := o.(dataplane.Sysctl); ok && !s.outlives(v) {
				delete(s.objects, k)
			}
		}
	}
}

// Observe returns what is ours in the namespace; fs.ErrNotExist when there is no such namespace.
func (f *Fake) Observe(ctx context.Context, netns string) (dataplane.State, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.observes++
	if f.dead {
		return nil, fmt.Errorf("observe %s: %w", spaceName(netns), ErrCrash)
	}
	s, ok := f.spaces[netns]
	if !ok {
		return nil, noNetns(netns)
	}
	return s.ours(), nil
}

// Apply carries the plan out in the namespace, step by step.
func (f *Fake) Apply(ctx context.Context, netns string, p dataplane.Plan) error {
	var errs []error
	for _, step := range p {
		if err := f.apply(ctx, netns, step); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", step, err))
		}
	}
	return errors.Join(errs...)
}

func (f *Fake) apply(ctx context.Context, netns string, step dataplane.Step) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.before(netns, step); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return ErrCrash
	}
	s, ok := f.spaces[netns]
	if !ok && step.Op == dataplane.Del {
		return nil // it went with its namespace
	}
	if !ok {
		return noNetns(netns)
	}
	return f.carryOut(s, step)
}

// before counts the step and asks the hook, without holding the lock, as the hook may use the fake.
func (f *Fake) before(netns string, step dataplane.Step) error {
	f.mu.Lock()
	f.steps++
	n, dead := f.steps, f.dead
	f.mu.Unlock()
	if dead {
		return ErrCrash
	}
	if f.BeforeStep == nil {
		return nil
	}
	err := f.BeforeStep(n, netns, step)
	if errors.Is(err, ErrCrash) {
		f.mu.Lock()
		f.dead = true
		f.mu.Unlock()
	}
	return err
}

func (f *Fake) carryOut(s *space, step dataplane.Step) error {
	if step.Op == dataplane.Del {
		return f.remove(s, step.Object)
	}
	switch o := step.Object.(type) {
	case dataplane.Netns:
		return f.makeNetns(o)
	case dataplane.Link:
		return f.putLink(s, o, step)
	case dataplane.Address:
		return f.putAddress(s, o)
	case dataplane.Route:
		return f.putRoute(s, o)
	case dataplane.RouteRule: // others' rules of the same words are no hindrance
		s.objects[o.Key()] = o
		f.tell(s.path, o)
		return nil
	case dataplane.ProxyNeighbour:
		return f.putProxy(s, o)
	case dataplane.Neighbour:
		return f.putEntry(s, o, o.Link)
	case dataplane.FDB:
		return f.putEntry(s, o, o.Link)
	case dataplane.Port:
		return f.putPort(s, o)
	case dataplane.Shaper:
		return f.putShaper(s, o)
	case dataplane.Redirect:
		return f.putRedirect(s, o)
	case dataplane.Sysctl:
		return f.putSysctl(s, o)
	default:
		return f.putNFT(s, step)
	}
}

// Dump is all there is in a namespace, also what is foreign, a line each and sorted; for comparing before and after.
func (f *Fake) Dump(netns string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.spaces[netns]
	if !ok {
		return ""
	}
	var lines []string
	for _, l := range s.links {
		lines = append(lines, l.String())
	}
	for _, state := range []dataplane.State{s.objects, s.foreign} {
		for _, o := range state {
			lines = append(lines, o.String())
		}
	}
	for name, value := range s.sysctls {
		lines = append(lines, fmt.Sprintf("sysctl value %s=%s", name, value))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// Namespaces are the paths of all namespaces but the host's, sorted.
func (f *Fake) Namespaces() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var paths []string
	for path := range f.spaces {
		if path != dataplane.HostNetns {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

func noNetns(path string) error { return fmt.Errorf("netns %s: %w", path, fs.ErrNotExist) }

func spaceName(path string) string {
	if path == dataplane.HostNetns {
		return "host"
	}
	return path
}
