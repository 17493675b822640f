package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/storetest"
)

// waitFor waits for a snapshot of which ok is true, live or not.
func waitFor(t *testing.T, c store.Cluster, what string, ok func(store.ClusterSnapshot) bool) store.ClusterSnapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var found store.ClusterSnapshot
	done := false
	_ = c.Watch(ctx, func(s store.ClusterSnapshot) {
		if !done && ok(s) {
			found, done = s, true
			cancel()
		}
	})
	if !done {
		t.Fatalf("%s: never", what)
	}
	return found
}

func isLive(s store.ClusterSnapshot) bool { return s.Live }
func isAway(s store.ClusterSnapshot) bool { return !s.Live }

func claim(t *testing.T, c store.Cluster, l model.Lease) {
	t.Helper()
	storetest.Claim(t, c, l)
}

// twoBlocks is what survives whatever is done to etcd.
func twoBlocks(s store.ClusterSnapshot) bool {
	return len(s.Leases) == 2 && s.Leases[storetest.Lease(1, "").Key()].Node == "a" && s.Leases[storetest.Lease(2, "").Key()].Node == "b"
}

// slow is quick with a grace that outlives what is done to etcd.
func slow(endpoints ...string) Config {
	c := quick(Root, endpoints...)
	c.Grace = time.Minute
	return c
}

// Each: the cached snapshot stands while etcd is away, the client comes back by itself, and reads only what changed.
func TestEtcdGoesAndComesBack(t *testing.T) {
	for name, do := range map[string]struct{ away, back func(*machine) }{
		"killed": {(*machine).kill, (*machine).start},
		"frozen": {(*machine).freeze, (*machine).thaw},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := cluster(t, 1)[0]
			a, b := open(t, slow(m.client)), open(t, slow(m.client))
			claim(t, a, storetest.Lease(1, "a"))
			claim(t, b, storetest.Lease(2, "b"))
			waitFor(t, a, "both blocks", twoBlocks)
			began := time.Now()
			do.away(m)
			if s := waitFor(t, a, "away", isAway); !twoBlocks(s) {
				t.Errorf("the cached snapshot has %v", s.Leases)
			}
			t.Logf("noticed after %v", time.Since(began).Round(time.Millisecond))
			short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			if _, err := a.Claim(short, storetest.Lease(3, "a")); err == nil || !strings.Contains(err.Error(), store.ErrAway.Error()) {
				t.Errorf("claim while away: %v", err)
			}
			cancel()
			began = time.Now()
			do.back(m)
			waitFor(t, a, "back", func(s store.ClusterSnapshot) bool { return s.Live && len(s.Leases) >= 2 })
			t.Logf("back after %v", time.Since(began).Round(time.Millisecond))
			claim(t, b, storetest.Lease(4, "b"))
			waitFor(t, a, "what came after", func(s store.ClusterSnapshot) bool { return s.Leases[storetest.Lease(4, "").Key()].Node == "b" })
			if got := a.Stats(); got.Reads != 1 {
				t.Errorf("everything was read %d times: %+v", got.Reads, got)
			}
		})
	}
}

// What happened while a client was cut off is compacted away: it reads everything again.
func TestHistoryIsCompacted(t *testing.T) {
	t.Parallel()
	m := cluster(t, 1)[0]
	p := newProxy(t, m.client)
	a, b := open(t, slow(p.url)), open(t, slow(m.client))
	claim(t, a, storetest.Lease(1, "a"))
	claim(t, b, storetest.Lease(9, "b"))
	waitFor(t, a, "both", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 2 })
	p.hold(true)
	waitFor(t, a, "away", isAway)
	claim(t, b, storetest.Lease(2, "b"))
	if err := b.Release(t.Context(), storetest.Lease(9, "b")); err != nil {
		t.Fatal(err)
	}
	admin := raw(t, m.client)
	resp, err := admin.Put(t.Context(), "x", "y")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Compact(t.Context(), resp.Header.Revision); err != nil {
		t.Fatal(err)
	}
	p.cut()
	p.hold(false)
	waitFor(t, a, "the state", func(s store.ClusterSnapshot) bool { return s.Live && twoBlocks(s) })
	if got := a.Stats(); got.Reads != 2 || got.Compacted != 1 {
		t.Errorf("got %+v", got)
	}
}

// An etcd made anew in the old one's place is noticed, although it would accept the watch.
func TestAnotherEtcdInItsPlace(t *testing.T) {
	t.Parallel()
	m := cluster(t, 1)[0]
	a := open(t, slow(m.client))
	for i := range 20 {
		claim(t, a, storetest.Lease(i, "a"))
	}
	m.kill()
	waitFor(t, a, "away", isAway)
	if err := os.RemoveAll(filepath.Join(m.dir, "member")); err != nil {
		t.Fatal(err)
	}
	m.start()
	waitFor(t, a, "the new, empty one", func(s store.ClusterSnapshot) bool { return s.Live && len(s.Leases) == 0 })
	claim(t, a, storetest.Lease(1, "a"))
}

// One that lost its data is not live for those who know which cluster they are of: they keep what they had.
func TestAnEtcdThatLostItsDataIsNotLive(t *testing.T) {
	t.Parallel()
	m := cluster(t, 1)[0]
	if err := errors.Join(open(t, slow(m.client)).Found(t.Context(), "c-1"), open(t, slow(m.client)).Found(t.Context(), "c-1")); err != nil {
		t.Fatal(err)
	}
	if err := open(t, slow(m.client)).Found(t.Context(), "c-2"); !errors.Is(err, store.ErrExists) {
		t.Errorf("found another: %v", err)
	}
	config := slow(m.client)
	config.Cluster = "c-1"
	a := open(t, config)
	claim(t, a, storetest.Lease(1, "a"))
	config.Cluster = "c-2"
	waitFor(t, open(t, config), "not live in another cluster", func(s store.ClusterSnapshot) bool { return !s.Live && s.Token == "" })
	m.kill()
	waitFor(t, a, "away", isAway)
	if err := os.RemoveAll(filepath.Join(m.dir, "member")); err != nil {
		t.Fatal(err)
	}
	m.start()
	ready(t, m)
	for end := time.Now().Add(30 * time.Second); !strings.Contains(fmt.Sprint(a.Stats().Last), "lost its data"); time.Sleep(20 * time.Millisecond) {
		if s := a.board.Snapshot(); s.Live || len(s.Leases) != 1 || time.Now().After(end) {
			t.Fatalf("live %v with %v; %v", s.Live, s.Leases, a.Stats().Last)
		}
	}
}

// Of three servers one may be lost, whichever; without two nothing is live, and with two again everything is.
func TestThreeServersLoseOneAndTwo(t *testing.T) {
	t.Parallel()
	all := cluster(t, 3)
	a, b := open(t, slow(urls(all)...)), open(t, slow(urls(all)...))
	claim(t, a, storetest.Lease(1, "a"))
	claim(t, b, storetest.Lease(2, "b"))
	for i, m := range all {
		began := time.Now()
		step := func(what string) { t.Logf("%d %s after %v", i, what, time.Since(began).Round(time.Millisecond)) }
		m.kill()
		l := storetest.Lease(10+i, "b")
		retried(t, func(ctx context.Context) error { _, err := b.Claim(ctx, l); return err })
		step("claimed")
		waitFor(t, a, "a claim with two servers", func(s store.ClusterSnapshot) bool { return s.Live && s.Leases[l.Key()].Node == "b" })
		step("seen")
		m.start()
		ready(t, m)
		step("ready")
	}
	began := time.Now()
	all[0].kill()
	all[1].freeze()
	s := waitFor(t, a, "no majority", isAway)
	t.Logf("away after %v", time.Since(began).Round(time.Millisecond))
	if len(s.Leases) != 5 {
		t.Errorf("the cached snapshot has %v", s.Leases)
	}
	began = time.Now()
	all[0].start()
	waitFor(t, a, "a majority again", isLive)
	t.Logf("a majority again after %v", time.Since(began).Round(time.Millisecond))
	retried(t, func(ctx context.Context) error { _, err := a.Claim(ctx, storetest.Lease(20, "a")); return err })
	all[1].thaw()
	if got := a.Stats(); got.Reads != 1 {
		t.Errorf("everything was read %d times: %+v", got.Reads, got)
	}
}

// retried tries until a server that is alive was asked.
func retried(t *testing.T, do func(context.Context) error) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := do(ctx)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// Before there was any etcd at all a reader gets an empty snapshot that says so, and later the truth.
func TestEtcdComesLater(t *testing.T) {
	t.Parallel()
	m := cluster(t, 1)[0]
	m.kill()
	a := open(t, slow(m.client))
	if s := waitFor(t, a, "away", isAway); s.Token != "" || len(s.Leases) != 0 {
		t.Errorf("got %+v", s)
	}
	m.start()
	waitFor(t, a, "live", isLive)
}

// A keeper that cannot renew says so before anybody else can have the block, and of what became of it afterwards.
func TestAKeeperFencesInTime(t *testing.T) {
	t.Parallel()
	m := cluster(t, 1)[0]
	p := newProxy(t, m.client)
	config := quick(Root, p.url)
	a, b := open(t, config), open(t, quick(Root, m.client))
	told := make(chan string, 100)
	k := store.NewKeeper(store.KeeperDeps{Cluster: a, Node: "a", Renew: 200 * time.Millisecond, Beat: 500 * time.Millisecond, Timeout: time.Second,
		Tell: func(l model.Lease, is store.Tenure) { told <- fmt.Sprint(l.Block, " ", is) }})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- k.Run(ctx) }()
	want := func(s string) {
		t.Helper()
		select {
		case got := <-told:
			if got != s {
				t.Fatalf("told %s, want %s", got, s)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("was never told %s", s)
		}
	}
	l := storetest.Lease(1, "a")
	if err := k.Claim(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	want("10.70.1.0/24 held")
	time.Sleep(2 * config.Grace) // renewed all the time
	if _, err := b.Claim(t.Context(), storetest.Lease(1, "b")); err == nil || !k.Holds(l) {
		t.Fatal("the block was lost")
	}
	p.hold(true)
	want("10.70.1.0/24 overdue")
	if s := b.board.Snapshot(); s.Leases[l.Key()].Node != "a" {
		t.Errorf("told too late: the block is free: %v", s.Leases)
	}
	waitFor(t, b, "a free block", func(s store.ClusterSnapshot) bool { return s.Live && len(s.Leases) == 0 })
	claim(t, b, storetest.Lease(1, "b"))
	p.hold(false)
	want("10.70.1.0/24 lost")
	stop()
	<-ended
}

// A deleted key is noticed at once, not at the next renewal.
func TestAKeeperHearsOfADeletedKey(t *testing.T) {
	t.Parallel()
	m := cluster(t, 1)[0]
	a := open(t, slow(m.client))
	told := make(chan store.Tenure, 100)
	k := store.NewKeeper(store.KeeperDeps{Cluster: a, Node: "a", Tell: func(_ model.Lease, is store.Tenure) { told <- is }})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- k.Run(ctx) }()
	l := storetest.Lease(1, "a")
	for range 3 {
		if err := k.Claim(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		if is := <-told; is != store.Secure {
			t.Fatal(is)
		}
		if _, err := raw(t, m.client).Delete(t.Context(), Root+claimKey(l)); err != nil {
			t.Fatal(err)
		}
		select {
		case is := <-told:
			if is != store.Lost {
				t.Fatal(is)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("not told")
		}
	}
	stop()
	<-ended
}

// A process that was killed between its claim and the verdict leaves a claim that waits; it is withdrawn, and harms nobody.
func TestALateClaimOfACrashIsWithdrawn(t *testing.T) {
	t.Parallel()
	m := cluster(t, 1)[0]
	a, b := open(t, slow(m.client)), open(t, slow(m.client))
	claim(t, a, storetest.Lease(1, "a"))
	claim(t, b, storetest.Lease(2, "b"))
	admin := raw(t, m.client)
	late := Root + claimKey(storetest.Lease(1, "b"))
	if _, err := admin.Put(t.Context(), late, claimValue); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		held, err := b.Renew(t.Context(), "b")
		if err != nil || len(held) != 1 {
			t.Fatalf("got %v, %v", held, err)
		}
		if resp, err := admin.Get(t.Context(), late, clientv3.WithCountOnly()); err != nil || time.Now().After(end) {
			t.Fatal("still there", err)
		} else if resp.Count == 0 {
			break
		}
	}
	waitFor(t, a, "both", twoBlocks)
}

func TestNothingRunsOnAfterClose(t *testing.T) {
	m := cluster(t, 1)[0]
	during := func() int {
		var all []*Client
		for i := range 5 {
			c, err := Open(slow(m.client))
			if err != nil {
				t.Fatal(err)
			}
			claim(t, c, storetest.Lease(i, "a"))
			all = append(all, c)
		}
		n := runtime.NumGoroutine()
		for _, c := range all {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		return n
	}
	during()
	before := runtime.NumGoroutine()
	most := during()
	var after int
	for range 100 {
		if after = runtime.NumGoroutine(); after <= before {
			t.Logf("%d goroutines before, %d with 5 clients, %d after", before, most, after)
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	buf := make([]byte, 1<<20)
	t.Errorf("%d goroutines before, %d after:\n%s", before, after, buf[:runtime.Stack(buf, true)])
}
