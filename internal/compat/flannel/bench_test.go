package flannel

import (
	"fmt"
	"testing"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store/etcd"
)

// crowded is a world of n other nodes.
func crowded(n int) *world {
	w := newWorld(Settings{Names: Names{Network: "flannel", Bridge: "cni0"}})
	kvs := []etcd.KV{{Key: "/f/config", Value: []byte(`{"Network": "10.0.0.0/8", "Backend": {"Type": "vxlan"}}`), Modified: 1}}
	for i := range n {
		kvs = append(kvs, crowdKV(i, int64(i+2), 0))
	}
	w.readAll(kvs, "/f/", int64(n+2))
	return w
}

func crowdKV(i int, revision int64, mac byte) etcd.KV {
	return etcd.KV{Key: fmt.Sprintf("/f/subnets/10.%d.%d.0-24", 1+i/250, i%250), Created: int64(i + 2), Modified: revision, Lease: 1,
		Value: []byte(vxlanValue(fmt.Sprintf("192.168.%d.%d", i/250, i%250+1), model.MAC{0xc6, mac, 0, 0, byte(i >> 8), byte(i)}.String()))}
}

// BenchmarkOneOf is what one changed key costs among many.
func BenchmarkOneOf(b *testing.B) {
	for _, n := range []int{100, 1000, 5000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w := crowded(n)
			revision := int64(n + 2)
			for b.Loop() {
				revision++
				if !w.changed([]etcd.KV{crowdKV(7, revision, byte(revision))}, "/f/", revision) {
					b.Fatal("nothing changed")
				}
				if s := w.snapshot(); len(s.Leases) != n {
					b.Fatalf("%d leases, %v", len(s.Leases), s.Unread)
				}
			}
		})
	}
}

// BenchmarkReading is what it costs to read everything.
func BenchmarkReading(b *testing.B) {
	for _, n := range []int{100, 1000, 5000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				if s := crowded(n).snapshot(); len(s.Leases) != n {
					b.Fatalf("%d leases, %v", len(s.Leases), s.Unread)
				}
			}
		})
	}
}
