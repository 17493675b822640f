package flannel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

const vxlanConf = `{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`

// vxlanValue is what flanneld writes.
func vxlanValue(ip, mac string) string {
	return fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"%s"}}`, ip, mac)
}

// takes does what agent does: it claims what the network keeps for this node, until it has something.
func (n *node) takes() model.Lease {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	defer cancel()
	for {
		var next netip.Prefix
		n.sees("a block to take", func(s store.ClusterSnapshot) bool {
			for _, r := range s.Networks["flannel"].Cluster.Reserved {
				if r.Node == n.id {
					next = r.Block
				}
			}
			return next.IsValid()
		})
		held, err := n.Claim(ctx, model.Lease{Network: "flannel", Block: next, Node: n.id})
		var taken *store.TakenError
		if err == nil {
			return held.Lease
		} else if !errors.As(err, &taken) {
			n.t.Fatal(err)
		}
	}
}

// renews is what the node still has.
func (n *node) renews() []string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	defer cancel()
	held, err := n.Renew(ctx, n.id)
	if err != nil {
		n.t.Fatal(err)
	}
	var all []string
	for _, h := range held {
		if h.Until <= store.Boottime() {
			n.t.Errorf("%s until %v", h.Lease, h.Until)
		}
		all = append(all, h.Lease.Block.String())
	}
	return all
}

func wants(t *testing.T, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s:\ngot  %s\nwant %s", what, g, w)
	}
}

func TestANodeTakesASubnetAsFlanneldDoes(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(conf, vxlanConf)
	n := newNode(t, s, "192.0.2.1", nil)
	l := n.takes()
	if i, _ := (model.BlockPool{Prefix: netip.MustParsePrefix("10.5.0.0/16"), Bits: 24}).Index(l.Block); i < 1 || i > 100 {
		t.Errorf("%s is none of the first hundred behind the first", l.Block)
	}
	mac := model.TunnelMAC("flannel", n.id)
	key, _ := s.get(subs + Subnet{V4: l.Block}.String())
	wants(t, "the key", key.value, vxlanValue("192.0.2.1", mac.String()))
	wants(t, "its time", key.ttl, 86400)
	wants(t, "the lease", l.MAC, mac)
	snap := n.sees("its lease", func(s store.ClusterSnapshot) bool { return s.Leases[l.Key()] == l })
	wants(t, "the network", fmt.Sprintf("%+v", snap.Networks["flannel"].Cluster), fmt.Sprintf("%+v", model.Overlay{
		Pools: []model.BlockPool{{Prefix: netip.MustParsePrefix("10.5.0.0/16"), Bits: 24}}, Backend: model.VXLAN, VNI: 1, Port: 8472, Tunnel: "flannel.1", Inherited: true,
		Reserved: []model.Reservation{{Block: netip.MustParsePrefix("10.5.0.0/24")}}}))
	wants(t, "renewed", n.renews(), []netip.Prefix{l.Block})
	again, _ := s.get(subs + Subnet{V4: l.Block}.String())
	wants(t, "the key after a renewal", again, key)
}

func TestANodeComesBackToWhatItsFileSays(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(conf, vxlanConf)
	hint := func(set *Settings) { set.Hint = Subnet{V4: netip.MustParsePrefix("10.5.77.0/24")} }
	wants(t, "the first", newNode(t, s, "192.0.2.1", hint).takes().Block, "10.5.77.0/24")
	if second := newNode(t, s, "192.0.2.2", hint).takes().Block.String(); second == "10.5.77.0/24" {
		t.Error("the second took what the first has")
	}
	outside := func(set *Settings) { set.Hint = Subnet{V4: netip.MustParsePrefix("10.9.77.0/24")} }
	newNode(t, s, "192.0.2.3", outside).takes()
}

// flanneld's key is taken over as it stands: the same subnet, the same MAC, the same etcd lease, not one byte written.
func TestANodeReplacesFlanneldInPlace(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(conf, vxlanConf)
	lease := s.grant(86400)
	s.putLeased(subs+"10.5.52.0-24", vxlanValue("192.0.2.1", "c6:d2:32:6f:8f:44"), lease)
	s.putLeased(subs+"10.5.53.0-24", vxlanValue("192.0.2.2", "c6:d2:32:6f:8f:45"), lease)
	before, _ := s.get(subs + "10.5.52.0-24")
	n := newNode(t, s, "192.0.2.1", nil)
	wants(t, "renewed", n.renews(), "[10.5.52.0/24]")
	snap := n.sees("both", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 2 })
	var all []string
	for _, l := range snap.Leases {
		all = append(all, fmt.Sprint(l, " ", l.MAC))
	}
	slices.Sort(all)
	wants(t, "leases", strings.Join(all, "; "), `10.5.52.0/24 of "flannel" at flannel-192-0-2-1 c6:d2:32:6f:8f:44; 10.5.53.0/24 of "flannel" at flannel-192-0-2-2 c6:d2:32:6f:8f:45`)
	wants(t, "the other", snap.Members["flannel-192-0-2-2"].Underlay4, "192.0.2.2")
	after, _ := s.get(subs + "10.5.52.0-24")
	wants(t, "the key", after, before)
	wants(t, "claimed again", n.claims("10.5.52.0/24").Lease.MAC, "c6:d2:32:6f:8f:44")
	s.delete(subs + "10.5.52.0-24")
	n.sees("its loss", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 1 })
	wants(t, "claimed after its key was deleted", n.claims("10.5.52.0/24").Lease.MAC, "c6:d2:32:6f:8f:44")
}

func TestAReservationStaysOne(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(conf, vxlanConf)
	s.put(subs+"10.5.52.0-24", vxlanValue("192.0.2.1", "c6:d2:32:6f:8f:44"))
	n := newNode(t, s, "192.0.2.1", nil)
	wants(t, "renewed", n.renews(), "[10.5.52.0/24]")
	n.publish("192.0.2.9", "")
	n.claims("10.5.52.0/24")
	key, _ := s.get(subs + "10.5.52.0-24")
	wants(t, "value", key.value, vxlanValue("192.0.2.9", "c6:d2:32:6f:8f:44"))
	wants(t, "etcd lease", key.lease == "" || key.lease == "0", true)
}

func TestADeletedKeyIsTakenAgain(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(conf, vxlanConf)
	n := newNode(t, s, "192.0.2.1", nil)
	l := n.takes()
	before, _ := s.get(subs + Subnet{V4: l.Block}.String())
	s.delete(subs + Subnet{V4: l.Block}.String())
	n.sees("its loss", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 0 })
	wants(t, "renewed", n.renews(), "[]")
	n.claims(l.Block.String())
	after, _ := s.get(subs + Subnet{V4: l.Block}.String())
	wants(t, "the key", after.value, before.value)

	s.put(subs+Subnet{V4: l.Block}.String(), vxlanValue("192.0.2.7", "c6:d2:32:6f:8f:44"))
	n.sees("another's", func(s store.ClusterSnapshot) bool { return s.Leases[l.Key()].Node == "flannel-192-0-2-7" })
	wants(t, "renewed", n.renews(), "[]")
	var taken *store.TakenError
	if _, err := n.Claim(t.Context(), l); !errors.As(err, &taken) || taken.Holder != "flannel-192-0-2-7" {
		t.Errorf("got %v", err)
	}
	key, _ := s.get(subs + Subnet{V4: l.Block}.String())
	wants(t, "the other's key", key.value, vxlanValue("192.0.2.7", "c6:d2:32:6f:8f:44"))
}

func TestManyNodesTakeTheLastSubnetsAtOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(conf, `{"Network": "10.5.0.0/20", "SubnetMin": "10.5.4.0", "SubnetMax": "10.5.11.0", "Backend": {"Type": "host-gw"}}`)
	var wg sync.WaitGroup
	var mu sync.Mutex
	all := map[string]string{}
	for i := range 8 {
		n := newNode(t, s, fmt.Sprint("192.0.2.", i+1), nil)
		wg.Go(func() {
			l := n.takes()
			mu.Lock()
			defer mu.Unlock()
			if other, twice := all[l.Block.String()]; twice {
				t.Errorf("%s and %s have %s", other, n.id, l.Block)
			}
			all[l.Block.String()] = n.id
		})
	}
	wg.Wait()
	wants(t, "subnets", slices.Sorted(maps.Keys(all)), "[10.5.10.0/24 10.5.11.0/24 10.5.4.0/24 10.5.5.0/24 10.5.6.0/24 10.5.7.0/24 10.5.8.0/24 10.5.9.0/24]")
	late := newNode(t, s, "192.0.2.99", nil)
	late.sees("nothing to take", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 8 })
	var taken *store.TakenError
	for _, block := range []string{"10.5.0.0/24", "10.5.3.0/24", "10.5.12.0/24", "10.5.4.0/24"} {
		if _, err := late.Claim(t.Context(), late.lease(block)); !errors.As(err, &taken) {
			t.Errorf("%s: %v", block, err)
		}
	}
}

func TestHostileKeysHarmNobody(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(conf, vxlanConf)
	s.put(subs+"10.5.20.0-24", vxlanValue("192.0.2.2", "c6:00:00:00:00:02"))
	n := newNode(t, s, "192.0.2.1", func(set *Settings) { set.Hint = Subnet{V4: netip.MustParsePrefix("10.5.10.0/24")} })
	n.takes()
	want := n.sees("the good ones", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 2 })

	for key, value := range map[string]string{
		"0.0.0.0-0":              vxlanValue("192.0.2.66", "c6:00:00:00:00:66"),
		"10.5.0.0-16":            vxlanValue("192.0.2.66", "c6:00:00:00:00:66"),
		"10.5.20.0-25":           vxlanValue("192.0.2.66", "c6:00:00:00:00:66"),
		"192.0.2.0-24":           vxlanValue("192.0.2.66", "c6:00:00:00:00:66"),
		"10.5.20.0-24&fc00::-64": vxlanValue("192.0.2.66", "c6:00:00:00:00:66"),
		"10.5.30.0-24":           vxlanValue("192.0.2.1", "c6:00:00:00:00:66"),  // in this node's name
		"10.5.31.0-24":           vxlanValue("192.0.2.66", "c6:00:00:00:00:02"), // with a peer's MAC
		"10.5.32.0-24":           vxlanValue("10.5.20.2", "c6:00:00:00:00:66"),
		"10.5.33.0-24":           vxlanValue("192.0.2.66", model.TunnelMAC("flannel", n.id).String()),
		"10.5.34.0-24":           `{"PublicIP":"192.0.2.66","BackendType":"host-gw"}`,
		"10.5.35.0-24":           "\x00",
		"../config":              vxlanValue("192.0.2.66", "c6:00:00:00:00:66"),
		"10.5.36.0-24/x":         vxlanValue("192.0.2.66", "c6:00:00:00:00:66"),
	} {
		s.put(subs+key, value)
	}
	snap := n.sees("all the bad ones", func(s store.ClusterSnapshot) bool { return len(s.Unread) == 13 })
	wants(t, "leases", snap.Leases, want.Leases)
	wants(t, "members", snap.Members, want.Members)
	wants(t, "networks", fmt.Sprint(snap.Networks), fmt.Sprint(want.Networks))
	var reasons []string
	for _, key := range slices.Sorted(maps.Keys(snap.Unread)) {
		reasons = append(reasons, key+": "+snap.Unread[key].Error())
	}
	wants(t, "reasons", strings.Join(reasons, "\n"), strings.TrimSpace(`
subnets/../config: not ADDRESS-LENGTH
subnets/0.0.0.0-0: 0.0.0.0/0 is every address there is
subnets/10.5.0.0-16: 10.5.0.0/16 is not one of the /24 that 10.5.0.0/16 is cut into
subnets/10.5.20.0-24&fc00::-64: it has an IPv6 subnet, and IPv6 is not enabled
subnets/10.5.20.0-25: 10.5.20.0/25 is not one of the /24 that 10.5.0.0/16 is cut into
subnets/10.5.30.0-24: it says that this node, 192.0.2.1, holds it, which it does not
subnets/10.5.31.0-24: VtepMAC c6:00:00:00:00:02 belongs to node 192.0.2.2, whose packets it would get
subnets/10.5.32.0-24: the node's own address 10.5.20.2 lies in 10.5.0.0/16, which the nodes route to each other
subnets/10.5.33.0-24: VtepMAC `+model.TunnelMAC("flannel", n.id).String()+` belongs to node 192.0.2.1, whose packets it would get
subnets/10.5.34.0-24: BackendType is "host-gw", and the configuration's "vxlan"
subnets/10.5.35.0-24: invalid character '\x00' looking for beginning of value
subnets/10.5.36.0-24/x: not ADDRESS-LENGTH
subnets/192.0.2.0-24: 192.0.2.0/24 lies outside of 10.5.0.0/16`))
	wants(t, "renewed", n.renews(), "[10.5.10.0/24]")
}

func TestWhatHappenedWhileEtcdWasAwayLeavesNothingStale(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(conf, vxlanConf)
	s.put(subs+"10.5.20.0-24", vxlanValue("192.0.2.2", "c6:00:00:00:00:02"))
	s.put(subs+"10.5.21.0-24", vxlanValue("192.0.2.3", "c6:00:00:00:00:03"))
	n := newNode(t, s, "192.0.2.1", nil)
	n.sees("both", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 2 })
	s.kill()
	s.start()
	s.delete(subs + "10.5.20.0-24")
	s.put(subs+"10.5.21.0-24", vxlanValue("192.0.2.4", "c6:00:00:00:00:04"))
	s.compact()
	snap := n.sees("the change", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 1 })
	wants(t, "leases", snap.Leases, `map[{flannel 10.5.21.0/24}:10.5.21.0/24 of "flannel" at flannel-192-0-2-4]`)
	wants(t, "members", slices.Sorted(maps.Keys(snap.Members)), "[flannel-192-0-2-1 flannel-192-0-2-4]")
	if r := n.Stats().Reads; r > 2 {
		t.Errorf("%d readings of everything", r)
	}
}

func TestTheFirstConfigurationStands(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	n := newNode(t, s, "192.0.2.1", nil)
	notLive := func(what string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		seen := false
		_ = n.Watch(ctx, func(s store.ClusterSnapshot) {
			if s.Live {
				t.Errorf("%s: live: %v", what, s)
			}
			if err := s.Unread[configKey]; err != nil && strings.Contains(err.Error(), what) {
				seen = true
				cancel()
			}
		})
		if !seen {
			t.Errorf("%s was never said", what)
		}
	}
	s.put(conf, `{"Network": "10.5.0.0/16"}`)
	notLive(`backend "udp"`)
	s.put(conf, `{"Network": "10.5.0.0/99"}`)
	notLive("Network")
	s.put(conf, vxlanConf)
	n.takes()
	s.put(conf, `{"Network": "10.9.0.0/16", "Backend": {"Type": "host-gw"}}`)
	snap := n.sees("the change", func(s store.ClusterSnapshot) bool { return s.Unread[configKey] != nil })
	wants(t, "leases", len(snap.Leases), 1)
	wants(t, "backend", snap.Networks["flannel"].Cluster.Backend, "vxlan")
	wants(t, "what is said", snap.Unread[configKey], "it was changed; what it said stands until flatnetd starts anew, as with flanneld")
	s.delete(conf)
	snap = n.sees("its end", func(s store.ClusterSnapshot) bool {
		return strings.Contains(fmt.Sprint(s.Unread[configKey]), "deleted")
	})
	wants(t, "leases", len(snap.Leases), 1)
	s.put(conf, vxlanConf)
	n.sees("it again", func(s store.ClusterSnapshot) bool { return s.Unread[configKey] == nil })
}

func TestANodeThatMovesKeepsItsSubnetAndItsID(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(conf, vxlanConf)
	n, other := newNode(t, s, "192.0.2.1", nil), newNode(t, s, "192.0.2.2", nil)
	l := n.takes()
	n.publish("192.0.2.9", "")
	key, _ := s.get(subs + Subnet{V4: l.Block}.String())
	wants(t, "the key", key.value, vxlanValue("192.0.2.9", l.MAC.String()))
	snap := n.sees("itself", func(s store.ClusterSnapshot) bool {
		return s.Members[n.id].Underlay4 == netip.MustParseAddr("192.0.2.9")
	})
	wants(t, "its lease", snap.Leases[l.Key()].Node, n.id)
	wants(t, "renewed", n.renews(), []netip.Prefix{l.Block})
	other.sees("the other address", func(s store.ClusterSnapshot) bool { return s.Leases[l.Key()].Node == "flannel-192-0-2-9" })
}

func TestAFlanneldThatStillRunsIsNoticed(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(conf, vxlanConf)
	n := newNode(t, s, "192.0.2.1", nil)
	l := n.takes()
	if err := n.Heartbeat(t.Context(), n.id); err != nil {
		t.Fatal(err)
	}
	s.putLeased(subs+Subnet{V4: l.Block}.String(), vxlanValue("192.0.2.1", "c6:00:00:00:00:01"), s.grant(86400))
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if err := n.Heartbeat(t.Context(), n.id); errors.Is(err, store.ErrTwin) {
			break
		} else if time.Now().After(end) {
			t.Fatal("never noticed")
		}
	}
	wants(t, "renewed", n.renews(), []netip.Prefix{l.Block})
}

func TestBothFamiliesStandAtOneKey(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(conf, `{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fc00::/48", "Backend": {"Type": "vxlan"}}`)
	n := newNode(t, s, "192.0.2.1", func(set *Settings) {
		set.Hint = Subnet{V4: netip.MustParsePrefix("10.5.10.0/24"), V6: netip.MustParsePrefix("fc00:0:0:7::/64")}
	})
	if _, err := n.Claim(t.Context(), n.lease("10.5.10.0/24")); err == nil || !strings.Contains(err.Error(), "IPv6 underlay") {
		t.Errorf("without an IPv6 address: %v", err)
	}
	n.publish("192.0.2.1", "2001:db8::1")
	n.takes()
	key, _ := s.get(subs + "10.5.10.0-24&fc00:0:0:7::-64")
	wants(t, "the key", key.value, fmt.Sprintf(`{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"%s"},"BackendV6Data":{"VNI":1,"VtepMAC":"%s"}}`,
		model.TunnelMAC("flannel", n.id), model.TunnelMAC("flannel-v6", n.id)))
	wants(t, "renewed", n.renews(), "[10.5.10.0/24 fc00:0:0:7::/64]")
	six := model.Lease{Network: "flannel-v6", Block: netip.MustParsePrefix("fc00:0:0:7::/64"), Node: n.id}
	if held, err := n.Claim(t.Context(), six); err != nil || held.Lease.MAC != model.TunnelMAC("flannel-v6", n.id) {
		t.Errorf("the claim of the other family: %v, %v", held, err)
	}
	snap := n.sees("both", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 2 })
	wants(t, "tunnels", snap.Networks["flannel"].Cluster.Tunnel+" "+snap.Networks["flannel-v6"].Cluster.Tunnel, "flannel.1 flannel-v6.1")
	wants(t, "underlays", fmt.Sprint(snap.Networks["flannel"].Cluster.UnderlayV6, snap.Networks["flannel-v6"].Cluster.UnderlayV6), "false true")
	if err := n.Release(t.Context(), six); err != nil {
		t.Error(err)
	}
	if key, there := s.get(subs + "10.5.10.0-24&fc00:0:0:7::-64"); there {
		t.Errorf("the key is still there: %v", key)
	}
}

func TestFlannelsNetworkIsNotChangedFromHere(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put(conf, vxlanConf)
	n := newNode(t, s, "192.0.2.1", nil)
	snap := n.sees("the network", func(s store.ClusterSnapshot) bool { return len(s.Networks) == 1 })
	for _, change := range []store.Change{store.PutNetwork(snap.Networks["flannel"], store.Any), store.Delete(store.Network, "flannel", store.Any), store.Delete(store.Member, "flannel-192-0-2-2", store.Any)} {
		_, err := n.Write(t.Context(), change)
		var p model.Problem
		if !errors.As(err, &p) || p.Owner != "flannel, /coreos.com/network/config" {
			t.Errorf("got %v", err)
		}
	}
	key, _ := s.get(conf)
	wants(t, "the configuration", key.value, vxlanConf)
}

func TestTheBackendsKeysBecomeTheNetworks(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.put("/second/config", `{"Network": "10.6.0.0/16", "SubnetMin": "10.6.2.0", "SubnetMax": "10.6.254.0", "Backend": {"Type": "vxlan", "VNI": 42, "Port": 4789, "MTU": 1400, "DirectRouting": true}}`)
	n := newNode(t, s, "192.0.2.1", func(set *Settings) { set.Prefix, set.ForeignBridge = "/second/", true })
	n.takes()
	got := n.sees("the network", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 1 }).Networks["flannel"]
	block := netip.MustParsePrefix
	want := model.Network{Name: "flannel", Mode: model.Cluster, Bridge: "cni0", MTU: 1350, Active: true, Autostart: true, Cluster: model.Overlay{
		Pools: []model.BlockPool{{Prefix: block("10.6.0.0/16"), Bits: 24}}, Backend: model.VXLAN, VNI: 42, Port: 4789, DirectRouting: true, Tunnel: "flannel.42",
		Inherited: true, ForeignBridge: true, Reserved: []model.Reservation{{Block: block("10.6.0.0/24")}, {Block: block("10.6.1.0/24")}, {Block: block("10.6.255.0/24")}}}}
	wants(t, "the network", fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want))
}
