package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
)

// Containers of runtimes do not end with flatnet: who agrees to it hears that they lose their network, however they are mixed with workloads.
func TestUninstallCutsContainersOff(t *testing.T) {
	container := func(name string) api.Workload {
		return api.Workload{Name: name, Netns: "/run/netns/" + name, Endpoints: []api.Endpoint{{Network: "lab", IfName: "eth0", Attachment: &api.Attachment{Config: "pods", Container: name, IfName: "eth0"}}}}
	}
	alone := api.Workload{Name: "web", Process: api.Process{PID: 4711}, Endpoints: container("c").Endpoints} // flatnet run, then an ADD
	for want, workloads := range map[string][]api.Workload{
		"end 0 workloads": nil,
		"end 1 workload":  {alone},
		"cut 2 containers of container runtimes off":                {container("c1"), container("c2")},
		"end 1 workload, cut 1 container of container runtimes off": {alone, container("c2")},
	} {
		if got := farewell(workloads); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	d, socket := startFake(t)
	d.put(container("db"))
	t.Chdir(t.TempDir())
	var out, errs bytes.Buffer
	if code := testApp(socket, &out, &errs).main(context.Background(), []string{"uninstall", "--plan"}); code != 0 {
		t.Fatalf("exit %d:\n%s", code, &errs)
	}
	if plan := out.String(); !strings.Contains(plan, "# cut container db off; its runtime goes on with it\n") || strings.Contains(plan, "end workload db") || !strings.Contains(plan, "# end workload web") {
		t.Errorf("the plan:\n%s", plan)
	}
}
