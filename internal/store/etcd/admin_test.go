package etcd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/storetest"
)

func admin(t *testing.T, c Config, external bool) *Admin {
	t.Helper()
	a, err := OpenAdmin(c, external)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func guest(id string, addr string) model.Member {
	return model.Member{ID: id, Name: "host-" + id, Underlay4: netip.MustParseAddr(addr), MTU: 1500, Version: "1", Schema: 1}
}

// problem is the code and owner of a refusal.
func problem(err error) string {
	var one model.Problem
	var many model.Problems
	switch {
	case errors.As(err, &many):
		return many[0].Code + " " + many[0].Owner
	case errors.As(err, &one):
		return one.Code + " " + one.Owner
	}
	return fmt.Sprint(err)
}

func TestAdmissionRefusesWhatAnotherHas(t *testing.T) {
	t.Parallel()
	c := quick("/admission/", cluster(t, 1)[0].client)
	a, nodes := admin(t, c, true), open(t, c)
	key1, key2 := [32]byte{1}, [32]byte{2}
	admit := func(m model.Member, key [32]byte) error {
		err := a.Judge(t.Context(), m, key)
		if also := a.Admit(t.Context(), m, key); problem(also) != problem(err) {
			t.Errorf("judged %v, admitted %v", err, also)
		}
		return err
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(admit(guest("a", "192.0.2.1"), key1))
	must(admit(guest("a", "192.0.2.1"), key1)) // killed before it had its certificate
	for _, c := range []struct {
		what string
		m    model.Member
		want string
	}{
		{"its id", guest("a", "192.0.2.9"), `FN2131 node "host-a" at 192.0.2.1`},
		{"its address", guest("b", "192.0.2.1"), `FN2121 node "host-a" a`},
		{"no id", guest("", "192.0.2.9"), "FN1602 "},
		{"etcd's root", guest("root", "192.0.2.9"), "FN1602 "},
		{"a pool's address", guest("b", "10.70.1.9"), `FN1602 pool 10.70.0.0/16 of network "pods"`},
	} {
		if c.what == "a pool's address" {
			_, err := nodes.Write(t.Context(), store.PutNetwork(model.Network{Name: "pods", Mode: model.Cluster,
				Cluster: model.Overlay{Pools: []model.BlockPool{{Prefix: netip.MustParsePrefix("10.70.0.0/16"), Bits: 24}}}}, store.New))
			must(err)
		}
		if got := problem(admit(c.m, key2)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.what, got, c.want)
		}
	}
	// Where it is now counts, not where it was when it came.
	_, err := nodes.Write(t.Context(), store.PutMember(guest("a", "192.0.2.3"), store.New))
	must(err)
	if got := problem(admit(guest("b", "192.0.2.3"), key2)); got != `FN2121 node "host-a" a` {
		t.Errorf("the address of now: got %s", got)
	}
	must(admit(guest("b", "192.0.2.1"), key2))
	if key, ok, err := a.Admitted(t.Context(), "b"); !ok || key != key2 || err != nil {
		t.Errorf("admitted: %v %v %v", key, ok, err)
	}
	must(a.Dismiss(t.Context(), "a"))
	must(a.Dismiss(t.Context(), "a"))
	if _, ok, err := a.Admitted(t.Context(), "a"); ok || err != nil {
		t.Errorf("dismissed, but %v %v", ok, err)
	}
	must(admit(guest("a", "192.0.2.3"), key2))
	waitFor(t, nodes, "a's own words are gone", func(s store.ClusterSnapshot) bool { return s.Live && len(s.Members) == 0 && len(s.Unread) == 0 })
}

func TestOfManyWhoComeAtOnceWithOneAddressOneIsLetIn(t *testing.T) {
	t.Parallel()
	a := admin(t, quick("/atonce/", cluster(t, 1)[0].client), true)
	var all sync.WaitGroup
	var in atomic.Int32
	for i := range 12 {
		all.Go(func() {
			m := guest(fmt.Sprint("n", i), fmt.Sprintf("192.0.2.%d", i%3+1))
			switch err := a.Admit(t.Context(), m, [32]byte{byte(i)}); {
			case err == nil:
				in.Add(1)
			case !strings.HasPrefix(problem(err), model.CodeUnderlayTaken):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if in.Load() != 3 {
		t.Errorf("%d were let in with 3 addresses", in.Load())
	}
}

func TestTokensAreReplacedAtTheirVersionOnly(t *testing.T) {
	t.Parallel()
	a := admin(t, quick("/tokens/", cluster(t, 1)[0].client), true)
	put := func(data string, base int64, want bool) int64 {
		t.Helper()
		var raw []byte
		if data != "" {
			raw = []byte(data)
		}
		if done, err := a.PutToken(t.Context(), "t", raw, base); done != want || err != nil {
			t.Fatalf("put %q at %d: %v, %v", data, base, done, err)
		}
		_, version, err := a.Token(t.Context(), "t")
		if err != nil {
			t.Fatal(err)
		}
		return version
	}
	first := put("one", 0, true)
	put("other", 0, false)
	second := put("two", first, true)
	put("other", first, false)
	if all, err := a.Tokens(t.Context()); err != nil || len(all) != 1 || string(all["t"]) != "two" {
		t.Errorf("got %s, %v", all, err)
	}
	put("", first, false)
	if left := put("", second, true); left != 0 {
		t.Errorf("version %d of what is gone", left)
	}
}

// With access control: who is let in writes its own keys, reads no tokens, and can do nothing once it is dismissed.
func TestAdmissionGivesAndTakesRights(t *testing.T) {
	t.Parallel()
	auth := newAuthority(t)
	m := &machine{t: t, name: "s0", dir: t.TempDir(), client: "https" + freeURL()[4:], peer: freeURL(),
		more: []string{"--cert-file", auth.cert, "--key-file", auth.key, "--trusted-ca-file", auth.ca, "--client-cert-auth"}}
	m.initial = "s0=" + m.peer
	m.start()
	g := guard(t, m.client, auth)
	a := admin(t, g.config("root"), false)
	g.as["c"] = auth.client(t, "c")
	if err := a.Admit(t.Context(), guest("c", "192.0.2.3"), [32]byte{3}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.PutToken(t.Context(), "t", []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	c := open(t, g.config("c"))
	write := func() error {
		_, err := c.Write(t.Context(), store.PutMember(guest("c", "192.0.2.3"), store.Any))
		return err
	}
	if err := write(); err != nil {
		t.Error(err)
	}
	claim(t, c, storetest.Lease(1, "c"))
	raw := g.raw(t, "c")
	for _, key := range []string{a.beside + adminTokens + "t", a.beside + adminMembers + "c"} {
		if _, err := raw.Get(t.Context(), key); err == nil {
			t.Errorf("a node reads %s", key)
		}
	}
	if err := a.Dismiss(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if err := write(); err == nil {
		t.Error("a dismissed node writes")
	}
	waitFor(t, open(t, g.config("b")), "its block is free", func(s store.ClusterSnapshot) bool { return s.Live && len(s.Leases) == 0 && len(s.Members) == 0 })
}

// Who was let in and never said where it is gave up; its address is free after a while, and its id is not.
func TestAnAdmissionThatWasGivenUpHoldsNoAddress(t *testing.T) {
	t.Parallel()
	c := quick("/silent/", cluster(t, 1)[0].client)
	a := admin(t, c, true)
	if err := a.Admit(t.Context(), guest("a", "192.0.2.1"), [32]byte{1}); err != nil {
		t.Fatal(err)
	}
	if got := problem(a.Admit(t.Context(), guest("b", "192.0.2.1"), [32]byte{2})); got != `FN2121 node "host-a" a` {
		t.Errorf("at once: %s", got)
	}
	key := a.beside + adminMembers + "a"
	resp, err := a.etcd.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	var one struct {
		Schema int      `json:"schema"`
		Value  admitted `json:"value"`
	}
	if err := json.Unmarshal(resp.Kvs[0].Value, &one); err != nil {
		t.Fatal(err)
	}
	one.Value.At = one.Value.At.Add(-silent)
	old, err := json.Marshal(one)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.etcd.Put(t.Context(), key, string(old)); err != nil {
		t.Fatal(err)
	}
	if err := a.Admit(t.Context(), guest("b", "192.0.2.1"), [32]byte{2}); err != nil {
		t.Errorf("later: %v", err)
	}
	if got := problem(a.Admit(t.Context(), guest("a", "192.0.2.3"), [32]byte{3})); got != `FN2131 node "host-a" at 192.0.2.1` {
		t.Errorf("its id: %s", got)
	}
}

// A node's own words may be damaged, or be of a newer flatnetd that was taken back: it says them again, and everybody hears.
func TestANodeMendsWhatItSaysOfItself(t *testing.T) {
	t.Parallel()
	c := quick("/mend/", cluster(t, 1)[0].client)
	node := open(t, c)
	for _, damaged := range []string{"garbage", `{"schema":99,"value":{}}`} {
		if _, err := node.etcd.Put(t.Context(), "/mend/"+nodes+"a", damaged); err != nil {
			t.Fatal(err)
		}
		s := waitFor(t, node, "it cannot be read", func(s store.ClusterSnapshot) bool { return len(s.Unread) == 1 && len(s.Members) == 0 })
		if _, err := node.Write(t.Context(), store.PutMember(guest("a", "192.0.2.1"), s.Version(store.Member, "a"))); err != nil {
			t.Fatal(err)
		}
		waitFor(t, node, "it can", func(s store.ClusterSnapshot) bool { return len(s.Unread) == 0 && len(s.Members) == 1 })
	}
}

// A node can fill the store, and then nobody writes any more. When it is taken out the others do again.
func TestTakingOutWhoFilledTheStoreMakesRoom(t *testing.T) {
	t.Parallel()
	m := &machine{t: t, name: "s0", dir: t.TempDir(), client: freeURL(), peer: freeURL(), more: []string{"--quota-backend-bytes", "8000000"}}
	m.initial = "s0=" + m.peer
	m.start()
	ready(t, m)
	c := slow(m.client)
	a, raw := admin(t, c, false), open(t, c).etcd
	var err error
	for i := 0; err == nil && i < 100; i++ {
		_, err = raw.Put(t.Context(), Root+claims+"evil/junk/x", strings.Repeat("x", 1<<20))
	}
	if err == nil {
		t.Fatal("it never is full")
	}
	if err := a.Dismiss(t.Context(), "evil"); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Put(t.Context(), Root+nodes+"a", "x"); err != nil {
		t.Error(err)
	}
}
