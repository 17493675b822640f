package etcd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// Admin is the way to etcd of who runs the cluster: it keeps the tokens, and who was let in. All of that stands beside the root, where
// nodes do not read. It follows nothing.
//
// Two servers may let hosts in at once: every admission is made in a transaction that asks whether another was made since the
// members were looked at. So of two hosts that come with one address, one is refused.
type Admin struct {
	etcd     *clientv3.Client
	access   *Access
	beside   string // the prefix of our keys
	external bool
}

// Our keys, below beside. The value of admissions is who was let in last; its revision counts.
const (
	adminTokens  = "tokens/"
	adminMembers = "members/"
	admissions   = "admissions"
)

// OpenAdmin returns the way for a user that etcd knows as root, whether or not etcd answers. In an external etcd, whose users are not
// ours, nobody's rights are changed.
func OpenAdmin(c Config, external bool) (*Admin, error) {
	c = c.withDefaults()
	e, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints, TLS: c.TLS, Logger: zap.NewNop(), DialKeepAliveTime: keepAlive, DialKeepAliveTimeout: 3 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("store: etcd: %w", err)
	}
	return &Admin{etcd: e, access: &Access{e, c.Root}, beside: strings.TrimSuffix(c.Root, "/") + ".admin/", external: external}, nil
}

// Close ends all use.
func (a *Admin) Close() error { return a.etcd.Close() }

// Access is etcd's access control.
func (a *Admin) Access() *Access { return a.access }

// away words an error of etcd's.
func (a *Admin) away(doing string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("store: etcd: %s: %w", doing, err)
	}
	return fmt.Errorf("store: etcd: %s: %w: %w", doing, store.ErrAway, err)
}

// Token returns what is kept of a token, and its version; 0: nothing.
func (a *Admin) Token(ctx context.Context, name string) ([]byte, int64, error) {
	resp, err := a.etcd.Get(ctx, a.beside+adminTokens+name)
	if err != nil {
		return nil, 0, a.away("read token", err)
	}
	if len(resp.Kvs) == 0 {
		return nil, 0, nil
	}
	return resp.Kvs[0].Value, resp.Kvs[0].ModRevision, nil
}

// PutToken replaces what is at version base, and reports false when that has changed. No data takes it away.
func (a *Admin) PutToken(ctx context.Context, name string, data []byte, base int64) (bool, error) {
	key := a.beside + adminTokens + name
	op := clientv3.OpPut(key, string(data))
	if data == nil {
		op = clientv3.OpDelete(key)
	}
	resp, err := a.etcd.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", base)).Then(op).Commit()
	if err != nil {
		return false, a.away("write token", err)
	}
	return resp.Succeeded, nil
}

// Tokens are all that are kept, by name.
func (a *Admin) Tokens(ctx context.Context) (map[string][]byte, error) {
	prefix := a.beside + adminTokens
	resp, err := a.etcd.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, a.away("read tokens", err)
	}
	all := map[string][]byte{}
	for _, kv := range resp.Kvs {
		all[strings.TrimPrefix(string(kv.Key), prefix)] = kv.Value
	}
	return all, nil
}

// admitted is what is kept of who was let in.
type admitted struct {
	Member model.Member // as it said when it came
	Key    []byte       // SHA-256 of its public key
	At     time.Time
}

// silent is how long who was let in may take to say where it is, before its address is free for others: its join was given up.
const silent = 10 * time.Minute

// register is everything that admission is judged by, at one moment.
type register struct {
	facts    model.ClusterFacts
	admitted map[string]admitted
	revision int64 // of admissions
}

// read reads the register. What a node says of itself by now counts before what it said when it came; what cannot be read does not count.
func (a *Admin) read(ctx context.Context) (register, error) {
	root := a.access.root
	all := func(prefix string) clientv3.Op { return clientv3.OpGet(prefix, clientv3.WithPrefix()) }
	resp, err := a.etcd.Txn(ctx).Then(all(root+nodes), all(root+networks), all(a.beside+adminMembers), clientv3.OpGet(a.beside+admissions)).Commit()
	if err != nil {
		return register{}, a.away("read members", err)
	}
	kvs := func(i int) []*mvccpb.KeyValue { return resp.Responses[i].GetResponseRange().Kvs }
	r := register{facts: model.ClusterFacts{Pools: map[string][]model.BlockPool{}, Members: map[string]model.Member{}}, admitted: map[string]admitted{}}
	for _, kv := range kvs(2) {
		var one struct{ Value admitted }
		if err := json.Unmarshal(kv.Value, &one); err != nil {
			return register{}, fmt.Errorf("store: etcd: %s: %w", kv.Key, err)
		}
		id := strings.TrimPrefix(string(kv.Key), a.beside+adminMembers)
		r.admitted[id] = one.Value
		if time.Since(one.Value.At) < silent {
			r.facts.Members[id] = one.Value.Member
		}
	}
	for id, m := range readEach[model.Member](kvs(0), root+nodes) {
		r.facts.Members[id] = m
	}
	for name, n := range readEach[model.Network](kvs(1), root+networks) {
		r.facts.Pools[name] = n.Cluster.Pools
	}
	for _, kv := range kvs(3) {
		r.revision = kv.ModRevision
	}
	return r, nil
}

// readEach reads stored values by the rest of their keys, and leaves out what it cannot.
func readEach[T any](kvs []*mvccpb.KeyValue, prefix string) map[string]T {
	all := map[string]T{}
	for _, kv := range kvs {
		var one struct {
			Schema int
			Value  T
		}
		if json.Unmarshal(kv.Value, &one) == nil && one.Schema >= 1 && one.Schema <= store.Schema {
			all[strings.TrimPrefix(string(kv.Key), prefix)] = one.Value
		}
	}
	return all
}

// judge says why a host cannot be let in.
func (r register) judge(m model.Member, key [32]byte) error {
	other, says := r.facts.Members[m.ID]
	if was, ok := r.admitted[m.ID]; (ok || says) && string(was.Key) != string(key[:]) {
		if !says {
			other = was.Member
		}
		return model.Problem{Code: model.CodeMemberTaken, Path: "id", Reason: fmt.Sprintf("another node has the node id %s", m.ID),
			Owner: fmt.Sprintf("node %q at %s", other.Name, addrsOf(other)), Fix: "if that is a copy of this host's disk: flatnet leave --force here, then join again; if it is gone for good, take it out on a server",
			Example: "sudo flatnet host rm " + m.ID}
	}
	if was, ok := r.admitted[m.ID]; !says && ok {
		other, says = was.Member, true
	}
	if problem, taken := r.named(m); taken && (!says || other.Name != m.Name) {
		return problem
	}
	return r.facts.CheckMember(m).Err()
}

// named finds another host that has a host's name: people tell hosts apart by it.
func (r register) named(m model.Member) (model.Problem, bool) {
	for _, id := range slices.Sorted(maps.Keys(r.facts.Members)) {
		if other := r.facts.Members[id]; id != m.ID && other.Name == m.Name {
			return model.Problem{Code: model.CodeMemberTaken, Path: "name", Reason: fmt.Sprintf("another host of the cluster is called %q", m.Name), Owner: fmt.Sprintf("node %s at %s", id, addrsOf(other)),
				Fix: "take another name with --name; if that host is gone for good, take it out on a server", Example: "sudo flatnet host rm " + id}, true
		}
	}
	return model.Problem{}, false
}

func addrsOf(m model.Member) string {
	var words []string
	for _, a := range m.Underlays() {
		words = append(words, a.String())
	}
	return strings.Join(words, " ")
}

// Judge says what keeps a host from being let in.
func (a *Admin) Judge(ctx context.Context, m model.Member, key [32]byte) error {
	r, err := a.read(ctx)
	if err != nil {
		return err
	}
	return r.judge(m, key)
}

// Admit lets a host in: from then on its certificate may write its own keys. It may be repeated with the same key.
func (a *Admin) Admit(ctx context.Context, m model.Member, key [32]byte) error {
	if err := checkID(m.ID); err != nil {
		return err
	}
	value, err := json.Marshal(struct {
		Schema int      `json:"schema"`
		Value  admitted `json:"value"`
	}{store.Schema, admitted{m, key[:], time.Now().UTC()}})
	if err != nil {
		return err
	}
	for done := false; !done; {
		r, err := a.read(ctx)
		if err == nil {
			err = r.judge(m, key)
		}
		if err != nil {
			return err
		}
		resp, err := a.etcd.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(a.beside+admissions), "=", r.revision)).
			Then(clientv3.OpPut(a.beside+adminMembers+m.ID, string(value)), clientv3.OpPut(a.beside+admissions, m.ID)).Commit()
		if err != nil {
			return a.away("admit "+m.ID, err)
		}
		done = resp.Succeeded
	}
	if a.external {
		return nil
	}
	return a.access.AllowNode(ctx, m.ID)
}

// Admitted returns the key of who was let in.
func (a *Admin) Admitted(ctx context.Context, id string) (key [32]byte, ok bool, err error) {
	if err := checkID(id); err != nil {
		return key, false, err
	}
	resp, err := a.etcd.Get(ctx, a.beside+adminMembers+id)
	if err != nil || len(resp.Kvs) == 0 {
		return key, false, a.away("read member "+id, err)
	}
	var one struct{ Value admitted }
	if err := json.Unmarshal(resp.Kvs[0].Value, &one); err != nil {
		return key, false, fmt.Errorf("store: etcd: %s: %w", resp.Kvs[0].Key, err)
	}
	return key, copy(key[:], one.Value.Key) == len(key), nil
}

// Dismiss takes a host, its rights and its blocks away: first that it could have its certificate renewed. It may be repeated.
func (a *Admin) Dismiss(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if _, err := a.etcd.Delete(ctx, a.beside+adminMembers+id); err != nil {
		return a.away("dismiss "+id, err)
	}
	if a.external {
		return a.away("dismiss "+id, a.access.erase(ctx, id))
	}
	if err := a.access.Forbid(ctx, id); err != nil {
		return err
	}
	return a.away("make room", a.makeRoom(ctx))
}
