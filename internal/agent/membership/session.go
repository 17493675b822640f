package membership

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flatnet/flatnet/internal/agent/etcdserver"
	"github.com/flatnet/flatnet/internal/join"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/etcd"
)

// session is what is open and runs while the host has a place in a cluster.
type session struct {
	m      *Membership
	record record
	papers *papers
	client *etcd.Client // the node's own, which Exit closes; nil: not entered yet
	admin  *etcd.Admin  // on a server

	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	etcd    sync.Once
	node    sync.Once
}

// open makes a session, or returns the one that there is. Nothing of it runs.
func (m *Membership) open(r record) (*session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.session != nil {
		return m.session, nil
	}
	p, err := openPapers(m.deps.Folder, r, m.deps.Now)
	if err != nil {
		return nil, err
	}
	s := &session{m: m, record: r, papers: p}
	if r.Server {
		config, err := p.etcd(true)
		if err != nil {
			return nil, err
		}
		if s.admin, err = etcd.OpenAdmin(config, r.External); err != nil {
			return nil, err
		}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	m.session = s
	return s, nil
}

// enter makes the host a node.
func (m *Membership) enter(r record) error {
	s, err := m.open(r)
	if err != nil {
		return err
	}
	config, err := s.papers.etcd(false)
	if err != nil {
		return err
	}
	client, err := etcd.Open(config)
	if err != nil {
		return err
	}
	m.mu.Lock()
	s.client = client
	m.mu.Unlock()
	m.deps.Enter(client, r.ID, m.Describe)
	return nil
}

// hold is enter for a host whose keys cannot be read: what it knew of the cluster holds on, for the grace, and its workloads with it. The store
// never answers to it.
func (m *Membership) hold(r record) {
	nobody := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	client, err := etcd.Open(etcd.Config{Endpoints: r.Etcd, Cluster: r.Cluster, TLS: nobody})
	if err != nil {
		m.deps.Log.Error("hold what is known of the cluster", "err", err)
		return
	}
	m.mu.Lock()
	if m.session == nil {
		m.session = &session{m: m, record: r}
		m.session.ctx, m.session.cancel = context.WithCancel(context.Background())
	}
	m.session.client = client
	m.mu.Unlock()
	m.deps.Enter(client, r.ID, m.Describe)
}

// endSession stops what runs. etcd goes on, and so does what was entered, until Exit.
func (m *Membership) endSession() {
	m.mu.Lock()
	s := m.session
	m.session = nil
	m.mu.Unlock()
	if s == nil {
		return
	}
	s.cancel()
	s.running.Wait()
	if s.admin != nil {
		_ = s.admin.Close() // it has nothing to lose
	}
}

// startEtcd keeps etcd running, on a server.
func (s *session) startEtcd() {
	if !s.record.runsEtcd() {
		return
	}
	s.etcd.Do(func() {
		s.running.Go(func() {
			config, err := s.m.etcdConfig(s.record)
			if err != nil {
				s.m.deps.Tell("error", "node", "etcd cannot be started: "+err.Error())
				return
			}
			supervisor := etcdserver.Supervisor{Config: config, Log: s.m.deps.Log, Told: func(text string) { s.m.deps.Tell("etcd", "node", text) }}
			_ = supervisor.Run(s.ctx) // it never fails
		})
	})
}

func (m *Membership) etcdConfig(r record) (etcdserver.Config, error) {
	program, err := etcdserver.Find()
	f := m.deps.Folder
	return etcdserver.Config{
		Program: program, LockFile: f.Path(etcdLockFile), LogFile: f.Path(etcdLogFile), DataDir: f.Path(etcdDir), Name: r.ID,
		ClientURL: urlOf(r.Underlay[0], clientPort), PeerURL: urlOf(r.Underlay[0], peerPort),
		CertFile: f.Path(serverFile), KeyFile: f.Path(serverKeyFile), CAFile: f.Path(join.AuthorityFile),
	}, err
}

func urlOf(a netip.Addr, port uint16) string {
	return "https://" + netip.AddrPortFrom(a, port).String()
}

// startNode runs what a node does beside following the cluster: it renews its certificate, and on a server lets others in.
func (s *session) startNode() {
	if s.papers == nil { // see hold
		return
	}
	s.node.Do(func() {
		s.running.Go(s.renewals)
		if s.record.Server {
			for _, a := range s.record.Underlay {
				s.running.Go(func() { s.letIn(netip.AddrPortFrom(a, join.Port)) })
			}
		}
	})
}

// listenAgain is how often the join port is tried: after a boot its address may come late.
const listenAgain = 2 * time.Second

// letIn serves the join port at an address.
func (s *session) letIn(at netip.AddrPort) {
	told := ""
	for s.ctx.Err() == nil {
		err := s.serve(at)
		if s.ctx.Err() != nil {
			return
		}
		if text := err.Error(); text != told {
			told = text
			s.m.deps.Log.Warn("hosts cannot join", "err", err)
		}
		pause(s.ctx, listenAgain)
	}
}

func (s *session) serve(at netip.AddrPort) error {
	l, err := (&net.ListenConfig{}).Listen(s.ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	server := join.Server{Authority: s.papers.authority, Tokens: s.admin, Members: s.admin, Cluster: s.describe, Certificate: s.papers.serverCertificate,
		Explain: explain, Now: s.m.deps.Now, Log: s.m.deps.Log}
	s.m.deps.Log.Info("hosts may join", "at", at)
	return server.Serve(s.ctx, l)
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// describe is what a host is told that joins.
func (s *session) describe(ctx context.Context) (join.Cluster, error) {
	snap, err := s.m.snapshot(ctx)
	if err == nil && !snap.Live {
		err = store.ErrAway
	}
	if err != nil {
		return join.Cluster{}, err
	}
	e, err := s.papers.externalFiles()
	if err != nil {
		return join.Cluster{}, err
	}
	c := join.Cluster{Name: s.record.Cluster, Servers: s.record.Servers, Etcd: e, Networks: networksOf(snap)}
	c.MTU = snap.Members[s.record.ID].MTU
	return c, nil
}

// lookEvery is how often a certificate's dates and addresses are looked at. Nobody is kept out by an old address in it.
const lookEvery = 10 * time.Minute

// renewals keeps the node's certificate fresh.
func (s *session) renewals() {
	told := ""
	for s.ctx.Err() == nil {
		err := s.renew(s.ctx)
		if err != nil && err.Error() != told && s.ctx.Err() == nil {
			told = err.Error()
			s.m.deps.Log.Warn("the certificate cannot be renewed", "err", err)
			s.m.deps.Tell("error", "node", "the certificate of this node cannot be renewed: "+told)
		}
		pause(s.ctx, lookEvery)
	}
}

// renew renews the certificate when it is due.
func (s *session) renew(ctx context.Context) error {
	node, err := s.m.deps.Node(ctx)
	if err != nil {
		return err
	}
	member, err := s.m.Describe(node)
	if err != nil {
		return nil // without an address nobody can be asked, and nothing is to be certified
	}
	addrs := member.Underlays()
	if s.papers.authority != nil {
		return s.papers.issue(addrs)
	}
	if !s.papers.due(addrs) {
		return nil
	}
	return s.ask(ctx, member)
}

// ask has a server renew the certificate.
func (s *session) ask(ctx context.Context, member model.Member) error {
	csr, err := join.CSR(s.papers.key)
	if err != nil {
		return err
	}
	own, err := s.papers.nodeCertificate()
	if err != nil {
		return err
	}
	var errs []error
	for _, server := range s.record.Servers {
		one, cancel := context.WithTimeout(ctx, 30*time.Second)
		answer, err := join.Member(server, s.papers.ca, *own).Renew(one, join.Request{CSR: csr, Member: member})
		cancel()
		if err == nil {
			return s.papers.take(answer.Certificate)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// snapshotTime is how long the first word of the cluster's store is waited for.
const snapshotTime = 3 * time.Second

// snapshot is what the cluster shares, as it was heard last.
func (m *Membership) snapshot(ctx context.Context) (snap store.ClusterSnapshot, err error) {
	m.mu.Lock()
	var client *etcd.Client
	if m.session != nil {
		client = m.session.client
	}
	m.mu.Unlock()
	if client == nil {
		return snap, store.ErrAway
	}
	ctx, cancel := context.WithTimeout(ctx, snapshotTime)
	defer cancel()
	heard := false
	err = client.Watch(ctx, func(s store.ClusterSnapshot) {
		snap, heard = s, true
		cancel()
	})
	if heard {
		return snap, nil
	}
	return snap, errors.Join(store.ErrAway, err)
}

func networksOf(snap store.ClusterSnapshot) []model.Network {
	var list []model.Network
	for _, n := range snap.Networks {
		if n.Mode == model.Cluster {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b model.Network) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// blocksOf are those that a node holds, of all networks.
func blocksOf(snap store.ClusterSnapshot, id string) []netip.Prefix {
	var list []netip.Prefix
	for key, l := range snap.Leases {
		if l.Node == id {
			list = append(list, key.Block)
		}
	}
	slices.SortFunc(list, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return list
}
