package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
)

// epoch is when everything in the fake daemon happened.
var epoch = time.Date(2026, 11, 21, 14, 0, 0, 0, time.UTC)

// fakeDaemon answers as flatnetd would, from fixed values, and writes down what it was asked.
type fakeDaemon struct {
	mu        sync.Mutex
	asked     []string
	workloads map[string]api.Workload
	removed   []string
	processes []api.Process
	down      int // so many requests are answered by closing the connection
}

func startFake(t testing.TB) (*fakeDaemon, string) {
	t.Helper()
	d := &fakeDaemon{workloads: fixedWorkloads()}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: d.handler()}}
	srv.Start()
	t.Cleanup(srv.Close)
	return d, socket
}

func (d *fakeDaemon) handler() http.Handler {
	mux := http.NewServeMux()
	on := func(pattern string, f func(r *http.Request, body []byte) any) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.down > 0 {
				d.down--
				panic(http.ErrAbortHandler)
			}
			d.asked = append(d.asked, fmt.Sprintf("%s %s %s", r.Method, r.URL, body))
			answer(w, f(r, body))
		})
	}
	on("GET /v1/version", func(*http.Request, []byte) any { return api.Version{Version: "1.0", API: []string{"v1"}, PID: 812} })
	on("GET /v1/status", func(*http.Request, []byte) any { return fixedStatus() })
	on("GET /v1/networks", func(*http.Request, []byte) any { return fixedNetworks() })
	on("GET /v1/networks/{name}", func(r *http.Request, _ []byte) any { return findNetwork(r.PathValue("name")) })
	on("POST /v1/networks", func(r *http.Request, body []byte) any { return createNetwork(r, body) })
	on("POST /v1/networks/{name}/edit", editNetwork)
	on("DELETE /v1/networks/{name}", changeNetwork)
	on("POST /v1/networks/{name}/{verb}", changeNetwork)
	on("GET /v1/workloads", func(*http.Request, []byte) any { return d.list() })
	on("GET /v1/workloads/{name}", func(r *http.Request, _ []byte) any { return d.find(r.PathValue("name")) })
	on("POST /v1/workloads", d.create)
	on("DELETE /v1/workloads/{name}", d.remove)
	on("POST /v1/workloads/{name}/process", d.process)
	on("POST /v1/workloads/{name}/endpoints", d.rewire)
	on("DELETE /v1/workloads/{name}/endpoints/{network}", d.rewire)
	on("POST /v1/workloads/{name}/stop", func(r *http.Request, _ []byte) any { return d.find(r.PathValue("name")) })
	on("GET /v1/forwards", func(*http.Request, []byte) any { return fixedForwards() })
	on("POST /v1/forwards", func(_ *http.Request, body []byte) any {
		made := fixedForwards()[:1]
		made[0].Active = bytes.Contains(body, []byte(`"workload":"web"`))
		return api.Changed[[]api.Forward]{Object: made, Steps: fixedSteps()[2:]}
	})
	on("DELETE /v1/forwards", func(*http.Request, []byte) any { return api.Changed[[]api.Forward]{Steps: fixedSteps()[2:]} })
	on("POST /v1/apply", applyAll)
	on("GET /v1/manifests", func(*http.Request, []byte) any { return fixedManifests() })
	on("GET /v1/show/{kind}", func(r *http.Request, _ []byte) any { return fixedShow(r) })
	on("GET /v1/cni/status", fixedCNIStatus)
	on("GET /v1/plan", func(*http.Request, []byte) any { return fixedSteps() })
	on("POST /v1/repair", func(*http.Request, []byte) any { return fixedSteps() })
	on("GET /v1/doctor", func(*http.Request, []byte) any { return fixedFindings() })
	on("POST /v1/doctor/fix", func(*http.Request, []byte) any { return fixedSteps()[2:] })
	on("POST /v1/uninstall", func(*http.Request, []byte) any { return fixedSteps() })
	clusterCalls(on)
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(api.Event{Time: epoch, Type: "repaired", Object: "network/lab", Text: "add link fn-lab", Steps: fixedSteps()})
		_ = json.NewEncoder(w).Encode(api.Event{Time: epoch.Add(time.Second), Type: "exited", Object: "workload/web", Text: "code 0"})
	})
	return mux
}

func answer(w http.ResponseWriter, v any) {
	if e, ok := v.(*api.Error); ok {
		w.WriteHeader(map[int]int{api.ExitNegative: 404, api.ExitUsage: 400, api.ExitConflict: 409, api.ExitNotPermitted: 403}[e.Exit])
	}
	_ = json.NewEncoder(w).Encode(v)
}

func (d *fakeDaemon) takeAsked() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	asked := d.asked
	d.asked = nil
	return asked
}

// put places a workload; told, gone and workload are what the daemon knows.
func (d *fakeDaemon) put(w api.Workload) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.workloads[w.Name] = w
}

func (d *fakeDaemon) told() []api.Process {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.processes)
}

func (d *fakeDaemon) gone() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.removed)
}

func (d *fakeDaemon) workload(name string) api.Workload {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.workloads[name]
}

// fail makes the next n requests find nobody.
func (d *fakeDaemon) fail(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = n
}

func (d *fakeDaemon) list() []api.Workload {
	var ws []api.Workload
	for _, name := range []string{"db", "job", "web"} {
		if w, ok := d.workloads[name]; ok {
			ws = append(ws, w)
		}
	}
	return ws
}

func (d *fakeDaemon) find(name string) any {
	if w, ok := d.workloads[name]; ok {
		return w
	}
	return notFound("workload", name)
}

func (d *fakeDaemon) create(_ *http.Request, body []byte) any {
	var s api.WorkloadSpec
	_ = json.Unmarshal(body, &s)
	w, ok := d.workloads[s.Name]
	if !ok {
		w = api.Workload{Name: "calm-otter", State: "created"}
	}
	return api.Changed[api.Workload]{Object: w, Steps: fixedSteps()}
}

func (d *fakeDaemon) remove(r *http.Request, _ []byte) any {
	name := r.PathValue("name")
	w, ok := d.workloads[name]
	if !ok {
		return notFound("workload", name)
	}
	d.removed = append(d.removed, name)
	return api.Changed[api.Workload]{Object: w, Steps: fixedSteps()[2:]}
}

// rewire answers as if the endpoint had come or gone.
func (d *fakeDaemon) rewire(r *http.Request, _ []byte) any {
	w, ok := d.workloads[r.PathValue("name")]
	if !ok {
		return notFound("workload", r.PathValue("name"))
	}
	return api.Changed[api.Workload]{Object: w, Steps: fixedSteps()[2:]}
}

func (d *fakeDaemon) process(r *http.Request, body []byte) any {
	var p api.Process
	_ = json.Unmarshal(body, &p)
	d.processes = append(d.processes, p)
	w, ok := d.workloads[r.PathValue("name")]
	if !ok {
		return notFound("workload", r.PathValue("name"))
	}
	w.Process, w.State = p, "running"
	if p.Exited {
		w.State = "exited"
	}
	d.workloads[w.Name] = w
	return w
}

func notFound(kind, name string) *api.Error {
	return api.Fail(api.ExitNegative, api.Problem{Code: api.CodeNotFound, Reason: fmt.Sprintf("there is no %s %q", kind, name), Fix: "see what there is", Example: "flatnet ps -a"})
}

func findNetwork(name string) any {
	for _, n := range fixedNetworks() {
		if n.Name == name {
			return n
		}
	}
	return notFound("network", name)
}

func createNetwork(_ *http.Request, body []byte) any {
	var m api.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		return err.(*api.Error)
	}
	if m.Metadata.Name == "lab2" {
		return api.Fail(api.ExitConflict, api.Problem{Code: "FN2107", Path: "spec.subnets[0].subnet", Reason: "10.8.0.0/16 overlaps a route on this host",
			Owner: "10.8.8.0/24 dev tun0  proto kernel      (owner: looks like a VPN, process openvpn[812])",
			Fix:   "free choices: 10.66.0.0/16  10.67.0.0/16", Example: "flatnet net create lab2 --subnet auto"})
	}
	status := fixedNetworks()[0].Status
	return api.Changed[api.Network]{Object: api.Network{Name: m.Metadata.Name, Spec: *m.Network, Status: status}, Steps: fixedSteps()}
}

func changeNetwork(r *http.Request, _ []byte) any {
	n, ok := findNetwork(r.PathValue("name")).(api.Network)
	if !ok {
		return notFound("network", r.PathValue("name"))
	}
	return api.Changed[api.Network]{Object: n, Steps: fixedSteps()}
}

// editNetwork refuses an MTU of 1, and makes a network routed as far as one sees it.
func editNetwork(r *http.Request, body []byte) any {
	n, ok := findNetwork(r.PathValue("name")).(api.Network)
	if !ok {
		return notFound("network", r.PathValue("name"))
	}
	var e api.NetworkEdit
	if err := json.Unmarshal(body, &e); err != nil {
		return api.Fail(api.ExitUsage, api.Problem{Code: api.CodeMalformed, Reason: err.Error()})
	}
	if e.Cluster != nil && e.Cluster.VNI != nil && *e.Cluster.VNI == 0 {
		return api.Fail(api.ExitUsage, api.Problem{Code: "FN1603", Path: "spec.cluster.vni", Reason: "VNI 0 is out of bounds", Fix: "1 to 16777215", Example: "1"})
	}
	if e.MTU != nil && *e.MTU == 1 {
		return api.Fail(api.ExitUsage, api.Problem{Code: "FN1301", Path: "spec.mtu", Reason: "MTU 1 is out of bounds", Example: "1450"})
	}
	if e.MTU != nil {
		n.Spec.MTU = *e.MTU
	}
	if e.Mode != nil {
		n.Spec.Mode = *e.Mode
		n.Status.Return = fixedReturn()
	}
	if reflect.DeepEqual(e, api.NetworkEdit{DNS: e.DNS}) { // a file, nothing of the kernel
		return api.Changed[api.Network]{Object: n, Steps: []api.Step{}}
	}
	return api.Changed[api.Network]{Object: n, Steps: fixedSteps()}
}

func fixedReturn() *api.ReturnRoutes {
	return &api.ReturnRoutes{Note: "the LAN answers only with these routes", Routes: []api.ReturnRoute{{Subnet: "10.8.0.0/24", Via: "192.0.2.10",
		Linux: "ip route add 10.8.0.0/24 via 192.0.2.10", Windows: "route -p add 10.8.0.0 mask 255.255.255.0 192.0.2.10", Router: "ip route 10.8.0.0 255.255.255.0 192.0.2.10"}}}
}

func applyAll(_ *http.Request, body []byte) any {
	var ms []api.Manifest
	if err := json.Unmarshal(body, &ms); err != nil {
		return err.(*api.Error)
	}
	for i, m := range ms {
		if m.Network != nil && m.Network.MTU == 1 {
			return api.Fail(api.ExitUsage, api.Problem{Code: "FN1301", Path: fmt.Sprintf("[%d].spec.mtu", i), Reason: "1 is less than 576", Example: "mtu: 1500"})
		}
	}
	steps := fixedSteps()
	if len(ms) == 1 && ms[0].Metadata.Name == "lab" && ms[0].Network.MTU == 0 {
		steps = []api.Step{}
	}
	return api.Changed[[]api.Manifest]{Object: ms, Steps: steps}
}

func fixedSteps() []api.Step {
	return []api.Step{
		{Text: "add link fn-lab type bridge", Command: "ip link add fn-lab type bridge"},
		{Text: "add address 10.8.0.1/24 dev fn-lab", Command: "ip address add 10.8.0.1/24 dev fn-lab proto 157"},
		{Netns: "/run/netns/web", Text: "add route default via 10.8.0.1 dev eth0", Command: "ip route add default via 10.8.0.1 dev eth0"},
	}
}

func fixedNetworks() []api.Network {
	off := false
	return []api.Network{
		{Name: "default", ID: hexID("default"), Spec: api.NetworkSpec{Mode: "nat"}, Status: api.NetworkStatus{State: "active", Scope: "node", Created: epoch, Bridge: "fn-default", MTU: 1500,
			Subnets: []api.SubnetStatus{{Subnet: "10.66.0.0/24", Gateway: "10.66.0.1", InUse: 2, Available: 252}, {Subnet: "fd66::/64", Gateway: "fd66::1", InUse: 2, Available: 1.8e19}},
			Uplinks: []string{"eth0"}, NAT: []string{"10.66.0.0/24 leaves as the address of eth0"},
			Endpoints: fixedWorkloads()["web"].Endpoints[:1], Forwards: fixedForwards()}},
		{Name: "lab10", ID: hexID("lab10"), Labels: map[string]string{"team": "red"}, Spec: api.NetworkSpec{Mode: "isolated", Autostart: &off},
			Status: api.NetworkStatus{State: "inactive", Scope: "node", Created: epoch, MTU: 1500}},
		{Name: "lab", ID: hexID("lab"), Spec: api.NetworkSpec{Mode: "host-only", IsolatePorts: true}, Status: api.NetworkStatus{State: "conflict", Reason: "10.8.0.0/24 overlaps a route of tun0",
			Scope: "node", Created: epoch, Bridge: "fn-lab", MTU: 1400, Subnets: []api.SubnetStatus{{Subnet: "10.8.0.0/24", Gateway: "10.8.0.254", IPRange: "10.8.0.64/26", Reserved: []string{"10.8.0.70"}, InUse: 0, Available: 61}}}},
		fixedPods(),
	}
}

func fixedWorkloads() map[string]api.Workload {
	web := api.Workload{Name: "web", State: "running", Netns: "/run/netns/web", Created: epoch, Process: api.Process{PID: 4711, Command: "python3 -m http.server 80 --directory /srv/very/long"},
		Endpoints: []api.Endpoint{
			{Workload: "web", Network: "default", IfName: "eth0", HostLink: "fv-web", MAC: "02:11:22:33:44:55", IPs: []string{"10.66.0.2/24", "fd66::2/64"}, Gateways: []string{"10.66.0.1"}, Netns: "/run/netns/web", PID: 4711, Guard: true, DefaultRoute: true},
			{Workload: "web", Network: "lab", IfName: "eth1", HostLink: "fv.abc", MAC: "02:11:22:33:44:66", IPs: []string{"10.8.0.64/24"}, Netns: "/run/netns/web", PID: 4711, Isolated: true},
		},
		Forwards: fixedForwards()[:1], Labels: map[string]string{"tier": "front"}}
	return map[string]api.Workload{
		"web": web,
		"db":  {Name: "db", State: "created", Netns: "/run/netns/db", Created: epoch.Add(-50 * time.Hour)},
		"job": {Name: "job", State: "exited", Sharing: "host", Created: epoch.Add(-3 * time.Hour), Process: api.Process{PID: 99, Command: "false", Exited: true, Code: 1}},
	}
}

func fixedForwards() []api.Forward {
	return []api.Forward{
		{Name: "tcp/8080", Workload: "web", Network: "default", Proto: "tcp", HostPorts: "8080", Ports: "80", Active: true},
		{Name: "udp/192.0.2.1:53", Workload: "dns", Network: "default", Proto: "udp", HostIP: "192.0.2.1", HostPorts: "53", Ports: "53", Standing: true},
	}
}

func fixedManifests() []api.Manifest {
	return []api.Manifest{
		{APIVersion: api.APIVersion, Kind: api.KindNetwork, Metadata: api.Metadata{Name: "lab"}, Network: &api.NetworkSpec{Mode: "host-only", Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}}}},
		{APIVersion: api.APIVersion, Kind: api.KindForward, Metadata: api.Metadata{Name: "udp/192.0.2.1:53"}, Forward: &api.ForwardSpec{Publish: "192.0.2.1:53:53/udp", Workload: "dns"}},
	}
}

func fixedFindings() []api.Finding {
	return []api.Finding{
		{Code: "FN5001", Level: "error", What: "forwarded packets are dropped", Owner: "table ip filter, chain FORWARD, policy drop: Docker", Fix: "iptables -I DOCKER-USER -i fn-+ -j ACCEPT", Fixable: true},
		{Code: "FN5009", Level: "note", What: "[::1] forwards need cgroup BPF"},
	}
}

func fixedStatus() api.Status {
	return api.Status{Version: "1.0", Since: epoch.Add(-90 * time.Minute), Networks: 3, Workloads: 3, Forwards: 2, Repairs: 4, Looked: epoch.Add(-12 * time.Second),
		Features: map[string]string{"ipv6-loopback-forwards": "yes", "sctp": "no: this kernel has no SCTP sockets"}, Findings: fixedFindings()[:1]}
}
