package membership

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// What a node says of itself is anybody's text: it must not write on the terminal of who lists the hosts, nor make them hard to read.
func TestAHostileNodeIsListedInPlainText(t *testing.T) {
	evil := model.Member{ID: "evil", Name: "ev\x1b[31mil", Underlay4: netip.MustParseAddr("192.0.2.66"), MTU: 1500, Schema: 1, Version: "\x1b]0;owned\a" + strings.Repeat("v", 100_000)}
	net := model.Network{Name: "pods", Mode: model.Cluster, Cluster: model.Overlay{Pools: []model.BlockPool{{Prefix: netip.MustParsePrefix("10.70.0.0/16"), Bits: 24}}}}
	snap := store.ClusterSnapshot{Live: true, Members: map[string]model.Member{"evil": evil}, Networks: map[string]model.Network{"pods": net}, Leases: map[model.LeaseKey]model.Lease{}}
	for _, block := range []string{"0.0.0.0/0", "10.70.66.0/24", "10.70.0.0/16"} {
		l := model.Lease{Network: "pods", Block: netip.MustParsePrefix(block), Node: "evil"}
		snap.Leases[l.Key()] = l
	}
	h := hostsOf(snap, record{})[0]
	if strings.ContainsAny(h.Name+h.Version+h.Problem, "\x1b\a") || len(h.Version) > 100 {
		t.Errorf("shown: %q %q %q", h.Name, h.Version, h.Problem)
	}
	if strings.Join(h.Blocks, " ") != "10.70.66.0/24" {
		t.Errorf("blocks %v", h.Blocks)
	}
}

// A network whose pool holds the underlay's addresses is not used by any node; the list of hosts goes by that as well.
func TestABadPoolRefusesNobody(t *testing.T) {
	member := func(id string, n byte) model.Member {
		return model.Member{ID: id, Name: id, Underlay4: netip.AddrFrom4([4]byte{192, 0, 2, n}), MTU: 1500, Schema: 1}
	}
	bad := model.Network{Name: "bad", Mode: model.Cluster, Active: true, Cluster: model.Overlay{Backend: model.VXLAN, VNI: 1, Port: 8472, Pools: []model.BlockPool{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Bits: 26}}}}
	snap := store.ClusterSnapshot{Live: true, Members: map[string]model.Member{"n-1": member("n-1", 1), "n-2": member("n-2", 2)}, Networks: map[string]model.Network{"bad": bad}}
	for _, h := range hostsOf(snap, record{ID: "n-1"}) {
		if h.Problem != "" {
			t.Errorf("%s: %s", h.ID, h.Problem)
		}
	}
}
