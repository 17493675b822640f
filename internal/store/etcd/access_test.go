package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/etcd/server"
	"github.com/flatnet/flatnet/internal/store/storetest"
)

// guarded is an etcd over TLS with access control, and users a, b (nodes), boss (server) and root, who have certificates.
type guarded struct {
	url string
	as  map[string]*tls.Config
}

func (g guarded) config(user string) Config {
	c := slow(g.url)
	c.TLS = g.as[user]
	return c
}

func (g guarded) raw(t *testing.T, user string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{g.url}, TLS: g.as[user], Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// guard sets access control up, as init does.
func guard(t *testing.T, url string, a authority) guarded {
	t.Helper()
	g := guarded{url: url, as: map[string]*tls.Config{}}
	for _, user := range []string{"root", "boss", "a", "b"} {
		g.as[user] = a.client(t, user)
	}
	setup := open(t, g.config("root"))
	access := setup.Access()
	if err := errors.Join(access.AllowServer(t.Context(), "boss"), access.AllowNode(t.Context(), "a"), access.AllowNode(t.Context(), "b"),
		access.AllowNode(t.Context(), "a"), access.Enable(t.Context())); err != nil {
		t.Fatal(err)
	}
	setup.Close()
	return g
}

func TestANodeWritesItsOwnKeysOnly(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	m := &machine{t: t, name: "s0", dir: t.TempDir(), client: "https" + freeURL()[4:], peer: freeURL(),
		more: []string{"--cert-file", a.cert, "--key-file", a.key, "--trusted-ca-file", a.ca, "--client-cert-auth"}}
	m.initial = "s0=" + m.peer
	m.start()
	ownKeysOnly(t, guard(t, m.client, a))
}

func TestANodeWritesItsOwnKeysOnlyEmbedded(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	url := "https" + freeURL()[4:]
	files := server.TLS{Cert: a.cert, Key: a.key, CA: a.ca}
	s, err := server.Start(t.Context(), server.Config{Name: "a", Dir: t.TempDir(), ClientURL: url, PeerURL: "https" + freeURL()[4:], TLS: files, PeerTLS: files, Tick: 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	ownKeysOnly(t, guard(t, url, a))
}

// What comes to the port between servers is believed without any access control, so a node has no business there.
func TestANodeIsNoServer(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	peer := "https" + freeURL()[4:]
	files := server.TLS{Cert: a.cert, Key: a.key, CA: a.ca}
	among := files
	among.Name = "server.test"
	s, err := server.Start(t.Context(), server.Config{Name: "a", Dir: t.TempDir(), ClientURL: "https" + freeURL()[4:], PeerURL: peer, TLS: files, PeerTLS: among, Tick: 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	reach := func(c *tls.Config) error {
		client := http.Client{Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}}
		resp, err := client.Get(peer + "/members")
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if reach(a.client(t, "n-1")) == nil {
		t.Error("a node speaks as a server")
	}
	if err := reach(a.client(t, "", "server.test")); err != nil {
		t.Errorf("a server: %v", err)
	}
}

// With etcd's access control nodes do all that a node does, and a malicious one cannot harm another.
func ownKeysOnly(t *testing.T, g guarded) {
	t.Helper()
	a, b, boss := open(t, g.config("a")), open(t, g.config("b")), open(t, g.config("boss"))
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

	evil := g.raw(t, "b")
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

	if err := open(t, g.config("root")).Access().Forbid(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, b, "a is gone, and b was second", func(s store.ClusterSnapshot) bool {
		return s.Live && len(s.Leases) == 1 && s.Leases[storetest.Lease(1, "").Key()].Node == "b" && !s.Alive["a"] && len(s.Members) == 1
	})
	if _, err := a.Claim(t.Context(), storetest.Lease(5, "a")); err == nil {
		t.Error("a may still claim")
	}
}
