package agent

import (
	"context"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// Who installs the plugin hears why an ADD would fail, and how many links stand.
func TestCNIStatusSaysWhyNot(t *testing.T) {
	w := newWorld(t)
	d := w.start()
	mustNetwork(t, d, "small", api.NetworkSpec{Subnets: []api.SubnetSpec{{Subnet: "10.8.0.0/30"}}})
	if s := d.CNIStatus(context.Background(), []string{"small"}); !s.Ready || s.Attachments != 0 || s.Socket == "" || s.Network != DefaultNetwork {
		t.Errorf("before: %+v", s)
	}
	w.kernel.AddNetns("/run/netns/a")
	must[api.Workload](t)(d.add("a", "small", api.EndpointSpec{Network: "small"}))
	s := d.CNIStatus(context.Background(), []string{DefaultNetwork, "small", "nowhere"})
	if s.Ready || s.Attachments != 1 || len(s.Problems) != 2 || s.Problems[0].Code != model.CodeExhausted || s.Problems[1].Code != model.CodeNotFound {
		t.Errorf("full, and one that is not there: %+v", s)
	}
}
