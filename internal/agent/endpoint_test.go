package agent

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// refused fails unless err has a problem of that code, with all of these words.
func refused(t *testing.T, err error, code string, words ...string) {
	t.Helper()
	var p model.Problem
	var ps model.Problems
	if !errors.As(err, &p) && !errors.As(err, &ps) {
		t.Errorf("got %v, want %s", err, code)
		return
	}
	if len(ps) > 0 {
		p = ps[0]
	}
	text := strings.Join([]string{p.Reason, p.Owner, p.Fix, p.Example}, "\n")
	if p.Code != code {
		t.Errorf("got code %s, want %s:\n%s", p.Code, code, text)
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("want %q in:\n%s", word, text)
		}
	}
}

func TestConnectAndDisconnect(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	ctx := context.Background()
	mustNetwork(t, d, "lab", api.NetworkSpec{DNS: []string{"9.9.9.9"}, Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}}})
	web := mustWorkload(t, d, api.WorkloadSpec{Name: "web"})
	was := w.kernel.Dump("")
	c := must[api.Changed[api.Workload]](t)(d.Connect(ctx, "web", api.EndpointSpec{Network: "lab", Priority: 1}, true))
	if len(c.Steps) == 0 || w.kernel.Dump("") != was || len(c.Object.Endpoints) != 2 {
		t.Errorf("a dry run: %+v", c)
	}
	c = must[api.Changed[api.Workload]](t)(d.Connect(ctx, "web", api.EndpointSpec{Network: "lab", Priority: 1}, false))
	if e := c.Object.Endpoints[1]; e.IfName != "eth1" || e.IPs[0] != "10.8.0.2/24" || e.Gateways[0] != "10.8.0.1" {
		t.Errorf("got %+v", e)
	}
	if !strings.Contains(w.kernel.Dump(web.Netns), "route default via 10.8.0.1 dev eth1") {
		t.Errorf("the default route did not follow the priority:\n%s", w.kernel.Dump(web.Netns))
	}
	hosts, resolv := must[[]byte](t)(os.ReadFile(web.Files.Hosts)), must[[]byte](t)(os.ReadFile(web.Files.ResolvConf))
	if !strings.Contains(string(hosts), "10.8.0.2 web\n") || !strings.Contains(string(hosts), "10.8.0.1 host.flatnet\n") || !strings.Contains(string(resolv), "nameserver 9.9.9.9\n") {
		t.Errorf("files did not follow:\n%s%s", hosts, resolv)
	}
	w.checkConverged(d)
	if !strings.Contains(d.eventTypes(), "connected workload/web") {
		t.Error("nobody was told")
	}
	d.end(t)
	d = w.start()
	w.checkConverged(d)
	must[api.Changed[api.Workload]](t)(d.Disconnect(ctx, "web", "lab", false, false))
	if w.kernel.Dump("") != was {
		t.Errorf("the host is not as before:\n%s\nwas\n%s", w.kernel.Dump(""), was)
	}
	if !strings.Contains(w.kernel.Dump(web.Netns), "route default via 10.66.0.1 dev eth0") {
		t.Errorf("the default route did not come back:\n%s", w.kernel.Dump(web.Netns))
	}
	w.checkConverged(d)
	mustWorkload(t, d, api.WorkloadSpec{Name: "other", Endpoints: on("lab")})
	c = must[api.Changed[api.Workload]](t)(d.Connect(ctx, "web", api.EndpointSpec{Network: "lab", IfName: "lab0"}, false))
	if e := c.Object.Endpoints[1]; e.IfName != "lab0" || e.IPs[0] != "10.8.0.2/24" {
		t.Errorf("it did not get its address back: %+v", e)
	}
	must[api.Changed[api.Workload]](t)(d.Disconnect(ctx, "web", DefaultNetwork, false, false))
	must[api.Changed[api.Workload]](t)(d.Disconnect(ctx, "web", "lab", false, false))
	w.checkConverged(d)
	c = must[api.Changed[api.Workload]](t)(d.Connect(ctx, "web", api.EndpointSpec{Network: "lab"}, false))
	if e := c.Object.Endpoints; len(e) != 1 || e[0].IfName != "eth0" {
		t.Errorf("off all networks and on one again: %+v", e)
	}
	w.checkConverged(d)
}

func TestConnectIsRefused(t *testing.T) {
	w := newWorld(t)
	w.procs.alive, w.procs.watched = map[int]uint64{7: 70}, map[string]int{}
	w.kernel.AddNetns("/run/netns/theirs")
	d := w.start()
	ctx := context.Background()
	mustNetwork(t, d, "lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}}})
	mustNetwork(t, d, "off", api.NetworkSpec{Inactive: true})
	mustWorkload(t, d, api.WorkloadSpec{Name: "web", Publish: []string{"8080:80"}})
	mustWorkload(t, d, api.WorkloadSpec{Name: "side", Sharing: "container:web"})
	mustWorkload(t, d, api.WorkloadSpec{Name: "host", Sharing: "host"})
	mustWorkload(t, d, api.WorkloadSpec{Name: "theirs", Netns: "/run/netns/theirs"})
	mustWorkload(t, d, api.WorkloadSpec{Name: "ended"})
	must[api.Workload](t)(d.SetProcess(ctx, "ended", api.Process{PID: 7}))
	must[api.Workload](t)(d.StopWorkload(ctx, "ended", time.Second, false))
	before := w.dump()
	connect := func(workload string, spec api.EndpointSpec) error {
		_, err := d.Connect(ctx, workload, spec, false)
		return err
	}
	disconnect := func(workload, network string) error {
		_, err := d.Disconnect(ctx, workload, network, false, false)
		return err
	}
	refused(t, connect("nobody", api.EndpointSpec{Network: "lab"}), model.CodeNotFound, "nobody")
	refused(t, connect("web", api.EndpointSpec{Network: "nowhere"}), model.CodeNotFound, "nowhere")
	refused(t, connect("web", api.EndpointSpec{}), model.CodeAttachedTwice, "eth0", "flatnet disconnect default web")
	refused(t, connect("web", api.EndpointSpec{Network: "off"}), model.CodeInactive, "net start off")
	refused(t, connect("side", api.EndpointSpec{Network: "lab"}), model.CodeSharing, "web")
	refused(t, connect("host", api.EndpointSpec{Network: "lab"}), model.CodeSharing)
	refused(t, connect("ended", api.EndpointSpec{Network: "lab"}), model.CodeNotRunning)
	refused(t, connect("web", api.EndpointSpec{Network: "lab", IfName: "eth0"}), model.CodeIfName)
	refused(t, connect("web", api.EndpointSpec{Network: "lab", MAC: "01:00:00:00:00:01"}), model.CodeMAC)
	refused(t, connect("web", api.EndpointSpec{Network: "lab", IPs: []string{"10.9.0.1"}}), model.CodeAddress)
	refused(t, connect("web", api.EndpointSpec{Network: "lab", IPs: []string{"x"}}), model.CodeAddress)
	refused(t, disconnect("web", "nowhere"), model.CodeNotFound)
	refused(t, disconnect("web", "lab"), model.CodeNotFound, "it is on default")
	refused(t, disconnect("web", DefaultNetwork), model.CodeInUse, "tcp/8080", "--force")
	refused(t, disconnect("side", DefaultNetwork), model.CodeSharing)
	if w.dump() != before {
		t.Error("a refusal changed something")
	}
	must[api.Changed[[]api.Forward]](t)(d.AddForwards(ctx, []api.ForwardSpec{{Publish: "5353:53/udp", Workload: "web"}}, false))
	must[api.Changed[api.Workload]](t)(d.Disconnect(ctx, "web", DefaultNetwork, true, false))
	if len(d.Forwards()) != 0 {
		t.Errorf("forwards are left: %+v", d.Forwards())
	}
	if !slices.Contains(w.host.flushed, "udp  5353") {
		t.Errorf("flushed: %v", w.host.flushed)
	}
	w.checkConverged(d)
	w.kernel.RemoveNetns("/run/netns/theirs")
	d.lookForLost(ctx, resync().Hint)
	refused(t, connect("theirs", api.EndpointSpec{Network: "lab"}), model.CodeNotRunning, "lost")
}

// A namespace that ends while its network is stopped ends without an event, as it has no link; it is not in the way when the network starts.
func TestANetworkStartsOverAnEndedNamespace(t *testing.T) {
	w := newWorld(t)
	w.kernel.AddNetns("/run/netns/theirs")
	d := w.start()
	ctx := context.Background()
	mustNetwork(t, d, "lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}}})
	mustWorkload(t, d, api.WorkloadSpec{Name: "theirs", Netns: "/run/netns/theirs", Endpoints: on("lab")})
	must[api.Changed[api.Network]](t)(d.StopNetwork(ctx, "lab", false))
	w.kernel.RemoveNetns("/run/netns/theirs")
	must[api.Changed[api.Network]](t)(d.StartNetwork(ctx, "lab", false))
	w.checkConverged(d)
}
