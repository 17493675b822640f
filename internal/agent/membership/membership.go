package membership

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/join"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// schema is the largest schema of stored values that this flatnetd reads.
const schema = store.Schema

// Deps are what a Membership needs from the agent.
type Deps struct {
	Folder  join.Folder
	Version string

	Node  func(ctx context.Context) (model.Node, error)  // the host's links and routes
	Check func(model.Node, model.Network) model.Problems // whether a network could be on this host

	// Enter makes the host a node: it follows the cluster's store from then on. Exit ends that; with forget all that came from the cluster goes,
	// and its blocks are given back.
	Enter func(c store.Cluster, self string, describe func(model.Node) (model.Member, error))
	Exit  func(ctx context.Context, forget bool) error

	Tell func(typ, object, text string) // events, for people
	Log  *slog.Logger
	Now  func() time.Time
}

// Membership is this host's place in a cluster. Its methods may be called by several goroutines; Run runs meanwhile.
type Membership struct {
	deps Deps
	op   chan struct{} // one change at a time
	work chan struct{} // something was begun that Run is to carry through
	runs chan struct{} // closed when Run runs

	changed chan struct{} // the host's addresses may be others

	mu      sync.Mutex // guards the fields below
	record  *record    // nil: in no cluster
	session *session   // nil: nothing is open
	broken  error      // why a node cannot speak for itself: its keys cannot be read
}

// New has done nothing.
func New(d Deps) *Membership {
	return &Membership{deps: d, op: make(chan struct{}, 1), work: make(chan struct{}, 1), runs: make(chan struct{}), changed: make(chan struct{}, 1)}
}

// Resume takes up what an earlier life left: a node is a node again at once, whether or not the cluster answers. An error is a record that
// cannot be read, and ends the start: going on without it would take something away.
func (m *Membership) Resume() error {
	_ = join.Folder(string(m.deps.Folder) + gone).RemoveAll() // of a leave that was killed; the next leave needs the name
	r, err := load(m.deps.Folder)
	if err != nil {
		return model.Problem{Code: model.CodeStoreDamaged, Reason: "this host's place in its cluster cannot be read: going on without would take the cluster's networks away from running workloads", Owner: err.Error(),
			Fix: fmt.Sprintf("put the file back from a copy; or give the place up, and join again after: move %s away", m.deps.Folder)}
	}
	m.record = r
	if r == nil || r.Phase != in {
		return nil
	}
	if err := m.enter(*r); err != nil {
		m.broken = err
		m.deps.Log.Error("enter the cluster", "err", err)
		m.deps.Tell("error", "node", "enter the cluster: "+err.Error())
		m.hold(*r)
	}
	return nil
}

// Run does what goes on beside: etcd, the join port, renewals, and what an earlier life began and did not end. When ctx ends the host
// stays a node.
func (m *Membership) Run(ctx context.Context) error {
	m.mu.Lock()
	s := m.session
	m.mu.Unlock()
	if s != nil {
		s.startEtcd()
		s.startNode()
	}
	close(m.runs)
	m.Changed() // meanwhile, perhaps
	var following sync.WaitGroup
	following.Go(func() { m.follow(ctx) })
	m.carryThrough(ctx)
	following.Wait()
	m.endSession()
	return nil
}

// carryThrough ends what was begun, as often as it takes.
func (m *Membership) carryThrough(ctx context.Context) {
	pause := time.Second
	for {
		if err := m.carry(ctx); err != nil && ctx.Err() == nil {
			m.deps.Log.Warn("carry through what was begun", "err", err, "again in", pause)
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, 30*time.Second)
			continue
		}
		pause = time.Second
		select {
		case <-ctx.Done():
			return
		case <-m.work:
		}
	}
}

// carryTime bounds one attempt: between two of them people can give up what was begun.
const carryTime = 20 * time.Second

// carry does what the record says is not done.
func (m *Membership) carry(ctx context.Context) error {
	if err := m.take(ctx); err != nil {
		return nil
	}
	defer m.give()
	ctx, cancel := context.WithTimeout(ctx, carryTime)
	defer cancel()
	r := m.now()
	switch {
	case r == nil:
		return nil
	case r.Phase == founding:
		return m.found(ctx, *r)
	case r.Phase == leaving:
		return m.gone(ctx)
	}
	return nil
}

// take waits until nobody else changes the membership; give ends the change.
func (m *Membership) take(ctx context.Context) error {
	select {
	case <-m.runs:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case m.op <- struct{}{}:
		return nil
	case <-ctx.Done():
		return model.Problem{Code: model.CodeStopping, Reason: "gave up waiting for the change before: " + ctx.Err().Error()}
	}
}

func (m *Membership) give() { <-m.op }

// now is the record, or nil.
func (m *Membership) now() *record {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.record == nil {
		return nil
	}
	r := *m.record
	return &r
}

// unread says why the record cannot be used.
func (m *Membership) unread() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.broken
}

// set writes the record down.
func (m *Membership) set(r record) error {
	if err := r.save(m.deps.Folder); err != nil {
		return recordsProblem(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record = &r
	return nil
}

// place is the record of a host that is in a cluster.
func (m *Membership) place() (record, error) {
	r := m.now()
	switch {
	case r == nil:
		return record{}, model.Problem{Code: model.CodeNoCluster, Reason: "this host is in no cluster", Fix: "flatnet init begins one, flatnet join ADDRESS --token T joins one"}
	case m.unread() != nil:
		return record{}, model.Problem{Code: model.CodeStoreDamaged, Reason: "this host cannot show the cluster who it is; what it knows of the cluster goes on", Owner: m.unread().Error(), Fix: lostKeys(r.Server)}
	case r.Phase == joining:
		return record{}, model.Problem{Code: model.CodeNoCluster, Reason: "this host began to join a cluster and did not end", Fix: "repeat the flatnet join command, or give up with flatnet leave --force"}
	case r.Phase != in:
		return record{}, model.Problem{Code: model.CodeStopping, Reason: fmt.Sprintf("this host is %s its cluster; it goes on by itself", r.Phase), Fix: "try again in a moment, or give up with flatnet leave --force"}
	}
	return *r, nil
}

// lostKeys is what helps a host whose keys cannot be read. Joining again makes a new certificate for the key that is there.
func lostKeys(server bool) string {
	if server {
		return "put the file back from a copy, and restart flatnetd"
	}
	return "put the file back from a copy and restart flatnetd; without one repeat the flatnet join command, after a flatnet leave --force if it is the key"
}

func recordsProblem(err error) error {
	return model.Problem{Code: model.CodeRecords, Reason: err.Error(), Fix: "make room on the disk, and try again"}
}

// explain puts errors of the cluster's store into words.
func explain(err error) error {
	if errors.Is(err, store.ErrAway) || errors.Is(err, context.DeadlineExceeded) {
		return model.Problem{Code: model.CodeClusterAway, Reason: "the cluster's store does not answer", Owner: store.WhyAway(err), Fix: "see that the servers run and are reachable, and try again"}
	}
	return err
}

// newID is a name that no other node has.
func newID(prefix string) string {
	var b [5]byte
	rand.Read(b[:])
	return prefix + hex.EncodeToString(b[:])
}

// Describe is how this host wants to be known, given its links and routes. Where it is reached is followed: an address that the host has no more
// is replaced by that which it has now on the way to the servers.
func (m *Membership) Describe(node model.Node) (model.Member, error) {
	r := m.now()
	if r == nil {
		return model.Member{}, errors.New("this host is in no cluster")
	}
	u, err := r.underlay(node)
	if err != nil {
		return model.Member{}, err
	}
	return r.member(u, m.deps.Version), nil
}

// underlay is where the host is reached now.
func (r record) underlay(node model.Node) (underlay, error) {
	if len(r.Asked) == 0 {
		var still []string
		for _, a := range r.Underlay {
			if _, ok := node.Has(a); ok {
				still = append(still, a.String())
			}
		}
		if len(still) == len(r.Underlay) && len(still) > 0 {
			u, err := chosen(node, still)
			u.why = r.Why
			return u, err
		}
	}
	for _, s := range r.Servers {
		if peer := hostPart(s); peer.IsValid() && !r.Server {
			return choose(node, r.Asked, toward(peer))
		}
	}
	return choose(node, r.Asked, nil)
}

// words are addresses as the api has them.
func words[T fmt.Stringer](list []T) []string {
	all := []string{}
	for _, one := range list {
		all = append(all, one.String())
	}
	return all
}

// Status is this host's place.
func (m *Membership) Status(ctx context.Context) (api.Membership, error) {
	r := m.now()
	if r == nil || m.unread() != nil {
		_, err := m.place()
		return api.Membership{}, err
	}
	return m.status(ctx, *r), nil
}

func (m *Membership) status(ctx context.Context, r record) api.Membership {
	a := api.Membership{Cluster: r.Cluster, ID: r.ID, Name: r.Name, State: string(r.Phase), Server: r.Server, Underlay: words(r.Underlay), Servers: r.Servers, Etcd: r.Etcd, External: r.External}
	if node, err := m.deps.Node(ctx); err == nil {
		if u, err := r.underlay(node); err == nil {
			a.Underlay, a.Link, a.MTU, a.Why = words(u.addrs), u.link, u.mtu, u.why
		} else {
			a.Why = err.Error()
		}
	}
	snap, err := m.snapshot(ctx)
	if err != nil {
		return a
	}
	a.Live = snap.Live
	for _, b := range blocksOf(snap, r.ID) {
		a.Blocks = append(a.Blocks, b.String())
	}
	for _, n := range networksOf(snap) {
		a.Networks = append(a.Networks, n.Name)
	}
	return a
}

// pools reads those of an init.
func pools(asked []string) ([]model.BlockPool, error) {
	if len(asked) == 0 {
		asked = []string{defaultPool}
	}
	var list []model.BlockPool
	for i, word := range asked {
		p, err := parsePool(word)
		if err != nil {
			return nil, model.Problem{Code: model.CodeSubnet, Path: fmt.Sprintf("pools[%d]", i), Reason: fmt.Sprintf("%q is not a pool: %s", word, err), Fix: "a prefix, or prefix:bits to say how large the blocks of the hosts are", Example: "10.244.0.0/16:24"}
		}
		list = append(list, p)
	}
	return list, nil
}

// parsePool reads 10.244.0.0/16, or 10.244.0.0/16:26 with the size of the blocks: the number behind a colon that follows the slash.
func parsePool(word string) (model.BlockPool, error) {
	slash := strings.LastIndexByte(word, '/')
	text, size, sized := word, "", false
	if colon := strings.LastIndexByte(word, ':'); slash >= 0 && colon > slash {
		text, size, sized = word[:colon], word[colon+1:], true
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return model.BlockPool{}, errors.New("a prefix is an address, a slash and the number of its bits")
	}
	p := model.BlockPool{Prefix: prefix, Bits: defaultBlocks4}
	if prefix.Addr().Is6() {
		p.Bits = defaultBlocks6
	}
	p.Bits = max(p.Bits, min(prefix.Bits()+fewestBlocks, prefix.Addr().BitLen()-2))
	if sized {
		if p.Bits, err = strconv.Atoi(size); err != nil {
			return p, fmt.Errorf("%q is not a number of bits", size)
		}
	}
	return p, nil
}

// fewestBlocks is into how many blocks a pool is cut at least, as a power of two, unless told.
const fewestBlocks = 4
