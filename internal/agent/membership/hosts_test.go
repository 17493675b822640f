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
