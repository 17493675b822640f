package membership

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/fabric"
	"github.com/flatnet/flatnet/internal/join"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// Hosts lists the nodes of the cluster, by name.
func (m *Membership) Hosts(ctx context.Context) ([]api.Host, error) {
	r, err := m.place()
	if err != nil {
		return nil, err
	}
	snap, err := m.snapshot(ctx)
	if err != nil {
		return nil, explain(err)
	}
	return hostsOf(snap, r), nil
}

func hostsOf(snap store.ClusterSnapshot, r record) []api.Host {
	facts := model.ClusterFacts{Self: r.ID, Members: snap.Members, Before: snap.MemberBefore}
	facts.Pools, _ = fabric.SoundPools(snap, r.ID) // as they are used: else one bad network has all hosts refused in this list, and only here
	_, refused := facts.SoundMembers()
	blocks := map[string][]netip.Prefix{}
	leases, _ := facts.SoundLeases(slices.Collect(maps.Values(snap.Leases)))
	for _, l := range leases {
		blocks[l.Node] = append(blocks[l.Node], l.Block)
	}
	servers := map[netip.Addr]bool{}
	for _, s := range r.Servers {
		servers[hostPart(s)] = true
	}
	list := []api.Host{}
	for id, n := range snap.Members {
		h := api.Host{ID: id, Name: plain(n.Name), Self: id == r.ID, State: "silent", Underlay: words(n.Underlays()), MTU: n.MTU, Version: plain(n.Version), Schema: n.Schema}
		if snap.Alive[id] {
			h.State = "alive"
		}
		if !snap.Live {
			h.State = "unknown"
		}
		h.Server = slices.ContainsFunc(n.Underlays(), func(a netip.Addr) bool { return servers[a] })
		slices.SortFunc(blocks[id], func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
		h.Blocks = words(blocks[id])
		if ps := refused[id]; len(ps) > 0 {
			h.Problem = ps[0].Error()
		}
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b api.Host) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return list
}

// plain is what a node says of itself, which may be anything, as it can be shown on a terminal and in a table.
func plain(s string) string {
	const most = 64
	var b strings.Builder
	for _, r := range s {
		if !unicode.IsPrint(r) {
			r = unicode.ReplacementChar
		}
		if b.WriteRune(r); b.Len() >= most {
			b.WriteRune('…')
			break
		}
	}
	return b.String()
}

// RemoveHost takes another node out of the cluster, with its rights and its blocks.
func (m *Membership) RemoveHost(ctx context.Context, who string, force bool) (api.Host, error) {
	s, err := m.serving("a host is taken out")
	if err != nil {
		return api.Host{}, err
	}
	snap, err := m.snapshot(ctx)
	if err != nil {
		return api.Host{}, explain(err)
	}
	h, err := find(hostsOf(snap, s.record), who)
	if err != nil {
		key, admitted, also := s.admin.Admitted(ctx, who) // let in, but it has said nothing yet
		if _ = key; also != nil || !admitted {
			return api.Host{}, err
		}
		h = api.Host{ID: who, Name: who, State: "silent"}
	}
	switch {
	case h.Self:
		return h, model.Problem{Code: model.CodeInUse, Reason: "that is this host", Fix: "flatnet leave"}
	case h.State == "alive" && !force:
		return h, model.Problem{Code: model.CodeInUse, Reason: fmt.Sprintf("host %s is alive, or was within the last 30 s", h.Name), Owner: "its workloads would lose their addresses", Fix: "flatnet leave there; one that has just gone for good: wait, or --force here"}
	}
	if err := errors.Join(s.admin.Dismiss(ctx, h.ID), join.Forget(ctx, s.admin, h.ID)); err != nil {
		return h, explain(err)
	}
	m.deps.Tell("cluster", "host/"+h.Name, "taken out of the cluster: "+h.ID)
	return h, nil
}

func find(hosts []api.Host, who string) (api.Host, error) {
	var named []api.Host
	for _, h := range hosts {
		if h.ID == who {
			return h, nil
		}
		if h.Name == who {
			named = append(named, h)
		}
	}
	switch len(named) {
	case 1:
		return named[0], nil
	case 0:
		return api.Host{}, model.Problem{Code: model.CodeNotFound, Reason: fmt.Sprintf("there is no host %q", who), Fix: "see what there is", Example: "flatnet host ls"}
	}
	return api.Host{}, model.Problem{Code: model.CodeNotFound, Reason: fmt.Sprintf("%d hosts are called %q", len(named), who), Fix: "name one by its ID", Example: "flatnet host rm " + named[0].ID}
}

// serving is the session of a server; what is asked for can be done there only.
func (m *Membership) serving(what string) (*session, error) {
	r, err := m.place()
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	s := m.session
	m.mu.Unlock()
	if !r.Server || s == nil || s.admin == nil {
		return nil, model.Problem{Code: model.CodeNotServer, Reason: what + " on a server of the cluster", Owner: m.Servers(context.Background()), Fix: "run the command there"}
	}
	return s, nil
}

// Servers names the servers of the cluster, for people: "servers: h1 at 192.0.2.1:7700". It is empty in no cluster.
func (m *Membership) Servers(ctx context.Context) string {
	r := m.now()
	if r == nil || len(r.Servers) == 0 {
		return ""
	}
	snap, _ := m.snapshot(ctx) // without, there are no names
	var all []string
	for _, server := range r.Servers {
		for _, n := range snap.Members {
			if slices.Contains(n.Underlays(), hostPart(server)) {
				server = plain(n.Name) + " at " + server
				break
			}
		}
		all = append(all, server)
	}
	return "servers: " + strings.Join(all, ", ")
}

// What a token is good for unless something else is said.
const (
	tokenLife = 15 * time.Minute
	tokenUses = 10
)

// CreateToken makes a token.
func (m *Membership) CreateToken(ctx context.Context, spec api.TokenSpec) (api.Token, error) {
	return m.createToken(ctx, spec)
}

func (m *Membership) createToken(ctx context.Context, spec api.TokenSpec) (api.Token, error) {
	s, err := m.serving("tokens are made")
	if err != nil {
		return api.Token{}, err
	}
	terms := join.Terms{Life: time.Duration(cmp.Or(spec.Seconds, int(tokenLife/time.Second))) * time.Second, Uses: cmp.Or(spec.Uses, tokenUses)}
	token, record, err := join.CreateToken(ctx, s.admin, s.papers.authority.Pin(), terms, m.deps.Now())
	if err != nil {
		return api.Token{}, explain(err)
	}
	t := tokenOf(record)
	t.Token = token.String()
	t.Join = fmt.Sprintf("flatnet join %s --token %s", s.record.Underlay[0], t.Token)
	return t, nil
}

func tokenOf(r join.Record) api.Token {
	t := api.Token{Name: r.Name, Created: r.Created, Expires: r.Expires, Uses: r.Uses}
	for _, u := range r.Used {
		t.Used = append(t.Used, u.Member)
	}
	return t
}

// Tokens lists the tokens.
func (m *Membership) Tokens(ctx context.Context) ([]api.Token, error) {
	s, err := m.serving("tokens are listed")
	if err != nil {
		return nil, err
	}
	records, err := join.ListTokens(ctx, s.admin, m.deps.Now())
	if err != nil {
		return nil, explain(err)
	}
	list := []api.Token{}
	for _, r := range records {
		list = append(list, tokenOf(r))
	}
	return list, nil
}

// RevokeToken takes a token back.
func (m *Membership) RevokeToken(ctx context.Context, name string) (api.Token, error) {
	s, err := m.serving("tokens are taken back")
	if err != nil {
		return api.Token{}, err
	}
	return api.Token{Name: name}, explain(join.RevokeToken(ctx, s.admin, name))
}
