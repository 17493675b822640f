package reach

import (
	"context"
	"net/netip"
	"path/filepath"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/nft"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
	"github.com/flatnet/flatnet/internal/render"
)

// flatnet drives render, reconcile and kernel in this process.
type flatnet struct {
	l    *lab
	view model.View
	rec  *reconcile.Reconciler
}

func newFlatnet(l *lab) *flatnet {
	f := &flatnet{l: l, view: model.View{
		Node: model.Node{Name: "host", Links: []model.HostLink{{Name: "eth0", MTU: 1500, Up: true}, {Name: "eth1", MTU: 1500, Up: true}},
			Routes: []model.HostRoute{{Dest: netip.MustParsePrefix("0.0.0.0/0"), Link: "eth0"}}},
		Networks: map[string]model.Network{}, Workloads: map[string]model.Workload{}, Forwards: map[string]model.Forward{}}}
	var k *kernel.Kernel
	l.host.Do(func() error {
		rules, err := nft.New(nft.Config{})
		if err != nil {
			return err
		}
		k, err = kernel.New(kernel.Config{RunDir: l.TempDir(), Nft: rules})
		return err
	})
	f.rec = reconcile.New(k, reconcile.Deps{})
	return f
}

func (f *flatnet) set() {
	f.l.Helper()
	parts, err := render.Parts(f.view)
	if err == nil {
		_, err = f.rec.Set(context.Background(), parts)
	}
	if err != nil {
		f.l.Fatal(err)
	}
}

func (f *flatnet) network(n model.Network) {
	f.l.Helper()
	f.view.Networks[n.Name] = n
	f.set()
}

func (f *flatnet) workload(name string, n *network, number int) {
	f.l.Helper()
	e := model.Endpoint{Network: n.name, IfName: "eth0", MAC: model.EndpointMAC(name, n.name), Isolated: n.model.IsolatePorts}
	for _, s := range n.model.Subnets {
		e.Addrs = append(e.Addrs, nth(s.Prefix, number))
	}
	f.view.Workloads[name] = model.Workload{Name: name, Netns: f.netns(name), Managed: true, Endpoints: []model.Endpoint{e}}
	f.set()
}

func (f *flatnet) netns(name string) string { return filepath.Join("/run/netns", name) }

var _ dataplane.State
