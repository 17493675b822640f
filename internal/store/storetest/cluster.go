package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// Shared is one cluster's store, empty at first.
type Shared struct {
	Client func() store.Cluster // a new way to it, as another node has; closed by its user
	Grace  time.Duration        // of this store: seconds
	Alive  time.Duration
	Wipe   func(model.Lease)                        // deletes the lease's key behind everybody's back
	Plant  func(kind store.Kind, name, data string) // writes a value as a stranger would
}

// RunCluster tests the contract of store.Cluster; open gives an empty store each time.
func RunCluster(t *testing.T, open func(t *testing.T) Shared) {
	for name, test := range map[string]func(*testing.T, Shared){
		"what is written is seen by all":                     clusterWrites,
		"versions guard single objects of a cluster":         clusterGuards,
		"fields of a newer version survive an older node":    clusterPreserves,
		"what cannot be read is named and harms no other":    clusterUnread,
		"a host's own kinds are refused":                     clusterKinds,
		"a block has one holder":                             claimsOnce,
		"of many claimers at once one wins":                  claimRaces,
		"a released block is free":                           releases,
		"a renewed block outlives the grace":                 renews,
		"a block is free after the grace, not before":        graces,
		"a node comes back to its blocks":                    returns,
		"a deleted key is seen, and may be claimed again":    wiped,
		"a heartbeat is seen, and its end":                   heartbeats,
		"of two machines with one id the first notices":      twins,
		"watching ends with its context and with the client": watchEnds,
		"a closed client refuses":                            clusterCloses,
		"a snapshot of a cluster never changes":              clusterImmutable,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, open(t)) })
	}
}

// RunClaims is what of the contract is about blocks and watching, for a store whose keys are another system's: it keeps no objects of
// ours and no heartbeats.
func RunClaims(t *testing.T, open func(t *testing.T) Shared) {
	for name, test := range map[string]func(*testing.T, Shared){
		"a block has one holder":                             claimsOnce,
		"of many claimers at once one wins":                  claimRaces,
		"a released block is free":                           releases,
		"a renewed block outlives the grace":                 renews,
		"a block is free after the grace, not before":        graces,
		"a node comes back to its blocks":                    returns,
		"a deleted key is seen, and may be claimed again":    wiped,
		"watching ends with its context and with the client": watchEnds,
		"a closed client refuses":                            clusterCloses,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(t, open(t)) })
	}
}

func client(t *testing.T, s Shared) store.Cluster {
	t.Helper()
	c := s.Client()
	t.Cleanup(func() { c.Close() })
	return c
}

// Seen waits for a live snapshot of which ok is true.
func Seen(t *testing.T, c store.Cluster, what string, ok func(store.ClusterSnapshot) bool) store.ClusterSnapshot {
	t.Helper()
	var last store.ClusterSnapshot
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := false
	_ = c.Watch(ctx, func(s store.ClusterSnapshot) {
		if last = s; s.Live && ok(s) {
			done = true
			cancel()
		}
	})
	if !done {
		t.Fatalf("%s was never seen; last live %v, leases %v, members %v, alive %v, unread %v", what, last.Live, last.Leases, last.Members, last.Alive, last.Unread)
	}
	return last
}

func cWrite(t *testing.T, c store.Cluster, changes ...store.Change) []store.Object {
	t.Helper()
	objects, err := c.Write(t.Context(), changes...)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// Lease is block i of 10.70.0.0/16, held by a node.
func Lease(i int, node string) model.Lease {
	return model.Lease{Network: "pods", Block: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 70, byte(i), 0}), 24), Node: node}
}

// Member is a node's description.
func Member(id string) model.Member {
	return model.Member{ID: id, Name: "host-" + id, Underlay4: netip.MustParseAddr("192.0.2.1"), MTU: 1500, Version: "v0", Schema: store.Schema}
}

// Claim claims, and waits out what is not an answer.
func Claim(t *testing.T, c store.Cluster, l model.Lease) store.Held {
	t.Helper()
	held, err := c.Claim(t.Context(), l)
	if err != nil {
		t.Fatalf("claim %s: %v", l, err)
	}
	return held
}

func holder(s store.ClusterSnapshot, l model.Lease) string { return s.Leases[l.Key()].Node }

func clusterWrites(t *testing.T, s Shared) {
	a, b := client(t, s), client(t, s)
	cWrite(t, a, store.PutNetwork(lab("pods"), store.New), store.PutMember(Member("a"), store.New))
	snap := Seen(t, b, "the network", func(s store.ClusterSnapshot) bool { return len(s.Networks) == 1 && len(s.Members) == 1 })
	if got, want := fmt.Sprint(snap.Networks["pods"], snap.Members["a"]), fmt.Sprint(lab("pods"), Member("a")); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	cWrite(t, b, store.Delete(store.Network, "pods", snap.Version(store.Network, "pods")))
	Seen(t, a, "its end", func(s store.ClusterSnapshot) bool { return len(s.Networks) == 0 && len(s.Members) == 1 })
}

func clusterGuards(t *testing.T, s Shared) {
	c := client(t, s)
	m := Member("a")
	first := cWrite(t, c, store.PutMember(m, store.New))[0].Version
	m.MTU = 1400
	second := cWrite(t, c, store.PutMember(m, first))[0].Version
	if again := cWrite(t, c, store.PutMember(m, second))[0].Version; again != second {
		t.Errorf("the same value has version %q, was %q", again, second)
	}
	for _, x := range []struct {
		change store.Change
		want   error
	}{
		{store.PutMember(Member("a"), store.New), store.ErrExists},
		{store.PutMember(Member("a"), first), store.ErrConflict},
		{store.PutMember(Member("b"), first), store.ErrNotFound},
		{store.Delete(store.Member, "a", first), store.ErrConflict},
		{store.Delete(store.Member, "b", first), store.ErrNotFound},
		{store.Delete(store.Member, "b", store.Any), nil},
	} {
		_, err := c.Write(t.Context(), x.change)
		var ce *store.ChangeError
		if !errors.Is(err, x.want) || x.want != nil && (!errors.As(err, &ce) || ce.Name != x.change.Name) {
			t.Errorf("%+v: got %v, want %v", x.change, err, x.want)
		}
	}
	objects, err := c.Write(t.Context(), store.PutMember(Member("a"), first), store.PutMember(Member("b"), store.New))
	if err == nil || len(objects) != 2 || objects[1].Name != "b" {
		t.Errorf("one of two: got %v, %v", objects, err)
	}
}

func clusterPreserves(t *testing.T, s Shared) {
	c := client(t, s)
	s.Plant(store.Member, "a", `{"schema":1,"sealed":true,"value":{"ID":"a","Name":"x","Underlay4":"192.0.2.1","MTU":1500,"Future":[1,2]}}`)
	cWrite(t, c, store.PutMember(Member("a"), store.Any))
	snap := Seen(t, c, "the member", func(s store.ClusterSnapshot) bool { return s.Members["a"] == Member("a") })
	got := string(cWrite(t, c, store.PutMember(Member("a"), snap.Version(store.Member, "a")))[0].Data)
	if !strings.Contains(got, `"Future":[1,2]`) || !strings.Contains(got, `"sealed":true`) {
		t.Errorf("got %s", got)
	}
}

func clusterUnread(t *testing.T, s Shared) {
	c := client(t, s)
	s.Plant(store.Member, "bad", `{"schema":1,"value":{"ID":7}}`)
	s.Plant(store.Member, "new", `{"schema":99,"value":{}}`)
	s.Plant(store.Network, "worse", "\x00")
	cWrite(t, c, store.PutMember(Member("good"), store.New))
	snap := Seen(t, c, "the good one", func(s store.ClusterSnapshot) bool { return len(s.Members) == 1 && len(s.Unread) == 3 })
	if snap.Members["good"] != Member("good") {
		t.Errorf("got %v", snap.Members)
	}
	cWrite(t, c, store.Delete(store.Member, "bad", store.Any), store.Delete(store.Network, "worse", store.Any), store.Delete(store.Member, "new", store.Any))
	Seen(t, c, "the end of the bad ones", func(s store.ClusterSnapshot) bool { return len(s.Unread) == 0 })
}

func clusterKinds(t *testing.T, s Shared) {
	if _, err := client(t, s).Write(t.Context(), store.PutSysctl("a", "0")); err == nil {
		t.Error("a sysctl was taken")
	}
}

func claimsOnce(t *testing.T, s Shared) {
	a, b := client(t, s), client(t, s)
	before := store.Boottime()
	held := Claim(t, a, Lease(1, "a"))
	if held.Lease != Lease(1, "a") || held.Until <= before || held.Until > store.Boottime()+s.Grace {
		t.Errorf("got %+v at %v", held, before)
	}
	_, err := b.Claim(t.Context(), Lease(1, "b"))
	var taken *store.TakenError
	if !errors.As(err, &taken) || taken.Holder != "a" {
		t.Errorf("got %v", err)
	}
	Claim(t, a, Lease(1, "a"))
	Claim(t, b, Lease(2, "b"))
	Seen(t, a, "both", func(s store.ClusterSnapshot) bool {
		return len(s.Leases) == 2 && holder(s, Lease(1, "")) == "a" && holder(s, Lease(2, "")) == "b"
	})
	held2, err := b.Renew(t.Context(), "b")
	if err != nil || len(held2) != 1 || held2[0].Lease != Lease(2, "b") {
		t.Errorf("b renews %v, %v", held2, err)
	}
}

func claimRaces(t *testing.T, s Shared) {
	const n = 6
	var wg sync.WaitGroup
	var mu sync.Mutex
	winners := map[string]bool{}
	for i := range n {
		c := client(t, s)
		node := fmt.Sprint("n", i)
		wg.Go(func() {
			_, err := c.Claim(t.Context(), Lease(1, node))
			var taken *store.TakenError
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				winners[node] = true
			} else if !errors.As(err, &taken) {
				t.Errorf("%s: %v", node, err)
			}
		})
	}
	wg.Wait()
	if len(winners) != 1 {
		t.Errorf("winners are %v", winners)
	}
	Seen(t, client(t, s), "the winner", func(s store.ClusterSnapshot) bool { return winners[holder(s, Lease(1, ""))] })
}

func releases(t *testing.T, s Shared) {
	a, b := client(t, s), client(t, s)
	Claim(t, a, Lease(1, "a"))
	if err := b.Release(t.Context(), Lease(1, "b")); err != nil {
		t.Errorf("b gives back what it does not hold: %v", err)
	}
	if _, err := b.Claim(t.Context(), Lease(1, "b")); err == nil {
		t.Error("b's release freed a's block")
	}
	if err := errors.Join(a.Release(t.Context(), Lease(1, "a")), a.Release(t.Context(), Lease(1, "a"))); err != nil {
		t.Error(err)
	}
	Seen(t, b, "a free block", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 0 })
	Claim(t, b, Lease(1, "b"))
	if held, err := a.Renew(t.Context(), "a"); err != nil || len(held) != 0 {
		t.Errorf("a renews %v, %v", held, err)
	}
}

func renews(t *testing.T, s Shared) {
	a := client(t, s)
	until := Claim(t, a, Lease(1, "a")).Until
	for end := time.Now().Add(s.Grace * 3 / 2); time.Now().Before(end); time.Sleep(s.Grace / 4) {
		held, err := a.Renew(t.Context(), "a")
		if err != nil || len(held) != 1 || held[0].Until < until {
			t.Fatalf("got %v, %v; before until %v", held, err, until)
		}
		until = held[0].Until
	}
	Seen(t, a, "the lease", func(s store.ClusterSnapshot) bool { return holder(s, Lease(1, "")) == "a" })
}

func graces(t *testing.T, s Shared) {
	a, b := client(t, s), client(t, s)
	until := Claim(t, a, Lease(1, "a")).Until
	a.Close()
	for {
		_, err := b.Claim(t.Context(), Lease(1, "b"))
		var taken *store.TakenError
		if err == nil {
			break
		} else if !errors.As(err, &taken) {
			t.Fatal(err)
		}
		if store.Boottime() > until+30*time.Second {
			t.Fatal("the block never became free")
		}
		time.Sleep(s.Grace / 20)
	}
	if now := store.Boottime(); now <= until {
		t.Errorf("free at %v, although a may use it until %v", now, until)
	}
}

func returns(t *testing.T, s Shared) {
	a := client(t, s)
	Claim(t, a, Lease(1, "a"))
	Claim(t, a, Lease(2, "a"))
	a.Close()
	again := client(t, s)
	Seen(t, again, "its blocks", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 2 })
	held, err := again.Renew(t.Context(), "a")
	if err != nil || len(held) != 2 || held[0].Lease != Lease(1, "a") || held[1].Lease != Lease(2, "a") {
		t.Errorf("got %v, %v", held, err)
	}
	Claim(t, again, Lease(1, "a"))
	if held, err := again.Renew(t.Context(), "a"); err != nil || len(held) != 2 {
		t.Errorf("got %v, %v", held, err)
	}
}

func wiped(t *testing.T, s Shared) {
	a := client(t, s)
	Claim(t, a, Lease(1, "a"))
	Claim(t, a, Lease(2, "a"))
	s.Wipe(Lease(1, "a"))
	Seen(t, a, "the gap", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 1 })
	if held, err := a.Renew(t.Context(), "a"); err != nil || len(held) != 1 || held[0].Lease != Lease(2, "a") {
		t.Errorf("got %v, %v", held, err)
	}
	Claim(t, a, Lease(1, "a"))
	Seen(t, a, "both", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 2 })
}

func heartbeats(t *testing.T, s Shared) {
	a, b := client(t, s), client(t, s)
	for range 2 {
		if err := a.Heartbeat(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	Seen(t, b, "the beat", func(s store.ClusterSnapshot) bool { return s.Alive["a"] })
	a.Close()
	Seen(t, b, "its end", func(s store.ClusterSnapshot) bool { return !s.Alive["a"] })
	again := client(t, s)
	if err := again.Heartbeat(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	Seen(t, b, "the beat after a restart", func(s store.ClusterSnapshot) bool { return s.Alive["a"] })
}

func twins(t *testing.T, s Shared) {
	a, twin := client(t, s), client(t, s)
	if err := a.Heartbeat(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := twin.Heartbeat(t.Context(), "a"); err != nil {
		t.Fatal("a restart that is faster than the old beat's end would fail, too:", err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := a.Heartbeat(t.Context(), "a")
		if errors.Is(err, store.ErrTwin) {
			return
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("got %v, want %v", err, store.ErrTwin)
		}
	}
}

func watchEnds(t *testing.T, s Shared) {
	c := s.Client()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- c.Watch(ctx, func(store.ClusterSnapshot) { cancel() }) }()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	seen := make(chan bool, 100)
	go func() { ended <- c.Watch(t.Context(), func(store.ClusterSnapshot) { seen <- true }) }()
	<-seen
	c.Close()
	if err := <-ended; !errors.Is(err, store.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func clusterCloses(t *testing.T, s Shared) {
	c := s.Client()
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	_, err1 := c.Write(t.Context(), store.PutMember(Member("a"), store.New))
	_, err2 := c.Claim(t.Context(), Lease(1, "a"))
	_, err3 := c.Renew(t.Context(), "a")
	for _, err := range []error{err1, err2, err3, c.Release(t.Context(), Lease(1, "a")), c.Heartbeat(t.Context(), "a"), c.Watch(t.Context(), func(store.ClusterSnapshot) {})} {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("got %v, want %v", err, store.ErrClosed)
		}
	}
}

func clusterImmutable(t *testing.T, s Shared) {
	c := client(t, s)
	cWrite(t, c, store.PutMember(Member("a"), store.New))
	Claim(t, c, Lease(1, "a"))
	snap := Seen(t, c, "the lease", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 1 && len(s.Members) == 1 })
	before := fmt.Sprint(snap)
	cWrite(t, c, store.PutMember(Member("b"), store.New), store.Delete(store.Member, "a", store.Any))
	Claim(t, c, Lease(2, "a"))
	later := Seen(t, c, "the changes", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 2 && s.Members["b"].ID == "b" })
	if after := fmt.Sprint(snap); after != before || later.Token == snap.Token {
		t.Errorf("before %s\nafter  %s", before, after)
	}
}
