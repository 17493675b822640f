package agent

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
)

func TestForwardsStandAndWait(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	ctx := context.Background()
	add := func(specs ...api.ForwardSpec) []api.Forward {
		t.Helper()
		return must[api.Changed[[]api.Forward]](t)(d.AddForwards(ctx, specs, false)).Object
	}
	f := add(api.ForwardSpec{Publish: "8080:80", Workload: "web"}, api.ForwardSpec{Publish: "5000-5010:6000-6010/udp", Workload: "web"})
	if f[0].Active || !f[0].Standing || f[0].Network != DefaultNetwork {
		t.Errorf("before the workload: %+v", f[0])
	}
	mustWorkload(t, d, api.WorkloadSpec{Name: "web", Publish: []string{"127.0.0.1:9090:90"}})
	for _, f := range d.Forwards() {
		if !f.Active {
			t.Errorf("with the workload: %+v", f)
		}
	}
	w.checkConverged(d)
	d.end(t)
	d = w.start()
	if n := len(d.Forwards()); n != 3 {
		t.Errorf("after a restart there are %d forwards", n)
	}
	must[api.Changed[[]api.Forward]](t)(d.RemoveForwards(ctx, []string{"tcp/127.0.0.1:9090", "udp/5000-5010"}, false))
	mustDelete(t, d, "web")
	if left := d.Forwards(); len(left) != 1 || left[0].Active {
		t.Errorf("left: %+v", left)
	}
	w.checkConverged(d)
	if got := strings.Join(w.host.flushed, "; "); !strings.Contains(got, "udp  5000-5010") || strings.Contains(got, "tcp") {
		t.Errorf("connections forgotten: %s", got)
	}
}

// A forward to an address is one to the workload that has it; nobody waits for a workload of that name.
func TestForwardsToAnAddress(t *testing.T) {
	d := newWorld(t).start()
	ctx := context.Background()
	ip := mustWorkload(t, d, api.WorkloadSpec{Name: "web"}).Endpoints[0].IPs[0]
	ip, _, _ = strings.Cut(ip, "/")
	changed := must[api.Changed[[]api.Forward]](t)(d.AddForwards(ctx, []api.ForwardSpec{{Publish: "8081:80", Workload: ip}}, false))
	if f := changed.Object[0]; f.Workload != "web" || f.Network != DefaultNetwork || !f.Active {
		t.Errorf("to %s: %+v", ip, f)
	}
	_, err := d.AddForwards(ctx, []api.ForwardSpec{{Publish: "8082:80", Workload: "192.168.40.2"}}, false)
	want := "no workload has the address 192.168.40.2; a forward goes to a workload, also one that is not there yet; workloads: web"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("to nobody's address: %v", err)
	}
}

func TestAThousandForwardsAreOneBatch(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	mustWorkload(t, d, api.WorkloadSpec{Name: "web"})
	var specs []api.ForwardSpec
	var names []string
	for port := 10000; port < 11000; port++ {
		specs = append(specs, api.ForwardSpec{Publish: fmt.Sprintf("%d:80", port), Workload: "web"})
		names = append(names, fmt.Sprintf("tcp/%d", port))
	}
	changed := must[api.Changed[[]api.Forward]](t)(d.AddForwards(context.Background(), specs, false))
	if len(changed.Steps) != 3000 { // one element of each family, and one for [::1]
		t.Logf("%d steps", len(changed.Steps))
	}
	w.checkConverged(d)
	must[api.Changed[[]api.Forward]](t)(d.RemoveForwards(context.Background(), names, false))
	w.checkConverged(d)
}
