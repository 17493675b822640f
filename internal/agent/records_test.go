package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// With a full disk every change is refused with what to do, reading goes on, and all works again once there is room.
func TestAFullDiskRefusesChangesAndNothingElse(t *testing.T) {
	w, d := furnished(t)
	ctx := context.Background()
	before := fmt.Sprint(d.Networks(), d.Workloads(), d.Forwards())
	changes := map[string]func() error{
		"net create": func() error {
			_, err := d.CreateNetwork(ctx, network("new", api.NetworkSpec{}), false)
			return err
		},
		"attach": func() error {
			_, err := d.CreateWorkload(ctx, api.WorkloadSpec{Name: "new", Endpoints: on("lab")}, false)
			return err
		},
		"detach": func() error {
			_, err := d.DeleteWorkload(ctx, "theirs", false, false)
			return err
		},
		"publish": func() error {
			_, err := d.AddForwards(ctx, []api.ForwardSpec{{Publish: "8081:80", Workload: "web"}}, false)
			return err
		},
	}
	w.full.Store(true)
	for name, change := range changes {
		var p model.Problem
		if err := change(); !errors.As(err, &p) || p.Code != model.CodeRecords || !strings.Contains(p.Reason, "no space is left in "+w.runDir) || !strings.Contains(p.Fix, "df -h "+w.runDir) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if after := fmt.Sprint(d.Networks(), d.Workloads(), d.Forwards()); after != before {
		t.Errorf("changed:\n%s\n%s", before, after)
	}
	w.checkConverged(d)
	w.procs.kill(4711, 3) // happens nevertheless, and is noted when that can be
	w.full.Store(false)
	for name, change := range changes {
		if err := change(); err != nil {
			t.Errorf("%s: with room again: %v", name, err)
		}
	}
	eventually(t, "the end of the command is noted", func() bool {
		x := must[api.Workload](t)(d.Workload("busy"))
		return x.Process.Exited && x.Process.Code == 3
	})
	w.checkConverged(d)
}
