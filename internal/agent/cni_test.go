package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
)

// add is a container's ADD on eth0, as a runtime asks for it.
func (d *daemon) add(container, config string, endpoints ...api.EndpointSpec) (api.Workload, error) {
	return answer(d.Attach(context.Background(), model.Attachment{Config: config, Container: container, IfName: "eth0"},
		api.WorkloadSpec{Netns: "/run/netns/" + container, Endpoints: endpoints}, nil))
}

func answer(w api.Workload, _ bool, err error) (api.Workload, error) { return w, err }

func (d *daemon) del(container string) error {
	return d.Detach(context.Background(), model.Attachment{Container: container, IfName: "eth0"})
}

func TestContainersComeAndGo(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	d := w.start()
	mustNetwork(t, d, "lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}, {Subnet: "fd08::/64"}}})
	mustNetwork(t, d, "more", api.NetworkSpec{})
	mustNetwork(t, d, "most", api.NetworkSpec{})
	const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	w.kernel.AddNetns("/run/netns/" + id)

	web := must[api.Workload](t)(d.add(id, "nat"))
	e := web.Endpoints[0]
	if web.Name != "0123456789ab" || e.Network != DefaultNetwork || e.Attachment == nil || *e.Attachment != (api.Attachment{Config: "nat", Container: id, IfName: "eth0"}) {
		t.Errorf("got %+v", web)
	}
	again, made, err := d.Attach(ctx, model.Attachment{Config: "nat", Container: id, IfName: "eth0"}, api.WorkloadSpec{Netns: "/run/netns/" + id}, nil)
	if err != nil || made || again.Endpoints[0].IPs[0] != e.IPs[0] || len(d.Workloads()) != 1 {
		t.Errorf("a second ADD: made %v, %v, %+v", made, err, again)
	}
	second := model.Attachment{Config: "lab", Container: id, IfName: "net1"}
	both := must[api.Workload](t)(answer(d.Attach(ctx, second, api.WorkloadSpec{Netns: "/run/netns/" + id, Publish: []string{"8080:80"},
		Endpoints: []api.EndpointSpec{{Network: "lab", Priority: 1, IPRanges: []string{"10.8.0.100-10.8.0.199"}}}}, nil)))
	if len(d.Workloads()) != 1 || len(both.Endpoints) != 2 || both.Endpoints[1].IPs[0] != "10.8.0.100/24" || both.Forwards[0].Network != "lab" {
		t.Errorf("a second network: %+v", both)
	}
	must[api.Workload](t)(d.Check(ctx, second, nil))
	if err := w.kernel.Delete("/run/netns/"+id, dataplane.Address{Link: "net1", Prefix: netip.MustParsePrefix("10.8.0.100/24")}.Key()); err != nil {
		t.Fatal(err)
	}
	_, err = d.Check(ctx, second, nil)
	refused(t, err, model.CodeDrifted, "10.8.0.100")
	third := must[api.Workload](t)(answer(d.Attach(ctx, model.Attachment{Config: "more", Container: id, IfName: "eth1"}, api.WorkloadSpec{Netns: "/run/netns/" + id,
		Endpoints: []api.EndpointSpec{{Network: "more"}, {Network: "most"}}}, nil)))
	if got := third.Endpoints[3].IfName; got != "net2" {
		t.Errorf("the fourth link is called %s", got)
	}
	if err := d.Detach(ctx, model.Attachment{Container: id, IfName: "eth1"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Detach(ctx, second); err != nil {
			t.Fatal(err)
		}
	}
	if left := d.Workloads(); len(left) != 1 || len(left[0].Endpoints) != 1 || len(left[0].Forwards) != 0 {
		t.Errorf("without the second: %+v", left)
	}
	_, err = d.DeleteWorkload(ctx, web.Name, false, false)
	refused(t, err, model.CodeInUse, "0123456789abcdef", `"nat"`, "--force")
	_, err = d.StopWorkload(ctx, web.Name, 0, false)
	refused(t, err, model.CodeInUse, "runtime")
	if web.State != workloadAttached {
		t.Errorf("it is %s", web.State)
	}
	if err := d.del(id); err != nil || len(d.Workloads()) != 0 {
		t.Errorf("after DEL: %v, %v", err, d.Workloads())
	}
	w.checkConverged(d)
}

func TestLostContainersAreLetGo(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	for _, name := range []string{"a", "b", "c"} {
		w.kernel.AddNetns("/run/netns/" + name)
		must[api.Workload](t)(d.add(name, "nat"))
	}
	gone := d.Workloads()[0].Endpoints[0].HostLink
	w.kernel.RemoveNetns("/run/netns/a")
	w.host.events <- Event{Hint: reconcile.Hint{Object: dataplane.Link{Name: gone, Kind: dataplane.Veth}, Gone: true}}
	eventually(t, "its namespace's end is noticed", func() bool { return len(d.Workloads()) == 2 })
	if err := d.del("a"); err != nil {
		t.Errorf("the DEL that comes late: %v", err)
	}
	d.end(t)
	w.kernel.RemoveNetns("/run/netns/b")
	d = w.start()
	if left := d.Workloads(); len(left) != 1 || left[0].Name != "c" || len(w.journal.all) != 1 {
		t.Errorf("after a restart: %+v", left)
	}
	w.checkConverged(d)

	w.kernel.AddNetns("/run/netns/b") // the container's name once more
	must[api.Workload](t)(d.add("b", "nat"))
	if err := d.Collect(context.Background(), "nat", []model.Attachment{{Config: "nat", Container: "b", IfName: "eth0"}}); err != nil {
		t.Fatal(err)
	}
	if left := d.Workloads(); len(left) != 1 || left[0].Name != "b" {
		t.Errorf("after GC: %+v", left)
	}
	w.anotherNetns("/run/netns/b")
	must[api.Workload](t)(answer(d.Attach(context.Background(), model.Attachment{Config: "nat", Container: "next", IfName: "eth0"}, api.WorkloadSpec{Netns: "/run/netns/b"}, nil)))
	if left := d.Workloads(); len(left) != 1 || left[0].Name != "next" {
		t.Errorf("another container in another namespace at that path: %+v", left)
	}
	w.checkConverged(d)
	if err := d.Collect(context.Background(), "other", nil); err != nil || len(d.Workloads()) != 1 {
		t.Errorf("GC of another configuration: %v, %v", err, d.Workloads())
	}
}

// A network that is removed by force takes along the containers that are on no other; their DEL finds nothing.
func TestContainersOfARemovedNetwork(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	d := w.start()
	mustNetwork(t, d, "lab", api.NetworkSpec{})
	w.kernel.AddNetns("/run/netns/a")
	must[api.Workload](t)(d.add("a", "lab", api.EndpointSpec{Network: "lab"}))
	must[api.Changed[api.Network]](t)(d.DeleteNetwork(ctx, "lab", true, false))
	if left := d.Workloads(); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
	if err := d.del("a"); err != nil {
		t.Error(err)
	}
	w.checkForgotten(d)
}

// When more namespaces end at once than are told one by one, all are let go of.
func TestManyContainersEndAtOnce(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	var links []string
	for i := range 200 {
		name := fmt.Sprintf("c%d", i)
		w.kernel.AddNetns("/run/netns/" + name)
		links = append(links, must[api.Workload](t)(d.add(name, "nat")).Endpoints[0].HostLink)
	}
	for i, link := range links {
		w.kernel.RemoveNetns(fmt.Sprintf("/run/netns/c%d", i))
		w.host.events <- Event{Hint: reconcile.Hint{Object: dataplane.Link{Name: link, Kind: dataplane.Veth}, Gone: true}}
	}
	eventually(t, "all are let go of", func() bool { return len(d.Workloads()) == 0 })
}

func TestWhereContainersGo(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	d := w.start()
	w.kernel.AddNetns("/run/netns/a")
	if err := d.Serves(ctx, nil); err != nil {
		t.Errorf("the default network: %v", err)
	}
	refused(t, d.Serves(ctx, []string{"nowhere"}), model.CodeNotFound, "nowhere")
	mustNetwork(t, d, "small", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/30"}}})
	must[api.Workload](t)(d.add("a", "small", api.EndpointSpec{Network: "small"}))
	refused(t, d.Serves(ctx, []string{"small"}), model.CodeExhausted, "small")
	must[api.Changed[api.Network]](t)(d.StopNetwork(ctx, DefaultNetwork, false))
	refused(t, d.Serves(ctx, nil), model.CodeInactive, DefaultNetwork)
	_, _, err := d.Attach(ctx, model.Attachment{Container: "h", IfName: "eth0"}, api.WorkloadSpec{Netns: "/proc/1/ns/net"}, nil)
	refused(t, err, model.CodeNetns, "the host's own")
	_, err = d.CreateWorkload(ctx, api.WorkloadSpec{Name: "many", Endpoints: make([]api.EndpointSpec, 100_000)}, false)
	refused(t, err, model.CodeTooLarge, "100000", "64")
	_, _, err = d.Attach(ctx, model.Attachment{Container: "h", IfName: "eth0"}, api.WorkloadSpec{Netns: "/run/netns/none"}, nil)
	refused(t, err, model.CodeNetns, "not a network namespace")
}

// TestContainersSurviveCrashes lets the daemon die before every effect of ADD, DEL and GC: the next DEL leaves nothing.
func TestContainersSurviveCrashes(t *testing.T) {
	ctx := context.Background()
	add := func(d *daemon) error {
		_, _, err := d.Attach(ctx, model.Attachment{Config: "nat", Container: "a", IfName: "eth0"}, api.WorkloadSpec{Netns: "/run/netns/a", Publish: []string{"8080:80", "5000-5010:5000-5010/udp"},
			Endpoints: []api.EndpointSpec{{}, {Network: "lab", IfName: "net1"}}}, nil)
		return err
	}
	more := func(d *daemon) error {
		_, _, err := d.Attach(ctx, model.Attachment{Config: "lab", Container: "a", IfName: "eth1"}, api.WorkloadSpec{Netns: "/run/netns/a", Endpoints: []api.EndpointSpec{{Network: "more"}}}, nil)
		return err
	}
	nothing := func(*daemon) error { return nil }
	for _, s := range []struct {
		name   string
		before []func(*daemon) error
		change func(*daemon) error
	}{
		{"add", nil, add},
		{"add to what is attached", []func(*daemon) error{add}, more},
		{"delete", []func(*daemon) error{add}, func(d *daemon) error { return d.del("a") }},
		{"delete one of two", []func(*daemon) error{add, more}, func(d *daemon) error { return d.del("a") }},
		{"collect", []func(*daemon) error{add, more}, func(d *daemon) error { return d.Collect(ctx, "nat", nil) }},
		{"start after a lost namespace", []func(*daemon) error{add}, nothing},
	} {
		t.Run(strings.ReplaceAll(s.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			for n, died := 0, true; died && !t.Failed(); n++ {
				w := newWorld(t)
				w.kernel.AddNetns("/run/netns/a")
				d := w.start()
				mustNetwork(t, d, "lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}}})
				mustNetwork(t, d, "more", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.9.0.0/24"}}})
				for _, b := range s.before {
					if err := b(d); err != nil {
						t.Fatal(err)
					}
				}
				w.fuse.arm(n)
				err := s.change(d)
				var steps []string
				if died, steps = w.fuse.disarm(); !died && err != nil {
					t.Fatalf("after all its effects %q: %v", steps, err)
				}
				d.end(t)
				w.kernel.Revive()
				d = w.start()
				w.checkConverged(d)
				for _, link := range []string{"eth0", "eth1"} {
					if err := d.Detach(ctx, model.Attachment{Config: "nat", Container: "a", IfName: link}); err != nil {
						t.Errorf("died after %q, and then DEL %s: %v", steps, link, err)
					}
				}
				w.checkForgotten(d)
				d.end(t)
			}
		})
	}
}

// checkForgotten fails when anything of a container is left, in the kernel or in the daemon's mind.
func (w *world) checkForgotten(d *daemon) {
	w.t.Helper()
	w.checkConverged(d)
	for _, netns := range w.kernel.Namespaces() {
		if text := w.kernel.Dump(netns); strings.Contains(text, "fv-") || strings.Contains(text, "fv.") {
			w.t.Errorf("left in namespace %q:\n%s", netns, text)
		}
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if left := len(d.state.used) + len(d.state.macs) + len(d.state.netns) + len(d.state.added) + len(d.namespace) + len(d.state.ports); left != 0 || len(w.journal.all) != 0 {
		w.t.Errorf("left in the indexes: %v %v %v %v; in the journal: %v", d.state.used, d.state.netns, d.state.added, d.namespace, w.journal.all)
	}
}

// TestContainersNeverShareAnAddress plays ADD, DEL, GC, ended namespaces, deaths and restarts in any order, against a model of who must
// have what.
func TestContainersNeverShareAnAddress(t *testing.T) {
	for seed := range uint64(16) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(seed, 5))
			w := newWorld(t)
			d := w.start()
			mustNetwork(t, d, "lab", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/28"}}}) // 13 addresses for 16 containers
			has := map[string]string{}                                                                    // containers whose ADD was answered, with their addresses
			var story []string
			tell := func(format string, args ...any) { story = append(story, fmt.Sprintf(format, args...)) }
			restart := func() {
				d.end(t)
				w.kernel.Revive()
				d = w.start()
			}
			for range 120 {
				name := fmt.Sprintf("c%d", rnd.IntN(16))
				alive := slices.Contains(w.kernel.Namespaces(), "/run/netns/"+name)
				dies := rnd.IntN(4) == 0
				if dies {
					w.fuse.arm(rnd.IntN(30))
				}
				var err error
				switch rnd.IntN(9) {
				case 0, 1, 2, 3:
					if !alive {
						w.kernel.AddNetns("/run/netns/" + name)
					}
					var at api.Workload
					if at, err = d.add(name, "lab", api.EndpointSpec{Network: "lab"}); err == nil {
						if was, had := has[name]; had && was != at.Endpoints[0].IPs[0] {
							t.Errorf("%s had %s and got %s", name, was, at.Endpoints[0].IPs[0])
						}
						has[name] = at.Endpoints[0].IPs[0]
					}
					tell("add %s: %s %v", name, has[name], err)
				case 4, 5:
					err = d.del(name)
					delete(has, name)
					tell("del %s: %v", name, err)
				case 6:
					delete(has, name)
					var valid []model.Attachment
					for container := range has {
						valid = append(valid, model.Attachment{Config: "lab", Container: container, IfName: "eth0"})
					}
					err = d.Collect(context.Background(), "lab", valid)
					tell("collect all but %v: %v", slices.Sorted(maps.Keys(has)), err)
				case 7:
					if alive {
						w.kernel.RemoveNetns("/run/netns/" + name)
						delete(has, name)
						tell("namespace %s ends", name)
					}
				case 8:
					if alive {
						w.anotherNetns("/run/netns/" + name)
						delete(has, name)
						tell("another namespace comes to stand at %s", name)
					}
				}
				died := false
				if dies {
					died, _ = w.fuse.disarm()
				}
				var p model.Problem
				if full := errors.As(err, &p) && p.Code == model.CodeExhausted || fmt.Sprint(err) != "" && err != nil && strings.Contains(err.Error(), "no address is free"); err != nil && !died && !full {
					t.Fatalf("%v\n%s", err, strings.Join(story, "\n"))
				}
				if died || rnd.IntN(10) == 0 {
					tell("restart, died: %v", died)
					restart()
				}
				owner := map[string]string{}
				for _, x := range d.Workloads() {
					for _, ip := range x.Endpoints[0].IPs {
						if other, twice := owner[ip]; twice {
							t.Fatalf("%s and %s share %s:\n%s", other, x.Name, ip, strings.Join(story, "\n"))
						}
						owner[ip] = x.Name
					}
				}
				for container, ip := range has {
					if owner[ip] != container {
						t.Fatalf("%s should have %s, which is of %q:\n%s", container, ip, owner[ip], strings.Join(story, "\n"))
					}
				}
			}
			for i := range 16 {
				if err := d.del(fmt.Sprintf("c%d", i)); err != nil {
					t.Fatal(err)
				}
			}
			w.checkForgotten(d)
		})
	}
}

// fakeNamespaces are told apart by path, and by how many stood there.
type fakeNamespaces struct{ *world }

func (n fakeNamespaces) Identify(path string) (string, error) {
	if path == "/proc/1/ns/net" {
		return "host", nil
	}
	for _, p := range n.kernel.Namespaces() {
		if p == path && p != dataplane.HostNetns {
			return fmt.Sprint(path, n.again[path]), nil
		}
	}
	return "", fmt.Errorf("%s: no such namespace", path)
}

func (n fakeNamespaces) Lend(path string, _ *os.File) (string, func(), error) {
	identity, err := n.Identify(path)
	return identity, func() {}, err
}

func (fakeNamespaces) Expect(string, string) {} // nothing looks at what is in the wrong one

// anotherNetns ends the namespace at a path and has another one stand there.
func (w *world) anotherNetns(path string) {
	w.kernel.RemoveNetns(path)
	w.kernel.AddNetns(path)
	if w.again == nil {
		w.again = map[string]int{}
	}
	w.again[path]++
}

func (fakeNamespaces) Own() (string, error) { return "host", nil }
