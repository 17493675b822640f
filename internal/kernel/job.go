package kernel

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// job carries out one run of rtnetlink steps. It lays the messages of many steps into one batch and sends them together.
// Most steps are sent on the assumption that the name is free; those for which it was not are looked into and sent again,
// with the later ones that failed for their sake.
type job struct {
	k      *Kernel
	space  *space
	steps  []*task
	batch  netlink.Batch
	sent   []*task                                 // by message of the batch
	peers  []*os.File                              // namespaces named in the batch
	made   map[string]int                          // indexes of links that the batch makes, by name
	known  map[string]int                          // indexes that were asked for since the batch was begun, by name
	rules  map[dataplane.Key][]dataplane.RouteRule // ours before the job, once they were asked for
	routes map[dataplane.Key]route                 // whosever, once one was in the way

	tunnels map[string]int // indexes of tunnel links of ours, by name
}

// task is one step on its way.
type task struct {
	dataplane.Step
	seen  *link // the link of that name, when it was looked up
	how   how
	proxy proxy // the proxied neighbour of that address and link, when there was one
	index int   // chosen for a new link
	first *task // of how up: the one with down
	err   error
	fix   func() error // what to find out before it is sent again; nil: nothing would help
}

// how a step is to be encoded after what was found out.
type how uint8

const (
	plain  how = iota
	change     // the object is there and ours: change it in place
	retake     // the object is there: take it away first
	skip       // nothing to do any more
	down       // a bridge: leave it down, …
	up         // … until this task, when its ports are in it
)

// maxTries is how often what failed is sent again: a name may be taken, then an index.
const maxTries = 5

func (k *Kernel) applyRoutes(s *space, run dataplane.Plan) []error {
	j := &job{k: k, space: s, made: map[string]int{}, known: map[string]int{}, tunnels: map[string]int{}}
	tasks := make([]task, len(run))
	for i, step := range run {
		tasks[i].Step = step
		j.steps = append(j.steps, &tasks[i])
	}
	j.lookUp(j.steps)
	j.upLast()
	j.lookUpProxies(j.steps)
	todo := j.steps
	for range maxTries {
		j.send(todo)
		if todo = j.again(todo); len(todo) == 0 {
			break
		}
	}
	var errs []error
	for _, t := range j.steps {
		if t.err != nil && (t.first == nil || t.first.err == nil) {
			errs = append(errs, &StepError{Step: t.Step, Err: t.err})
		}
	}
	return errs
}

// lookUp reads the links that steps mean to change or delete, so that none is touched that is not ours.
func (j *job) lookUp(tasks []*task) {
	var b netlink.Batch
	var asked []*task
	ask := func() {
		errs := j.space.conn.Do(&b, func(i int, m netlink.Message) {
			if l, ok := parseLink(m.Data); ok {
				asked[i].seen = &l
			}
		})
		for i, err := range errs {
			asked[i].err = ignoring(err, unix.ENODEV)
		}
		b.Reset()
		asked = asked[:0]
	}
	for _, t := range tasks {
		l, ok := t.Object.(dataplane.Link)
		if !ok || t.Op == dataplane.Add && isMade(l) || t.Op == dataplane.Del && !isMade(l) {
			continue
		}
		encodeGetLink(&b, l.Name)
		asked = append(asked, t)
		if b.Len() == netlink.MaxBatch {
			ask()
		}
	}
	ask()
}

// isMade reports whether a link is made by the step that adds it, not found where it is.
func isMade(l dataplane.Link) bool {
	return l.Kind != dataplane.Loopback && !isFar(l)
}

// isFar reports whether a link is the far end of a veth.
func isFar(l dataplane.Link) bool { return l.Kind == dataplane.Veth && l.Peer == "" }

// send encodes the tasks and sends them in as few system calls as there is room for.
func (j *job) send(tasks []*task) {
	const room = 8   // messages of one step, at most
	clear(j.tunnels) // some may have turned out not to be there
	for len(tasks) > 0 {
		if links := beginningLinkDeletions(tasks); j.deletesApart(links) {
			j.flush()
			j.deleteLinks(links)
			tasks = tasks[len(links):]
			continue
		}
		t := tasks[0]
		tasks = tasks[1:]
		if t.err != nil { // it could not be looked up
			continue
		}
		if j.batch.Len() > netlink.MaxBatch-room {
			j.flush()
		}
		t.err = j.encode(t)
		for len(j.sent) < j.batch.Len() {
			j.sent = append(j.sent, t)
		}
	}
	j.flush()
}

// flush sends the batch and puts down what became of its steps.
func (j *job) flush() {
	errs := j.space.conn.Do(&j.batch, nil)
	for i, err := range errs {
		if t := j.sent[i]; t.err == nil {
			t.err = err
		}
	}
	var last *task
	for _, t := range j.sent {
		if t != last {
			j.settle(t)
		}
		last = t
	}
	for _, f := range j.peers {
		f.Close()
	}
	clear(j.made)
	clear(j.known)
	j.batch.Reset()
	j.sent, j.peers = j.sent[:0], j.peers[:0]
}

// again is what to send once more: the tasks that a fix was found for, and the later ones that failed, as they may have
// needed those.
func (j *job) again(tasks []*task) []*task {
	var more []*task
	for _, t := range tasks {
		if t.err == nil {
			continue
		}
		if t.fix != nil {
			if err := t.fix(); err != nil {
				t.err, t.fix = err, nil
				continue
			}
			more = append(more, t)
		} else if len(more) > 0 {
			more = append(more, t)
		}
	}
	for _, t := range more {
		t.err, t.fix = nil, nil
	}
	return more
}

func (j *job) encode(t *task) error {
	if t.how == skip {
		return nil
	}
	switch o := t.Object.(type) {
	case dataplane.Link:
		return j.encodeLink(t, o)
	case dataplane.Address:
		return j.encodeAddress(t, o)
	case dataplane.Route:
		return j.encodeRoute(t, o)
	case dataplane.RouteRule:
		return j.encodeRouteRule(t, o)
	case dataplane.ProxyNeighbour:
		return j.encodeProxy(t, o)
	case dataplane.Neighbour:
		return encodeEntry(j, t, o, o.Link, encodeNeighbour)
	case dataplane.FDB:
		return encodeEntry(j, t, o, o.Link, encodeFDB)
	case dataplane.Port:
		return j.applyPort(t, o)
	case dataplane.Shaper:
		return j.encodeShaper(t, o)
	case dataplane.Redirect:
		return j.applyRedirect(t, o)
	}
	return fmt.Errorf("no rtnetlink object: %T", t.Object)
}

// settle judges a step after it was sent.
func (j *job) settle(t *task) {
	if t.Op == dataplane.Del {
		t.err = ignoringGone(t.err)
	}
	switch o := t.Object.(type) {
	case dataplane.Link:
		j.settleLink(t, o)
	case dataplane.Address:
		if errors.Is(t.err, unix.EEXIST) && t.how == plain {
			t.fix = func() error { return j.fixAddress(t, o) }
		}
		if t.err == nil {
			j.k.memory.addressIs(j.space.path, o, t.Op != dataplane.Del)
		}
	case dataplane.Route:
		if errors.Is(t.err, unix.EEXIST) && t.how == plain {
			t.fix = func() error { return j.fixRoute(t, o) }
		}
		if t.err == nil && j.space.path == dataplane.HostNetns {
			j.k.wrote.route(t.Step)
		}
	case dataplane.RouteRule:
		t.err = ignoring(t.err, unix.EEXIST)
	case dataplane.ProxyNeighbour:
		j.settleProxy(t, o)
	case dataplane.Shaper:
		j.settleShaper(t)
	}
}

// indexOf finds a link's index, also of one that the batch is to make.
func (j *job) indexOf(name string) (int, error) {
	if index, ok := j.made[name]; ok {
		return index, nil
	}
	if index, ok := j.known[name]; ok {
		return index, nil
	}
	index, err := linkIndex(j.space.conn, name)
	if err == nil {
		j.known[name] = index
	}
	return index, err
}

// linkIndex asks for a link's index; about 1 µs, so that it is not worth keeping for long.
func linkIndex(c *netlink.Conn, name string) (int, error) {
	r, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(c.FD(), unix.SIOCGIFINDEX, r)
	}
	if err != nil {
		return 0, fmt.Errorf("link %q: %w", name, err)
	}
	return int(r.Uint32()), nil
}

// firstIndex is where our links' indexes begin. The kernel gives its own upwards from 1, so it gets here after sixteen million
// links. It must not give ours to somebody between the look and the making: then the second message of encodeCreate would
// mark that somebody's link as ours.
const firstIndex = 1 << 24

// freeIndex chooses an index that no link has. Like the kernel we go upwards, so that one is not used again soon.
func (j *job) freeIndex() int {
	var index int
	j.k.memory.with(j.space.path, func(r *remembered) {
		for r.index = max(r.index, firstIndex); j.taken(r.index); r.index++ {
		}
		index = r.index
		r.index++
	})
	return index
}

func (j *job) taken(index int) bool {
	r, err := unix.NewIfreq("x")
	if err != nil {
		return false
	}
	r.SetUint32(uint32(index))
	return unix.IoctlIfreq(j.space.conn.FD(), unix.SIOCGIFNAME, r) == nil
}

// peerNS opens the namespace that a veth's other end goes to, until the batch is sent; -1 is the same namespace.
func (j *job) peerNS(path string) (int, error) {
	if path == "" {
		return -1, nil
	}
	f, err := j.k.open(path)
	if err != nil {
		return 0, err
	}
	j.peers = append(j.peers, f)
	return int(f.Fd()), nil
}

func encodeGetLink(b *netlink.Batch, name string) {
	b.Begin(unix.RTM_GETLINK, 0)
	b.Raw(infoMsg(0, 0, 0))
	b.String(unix.IFLA_IFNAME, name)
	b.Uint32(unix.IFLA_EXT_MASK, extSkipStats)
}
