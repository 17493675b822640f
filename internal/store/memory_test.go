package store_test

import (
	"encoding/json"
	"testing"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/storetest"
)

func TestMemoryKeepsTheContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return store.NewMemory() })
}

// Whatever bytes are stored: reading and rewriting them never panics, and what is written can be read.
func FuzzRewrite(f *testing.F) {
	f.Add([]byte(`{"schema":1,"value":{"Name":"lab","Subnets":[{"Prefix":"10.0.0.0/24","X":1}],"Y":{}}}`))
	f.Add([]byte(`{"schema":1,"value":{"Subnets":[1,null,{}]}}`))
	f.Add([]byte(`{"schema":1,"value":[]}`))
	f.Add([]byte(`{"schema":1}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := store.NewMemory()
		if _, err := s.Write(t.Context(), store.Change{Kind: store.Network, Name: "lab", Data: data}); err != nil {
			t.Fatal(err)
		}
		snap, _ := s.Load(t.Context())
		networks, err := snap.Networks()
		n := networks["lab"]
		n.Name = "lab"
		if _, err := s.Write(t.Context(), store.PutNetwork(n, store.Any)); err != nil {
			return // not one of ours at all
		}
		snap, _ = s.Load(t.Context())
		if _, again := snap.Networks(); again != nil && err == nil {
			t.Errorf("%s was readable, but rewritten it is not: %v: %s", data, again, snap.Objects[store.Network]["lab"].Data)
		}
	})
}

func BenchmarkPut(b *testing.B) {
	s := store.NewMemory()
	n := model.Network{Name: "lab", Mode: model.NAT}
	for b.Loop() {
		n.MTU++
		if _, err := s.Write(b.Context(), store.PutNetwork(n, store.Any)); err != nil {
			b.Fatal(err)
		}
	}
	var size json.RawMessage = store.PutNetwork(n, store.Any).Data
	b.ReportMetric(float64(len(size)), "bytes")
}
