package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
)

func TestARouteThatOverlapsIsAConflictUntilItGoes(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	vpn := model.HostRoute{Dest: netip.MustParsePrefix("10.66.0.128/25"), Link: "tun0", Proto: "static"}
	w.host.set(func(h *fakeHost) { h.node.Routes = append(slices.Clone(h.node.Routes), vpn) })
	w.host.events <- Event{Foreign: true}
	eventually(t, "a conflict", func() bool { return must[api.Network](t)(d.Network(DefaultNetwork)).Status.State == stateConflict })
	reason := must[api.Network](t)(d.Network(DefaultNetwork)).Status.Reason
	if !strings.Contains(reason, "10.66.0.128/25 dev tun0") {
		t.Errorf("reason: %s", reason)
	}
	findings := must[[]api.Finding](t)(d.Doctor(context.Background()))
	if !slices.ContainsFunc(findings, func(f api.Finding) bool { return f.Code == model.CodeOverlapHost && strings.Contains(f.What, "tun0") }) {
		t.Errorf("doctor: %+v", findings)
	}
	w.host.set(func(h *fakeHost) { h.node.Routes = h.node.Routes[:2] })
	w.host.events <- Event{Foreign: true}
	eventually(t, "no conflict", func() bool { return must[api.Network](t)(d.Network(DefaultNetwork)).Status.State == stateActive })
	if types := d.eventTypes(); !strings.Contains(types, "conflict network/default\nresolved network/default") {
		t.Errorf("events: %s", types)
	}
}

// A script names a link in the line after the one that made it: the kernel's word of it is still on its way.
func TestTheHostIsLookedAtAgainBeforeARefusal(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	bridged := func() error {
		_, err := d.CreateNetwork(context.Background(), network("lan", api.NetworkSpec{Mode: "bridged", Uplink: "eth7"}), true)
		return err
	}
	if err := bridged(); err == nil {
		t.Fatal("a link that is not there was taken")
	}
	w.host.set(func(h *fakeHost) {
		h.node.Links = append(slices.Clone(h.node.Links), model.HostLink{Name: "eth7", MTU: 1500, Up: true})
	})
	if err := bridged(); err != nil {
		t.Error(err)
	}
}

func TestTheMTUFollowsTheUplink(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	mustWorkload(t, d, api.WorkloadSpec{Name: "web"})
	w.host.set(func(h *fakeHost) {
		h.node.Links = slices.Clone(h.node.Links)
		h.node.Links[0].MTU = 1400
	})
	w.host.events <- resync()
	eventually(t, "MTU 1400", func() bool { return must[api.Network](t)(d.Network(DefaultNetwork)).Status.MTU == 1400 })
	eventually(t, "the kernel follows", func() bool {
		have := must[dataplane.State](t)(w.kernel.Observe(context.Background(), "/run/netns/web"))
		l, _ := have[dataplane.Link{Name: "eth0"}].(dataplane.Link)
		return l.MTU == 1400
	})
}

func TestDriftIsToldRepairedAndCounted(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	mustWorkload(t, d, api.WorkloadSpec{Name: "web"})
	w.kernel.FlushNFT(dataplane.HostNetns)
	if err := w.kernel.Delete(dataplane.HostNetns, dataplane.Link{Name: "fn-default"}); err != nil {
		t.Fatal(err)
	}
	if plan := must[[]api.Step](t)(d.Plan(context.Background())); len(plan) == 0 {
		t.Error("the plan is empty with everything gone")
	}
	w.host.events <- Event{Hint: reconcile.Hint{Object: dataplane.Link{Name: "fn-default", Kind: dataplane.Bridge}, Gone: true}}
	eventually(t, "repaired", func() bool { return strings.Contains(d.eventTypes(), "repaired node") })
	w.checkConverged(d)
	if s := must[api.Status](t)(d.Status(context.Background())); s.Repairs == 0 {
		t.Errorf("status: %+v", s)
	}
	// Inside a workload it is told, and left alone.
	if err := w.kernel.Delete("/run/netns/web", dataplane.Route{Dest: netip.MustParsePrefix("0.0.0.0/0")}); err != nil {
		t.Fatal(err)
	}
	must[[]api.Step](t)(d.Repair(context.Background(), false))
	findings := must[[]api.Finding](t)(d.Doctor(context.Background()))
	if !slices.ContainsFunc(findings, func(f api.Finding) bool { return f.Code == FindingInnerDrift }) {
		t.Errorf("doctor: %+v", findings)
	}
	if s := must[api.Status](t)(d.Status(context.Background())); len(s.Findings) != 1 || s.Findings[0].Code != FindingInnerDrift {
		t.Errorf("status is silent about what doctor finds: %+v", s.Findings)
	}
	// Who asks for it gets it.
	would := must[[]api.Step](t)(d.Fix(context.Background(), FindingInnerDrift, true))
	if again := must[[]api.Step](t)(d.Fix(context.Background(), FindingInnerDrift, false)); len(would) != 1 || !slices.Equal(would, again) {
		t.Errorf("the fix would do %v, and did %v", would, again)
	}
	w.checkConverged(d)
}

func TestAVanishedNamespaceIsNotMadeAgain(t *testing.T) {
	w := newWorld(t)
	w.kernel.AddNetns("/run/netns/theirs")
	d := w.start()
	mustWorkload(t, d, api.WorkloadSpec{Name: "web", Netns: "/run/netns/theirs", Publish: []string{"8080:80"}})
	w.kernel.RemoveNetns("/run/netns/theirs")
	w.host.events <- Event{Hint: reconcile.Hint{Object: dataplane.Link{Name: "fv-web", Kind: dataplane.Veth}, Gone: true}}
	eventually(t, "it is told", func() bool { return strings.Contains(d.eventTypes(), "lost workload/web") })
	if types := d.eventTypes(); strings.Contains(types, "repaired") {
		t.Errorf("it was tried to repair: %s", types)
	}
	w.checkConverged(d)
	if f := d.Forwards(); f[0].Active {
		t.Errorf("its forward is still active: %+v", f)
	}
	if x := must[api.Workload](t)(d.Workload("web")); x.State != workloadLost || x.Netns != "" || x.Endpoints[0].Netns != "" {
		t.Errorf("there is a namespace to enter: %+v", x)
	}
	d.end(t)
	d = w.start()
	w.checkConverged(d)
	if s := must[api.Status](t)(d.Status(context.Background())); len(s.Findings) != 1 || s.Findings[0].Code != FindingLost {
		t.Errorf("after a restart: %+v", s.Findings)
	}
	mustDelete(t, d, "web")
	w.checkConverged(d)
}

func TestUninstallLeavesNothing(t *testing.T) {
	w, d := furnished(t)
	steps := must[[]api.Step](t)(d.Uninstall(context.Background(), false, false))
	if len(steps) == 0 {
		t.Error("no steps")
	}
	if err := d.end(t); !errors.Is(err, ErrUninstalled) {
		t.Errorf("the daemon ended with %v", err)
	}
	if !w.removed {
		t.Error("the files are left")
	}
	w.checkNothingLeft()
	if _, err := d.CreateNetwork(context.Background(), network("new", api.NetworkSpec{}), false); err == nil {
		t.Error("a network was made after the uninstall")
	}
}
