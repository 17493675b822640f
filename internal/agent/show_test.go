package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/model"
	"golang.org/x/tools/txtar"
)

// inventory is what the kernel lists, by namespace.
type inventory struct {
	links      map[string][]kernel.LinkInfo
	routes     map[string][]kernel.RouteInfo
	neighbours map[string][]kernel.NeighbourInfo
}

func (h *fakeHost) ListLinks(_ context.Context, netns string) ([]kernel.LinkInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.inventory.links[netns], nil
}

func (h *fakeHost) ListRoutes(_ context.Context, netns string) ([]kernel.RouteInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.inventory.routes[netns], nil
}

func (h *fakeHost) ListNeighbours(_ context.Context, netns string) ([]kernel.NeighbourInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.inventory.neighbours[netns], nil
}

// seen are furnished's namespaces as the kernel might list them, with a bridge of others, an impostor and a proxied address.
func seen() inventory {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	bridgeMAC, web, busy := model.BridgeMAC("lab").String(), "02:00:5e:10:00:01", model.EndpointMAC("busy", "lab").String()
	return inventory{
		links: map[string][]kernel.LinkInfo{
			"": {
				{Index: 1, Name: "lo", Flags: []string{"LOOPBACK", "UP"}, State: "UNKNOWN", MTU: 65536, Loopback: true, Addrs: []netip.Prefix{prefix("127.0.0.1/8")}},
				{Index: 2, Name: "eth0", State: "UP", MTU: 1500, MAC: "9a:00:00:00:00:01"},
				{Index: 3, Name: "virbr0", Kind: "bridge", State: "DOWN", STP: true, BridgeID: "8000.525400112233"},
				{Index: 4, Name: "vnet0", Kind: "tun", Master: "virbr0"},
				{Index: 7, Name: "tap9", Kind: "tun", Master: "fn-lab"},
				{Index: 9, Name: "fv-web", Kind: "veth", Master: "fn-lab", Peer: "if2"},
				{Index: 8, Name: "fn-lab", Kind: "bridge", BridgeID: "8000.0200", MAC: bridgeMAC},
				{Index: 10, Name: "fn-off", Kind: "bridge", BridgeID: "8000.0201"},
			},
			"/run/netns/web": {{Index: 1, Name: "lo", Loopback: true}, {Index: 2, Name: "eth0", Kind: "veth", Peer: "if9"}},
			"/run/netns/a":   {{Index: 2, Name: "eth0", Kind: "veth", Peer: "if2"}},
		},
		routes: map[string][]kernel.RouteInfo{
			"": {
				{Dest: prefix("0.0.0.0/0"), Type: "unicast", Via: addr("192.0.2.1"), Link: "eth0", Proto: "dhcp", Scope: "global", Metric: 100, Table: "main"},
				{Dest: prefix("10.8.0.0/24"), Type: "unicast", Link: "fn-lab", Source: addr("10.8.0.1"), Proto: "kernel", Scope: "link", Table: "main", State: []string{"linkdown"}},
				{Dest: prefix("198.51.100.0/24"), Type: "blackhole", Proto: "boot", Scope: "global", Table: "main"},
			},
			"/run/netns/web": {{Dest: prefix("::/0"), Type: "unicast", Via: addr("fd08::1"), Link: "eth0", Proto: "157", Table: "main"}},
		},
		neighbours: map[string][]kernel.NeighbourInfo{
			"": {
				{Addr: addr("192.0.2.1"), Link: "eth0", MAC: "9a:00:00:00:00:02", State: "STALE"},
				{Addr: addr("10.8.0.80"), Link: "fn-lab", MAC: web, State: "REACHABLE"},
				{Addr: addr("10.8.0.80"), Link: "fn-lab", MAC: busy, State: "REACHABLE"},
				{Addr: addr("10.8.0.80"), Link: "fn-lab", MAC: "0a:00:00:00:00:00", State: "REACHABLE"},
				{Addr: addr("10.8.0.80"), Link: "fn-lab", State: "INCOMPLETE"},
				{Addr: addr("10.8.0.99"), Link: "fn-lab", MAC: web, State: "STALE"},
				{Addr: addr("10.8.0.98"), Link: "fn-lab", State: "FAILED"},
				{Addr: addr("192.0.2.77"), Link: "eth0", Proxy: true},
			},
			"/run/netns/web": {
				{Addr: addr("10.8.0.1"), Link: "eth0", MAC: bridgeMAC, State: "REACHABLE"},
				{Addr: addr("10.8.0.1"), Link: "eth0", MAC: busy, State: "REACHABLE"},
				{Addr: addr("fe80::1"), Link: "eth0", MAC: bridgeMAC, State: "STALE", Router: true},
				{Addr: addr("10.8.0.3"), Link: "eth0", MAC: busy, State: "STALE"},
			},
		},
	}
}

// TestWhatIsThereIsSaidWithWhoseItIs asks for the lists. testdata/show.txtar has the calls, each followed by its answer, one
// object a line.
func TestWhatIsThereIsSaidWithWhoseItIs(t *testing.T) {
	const golden = "testdata/show.txtar"
	archive, err := txtar.ParseFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	w, d := furnished(t)
	w.host.set(func(h *fakeHost) { h.inventory = seen() })
	fresh := txtar.Archive{Comment: archive.Comment}
	for _, f := range archive.Files {
		var list []json.RawMessage
		out := ask(d.Handler(), f.Name, "")
		if err := json.Unmarshal(out.Body.Bytes(), &list); err != nil {
			list = []json.RawMessage{answerText(t, f.Name, out)}
		}
		var b bytes.Buffer
		for _, one := range list {
			fmt.Fprintf(&b, "%s\n", bytes.TrimSpace(one))
		}
		fresh.Files = append(fresh.Files, txtar.File{Name: f.Name, Data: b.Bytes()})
	}
	got := txtar.Format(&fresh)
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want := txtar.Format(archive); !bytes.Equal(got, want) {
		t.Errorf("run with -update and look at the difference in %s; got:\n%s", golden, firstDifference(string(got), string(want)))
	}
}

// Every element that the daemon puts into its tables is for something, and what somebody else puts there is not.
func TestEveryElementIsForSomething(t *testing.T) {
	w, d := furnished(t)
	must[api.Changed[[]api.Forward]](t)(d.AddForwards(context.Background(), []api.ForwardSpec{{Publish: "9000-9003:9000-9003", Workload: "busy"}}, false))
	elements, rules := 0, 0
	for _, o := range must[[]api.NFTObject](t)(d.NFT(context.Background())) {
		switch o.Kind {
		case "rule":
			rules++
		case "element":
			elements++
		}
		ofPort := strings.Contains(o.Text, `"fv`)
		ofForward := strings.HasPrefix(o.Name, "forward")
		if o.Stray || o.Kind == "element" && (len(o.Networks) == 0 || ofPort && len(o.Workloads) != 1 || ofForward && (len(o.Forwards) != 1 || len(o.Workloads) != 1)) {
			t.Errorf("%s %s is for %v %v %v", o.Kind, o.Text, o.Networks, o.Workloads, o.Forwards)
		}
	}
	if elements < 20 || rules < 20 {
		t.Errorf("%d elements, %d rules", elements, rules)
	}
	set := dataplane.Set{Family: dataplane.Inet, Name: "nat", Type: dataplane.Types{dataplane.IfName}}
	stray := dataplane.Step{Op: dataplane.Add, Object: set.Element(dataplane.Tuple{Link: "tap9"})}
	if err := w.kernel.Apply(context.Background(), dataplane.HostNetns, dataplane.Plan{stray}); err != nil {
		t.Fatal(err)
	}
	var strays []string
	for _, o := range must[[]api.NFTObject](t)(d.NFT(context.Background())) {
		if o.Stray {
			strays = append(strays, o.Text)
		}
	}
	if !slices.Equal(strays, []string{`"tap9"`}) {
		t.Errorf("strays: %s", strays)
	}
}
