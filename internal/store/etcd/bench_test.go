package etcd

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// cpu is what this process has used; etcd is another one.
func cpu() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// populate writes a cluster of n nodes that are alive and hold a block each.
func populate(t testing.TB, endpoint string, n int) {
	c := raw(t, endpoint)
	lease, err := c.Grant(context.Background(), 3600)
	if err != nil {
		t.Fatal(err)
	}
	pool := model.BlockPool{Prefix: netip.MustParsePrefix("10.64.0.0/10"), Bits: 24}
	var ops []clientv3.Op
	for i := range n {
		id := fmt.Sprintf("n-%08x", i*7919)
		m := model.Member{ID: id, Name: fmt.Sprintf("host-%d.example.com", i), Underlay4: netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}), MTU: 1500, Version: "v0.1.0", Schema: store.Schema}
		ops = append(ops,
			clientv3.OpPut(Root+nodes+id, string(store.PutMember(m, store.New).Data)),
			clientv3.OpPut(Root+claimKey(model.Lease{Network: "pods", Block: pool.Block(uint64(i)), Node: id}), claimValue, clientv3.WithLease(lease.ID)),
			clientv3.OpPut(Root+alive+id, `{"schema":1,"value":{"Instance":"ABCDEFGHIJKLMNOPQRSTUVWXYZ"}}`, clientv3.WithLease(lease.ID)))
		if len(ops) >= 120 || i == n-1 {
			if _, err := c.Txn(context.Background()).Then(ops...).Commit(); err != nil {
				t.Fatal(err)
			}
			ops = ops[:0]
		}
	}
}

// What it costs a node to start in a cluster of that many, until its first snapshot, and then to hear of one change.
func BenchmarkCluster(b *testing.B) {
	for _, n := range []int{100, 1000, 5000, 10000} {
		m := benchServer(b)
		populate(b, m.client, n)
		config := Config{Endpoints: []string{m.client}, Probe: 5 * time.Second}
		full := func(s store.ClusterSnapshot) bool { return s.Live && len(s.Leases) >= n && len(s.Members) >= n }
		b.Run(fmt.Sprintf("start/%d", n), func(b *testing.B) {
			began := cpu()
			var read int64
			for b.Loop() {
				c := open(b, config)
				until(b, c, full)
				read = c.Stats().Bytes
				c.Close()
			}
			b.ReportMetric(float64((cpu()-began).Microseconds())/1000/float64(b.N), "cpu-ms/op")
			b.ReportMetric(float64(read), "bytes")
		})
		b.Run(fmt.Sprintf("change/%d", n), func(b *testing.B) {
			before := heap()
			c, writer := open(b, config), raw(b, m.client)
			until(b, c, full)
			kept := heap() - before
			l := model.Lease{Network: "blue", Block: netip.MustParsePrefix("10.9.9.0/24")}
			began, i := cpu(), 0
			for b.Loop() {
				i++
				l.Node = fmt.Sprint("x-", i)
				if _, err := writer.Txn(b.Context()).Then(clientv3.OpDelete(Root+claimKey(model.Lease{Network: l.Network, Block: l.Block, Node: fmt.Sprint("x-", i-1)})),
					clientv3.OpPut(Root+claimKey(l), claimValue)).Commit(); err != nil {
					b.Fatal(err)
				}
				until(b, c, func(s store.ClusterSnapshot) bool { return s.Leases[l.Key()].Node == l.Node })
			}
			b.ReportMetric(float64((cpu()-began).Microseconds())/1000/float64(b.N), "cpu-ms/op")
			b.ReportMetric(float64(kept)/1e6, "heap-MB")
		})
	}
}

func benchServer(b *testing.B) *machine {
	m := &machine{t: b, name: "s0", dir: b.TempDir(), client: freeURL(), peer: freeURL()}
	m.initial = "s0=" + m.peer
	m.start()
	ready(b, m)
	return m
}

func until(b *testing.B, c *Client, ok func(store.ClusterSnapshot) bool) {
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	done := false
	_ = c.Watch(ctx, func(s store.ClusterSnapshot) {
		if ok(s) {
			done = true
			cancel()
		}
	})
	if !done {
		b.Fatal("never seen")
	}
}
