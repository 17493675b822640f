package kernel_test

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

var manyPeers = []int{100, 1000, 5000, 10000}

// BenchmarkPeersWritten writes what leads to n peers: a neighbour, an FDB entry and a route each. us-cpu/peer must stay level.
func BenchmarkPeersWritten(b *testing.B) {
	benchPeers(b, func(b *testing.B, k *kernel.Kernel, plan dataplane.Plan) { apply(b, k, "", plan) })
}

// BenchmarkPeersFloor writes the same by nothing but ready messages, 128 at once.
func BenchmarkPeersFloor(b *testing.B) {
	var c *netlink.Conn
	var batches []*netlink.Batch
	benchPeers(b, func(b *testing.B, k *kernel.Kernel, plan dataplane.Plan) {
		for _, batch := range batches {
			if errs := c.Do(batch, nil); errs != nil {
				b.Fatal(errs)
			}
		}
	}, func(plan dataplane.Plan) {
		var err error
		if c, err = netlink.Open(unix.NETLINK_ROUTE); err != nil {
			b.Fatal(err)
		}
		batches = readyMessages(b, c, plan)
	})
}

func benchPeers(b *testing.B, write func(*testing.B, *kernel.Kernel, dataplane.Plan), prepare ...func(dataplane.Plan)) {
	for _, n := range manyPeers {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			k := host(b)
			bare, full := tunnelled(0), tunnelled(n)
			reach(b, k, "", bare)
			fill, empty := dataplane.Diff(full, bare), dataplane.Diff(bare, full)
			for _, p := range prepare {
				p(fill)
			}
			spent := 0.0
			b.ReportAllocs()
			for b.Loop() {
				before := cpu()
				write(b, k, fill)
				spent += cpu() - before
				b.StopTimer()
				apply(b, k, "", empty)
				b.StartTimer()
			}
			b.ReportMetric(spent*1e6/float64(b.N)/float64(n), "us-cpu/peer")
		})
	}
}

// BenchmarkPeersObserved looks at a host with n peers.
func BenchmarkPeersObserved(b *testing.B) {
	for _, n := range manyPeers {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			k := host(b)
			want := tunnelled(n)
			reach(b, k, "", want)
			b.ReportAllocs()
			before := cpu()
			for b.Loop() {
				if got := observe(b, k, ""); len(got) != len(want) {
					b.Fatalf("%d objects, want %d", len(got), len(want))
				}
			}
			b.ReportMetric((cpu()-before)*1e6/float64(b.N)/float64(n), "us-cpu/peer")
		})
	}
}

// BenchmarkPeersDiffed has the kernel out of it: what all peers at once, and one of them, cost to compare.
func BenchmarkPeersDiffed(b *testing.B) {
	for _, n := range manyPeers {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			bare, full := tunnelled(0), tunnelled(n)
			b.ReportAllocs()
			for b.Loop() {
				if p := dataplane.Diff(full, bare); len(p) != 3*n {
					b.Fatal(len(p))
				}
			}
		})
	}
}

func readyMessages(b *testing.B, c *netlink.Conn, plan dataplane.Plan) (batches []*netlink.Batch) {
	index := linkIndex(b, c, "fx-a")
	for i, s := range plan {
		if i%netlink.MaxBatch == 0 {
			batches = append(batches, &netlink.Batch{})
		}
		m := batches[len(batches)-1]
		switch o := s.Object.(type) {
		case dataplane.Neighbour:
			entryMessage(m, unix.AF_INET, 0, index)
			m.Bytes(unix.NDA_DST, o.Addr.AsSlice())
			m.Bytes(unix.NDA_LLADDR, o.MAC[:])
		case dataplane.FDB:
			entryMessage(m, unix.AF_BRIDGE, unix.NTF_SELF, index)
			m.Bytes(unix.NDA_DST, o.Dst.AsSlice())
			m.Bytes(unix.NDA_LLADDR, o.MAC[:])
		case dataplane.Route:
			routeMessage(m, o.Dest, o.Via, o.Source, index)
		}
	}
	return batches
}

func entryMessage(m *netlink.Batch, family, flags uint8, index uint32) {
	m.Begin(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	p := make([]byte, unix.SizeofNdMsg)
	p[0], p[8], p[10] = family, unix.NUD_PERMANENT, flags
	binary.NativeEndian.PutUint32(p[4:], index)
	m.Raw(p)
}

func routeMessage(m *netlink.Batch, dest netip.Prefix, via, source netip.Addr, index uint32) {
	m.Begin(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	scope := uint8(binary.BigEndian.Uint32(dest.Addr().AsSlice())>>8) % unix.RT_SCOPE_LINK // else the kernel is slow, see routeScope
	m.Raw([]byte{unix.AF_INET, uint8(dest.Bits()), 0, 0, unix.RT_TABLE_MAIN, dataplane.RouteProtocol, scope, unix.RTN_UNICAST, unix.RTNH_F_ONLINK, 0, 0, 0})
	m.Bytes(unix.RTA_DST, dest.Addr().AsSlice())
	m.Bytes(unix.RTA_GATEWAY, via.AsSlice())
	m.Bytes(unix.RTA_PREFSRC, source.AsSlice())
	m.Uint32(unix.RTA_OIF, index)
}

func linkIndex(b *testing.B, c *netlink.Conn, name string) uint32 {
	r, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(c.FD(), unix.SIOCGIFINDEX, r)
	}
	if err != nil {
		b.Fatal(err)
	}
	return r.Uint32()
}
