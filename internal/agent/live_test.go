package agent

import (
	"context"
	"testing"

	"github.com/flatnet/flatnet/api"
)

// liveStories are the changes of what runs, for a daemon to die in; pair holds two workloads on lab, one in a namespace of others,
// which publish a port, and a second network.
func liveStories() []crashStory {
	ctx := context.Background()
	pair := func(mode string) func(*testing.T, *world, *daemon) {
		return func(t *testing.T, _ *world, d *daemon) {
			t.Helper()
			mustNetwork(t, d, "lab", api.NetworkSpec{Mode: mode, Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}, {Subnet: "fd08::/64"}}})
			mustNetwork(t, d, "wire", api.NetworkSpec{Mode: "cable"})
			mustWorkload(t, d, api.WorkloadSpec{Name: "web", Endpoints: on("lab")})
			mustWorkload(t, d, api.WorkloadSpec{Name: "theirs", Endpoints: on("lab"), Netns: "/run/netns/theirs"})
			mustWorkload(t, d, api.WorkloadSpec{Name: "end", Endpoints: on("wire")})
		}
	}
	connect := func(workload string, spec api.EndpointSpec) func(*daemon) error {
		return func(d *daemon) error {
			_, err := d.Connect(ctx, workload, spec, false)
			return err
		}
	}
	disconnect := func(workload, network string) func(*daemon) error {
		return func(d *daemon) error {
			_, err := d.Disconnect(ctx, workload, network, true, false)
			return err
		}
	}
	with := func(before func(*testing.T, *world, *daemon), more ...func(*daemon) error) func(*testing.T, *world, *daemon) {
		return func(t *testing.T, w *world, d *daemon) {
			t.Helper()
			before(t, w, d)
			for _, m := range more {
				if err := m(d); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	second := connect("web", api.EndpointSpec{Network: DefaultNetwork, Priority: 1})
	publish := func(d *daemon) error {
		_, err := d.AddForwards(ctx, []api.ForwardSpec{{Publish: "8080:80", Workload: "web", Network: "lab"}}, false)
		return err
	}
	edit := func(e api.NetworkEdit) func(*daemon) error {
		return func(d *daemon) error {
			_, err := d.EditNetwork(ctx, "lab", e, consent{renumber: true, force: true}, false)
			return err
		}
	}
	stories := []crashStory{
		{"renumber", with(pair("nat"), publish), edit(api.NetworkEdit{Subnets: []api.SubnetSpec{{Subnet: "10.9.0.0/24"}, {Subnet: "fd09::/64"}}})},
		{"renumber on two networks", with(pair("routed"), second), edit(api.NetworkEdit{Subnets: []api.SubnetSpec{{Subnet: "10.9.0.0/24"}}})},
		{"another gateway", with(pair("nat"), publish), edit(api.NetworkEdit{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24", Gateway: "10.8.0.254"}, {Subnet: "fd08::/64"}}})},
		{"a larger subnet", pair("nat"), edit(api.NetworkEdit{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/16"}, {Subnet: "fd08::/48"}}})},
		{"one more subnet", pair("nat"), edit(api.NetworkEdit{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/24"}, {Subnet: "fd08::/64"}, {Subnet: "10.9.0.0/24"}}})},
		{"a subnet for a switch", with(pair("isolated"), edit(api.NetworkEdit{Subnets: []api.SubnetSpec{}})), edit(api.NetworkEdit{Mode: ptr("nat")})},
		{"another bridge", pair("nat"), edit(api.NetworkEdit{Bridge: ptr("br7"), MTU: ptr(1400)})},
		{"no more NAT", with(pair("nat"), publish), edit(api.NetworkEdit{NAT: new(bool)})},
		{"masquerade", pair("routed"), edit(api.NetworkEdit{NAT: ptr(true), SNATIPs: []string{"192.0.2.10"}, HostAdapter: new(bool)})},
	}
	for _, from := range liveModes {
		for _, to := range liveModes {
			if from != to {
				stories = append(stories, crashStory{"from " + from + " to " + to, with(pair("nat"), edit(toMode(from))), edit(toMode(to))})
			}
		}
	}
	return append(stories, []crashStory{
		{"connect", pair("nat"), connect("web", api.EndpointSpec{Network: DefaultNetwork})},
		{"connect for the default route", pair("nat"), second},
		{"connect to a routed network", pair("routed"), second},
		{"connect what others made", pair("nat"), connect("theirs", api.EndpointSpec{Network: DefaultNetwork, Priority: 1})},
		{"connect by a cable", pair("nat"), connect("web", api.EndpointSpec{Network: "wire"})},
		{"disconnect the default route", with(pair("nat"), second), disconnect("web", DefaultNetwork)},
		{"disconnect", with(pair("nat"), second), disconnect("web", "lab")},
		{"disconnect what others made", with(pair("nat"), connect("theirs", api.EndpointSpec{Network: DefaultNetwork})), disconnect("theirs", "lab")},
		{"disconnect from a cable", with(pair("nat"), connect("web", api.EndpointSpec{Network: "wire"})), disconnect("web", "wire")},
		{"disconnect with a published port", with(pair("nat"), publish), disconnect("web", "lab")},
	}...)
}
