package etcd

import (
	"context"
	"testing"
	"time"

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
