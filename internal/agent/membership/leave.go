package membership

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/etcdserver"
	"github.com/flatnet/flatnet/internal/join"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// Leave takes this host out of its cluster. A server that leaves ends the cluster.
func (m *Membership) Leave(ctx context.Context, dry, force bool) (api.Membership, error) {
	if err := m.take(ctx); err != nil {
		return api.Membership{}, err
	}
	defer m.give()
	r := m.now()
	if r == nil {
		_, err := m.place()
		return api.Membership{}, err
	}
	if err := m.mayLeave(ctx, *r); err != nil && !force {
		return api.Membership{}, err
	}
	a := m.status(ctx, *r)
	if dry {
		return a, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
	defer cancel()
	r.Phase = leaving
	if err := m.set(*r); err != nil {
		return api.Membership{}, err
	}
	a.State = stateFree
	told, err := m.depart(ctx)
	if err != nil {
		return a, err
	}
	if !told {
		a.Remains = "no server could be told that this host has left; on one of " + strings.Join(r.Servers, ", ") + " run: flatnet host rm " + r.ID
	}
	m.deps.Tell("cluster", "node", "left cluster "+r.Cluster)
	return a, nil
}

// leaveTime bounds a leave; etcd may take ten seconds to end.
const leaveTime = 50 * time.Second

// mayLeave says what speaks against it.
func (m *Membership) mayLeave(ctx context.Context, r record) error {
	if r.Phase == joining {
		return model.Problem{Code: model.CodeClusterAway, Reason: "this host began to join a cluster, which may have let it in and cannot be told that it leaves",
			Fix: "flatnet leave --force, and flatnet host rm " + r.ID + " on a server if it is listed there"}
	}
	snap, err := m.snapshot(ctx)
	if err == nil && !snap.Live {
		err = store.ErrAway
	}
	if err != nil {
		return model.Problem{Code: model.CodeClusterAway, Reason: "the cluster's store does not answer, so the cluster cannot be told that this host leaves",
			Fix: "flatnet leave --force leaves anyway; then flatnet host rm " + r.ID + " on a server, or its blocks are free after a day"}
	}
	return lastServer(r, snap.Members)
}

// MayEnd says what speaks against flatnet's end on this host: that the cluster ends with it, under hosts that are alive.
func (m *Membership) MayEnd(ctx context.Context) error {
	r := m.now()
	if r == nil || !r.Server || r.Phase != in {
		return nil
	}
	snap, err := m.snapshot(ctx)
	if err != nil || !snap.Live {
		return nil // nobody can say who is alive
	}
	alive := maps.Clone(snap.Members)
	maps.DeleteFunc(alive, func(id string, _ model.Member) bool { return !snap.Alive[id] })
	return lastServer(*r, alive)
}

// lastServer refuses to take a server from others.
func lastServer(r record, members map[string]model.Member) error {
	var others []string
	for id, n := range members {
		if id != r.ID {
			others = append(others, plain(n.Name))
		}
	}
	if !r.Server || len(others) == 0 {
		return nil
	}
	slices.Sort(others)
	if more := len(others) - mostNamed; more > 0 {
		others = append(others[:mostNamed], fmt.Sprintf("%d more", more))
	}
	return model.Problem{Code: model.CodeInUse, Reason: fmt.Sprintf("this host is the server of cluster %s, which has other hosts: %s", r.Cluster, strings.Join(others, ", ")),
		Owner: "without it nobody joins, and no host can claim addresses", Fix: "flatnet leave on each of them first; --force ends the cluster under them"}
}

// mostNamed is how many hosts a sentence has room for.
const mostNamed = 8

// gone undoes a membership, of whatever phase: it may have been begun before. What cannot be told to the cluster ends there after its grace.
func (m *Membership) gone(ctx context.Context) error {
	_, err := m.depart(ctx)
	return err
}

// depart is gone, and says whether there is no server that would have to be told.
func (m *Membership) depart(ctx context.Context) (told bool, err error) {
	r := m.now()
	if r == nil {
		return true, nil
	}
	m.mu.Lock()
	entered := m.session != nil && m.session.client != nil
	m.mu.Unlock()
	snap, err := m.snapshot(ctx)
	patience := time.Duration(0)
	if err == nil && snap.Live { // then the server is there, and its flatnetd soon again
		patience = goodbyeTime
	}
	if entered {
		one, cancel := context.WithTimeout(ctx, 10*time.Second)
		if err := m.deps.Exit(one, true); err != nil {
			m.deps.Log.Warn("the cluster could not be told everything", "err", err)
		}
		cancel()
	}
	told = r.Server || m.sayGoodbye(ctx, *r, patience)
	m.endSession()
	if err := etcdserver.Stop(ctx, m.deps.Folder.Path(etcdLockFile)); err != nil {
		return told, err
	}
	if err := m.wipe(); err != nil {
		return told, recordsProblem(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record, m.broken = nil, nil
	return told, nil
}

// goodbyeTime is how long a server is asked again that does not listen: until it is told, nobody else can have this host's address, not
// even this host.
const goodbyeTime = 8 * time.Second

// listenTime is how long a server may take to hear it; who drops packets never does.
const listenTime = 5 * time.Second

// sayGoodbye has a server take the node out, and reports whether one has, or nothing is to be told.
func (m *Membership) sayGoodbye(ctx context.Context, r record, patience time.Duration) bool {
	p, err := openPapers(m.deps.Folder, r, m.deps.Now)
	if err != nil {
		return len(r.Servers) == 0 // never let in, or no way to prove it
	}
	own, err := p.nodeCertificate()
	if err != nil {
		return false
	}
	for began := time.Now(); ; pause(ctx, 200*time.Millisecond) {
		since := time.Now()
		err = tellAny(ctx, r.Servers, p, *own)
		if !away(err) || time.Since(since) >= listenTime || time.Since(began) >= patience || ctx.Err() != nil {
			break
		}
	}
	if err == nil {
		return true
	}
	m.deps.Log.Warn("no server could be told that this host leaves", "err", err)
	m.deps.Tell("error", "node", "no server could be told that this host leaves; there: flatnet host rm "+r.ID)
	return false
}

// tellAny tells one of the servers that this host leaves.
func tellAny(ctx context.Context, servers []string, p *papers, own tls.Certificate) error {
	var errs []error
	for _, server := range servers {
		one, cancel := context.WithTimeout(ctx, listenTime)
		err := join.Member(server, p.ca, own).Leave(one)
		cancel()
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// away reports whether a server could not be asked, and may be later.
func away(err error) bool {
	var p model.Problem
	var many model.Problems
	if errors.As(err, &many) && len(many) > 0 {
		p = many[0]
	} else {
		errors.As(err, &p)
	}
	return p.Code == model.CodePeer || p.Code == model.CodeClusterAway
}

// gone is behind the name of a folder that is being removed.
const gone = ".gone"

// wipe removes the folder: first its name, so that no part of it is ever taken for a whole.
func (m *Membership) wipe() error {
	f := m.deps.Folder
	old := join.Folder(string(f) + gone)
	if err := old.RemoveAll(); err != nil {
		return err
	}
	if err := os.Rename(string(f), string(old)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return old.RemoveAll()
}
