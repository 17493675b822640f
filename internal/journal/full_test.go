package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk is a directory with room for this many bytes, seen by the calling thread only; that ends with the test.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	runtime.LockOSThread()
	dir := t.TempDir()
	for _, err := range []error{
		unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""),
		unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprint("size=", bytes)),
	} {
		if err != nil {
			t.Fatalf("run as root: %v", err)
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// On a disk that is full a change is refused, and done once there is room again; the file is what the memory is.
func TestAFullDiskChangesNothing(t *testing.T) {
	const room = 2 << 20
	dir := smallDisk(t, room)
	j, _ := mustOpen(t, dir, boot)
	filler := filepath.Join(dir, "filler")
	rnd := rand.New(rand.NewPCG(5, 6))
	refused := 0
	for round := range 10 {
		_ = os.WriteFile(filler, make([]byte, room), 0o600) // as much as there is room for
		full, err := os.Stat(filler)
		must(t, err)
		must(t, os.Truncate(filler, max(0, full.Size()-rnd.Int64N(128<<10))))
		for i := range 40 {
			before := state(j.Load())
			w := workload(fmt.Sprint("w", rnd.IntN(20)), i+1)
			w.Process.Command = strings.Repeat("x", rnd.IntN(30_000))
			err := j.Put(w)
			if rnd.IntN(3) == 0 && err == nil {
				continue
			}
			if err == nil {
				before = state(j.Load())
				if err = j.Delete(w.Name); err == nil {
					continue
				}
			}
			refused++
			var at *fs.PathError
			if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &at) || filepath.Dir(at.Path) != dir {
				t.Fatalf("round %d: got %v, want ENOSPC with the path", round, err)
			}
			if after := state(j.Load()); after != before {
				t.Fatalf("round %d: a refused change changed %q to %q", round, before, after)
			}
		}
		want := j.Load()
		if round%5 == 0 { // also a start with a full disk
			must(t, j.Close())
			var report Report
			j, report = mustOpen(t, dir, boot)
			if got := j.Load(); !reflect.DeepEqual(got, want) || report.String() != "journal in order" {
				t.Fatalf("round %d: reopened, got %q, want %q; %v", round, state(got), state(want), report)
			}
		}
		must(t, os.Remove(filler))
		must(t, j.Put(workload("again", round)))
	}
	if refused == 0 {
		t.Error("the disk was never full")
	}
	t.Logf("%d changes refused", refused)
}
