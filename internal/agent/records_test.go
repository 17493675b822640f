package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
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

// fakeKept is a file that is there, gone, or gone and cannot be written.
type fakeKept struct {
	mu      sync.Mutex
	missing bool
	err     error
}

func (k *fakeKept) set(missing bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.missing, k.err = missing, err
}

func (k *fakeKept) Missing() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.missing
}

func (k *fakeKept) Restore() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.missing = k.err != nil
	return k.err
}

// What somebody removes from the run directory is put back and told; that it cannot be is told once.
func TestRemovedFilesArePutBack(t *testing.T) {
	w := newWorld(t)
	journal, sock := &fakeKept{}, &fakeKept{}
	w.kept = map[string]Kept{"journal": journal, "socket": sock}
	d := w.start()
	mustWorkload(t, d, api.WorkloadSpec{Name: "web", Endpoints: on(DefaultNetwork)})
	if err := os.RemoveAll(filepath.Join(w.runDir, workloadsDir)); err != nil {
		t.Fatal(err)
	}
	sock.set(true, errors.New("no way"))
	for range 2 {
		d.restoreFiles(t.Context())
	}
	sock.set(true, nil)
	for range 2 {
		d.restoreFiles(t.Context())
	}
	list, _, _ := d.events.after(0)
	var told []string
	for _, ev := range list {
		if ev.Type == "error" || ev.Type == "restored" {
			told = append(told, ev.Type+": "+ev.Text)
		}
	}
	const removed = "somebody removed files from the run directory: "
	want := "error: " + removed + "socket; they could not be put back: no way\nrestored: " + removed + "socket; put back"
	if got := strings.Join(told, "\n"); got != want {
		t.Errorf("told:\n%s\nwant:\n%s", got, want)
	}
	if _, err := os.Stat(filepath.Join(w.runDir, workloadsDir, "web", hostsFile)); err != nil {
		t.Errorf("the workload's files: %v", err)
	}
}
