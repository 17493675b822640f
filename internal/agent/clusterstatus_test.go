package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// What a cluster network is said to be, and files that say it again: what is read can be applied, from any host, and changes nothing.
func TestClusterNetworkInWords(t *testing.T) {
	hub := store.NewHub(time.Hour, time.Minute, store.Boottime)
	w1, _ := newNode(t, hub, 1)
	w2, _ := newNode(t, hub, 2)
	d1, ctx := w1.start(), context.Background()
	m := pods()
	m.APIVersion, m.Kind = api.APIVersion, api.KindNetwork
	m.Network.Cluster.Nodes = []string{"h1"}
	m.Network.Cluster.NoMasquerade = []string{"192.168.0.0/16"}
	if _, err := d1.Apply(ctx, []api.Manifest{m}, consent{}, false); err != nil {
		t.Fatal(err)
	}
	d2 := w2.start()
	eventually(t, "both know each other", func() bool { return d1.knows() == 2 && d2.knows() == 2 })
	n := must[api.Network](t)(d1.Network("pods"))
	if got := fmt.Sprint(n.Status.MTUNote, n.Status.Return.Routes[0].Linux, n.Status.Nodes[0].Name, len(n.Status.Nodes)); got !=
		"1500 of eth0 less 50: IPv4 20, UDP 8, VXLAN 8, Ethernet 14"+"ip route add 10.244.0.0/16 via 192.0.2.1"+"h11" {
		t.Error(got)
	}

	t.Log("a host that has no part in it may change it, and does not stop it")
	if n := must[api.Network](t)(d2.Network("pods")); n.Status.State != stateInactive || n.Spec.Inactive {
		t.Errorf("on the other host: %+v", n)
	}
	for _, d := range []*daemon{d1, d2} {
		if changed, err := d.Apply(ctx, d.Manifests(), consent{}, false); err != nil || len(changed.Steps) != 0 {
			t.Errorf("apply of what is: %v, %v", changed.Steps, err)
		}
	}
	e := api.NetworkEdit{Cluster: &api.ClusterEdit{Nodes: []string{}, Reserved: []api.ReservationSpec{{Block: "10.244.9.0/24", Node: "h2"}, {Block: "10.244.8.0/24"}}}}
	changed, err := d2.EditNetwork(ctx, "pods", e, consent{}, false)
	if err != nil || changed.Object.Status.State != stateActive || changed.Object.Spec.Cluster.Reserved[0].Node != "n-2" {
		t.Fatalf("%+v, %v", changed.Object, err)
	}
	eventually(t, "the first host sees the other's block", func() bool {
		n := must[api.Network](t)(d1.Network("pods"))
		return len(n.Status.Nodes) == 2 && len(n.Status.Nodes[1].Blocks) == 1
	})

	t.Log("pools that nodes have blocks of stay")
	var ps model.Problems
	e = api.NetworkEdit{Cluster: &api.ClusterEdit{Pools: []api.PoolSpec{{Subnet: "10.77.0.0/16"}}, Reserved: []api.ReservationSpec{}}}
	if _, err := d1.EditNetwork(ctx, "pods", e, consent{}, true); !errors.As(err, &ps) || ps[0].Code != model.CodeInUse || !strings.Contains(ps[0].Owner, "of h1") {
		t.Errorf("another pool: %v", err)
	}
	e.Cluster.Pools = append(e.Cluster.Pools, api.PoolSpec{Subnet: "10.244.0.0/16"})
	if _, err := d1.EditNetwork(ctx, "pods", e, consent{}, false); err != nil {
		t.Errorf("one pool more: %v", err)
	}

	t.Log("all that is wrong is told at once")
	wrong := api.Manifest{Metadata: api.Metadata{Name: "wrong"}, Network: &api.NetworkSpec{Mode: "cluster", Cluster: &api.ClusterSpec{Pools: []api.PoolSpec{{Subnet: "10.244.0.0/20"}}, Backend: "vxlam", Underlay: "ipv5",
		NoMasquerade: []string{"x"}, Reserved: []api.ReservationSpec{{Block: "10.1.0.0/24"}}}}}
	var paths []string
	if _, err := d1.CreateNetwork(ctx, wrong, true); errors.As(err, &ps) {
		for _, p := range ps {
			paths = append(paths, strings.TrimPrefix(p.Path, "spec.cluster."))
		}
	}
	if got := strings.Join(paths, " "); got != "underlay noMasquerade[0] pools[0] backend reserved[0]" {
		t.Errorf("all that is wrong: %s", got)
	}

	t.Log("stopped and started everywhere; no network of one host any more")
	eventually(t, "both have the new pool", func() bool { return len(must[api.Network](t)(d2.Network("pods")).Spec.Cluster.Pools) == 2 })
	if _, err := d2.StopNetwork(ctx, "pods", false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is stopped", func() bool { return must[api.Network](t)(d1.Network("pods")).Spec.Inactive })
	if _, err := d1.StartNetwork(ctx, "pods", false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is started", func() bool { return !must[api.Network](t)(d2.Network("pods")).Spec.Inactive })
	m.Network = &api.NetworkSpec{Mode: "nat"}
	if _, err := d1.Apply(ctx, []api.Manifest{m}, consent{}, true); err == nil || !strings.Contains(err.Error(), model.CodeCluster) {
		t.Errorf("another mode: %v", err)
	}
}

// knows is how many members a host knows of.
func (d *daemon) knows() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.state.view.Members)
}
