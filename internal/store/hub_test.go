package store_test

import (
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/storetest"
)

func TestHubKeepsTheClusterContract(t *testing.T) {
	storetest.RunCluster(t, func(t *testing.T) storetest.Shared {
		const grace, alive = 500 * time.Millisecond, 300 * time.Millisecond
		hub := store.NewHub(grace, alive, store.Boottime)
		stranger := hub.Client()
		return storetest.Shared{
			Client: func() store.Cluster { return hub.Client() }, Grace: grace, Alive: alive,
			Wipe: func(l model.Lease) { _ = stranger.Release(t.Context(), l) },
			Plant: func(kind store.Kind, name, data string) {
				if _, err := stranger.Write(t.Context(), store.Change{Kind: kind, Name: name, Base: store.Any, Data: []byte(data)}); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}
