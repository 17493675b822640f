package main

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/flatnet/flatnet/api"
)

// Whoever edits a cluster network in an editor asks for what they changed, and for nothing else: every setting can be.
func TestEditOfClusterNetwork(t *testing.T) {
	old := api.Manifest{Network: &api.NetworkSpec{Mode: modeCluster, Cluster: &api.ClusterSpec{Pools: []api.PoolSpec{{Subnet: "10.80.0.0/16", Block: 24}}, Backend: "vxlan", VNI: 1, Port: 8472}}}
	if e := editOf(old, old); !reflect.DeepEqual(e, api.NetworkEdit{}) {
		t.Errorf("nothing was changed: %+v", e)
	}
	for _, c := range []struct{ now, want string }{
		{`{"backend":"host-gw"}`, `{"backend":"host-gw"}`},
		{`{"vni":2}`, `{"vni":2}`},
		{`{"port":4789}`, `{"port":4789}`},
		{`{"underlay":"ipv6"}`, `{"underlay":"ipv6"}`},
		{`{"directRouting":true}`, `{"directRouting":true}`},
		{`{"checksum":false}`, `{"checksum":false}`},
		{`{"checksum":true}`, `{}`},
		{`{"pools":[{"subnet":"10.80.0.0/16","block":24},{"subnet":"10.81.0.0/16"}]}`, `{"pools":[{"subnet":"10.80.0.0/16","block":24},{"subnet":"10.81.0.0/16"}]}`},
		{`{"noMasquerade":["192.168.0.0/16"]}`, `{"noMasquerade":["192.168.0.0/16"]}`},
		{`{"nodes":["h1"]}`, `{"nodes":["h1"]}`},
		{`{"reserved":[{"block":"10.80.1.0/24"}]}`, `{"reserved":[{"block":"10.80.1.0/24"}]}`},
	} {
		spec := *old.Network.Cluster
		if err := json.Unmarshal([]byte(c.now), &spec); err != nil {
			t.Fatal(err)
		}
		now := api.Manifest{Network: &api.NetworkSpec{Mode: modeCluster, Cluster: &spec}}
		text, err := json.Marshal(editOf(old, now).Cluster)
		if err != nil || string(text) != c.want {
			t.Errorf("%s: got %s, want %s (%v)", c.now, text, c.want, err)
		}
	}
}
