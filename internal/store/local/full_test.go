package local

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

	"github.com/flatnet/flatnet/internal/store"
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

// On a disk that is full every change is refused as a whole, and done once there is room again; the file stays sound.
func TestAFullDiskChangesNothing(t *testing.T) {
	dir := smallDisk(t, 256<<10)
	s := open(t, dir)
	filler := filepath.Join(dir, "filler")
	rnd := rand.New(rand.NewPCG(3, 4))
	refused := 0
	for round := range 12 {
		_ = os.WriteFile(filler, make([]byte, rnd.IntN(256<<10)), 0o600) // as much as there is room for
		for range 20 {
			before := load(t, s)
			n := network(fmt.Sprint("n", rnd.IntN(20)))
			n.MTU, n.Labels["long"] = rnd.IntN(9000), strings.Repeat("x", rnd.IntN(9000))
			c := store.PutNetwork(n, store.Any)
			if rnd.IntN(3) == 0 {
				c = store.Delete(store.Network, n.Name, store.Any)
			}
			_, err := s.Write(t.Context(), c)
			if err == nil {
				continue
			}
			refused++
			var at *fs.PathError
			if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &at) || filepath.Dir(at.Path) != dir {
				t.Fatalf("round %d: got %v, want ENOSPC with the path", round, err)
			}
			if after := load(t, s); !reflect.DeepEqual(after, before) {
				t.Fatalf("round %d: a refused change changed something", round)
			}
		}
		if round%5 == 0 { // also a start with a full disk
			before := load(t, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, dir)
			if after := load(t, s); !reflect.DeepEqual(after.Objects, before.Objects) {
				t.Fatalf("round %d: reopened, the store differs", round)
			}
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write(t.Context(), store.PutNetwork(network("again"), store.Any)); err != nil {
			t.Fatalf("round %d: with room again: %v", round, err)
		}
	}
	if refused == 0 {
		t.Error("the disk was never full")
	}
	t.Logf("%d changes refused", refused)
}

func load(t *testing.T, s *Store) store.Snapshot {
	t.Helper()
	snap, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return snap
}
