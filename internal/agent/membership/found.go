package membership

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/join"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/etcd"
)

// Init begins a cluster on this host, which is its server. What an interrupted one has begun is carried through instead.
func (m *Membership) Init(ctx context.Context, i api.Init, dry, force bool) (api.Membership, error) {
	if err := m.take(ctx); err != nil {
		return api.Membership{}, err
	}
	defer m.give()
	if r := m.now(); r != nil {
		if r.Phase == founding && !dry {
			return m.founded(ctx, *r, nil)
		}
		return api.Membership{}, inCluster(*r)
	}
	r, p, err := m.plan(ctx, i)
	if err != nil {
		return api.Membership{}, err
	}
	if err := p.verdict(force); err != nil && !dry {
		return api.Membership{}, err
	}
	if dry {
		a := m.status(ctx, r)
		a.State, a.Checks, a.Networks = stateFree, p.checks, []string{firstNetwork}
		for _, pool := range r.Pools {
			a.Blocks = append(a.Blocks, pool.Prefix.String())
		}
		return a, nil
	}
	if err := m.keepEtcd(i.Etcd); err != nil {
		return api.Membership{}, recordsProblem(err)
	}
	if err := m.set(r); err != nil {
		return api.Membership{}, err
	}
	return m.founded(ctx, r, p.checks)
}

// stateFree is that of a host that is in no cluster.
const stateFree = "free"

func inCluster(r record) error {
	fix := "flatnet leave first"
	if r.Phase == joining {
		fix = "repeat the flatnet join command, or give up with flatnet leave --force"
	}
	where := "in a cluster already"
	if r.Phase != in {
		where = string(r.Phase) + " a cluster already"
	}
	return model.Problem{Code: model.CodeInCluster, Reason: fmt.Sprintf("this host is %s, as %s", where, r.Name), Owner: "cluster " + r.Cluster + " of " + strings.Join(r.Servers, ", "), Fix: fix}
}

// plan is the record of a cluster to be, and what was found on this host.
func (m *Membership) plan(ctx context.Context, i api.Init) (record, *preflight, error) {
	node, err := m.deps.Node(ctx)
	if err != nil {
		return record{}, nil, err
	}
	r := record{Phase: founding, ID: newID("n-"), Cluster: newID("c-"), Server: true, Asked: i.Underlay}
	if r.Name, err = hostName(i.Name, node); err != nil {
		return r, nil, err
	}
	if r.Pools, err = pools(i.Pools); err != nil {
		return r, nil, err
	}
	u, err := choose(node, i.Underlay, nil)
	if err != nil {
		return r, nil, err
	}
	r.Underlay, r.Why = u.addrs, u.why
	r.Servers = serversAt(u.addrs)
	r.Etcd = []string{urlOf(u.addrs[0], clientPort)}
	if i.Etcd != nil {
		if err := checkExternal(*i.Etcd); err != nil {
			return r, nil, err
		}
		r.Etcd, r.External = i.Etcd.Endpoints, true
	}
	return r, m.founds(ctx, node, u, r, m.network(r)), nil
}

func checkExternal(e api.ExternalEtcd) error {
	bad := func(reason string) error {
		return model.Problem{Code: model.CodeMalformed, Path: "etcd", Reason: reason, Fix: "--etcd URL, and with https --etcd-ca, --etcd-cert and --etcd-key with the names of files"}
	}
	if len(e.Endpoints) == 0 {
		return bad("an external etcd needs an endpoint")
	}
	for _, u := range e.Endpoints {
		at, err := url.Parse(u)
		if err != nil || at.Scheme != "https" && at.Scheme != "http" || at.Hostname() == "" {
			return bad(fmt.Sprintf("%q is not an endpoint of etcd", u))
		}
		if at.Port() == "" {
			return bad(fmt.Sprintf("%q names no port; that of etcd is %d", u, clientPort))
		}
	}
	if _, err := externalTLS(externalOf(e)); err != nil {
		return bad(err.Error())
	}
	return nil
}

func externalOf(e api.ExternalEtcd) join.Etcd {
	return join.Etcd{Endpoints: e.Endpoints, External: true, CA: []byte(e.CA), Cert: []byte(e.Cert), Key: []byte(e.Key)}
}

func (m *Membership) keepEtcd(e *api.ExternalEtcd) error {
	if e == nil {
		return nil
	}
	return keepExternal(m.deps.Folder, externalOf(*e))
}

// network is the cluster's first.
func (m *Membership) network(r record) model.Network {
	return model.Network{Name: firstNetwork, Mode: model.Cluster, Active: true, Autostart: true, Created: m.deps.Now().UTC().Truncate(time.Second),
		Cluster: model.Overlay{Pools: r.Pools, Backend: model.VXLAN, VNI: model.DefaultVNI, Port: model.DefaultVXLANPort,
			UnderlayV6: !slices.ContainsFunc(r.Underlay, netip.Addr.Is4)}}
}

// foundTime bounds the beginning of a cluster; on an idle machine it takes a second.
const foundTime = 90 * time.Second

// founded carries a founding through; what fails is taken back, so that it can be begun anew.
func (m *Membership) founded(ctx context.Context, r record, checks []api.Check) (api.Membership, error) {
	whole := context.WithoutCancel(ctx)
	ctx, cancel := context.WithTimeout(whole, foundTime)
	defer cancel()
	if err := m.found(ctx, r); err != nil {
		r.Phase = leaving
		back, cancel := context.WithTimeout(whole, leaveTime)
		defer cancel()
		return api.Membership{}, errors.Join(explain(err), m.set(r), m.gone(back))
	}
	r = *m.now()
	m.awaitBlocks(ctx, r.ID)
	a := m.status(ctx, r)
	a.Checks = checks
	token, err := m.createToken(ctx, api.TokenSpec{})
	if err != nil {
		return a, err
	}
	a.Token = &token
	return a, nil
}

// found makes the cluster: each step may have been done before.
func (m *Membership) found(ctx context.Context, r record) error {
	s, err := m.open(r)
	if err != nil {
		return err
	}
	s.startEtcd()
	if err := m.ready(ctx, s); err != nil {
		return err
	}
	if err := m.admitSelf(ctx, s); err != nil {
		return err
	}
	if err := m.begin(ctx, s); err != nil {
		return err
	}
	r.Phase = in
	if err := m.set(r); err != nil {
		return err
	}
	if err := m.enter(r); err != nil {
		return err
	}
	s.startNode()
	m.deps.Tell("cluster", "node", fmt.Sprintf("began cluster %s as %s", r.Cluster, r.Name))
	return nil
}

// externalTime is how long an etcd may take that runs already.
const externalTime = 10 * time.Second

// ready waits until etcd answers.
func (m *Membership) ready(ctx context.Context, s *session) error {
	if s.record.External {
		short, cancel := context.WithTimeout(ctx, externalTime)
		defer cancel()
		ctx = short
	}
	for {
		one, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, _, err := s.admin.Admitted(one, s.record.ID)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil && s.record.External {
			return externalAway(s.record.Etcd, store.WhyAway(err))
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for etcd (its log is %s): %w", m.deps.Folder.Path(etcdLogFile), err)
		}
		pause(ctx, 50*time.Millisecond)
	}
}

func externalAway(endpoints []string, why string) error {
	return model.Problem{Code: model.CodeClusterAway, Reason: "the etcd at " + strings.Join(endpoints, ", ") + " does not answer", Owner: why,
		Fix: "see that it runs, and that --etcd and its certificates are right", Example: "etcdctl --endpoints " + endpoints[0] + " endpoint health"}
}

// admitSelf lets the founder in, with the rights of a server, and then nobody without any.
func (m *Membership) admitSelf(ctx context.Context, s *session) error {
	node, err := m.deps.Node(ctx)
	if err != nil {
		return err
	}
	me, err := m.Describe(node)
	if err != nil {
		return err
	}
	pin, err := s.papers.pin()
	if err != nil {
		return err
	}
	if err := s.admin.Admit(ctx, me, pin); err != nil || s.record.External {
		return err
	}
	if err := s.admin.Access().AllowServer(ctx, s.record.ID); err != nil {
		return err
	}
	return s.admin.Access().Enable(ctx)
}

// begin writes which cluster this is, and its first network.
func (m *Membership) begin(ctx context.Context, s *session) error {
	config, err := s.papers.etcd(true)
	if err != nil {
		return err
	}
	c, err := etcd.Open(config)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Found(ctx, s.record.Cluster); errors.Is(err, store.ErrExists) {
		return model.Problem{Code: model.CodeInCluster, Reason: "that etcd has the data of another flatnet cluster", Owner: err.Error(), Fix: "join that cluster, or use another etcd"}
	} else if err != nil {
		return err
	}
	if _, err := c.Write(ctx, store.PutNetwork(m.network(s.record), store.New)); err != nil && !errors.Is(err, store.ErrExists) {
		return err
	}
	return nil
}

// blocksTime is how long a new node waits for its first blocks before it says that it is one. Traffic waits no longer than this anyway.
const blocksTime = 5 * time.Second

// awaitBlocks waits until the node has a block of each family of each network, so that people see them.
func (m *Membership) awaitBlocks(ctx context.Context, id string) {
	for end := time.Now().Add(blocksTime); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, 10*time.Millisecond) {
		snap, err := m.snapshot(ctx)
		if err == nil && snap.Live && hasBlocks(snap, id) {
			return
		}
	}
}

func hasBlocks(snap store.ClusterSnapshot, id string) bool {
	type want struct {
		network string
		v6      bool
	}
	wanted := map[want]bool{}
	for _, n := range networksOf(snap) {
		for _, p := range n.Cluster.Pools {
			if n.Active && n.Cluster.On(snap.Members[id]) {
				wanted[want{n.Name, p.Prefix.Addr().Is6()}] = true
			}
		}
	}
	for key, l := range snap.Leases {
		if l.Node == id {
			delete(wanted, want{key.Network, key.Block.Addr().Is6()})
		}
	}
	return len(wanted) == 0
}
