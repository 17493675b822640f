package agent

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
)

func TestReturnRoutes(t *testing.T) {
	w := newWorld(t)
	w.host.node.Links[0].Addrs = append(w.host.node.Links[0].Addrs, netip.MustParsePrefix("10.1.1.1/32"), netip.MustParsePrefix("fe80::1/64"), netip.MustParsePrefix("2001:db8::10/64"))
	slices.SortFunc(w.host.node.Links[0].Addrs, netip.Prefix.Compare) // an address that is not the LAN's comes first
	d := w.start()
	n := mustNetwork(t, d, "lab", api.NetworkSpec{Mode: "routed", Subnets: []api.SubnetSpec{{Subnet: "10.8.16.0/20"}, {Subnet: "fd08::/64"}}})
	r := n.Status.Return
	if r == nil || len(r.Routes) != 2 || !strings.Contains(r.Note, "answers only") {
		t.Fatalf("got %+v", r)
	}
	if got, want := r.Routes[0], (api.ReturnRoute{Subnet: "10.8.16.0/20", Via: "192.0.2.10", Linux: "ip route add 10.8.16.0/20 via 192.0.2.10",
		Windows: "route -p add 10.8.16.0 mask 255.255.240.0 192.0.2.10", Router: "ip route 10.8.16.0 255.255.240.0 192.0.2.10"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := r.Routes[1], (api.ReturnRoute{Subnet: "fd08::/64", Via: "2001:db8::10", Linux: "ip route add fd08::/64 via 2001:db8::10",
		Windows: "route -p add fd08::/64 2001:db8::10", Router: "ipv6 route fd08::/64 2001:db8::10"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if r := mustEdit(t, d, "lab", api.NetworkEdit{Masquerade: ptr(true)}).Status.Return; !strings.Contains(r.Note, "only to come in") || len(r.Routes) != 2 {
		t.Errorf("masqueraded: %+v", r)
	}
	if r := mustNetwork(t, d, "part", api.NetworkSpec{Mode: "routed", ProxyARP: true, Uplink: "eth0", Subnets: []api.SubnetSpec{{Subnet: "192.0.2.208/28"}}}).Status.Return; len(r.Routes) != 0 || !strings.Contains(r.Note, "no route is needed") {
		t.Errorf("proxy ARP: %+v", r)
	}
	if r := mustEdit(t, d, "lab", api.NetworkEdit{Mode: ptr("nat")}).Status.Return; r != nil {
		t.Errorf("nat: %+v", r)
	}
}
