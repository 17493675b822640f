package reconcile_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
)

func hostPart(objects ...dataplane.Object) dataplane.Host {
	var h dataplane.Host
	if err := h.State(dataplane.HostNetns).Put(objects...); err != nil {
		panic(err)
	}
	return h
}

var labTunnel = dataplane.Link{Name: "fx-lab", Kind: dataplane.VXLAN, Owner: "net/lab", MAC: model.BridgeMAC("fx"), MTU: 1450, Up: true,
	Tunnel: dataplane.Tunnel{VNI: 7, Port: 8472, Local: netip.MustParseAddr("192.0.2.1")}}

// cluster is a network with its tunnel, and n peers, a part each.
func cluster(tunnel dataplane.Link, n int) map[string]dataplane.Host {
	gateway := dataplane.Address{Link: "fn-lab", Prefix: netip.MustParsePrefix("10.99.0.1/24")}
	parts := map[string]dataplane.Host{"net/lab": hostPart(tunnel, gateway, dataplane.Link{Name: "fn-lab", Kind: dataplane.Bridge, Owner: "net/lab", Up: true},
		dataplane.Sysctl{Name: "net/ipv4/conf/fx-lab/rp_filter", Link: "fx-lab", Value: "2"})}
	for i := range n {
		block, mac := netip.AddrFrom4([4]byte{10, 100, byte(i), 0}), model.MAC{2, 0, 0, 0, 0, byte(i)}
		parts[fmt.Sprintf("peer/lab/%d", i)] = hostPart(
			dataplane.Neighbour{Link: "fx-lab", Addr: block, MAC: mac},
			dataplane.FDB{Link: "fx-lab", MAC: mac, Dst: netip.AddrFrom4([4]byte{198, 18, 0, byte(i)})},
			dataplane.Route{Dest: netip.PrefixFrom(block, 24), Via: block, OnLink: true, Link: "fx-lab", Source: gateway.Prefix.Addr()})
	}
	return parts
}

// hasParts fails unless the kernel has exactly what the parts want.
func hasParts(t *testing.T, k *kerneltest.Fake, parts map[string]dataplane.Host) {
	t.Helper()
	var want dataplane.Host
	for _, p := range parts {
		if err := want.Merge(p); err != nil {
			t.Fatal(err)
		}
	}
	have, err := k.Observe(t.Context(), dataplane.HostNetns)
	if err != nil {
		t.Fatal(err)
	}
	if p := dataplane.Diff(want.State(dataplane.HostNetns), have); len(p) > 0 {
		t.Errorf("the host lacks:\n%s", p)
	}
}

// TestPeersOutliveAChangeOfTheirTunnel: what the kernel drops with it belongs to parts that nobody touched.
func TestPeersOutliveAChangeOfTheirTunnel(t *testing.T) {
	k := kerneltest.NewFake()
	r := reconcile.New(k, reconcile.Deps{})
	if _, err := r.Set(t.Context(), cluster(labTunnel, 5)); err != nil {
		t.Fatal(err)
	}
	hasParts(t, k, cluster(labTunnel, 5))
	for name, change := range map[string]func(*dataplane.Link){
		"vni":      func(l *dataplane.Link) { l.Tunnel.VNI = 8 },
		"port":     func(l *dataplane.Link) { l.Tunnel.Port = 4789 },
		"checksum": func(l *dataplane.Link) { l.Tunnel.NoTxCsum = true },
		"local":    func(l *dataplane.Link) { l.Tunnel.Local = netip.MustParseAddr("192.0.2.9") },
		"mac":      func(l *dataplane.Link) { l.MAC = model.BridgeMAC("other") },
	} {
		l := labTunnel
		change(&l)
		for _, to := range []dataplane.Link{l, labTunnel} {
			looks := k.Observes()
			if _, err := r.Put(t.Context(), map[string]dataplane.Host{"net/lab": cluster(to, 0)["net/lab"]}); err != nil {
				t.Fatal(err)
			}
			if looked := k.Observes() > looks; looked != (name != "local") {
				t.Errorf("%s: looked at the kernel: %v", name, looked)
			}
			hasParts(t, k, cluster(to, 5))
		}
	}
}

func TestPeersComeAndGoByTheirOwn(t *testing.T) {
	k := kerneltest.NewFake()
	r := reconcile.New(k, reconcile.Deps{})
	if _, err := r.Set(t.Context(), cluster(labTunnel, 50)); err != nil {
		t.Fatal(err)
	}
	before := k.Steps()
	if _, err := r.Put(t.Context(), map[string]dataplane.Host{"peer/lab/7": {}}); err != nil {
		t.Fatal(err)
	}
	if n := k.Steps() - before; n != 3 {
		t.Errorf("a peer that went cost %d steps, want 3", n)
	}
	want := cluster(labTunnel, 50)
	delete(want, "peer/lab/7")
	hasParts(t, k, want)
	changes, err := r.Set(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	hasParts(t, k, nil)
	if text := fmt.Sprint(changes); strings.Contains(text, "del neigh") || strings.Contains(text, "del fdb") || !strings.Contains(text, "del link fx-lab") {
		t.Errorf("neighbours and FDB entries go with their link, yet were sent: %s", text)
	}
}

// TestTunnelsAfterACrashAtEveryStep: whatever was done, the next start makes it whole.
func TestTunnelsAfterACrashAtEveryStep(t *testing.T) {
	other := labTunnel
	other.Tunnel.VNI = 8
	for crash := 1; ; crash++ {
		k := kerneltest.NewFake()
		died, started := false, false
		k.BeforeStep = func(n int, _ string, _ dataplane.Step) error {
			if n == crash && !started {
				died = true
				return kerneltest.ErrCrash
			}
			return nil
		}
		r := reconcile.New(k, reconcile.Deps{})
		r.Set(t.Context(), cluster(labTunnel, 2))
		r.Put(t.Context(), map[string]dataplane.Host{"net/lab": cluster(other, 0)["net/lab"], "peer/lab/1": {}})
		r.Put(t.Context(), map[string]dataplane.Host{"peer/lab/2": cluster(other, 3)["peer/lab/2"]})
		k.Revive()
		started = true
		for _, want := range []map[string]dataplane.Host{cluster(labTunnel, 3), cluster(other, 1), nil} {
			if _, err := reconcile.New(k, reconcile.Deps{}).Set(t.Context(), want); err != nil {
				t.Fatalf("crash at step %d: %v", crash, err)
			}
			hasParts(t, k, want)
		}
		if !died {
			if crash < 20 {
				t.Errorf("only %d steps", crash)
			}
			return
		}
	}
}
