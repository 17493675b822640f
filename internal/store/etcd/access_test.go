package etcd

import (
	"context"
	"errors"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/storetest"
)

// guarded is an etcd with access control, and users a, b (nodes) and boss (server), whose passwords are their names.
func guardedEtcd(t *testing.T) *machine {
	t.Helper()
	m := cluster(t, 1)[0]
	setup := open(t, slow(m.client))
	access := setup.Access()
	_, err1 := access.etcd.UserAdd(t.Context(), "root", "root")
	_, err2 := access.etcd.UserGrantRole(t.Context(), "root", "root")
	err := errors.Join(err1, err2, access.AllowServer(t.Context(), "boss", "boss"), access.AllowNode(t.Context(), "a", "a"), access.AllowNode(t.Context(), "b", "b"),
		access.AllowNode(t.Context(), "a", "a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := access.etcd.AuthEnable(t.Context()); err != nil {
		t.Fatal(err)
	}
	setup.Close()
	return m
}

func as(user string, c Config) Config {
	c.Username, c.Password = user, user
	return c
}

func rawAs(t *testing.T, user, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Username: user, Password: user, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// With etcd's access control nodes do all that a node does, and a malicious one cannot harm another.
func TestANodeWritesItsOwnKeysOnly(t *testing.T) {
	t.Parallel()
	m := guardedEtcd(t)
	a, b, boss := open(t, as("a", slow(m.client))), open(t, as("b", slow(m.client))), open(t, as("boss", slow(m.client)))
	cWrite := func(c *Client, change store.Change) error { _, err := c.Write(t.Context(), change); return err }
	claim(t, a, storetest.Lease(1, "a"))
	held, err1 := a.Renew(t.Context(), "a")
	_, err2 := b.Claim(t.Context(), storetest.Lease(1, "b"))
	var taken *store.TakenError
	if len(held) != 1 || err1 != nil || !errors.As(err2, &taken) {
		t.Errorf("got %v, %v, %v", held, err1, err2)
	}
	if err := errors.Join(a.Heartbeat(t.Context(), "a"), cWrite(a, store.PutMember(storetest.Member("a"), store.New)), cWrite(boss, store.PutMember(storetest.Member("boss"), store.New))); err != nil {
		t.Error(err)
	}
	storetest.Seen(t, b, "all of it", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 1 && len(s.Members) == 2 && s.Alive["a"] })

	evil := rawAs(t, "b", m.client)
	key := Root + claimKey(storetest.Lease(1, "a"))
	lease := clientv3.LeaseID(a.board.Claims(storetest.Lease(1, "").Key())[0].Ref)
	for what, do := range map[string]func(context.Context) error{
		"delete a's claim": func(ctx context.Context) error { _, err := evil.Delete(ctx, key); return err },
		"delete every claim": func(ctx context.Context) error {
			_, err := evil.Delete(ctx, Root+claims, clientv3.WithPrefix())
			return err
		},
		"overwrite a's claim": func(ctx context.Context) error { _, err := evil.Put(ctx, key, "x"); return err },
		"revoke a's lease":    func(ctx context.Context) error { _, err := evil.Revoke(ctx, lease); return err },
		"hang on to a's lease": func(ctx context.Context) error {
			_, err := evil.Put(ctx, Root+claims+"b/x", "", clientv3.WithLease(lease))
			return err
		},
		"be a":                  func(ctx context.Context) error { _, err := evil.Put(ctx, Root+nodes+"a", "x"); return err },
		"beat for a":            func(ctx context.Context) error { _, err := evil.Put(ctx, Root+alive+"a", "x"); return err },
		"make a network":        func(ctx context.Context) error { _, err := evil.Put(ctx, Root+networks+"x", "x"); return err },
		"write beside the root": func(ctx context.Context) error { _, err := evil.Put(ctx, "/x", "x"); return err },
		"read beside the root":  func(ctx context.Context) error { _, err := evil.Get(ctx, "/x"); return err },
		"claim for bb": func(ctx context.Context) error {
			_, err := evil.Put(ctx, Root+claims+"bb/pods/10.70.9.0/24", "")
			return err
		},
		"change its own rights": func(ctx context.Context) error { _, err := evil.UserGrantRole(ctx, "b", "root"); return err },
	} {
		if err := do(t.Context()); err == nil {
			t.Errorf("b may %s", what)
		}
	}
	// What it may: a claim of the same block, which comes second.
	if _, err := evil.Put(t.Context(), Root+claimKey(storetest.Lease(1, "b")), claimValue); err != nil {
		t.Error(err)
	}
	claim(t, a, storetest.Lease(2, "a"))
	s := waitFor(t, boss, "a's second block", func(s store.ClusterSnapshot) bool { return s.Live && len(s.Leases) == 2 })
	if s.Leases[storetest.Lease(1, "").Key()].Node != "a" || s.Members["a"] != storetest.Member("a") {
		t.Errorf("got %v, %v", s.Leases, s.Members)
	}

	if err := open(t, as("root", slow(m.client))).Access().Forbid(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, b, "a is gone, and b was second", func(s store.ClusterSnapshot) bool {
		return s.Live && len(s.Leases) == 1 && s.Leases[storetest.Lease(1, "").Key()].Node == "b" && !s.Alive["a"] && len(s.Members) == 1
	})
	if _, err := a.Claim(t.Context(), storetest.Lease(5, "a")); err == nil {
		t.Error("a may still claim")
	}
}
