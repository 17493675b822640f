package membership

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/join"
	"github.com/flatnet/flatnet/internal/model"
)

// enrolment is a join on its way.
type enrolment struct {
	record record
	fresh  bool // nothing of it is written down
	again  bool // the host is a node already, and is told where a server is now
	token  join.Token
	client join.Client
	peer   netip.AddrPort
	node   model.Node
	under  underlay
	text   string // the token as it was given
}

// Join makes this host a node of the cluster of a server. It may be repeated until it has succeeded, and counts once.
func (m *Membership) Join(ctx context.Context, j api.Join, dry, force bool) (api.Membership, error) {
	if err := m.take(ctx); err != nil {
		return api.Membership{}, err
	}
	defer m.give()
	if r := m.now(); r != nil && r.Phase != joining && !m.knows(*r, j.Token) {
		return api.Membership{}, inCluster(*r)
	}
	e, err := m.enrol(ctx, j)
	if err != nil {
		return api.Membership{}, err
	}
	answer, checks, err := m.look(ctx, e, force || dry)
	if err != nil {
		return api.Membership{}, err
	}
	if dry {
		a := m.status(ctx, e.record)
		a.State, a.Checks, a.Cluster = stateFree, checks, answer.Cluster.Name
		a.Underlay, a.Link, a.MTU, a.Why = words(e.under.addrs), e.under.link, e.under.mtu, e.under.why
		for _, n := range answer.Cluster.Networks {
			a.Networks = append(a.Networks, n.Name)
		}
		return a, nil
	}
	a, err := m.enrolled(ctx, e)
	a.Checks = checks
	return a, err
}

// enrol reads what was asked for, and looks how this host stands towards the server.
func (m *Membership) enrol(ctx context.Context, j api.Join) (enrolment, error) {
	e := enrolment{fresh: true, record: record{ID: newID("n-")}, text: j.Token}
	if r := m.now(); r != nil {
		e.record, e.fresh, e.again = *r, false, r.Phase == in
	}
	var err error
	if e.token, err = join.ParseToken(j.Token); err != nil {
		return e, err
	}
	if e.peer, err = resolve(ctx, j.Address); err != nil {
		return e, err
	}
	e.client = join.Newcomer(e.peer.String(), e.token.Pin)
	if e.node, err = m.deps.Node(ctx); err != nil {
		return e, err
	}
	if !e.again || j.Name != "" {
		if e.record.Name, err = hostName(j.Name, e.node); err != nil {
			return e, err
		}
	}
	if e.under, err = choose(e.node, j.Underlay, toward(e.peer.Addr())); err != nil {
		return e, err
	}
	if !e.again {
		e.record.Phase = joining
	}
	e.record.Asked, e.record.Underlay, e.record.Why = j.Underlay, e.under.addrs, e.under.why
	return e, nil
}

// knows reports whether a token is of the cluster that the host is a node of, and no server.
func (m *Membership) knows(r record, token string) bool {
	t, err := join.ParseToken(token)
	if err != nil || r.Phase != in || r.Server {
		return false
	}
	ca, err := m.deps.Folder.Certificate(join.AuthorityFile)
	return err == nil && ca != nil && join.PinOf(ca) == t.Pin
}

// resolve reads HOST or HOST:PORT.
func resolve(ctx context.Context, address string) (netip.AddrPort, error) {
	host, port := address, uint64(join.Port)
	if h, p, err := net.SplitHostPort(address); err == nil {
		host = h
		if port, err = strconv.ParseUint(p, 10, 16); err != nil {
			return netip.AddrPort{}, badAddress(address, "a port is a number from 1 to 65535")
		}
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return netip.AddrPortFrom(a, uint16(port)), nil
	}
	if host == "" {
		return netip.AddrPort{}, badAddress(address, "it is empty")
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(found) == 0 {
		return netip.AddrPort{}, badAddress(address, fmt.Sprintf("the name is not known: %v", err))
	}
	return netip.AddrPortFrom(found[0].Unmap(), uint16(port)), nil
}

func badAddress(address, why string) error {
	return model.Problem{Code: model.CodeMalformed, Path: "address", Reason: fmt.Sprintf("%q is not the address of a server: %s", address, why), Fix: "ADDRESS or ADDRESS:PORT", Example: "flatnet join 192.0.2.1 --token fn1.…"}
}

// look is the preflight: it changes nothing, here or there. A host that has begun to join shows the key that it may be known by.
func (m *Membership) look(ctx context.Context, e enrolment, lenient bool) (join.Answer, []api.Check, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if !e.fresh {
		key, err = m.deps.Folder.Key(nodeKeyFile)
	}
	if err != nil {
		return join.Answer{}, nil, err
	}
	q, err := m.request(e, key)
	if err != nil {
		return join.Answer{}, nil, err
	}
	answer, path, err := e.client.Preflight(ctx, q)
	if err != nil {
		return answer, nil, err
	}
	h, err := m.listen(ctx, e, q, answer.Cluster.Networks)
	if err != nil {
		return answer, nil, err
	}
	p := m.joins(ctx, e, answer, path, h)
	return answer, p.checks, p.verdict(lenient)
}

// hearTime is how long something that a server sends may be on its way.
const hearTime = time.Second

// listen has the server send something to the ports that tunnels will come in by, at the address where the others will send them.
func (m *Membership) listen(ctx context.Context, e enrolment, q join.Request, networks []model.Network) (heard, error) {
	h := heard{from: e.peer}
	for _, a := range e.under.addrs {
		if a.Is6() == e.peer.Addr().Is6() {
			h.at = a
		}
	}
	ports := tunnelPortsOf(networks)
	if e.again || !h.at.IsValid() || len(ports) == 0 { // a node's own tunnels have them
		return h, nil
	}
	l, err := join.Listen(ctx, h.at, ports)
	if err != nil {
		return h, err
	}
	defer l.Close()
	q.Probes = l.Asks()
	answer, _, err := e.client.Preflight(ctx, q)
	if err != nil || !answer.Probed { // a server of before knows nothing of it
		return h, err
	}
	h.asked = true
	h.deaf, h.plain = l.Heard(hearTime)
	return h, nil
}

func (m *Membership) request(e enrolment, key *ecdsa.PrivateKey) (join.Request, error) {
	csr, err := join.CSR(key)
	return join.Request{Token: e.text, CSR: csr, Member: e.record.member(e.under, m.deps.Version)}, err
}

// enrolled does it: what is about to happen is written down, then the host is let in, then that is.
func (m *Membership) enrolled(ctx context.Context, e enrolment) (api.Membership, error) {
	if !e.again {
		if err := m.set(e.record); err != nil {
			return api.Membership{}, err
		}
	}
	key, err := m.deps.Folder.Key(nodeKeyFile)
	if err != nil {
		return api.Membership{}, recordsProblem(err)
	}
	q, err := m.request(e, key)
	if err != nil {
		return api.Membership{}, err
	}
	answer, err := e.client.Join(ctx, q)
	if err != nil {
		return api.Membership{}, m.refusedJoin(ctx, e, err)
	}
	r := e.record
	r.Phase, r.Cluster, r.Servers, r.Etcd, r.External = in, answer.Cluster.Name, answer.Cluster.Servers, answer.Cluster.Etcd.Endpoints, answer.Cluster.Etcd.External
	f := m.deps.Folder
	err = errors.Join(f.WriteCertificate(join.AuthorityFile, answer.Authority), f.WriteCertificate(nodeFile, answer.Certificate), keepExternal(f, answer.Cluster.Etcd))
	if err != nil {
		return api.Membership{}, recordsProblem(err)
	}
	if err := m.set(r); err != nil {
		return api.Membership{}, err
	}
	if err := m.again(ctx, r); err != nil {
		return api.Membership{}, err
	}
	m.deps.Tell("cluster", "node", fmt.Sprintf("joined cluster %s as %s", r.Cluster, r.Name))
	m.awaitBlocks(ctx, r.ID)
	return m.status(ctx, r), nil
}

// refusedJoin forgets a join that the server has refused, if it is the first time: then the host was not let in.
func (m *Membership) refusedJoin(ctx context.Context, e enrolment, err error) error {
	var one model.Problem
	var many model.Problems
	known := errors.As(err, &many) || errors.As(err, &one)
	if len(many) > 0 {
		one = many[0]
	}
	if !e.fresh || !known || one.Code == model.CodePeer || one.Code == model.CodeClusterAway || one.Code == model.CodeInternal {
		return err
	}
	return errors.Join(err, m.gone(ctx))
}
