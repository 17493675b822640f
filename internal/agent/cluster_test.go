package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// newNode is a world at 192.0.2.N that is node n-N of the hub's cluster.
func newNode(t *testing.T, hub *store.Hub, n int) (*world, *store.HubClient) {
	w := newWorld(t)
	w.host.node.Name = fmt.Sprintf("h%d", n)
	w.host.node.Links[0].Addrs = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", n))}
	if err := w.kernel.AddForeign(dataplane.HostNetns, dataplane.Link{Name: "eth0", Kind: dataplane.Veth, Up: true},
		dataplane.Address{Link: "eth0", Prefix: netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", n))}); err != nil {
		t.Fatal(err)
	}
	client := hub.Client()
	w.self, w.cluster = fmt.Sprintf("n-%d", n), func() store.Cluster { return client }
	return w, client
}

func pods() api.Manifest {
	m := api.Manifest{Metadata: api.Metadata{Name: "pods"}, Network: &api.NetworkSpec{Mode: "cluster",
		Cluster: &api.ClusterSpec{Pools: []api.PoolSpec{{Subnet: "10.244.0.0/16"}}}}}
	return m
}

// all are the steps that would make what a host has.
func (w *world) all() dataplane.Plan {
	w.t.Helper()
	state, err := w.kernel.Observe(context.Background(), dataplane.HostNetns)
	if err != nil {
		w.t.Fatal(err)
	}
	return dataplane.Diff(state, nil)
}

// routes are the routes of a host that lead to blocks of others.
func (w *world) routes() string {
	w.t.Helper()
	var lines []string
	for _, s := range w.all() {
		switch s.Object.(type) {
		case dataplane.Route, dataplane.FDB, dataplane.Neighbour:
			lines = append(lines, s.Object.String())
		}
	}
	return strings.Join(lines, "\n")
}

// sets are the elements of a set of a host.
func (w *world) sets(name string) string {
	w.t.Helper()
	var lines []string
	for _, s := range w.all() {
		if e, is := s.Object.(dataplane.Element); is && e.Set().Name == name {
			lines = append(lines, e.String())
		}
	}
	return strings.Join(lines, "\n")
}

// eventually waits until a host's ways to the others' blocks are these.
func (w *world) eventually(what, ways string) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); w.routes() != ways; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("never: %s. Is:\n%s\nwant:\n%s", what, w.routes(), ways)
		}
	}
}

// Two hosts, from the first network to the last host's end: each gets a block and the ways to the others', keeps both while the store is
// away and over a restart in that time, follows a host that moves, and changes the backend.
func TestClusterNetwork(t *testing.T) {
	hub := store.NewHub(time.Hour, time.Minute, store.Boottime)
	w1, _ := newNode(t, hub, 1)
	w2, c2 := newNode(t, hub, 2)
	d1 := w1.start()
	ctx := context.Background()
	changed, err := d1.CreateNetwork(ctx, pods(), false)
	if err != nil {
		t.Fatal(err)
	}
	if got := changed.Object.Status; got.Scope != "cluster" || len(got.Subnets) != 1 || got.Subnets[0].Gateway != "10.244.0.1" || got.MTU != 1450 {
		t.Fatalf("the network as it was made: %+v", got)
	}
	d2 := w2.start()
	eventually(t, "the second host has its block", func() bool { n, err := d2.Network("pods"); return err == nil && len(n.Status.Subnets) == 1 })
	want2 := `neigh 10.244.0.0 dev fx-pods lladdr 02:4e:ea:47:bd:a1
fdb 02:4e:ea:47:bd:a1 dev fx-pods dst 192.0.2.1
route 10.244.0.0/24 via 10.244.0.0 dev fx-pods onlink src 10.244.1.1`
	w2.eventually("the second host knows the way to the first", want2)
	web, err := d2.CreateWorkload(ctx, api.WorkloadSpec{Name: "web", Endpoints: []api.EndpointSpec{{Network: "pods"}}}, false)
	if err != nil || !strings.HasPrefix(web.Object.Endpoints[0].IPs[0], "10.244.1.2") {
		t.Fatalf("a workload on the second host: %+v, %v", web.Object.Endpoints, err)
	}

	t.Log("the store goes away, and the daemon of the second host restarts")
	eventually(t, "the cache is written", func() bool {
		data, _ := os.ReadFile(d2.cache().Path())
		return strings.Contains(string(data), `"own":[{"lease"`) && strings.Contains(string(data), "10.244.0.0/24")
	})
	c2.Cut(true)
	if err := d2.end(t); err != nil {
		t.Fatal(err)
	}
	w2.cluster = func() store.Cluster { c2 = hub.Client(); c2.Cut(true); return c2 }
	steps := w2.kernel.Steps()
	d2 = w2.start()
	if now := w2.kernel.Steps(); now != steps || w2.routes() != want2 {
		t.Fatalf("%d steps at a start without the store\n%s", now-steps, w2.routes())
	}
	if _, err := d2.CreateWorkload(ctx, api.WorkloadSpec{Name: "db", Endpoints: []api.EndpointSpec{{Network: "pods"}}}, false); err != nil {
		t.Fatalf("a workload without the store: %v", err)
	}
	c2.Cut(false)

	t.Log("the first host moves")
	w1.host.set(func(h *fakeHost) {
		h.node.Links = slices.Clone(h.node.Links)
		h.node.Links[0].Addrs = []netip.Prefix{netip.MustParsePrefix("192.0.2.11/24")}
	})
	w1.host.events <- Event{Foreign: true}
	w2.eventually("the second host follows", strings.ReplaceAll(want2, "dst 192.0.2.1", "dst 192.0.2.11"))

	t.Log("another VNI: the tunnel is made anew, with all that is on it")
	vni := uint32(9)
	changed, err = d1.EditNetwork(ctx, "pods", api.NetworkEdit{Cluster: &api.ClusterEdit{VNI: &vni}}, consent{}, false)
	if err != nil {
		t.Fatal(err)
	}
	var did []string
	for _, step := range changed.Steps {
		did = append(did, step.Command)
	}
	for _, part := range []string{"ip link del dev fx-pods && ip link add name fx-pods type vxlan id 9 ", "sysctl -qw net/ipv4/conf/fx-pods/forwarding=1",
		"ip address replace 10.244.0.0/32 dev fx-pods", "ip neigh replace 10.244.1.0 dev fx-pods ", "bridge fdb replace ", "ip route replace 10.244.1.0/24 "} {
		if !strings.Contains(strings.Join(did, "\n"), part) {
			t.Errorf("what was done lacks %q:\n%s", part, strings.Join(did, "\n"))
		}
	}
	w2.eventually("the second host's ways are on its new tunnel", strings.ReplaceAll(want2, "dst 192.0.2.1", "dst 192.0.2.11"))

	t.Log("the network's ports are isolated: the second host's workloads too")
	on, isolated := true, func() bool { return strings.Contains(w2.sets("isolated4"), "10.244.1.2") }
	if _, err := d1.EditNetwork(ctx, "pods", api.NetworkEdit{IsolatePorts: &on}, consent{}, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second host's workloads are isolated", isolated)
	on = false
	if _, err := d1.EditNetwork(ctx, "pods", api.NetworkEdit{IsolatePorts: &on}, consent{}, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "they are not any more", func() bool { return !isolated() })

	t.Log("another backend, and back, and again: the end of the first change is not that of the last")
	changes, now := []store.Version{}, func() (model.Backend, store.Version) {
		d1.mu.RLock()
		defer d1.mu.RUnlock()
		return d1.fabric.seen.Networks["pods"].Cluster.Also, d1.fabric.seen.Version("pods")
	}
	for _, backend := range []string{"host-gw", "vxlan", "host-gw"} {
		if _, err := d1.EditNetwork(ctx, "pods", api.NetworkEdit{Cluster: &api.ClusterEdit{Backend: &backend}}, consent{}, false); err != nil {
			t.Fatal(err)
		}
		_, written := now()
		changes = append(changes, written)
	}
	d1.finish("pods", changes[0])
	if also, written := now(); also != model.VXLAN || written != changes[2] {
		t.Errorf("the end of an earlier change ended the last: beside it %q", also)
	}
	d1.finish("pods", changes[2])
	eventually(t, "the last change ends", func() bool { also, _ := now(); return also == "" })
	t.Log("two changes at once: the one that was made of what was before is refused, and takes nothing back")
	vxlan, mtu, slow := "vxlan", 1300, make(chan error, 1)
	go func() {
		_, err := d1.EditNetwork(ctx, "pods", api.NetworkEdit{Cluster: &api.ClusterEdit{Backend: &vxlan}}, consent{}, false)
		slow <- err
	}()
	eventually(t, "the first change has begun", func() bool { also, _ := now(); return also == model.VXLAN })
	if _, err := d1.EditNetwork(ctx, "pods", api.NetworkEdit{MTU: &mtu}, consent{}, false); err != nil {
		t.Fatal(err)
	}
	if err := <-slow; err == nil || !strings.Contains(err.Error(), model.CodeVersion) {
		t.Errorf("a change of what is another network by now: %v", err)
	}
	if n, err := d1.Network("pods"); err != nil || n.Spec.MTU != mtu || n.Spec.Cluster.Backend != "host-gw" {
		t.Errorf("the network is %+v (%v)", n.Spec, err)
	}
	w2.eventually("the second host changes its ways too", "route 10.244.0.0/24 via 192.0.2.11 dev eth0 src 10.244.1.1")

	t.Log("the first host leaves, with a container on the network")
	w1.kernel.AddNetns("/run/netns/pod")
	if at := must[api.Workload](t)(d1.add("pod", "cni")); at.Endpoints[0].Network != "pods" {
		t.Errorf("a container of a cluster's host is on %s", at.Endpoints[0].Network)
	}
	if err := d1.exit(ctx, true); err != nil {
		t.Fatal(err)
	}
	w2.eventually("nothing leads to it any more", "")
	if err := d1.Serves(context.Background(), nil); err != nil {
		t.Errorf("containers that come later: %v", err)
	}
	if err := d1.del("pod"); err != nil {
		t.Fatal(err)
	}
	if _, err := d1.Network("pods"); err == nil {
		t.Error("the first host still has the network")
	}
}
