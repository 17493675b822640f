package render_test

import (
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// The short way between nodes is for links that no network's rules hold for: a host may meet the others of its cluster on a closed network
// of its own, from which nothing may go on.
func TestNoShortWayByAClosedNetwork(t *testing.T) {
	h := host(t, []byte(`
node: {links: [{name: fn-lab, mtu: 1500, up: true, addrs: [10.66.0.1/24]}], routes: [{dest: 10.66.0.0/24, link: fn-lab, proto: kernel}]}
self: n-a
networks:
  pods: {mode: cluster, active: true, cluster: {pools: [{prefix: 10.244.0.0/16, bits: 24}], backend: vxlan, vni: 1, port: 8472}}
  lab: {mode: host-only, active: true, subnets: [{prefix: 10.66.0.0/24, gateway: 10.66.0.1}]}
members:
  n-a: {id: n-a, name: a, underlay4: 10.66.0.1, mtu: 1500}
`))
	var pairs []string
	for _, o := range h.Netns[dataplane.HostNetns] {
		if e, ok := o.(dataplane.Element); ok && e.Set().Name == "between" {
			pairs = append(pairs, e.String())
		}
	}
	if all := strings.Join(pairs, "\n"); len(pairs) != 2 || strings.Contains(all, "fn-lab") {
		t.Errorf("got\n%s\nwant the bridge and its tunnel alone, both ways", all)
	}
}
