package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/storetest"
)

// nodes is a cluster in memory on a bubble's clock: a grace of a day, in no time.
type nodes struct {
	t     *testing.T
	hub   *store.Hub
	start time.Time

	mu   sync.Mutex
	told []string
}

func newNodes(t *testing.T) *nodes {
	n := &nodes{t: t, start: time.Now()}
	n.hub = store.NewHub(24*time.Hour, 30*time.Second, n.now)
	return n
}

func (n *nodes) now() time.Duration { return time.Since(n.start) }

func (n *nodes) keeper(node string) (*store.Keeper, *store.HubClient) {
	c := n.hub.Client()
	k := store.NewKeeper(store.KeeperDeps{Cluster: c, Node: node, Now: n.now, Tell: func(l model.Lease, is store.Tenure) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.told = append(n.told, fmt.Sprintf("%v %s %s %s", n.now().Round(time.Second), l.Node, l.Block, is))
	}})
	ctx, stop := context.WithCancel(n.t.Context())
	ended := make(chan error)
	go func() { ended <- k.Run(ctx) }()
	n.t.Cleanup(func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			n.t.Error(err)
		}
		c.Close()
	})
	return k, c
}

func (n *nodes) heard(want ...string) {
	n.t.Helper()
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	if !slices.Equal(n.told, want) {
		n.t.Errorf("told\n%s\nwant\n%s", strings.Join(n.told, "\n"), strings.Join(want, "\n"))
	}
	n.told = nil
}

func (n *nodes) claim(k *store.Keeper, l model.Lease) {
	n.t.Helper()
	if err := k.Claim(n.t.Context(), l); err != nil {
		n.t.Fatal(err)
	}
}

func TestAKeeperKeepsForDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNodes(t)
		k, _ := n.keeper("a")
		n.claim(k, storetest.Lease(1, "a"))
		n.heard("0s a 10.70.1.0/24 held")
		time.Sleep(26 * time.Hour)
		n.heard()
		if !k.Holds(storetest.Lease(1, "a")) || k.Holds(storetest.Lease(2, "a")) {
			t.Error("it does not know what it holds")
		}
	})
}

// A day less the margin of 5 minutes after the last renewal, which was at most a minute before the cut.
func TestAKeeperThatIsCutOffFencesBeforeTheGraceIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNodes(t)
		k, c := n.keeper("a")
		other := n.hub.Client()
		defer other.Close()
		l := storetest.Lease(1, "a")
		n.claim(k, l)
		n.heard("0s a 10.70.1.0/24 held")
		time.Sleep(30 * time.Second)
		c.Cut(true)
		time.Sleep(24*time.Hour - 6*time.Minute)
		n.heard()
		if !k.Holds(l) {
			t.Error("fenced too early")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if _, err := other.Claim(t.Context(), storetest.Lease(1, "b")); err == nil || k.Holds(l) {
			t.Error("fenced too late")
		}
		time.Sleep(5 * time.Minute)
		if _, err := other.Claim(t.Context(), storetest.Lease(1, "b")); err != nil {
			t.Error(err)
		}
		c.Cut(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s := strings.Join(n.told, "\n"); len(n.told) != 2 || !strings.HasSuffix(n.told[0], "overdue") || !strings.HasSuffix(n.told[1], "lost") {
			t.Errorf("told %s", s)
		}
	})
}

func TestAKeeperComesBackInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNodes(t)
		k, c := n.keeper("a")
		n.claim(k, storetest.Lease(1, "a"))
		c.Cut(true)
		time.Sleep(20 * time.Hour)
		c.Cut(false)
		time.Sleep(5 * time.Hour)
		n.heard("0s a 10.70.1.0/24 held")
	})
}

// A daemon that starts again hears of what its node holds, without claiming.
func TestAKeeperFindsWhatItsNodeHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNodes(t)
		first := n.hub.Client()
		for i := range 2 {
			if _, err := first.Claim(t.Context(), storetest.Lease(i, "a")); err != nil {
				t.Fatal(err)
			}
		}
		first.Close()
		time.Sleep(time.Hour)
		k, _ := n.keeper("a")
		n.heard("1h0m0s a 10.70.0.0/24 held", "1h0m0s a 10.70.1.0/24 held")
		if err := k.Release(t.Context(), storetest.Lease(1, "a")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		n.heard()
	})
}

func TestAKeeperHearsOfALoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNodes(t)
		k, _ := n.keeper("a")
		stranger := n.hub.Client()
		defer stranger.Close()
		n.claim(k, storetest.Lease(1, "a"))
		if err := stranger.Release(t.Context(), storetest.Lease(1, "a")); err != nil {
			t.Fatal(err)
		}
		n.heard("0s a 10.70.1.0/24 held", "0s a 10.70.1.0/24 lost")
		n.claim(k, storetest.Lease(1, "a"))
		n.heard("0s a 10.70.1.0/24 held")
	})
}

func TestAKeeperBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNodes(t)
		_, c := n.keeper("a")
		other := n.hub.Client()
		defer other.Close()
		alive := func() (is bool) {
			synctest.Wait()
			ctx, cancel := context.WithCancel(t.Context())
			_ = other.Watch(ctx, func(s store.ClusterSnapshot) { is = s.Alive["a"]; cancel() })
			return is
		}
		time.Sleep(time.Hour)
		if !alive() {
			t.Error("it does not beat")
		}
		c.Cut(true)
		time.Sleep(time.Minute)
		if alive() {
			t.Error("it beats while it is cut off")
		}
		c.Cut(false)
		time.Sleep(11 * time.Second)
		if !alive() {
			t.Error("it does not beat again")
		}
	})
}
