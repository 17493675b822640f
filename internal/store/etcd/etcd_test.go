package etcd

import (
	"context"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/etcd/server"
	"github.com/flatnet/flatnet/internal/store/storetest"
)

// With the oldest etcd that we mean to work with, as Debian 12 has it.
func TestDebiansEtcdKeepsTheContract(t *testing.T) {
	t.Parallel()
	machines := cluster(t, 1)
	storetest.RunCluster(t, func(t *testing.T) storetest.Shared { return shared(t, urls(machines)...) })
}

func TestEmbeddedEtcdKeepsTheContract(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	config := server.Config{Name: "a", Dir: t.TempDir(), ClientURL: freeURL(), PeerURL: freeURL(), Tick: 30}
	s, err := server.Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	storetest.RunCluster(t, func(t *testing.T) storetest.Shared { return shared(t, config.ClientURL) })
}

// Three embedded servers find each other, keep their data over a restart, and say why when they cannot start.
func TestEmbeddedServersKeepTheirData(t *testing.T) {
	t.Parallel()
	var configs []server.Config
	peers := map[string]string{}
	for _, name := range []string{"a", "b", "c"} {
		configs = append(configs, server.Config{Name: name, Dir: t.TempDir(), ClientURL: freeURL(), PeerURL: freeURL(), Tick: 30})
		peers[name] = configs[len(configs)-1].PeerURL
	}
	begin := func() (all []*server.Server) {
		started := make(chan *server.Server)
		for _, c := range configs {
			c.Others = maps.Clone(peers)
			delete(c.Others, c.Name)
			go func() {
				s, err := server.Start(t.Context(), c)
				if err != nil {
					t.Error(err)
				}
				started <- s
			}()
		}
		for range configs {
			all = append(all, <-started)
		}
		return all
	}
	end := func(all []*server.Server) {
		var wg sync.WaitGroup
		for _, s := range all {
			wg.Go(s.Stop) // each waits some seconds for those who watch
		}
		wg.Wait()
	}
	began := time.Now()
	step := func(what string) { t.Logf("%s after %v", what, time.Since(began).Round(time.Millisecond)) }
	servers := begin()
	t.Cleanup(func() { end(servers) })
	step("started")
	c := open(t, slow(configs[0].ClientURL, configs[1].ClientURL, configs[2].ClientURL))
	claim(t, c, storetest.Lease(1, "a"))
	end(servers)
	step("stopped")
	waitFor(t, c, "away", isAway)
	servers = begin()
	step("started again")
	waitFor(t, c, "what was there", func(s store.ClusterSnapshot) bool { return s.Live && len(s.Leases) == 1 })
	taken := server.Config{Name: "d", Dir: t.TempDir(), ClientURL: configs[0].ClientURL, PeerURL: freeURL()}
	if _, err := server.Start(t.Context(), taken); err == nil || !strings.Contains(err.Error(), `etcd server "d": listen tcp`) {
		t.Errorf("a port that is taken: %v", err)
	}
}

// Whatever stands in etcd for a key: what is understood is written the same way, so there are no two spellings of one thing.
func FuzzKeys(f *testing.F) {
	for _, s := range []string{"cluster", "networks/pods", "nodes/a", "alive/a", "claims/a/pods/10.70.1.0/24", "claims/a/pods/fd00::/64", "claims/a/pods/010.70.1.0/24", "claims//x/0.0.0.0/0", "nodes/../x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		p, err := parseKey(key)
		if err != nil {
			return
		}
		again := founded
		switch {
		case p.alive != "":
			again = alive + p.alive
		case p.kind != "":
			again = objectKey(p.kind, p.name)
		case p.lease.Node != "":
			again = claimKey(p.lease)
		}
		if again != key {
			t.Errorf("%q is understood as %+v, which is %q", key, p, again)
		}
	})
}
