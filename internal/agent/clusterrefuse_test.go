package agent

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// What would cut hosts off, or does nothing here, is refused with the reason and the way out.
func TestWhatAClusterNetworkCannotBeIsRefused(t *testing.T) {
	hub := store.NewHub(time.Hour, time.Minute, store.Boottime)
	w1, _ := newNode(t, hub, 1)
	w2, _ := newNode(t, hub, 2)
	w2.host.node.Links[0].Addrs = []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")}
	d1, ctx := w1.start(), context.Background()
	must[api.Changed[api.Network]](t)(d1.CreateNetwork(ctx, pods(), false))
	d2 := w2.start()
	eventually(t, "both have a block", func() bool {
		d1.mu.RLock()
		defer d1.mu.RUnlock()
		return len(d1.state.view.Leases) == 2
	})
	edit := func(e api.NetworkEdit, yes consent) error {
		_, err := d1.EditNetwork(ctx, "pods", e, yes, true)
		return err
	}
	hostGW := api.NetworkEdit{Cluster: &api.ClusterEdit{Backend: ptr("host-gw")}}
	refused(t, edit(hostGW, consent{}), model.CodeNotOnLink, "h2 (198.51.100.2)")
	if err := edit(hostGW, consent{force: true}); err != nil {
		t.Errorf("with force: %v", err)
	}
	applied := func(yes consent) error {
		all := d1.Manifests()
		m := all[slices.IndexFunc(all, func(m api.Manifest) bool { return m.Metadata.Name == "pods" })]
		m.Network.Cluster.Backend = "host-gw"
		_, err := d1.Apply(ctx, []api.Manifest{m}, yes, true)
		return err
	}
	refused(t, applied(consent{}), model.CodeNotOnLink, "h2 (198.51.100.2)")
	if err := applied(consent{force: true}); err != nil {
		t.Errorf("with force, from a file: %v", err)
	}
	refused(t, edit(api.NetworkEdit{MTU: ptr(9000)}, consent{}), model.CodeMTU, "at most 1450")
	if err := edit(api.NetworkEdit{MTU: ptr(1450)}, consent{}); err != nil {
		t.Errorf("an MTU that fits: %v", err)
	}

	t.Log("used on the other host")
	eventually(t, "it is there", func() bool { n, err := d2.Network("pods"); return err == nil && len(n.Status.Subnets) == 1 })
	must[api.Changed[api.Workload]](t)(d2.CreateWorkload(ctx, api.WorkloadSpec{Name: "db", Endpoints: on("pods")}, false))
	remove := func(yes bool) error {
		_, err := d1.DeleteNetwork(ctx, "pods", yes, true)
		return err
	}
	eventually(t, "it is known here", func() bool { return remove(false) != nil })
	refused(t, remove(false), model.CodeInUse, "host h2")
	if err := remove(true); err != nil {
		t.Errorf("with force: %v", err)
	}
	must[api.Changed[api.Workload]](t)(d2.DeleteWorkload(ctx, "db", true, false))
	eventually(t, "nobody uses it any more", func() bool { return remove(false) == nil })

	t.Log("kept from one host")
	must[api.Changed[api.Network]](t)(d1.EditNetwork(ctx, "pods", api.NetworkEdit{Cluster: &api.ClusterEdit{Nodes: []string{"h1"}}}, consent{}, false))
	eventually(t, "it is off the second host", func() bool { return must[api.Network](t)(d2.Network("pods")).Status.State == stateInactive })
	_, err := d2.CreateWorkload(ctx, api.WorkloadSpec{Name: "web", Endpoints: on("pods")}, false)
	refused(t, err, model.CodeInactive, "flatnet net set pods --node h1,h2")
	_, err = d2.StartNetwork(ctx, "pods", false)
	refused(t, err, model.CodeInactive, "flatnet net set pods --node h1,h2")
}
