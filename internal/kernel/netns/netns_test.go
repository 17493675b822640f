package netns_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/netns"
)

// dir is a directory for namespaces; Create makes it a mount.
func dir(t testing.TB) string {
	d := filepath.Join(t.TempDir(), "netns")
	t.Cleanup(func() { unix.Unmount(d, unix.MNT_DETACH) })
	return d
}

func inode(t testing.TB, path string) uint64 {
	n, err := netns.Inode(path)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCreateIsIdempotentAndDeleteToo(t *testing.T) {
	path := filepath.Join(dir(t), "a")
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	first := inode(t, path)
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	if !netns.Exists(path) || inode(t, path) != first {
		t.Error("a second Create changed the namespace")
	}
	for range 2 {
		if err := netns.Delete(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Delete: %v, want no file", err)
	}
}

func TestCreateKeepsAForeignFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	t.Cleanup(func() { unix.Unmount(filepath.Dir(path), unix.MNT_DETACH) })
	os.WriteFile(path, []byte("data"), 0o600)
	if err := netns.Create(path); err == nil {
		t.Error("Create put a namespace over a file")
	}
	if text, _ := os.ReadFile(path); string(text) != "data" {
		t.Errorf("the file holds %q", text)
	}
}

func TestDoIsInsideAndComesBack(t *testing.T) {
	path := filepath.Join(dir(t), "a")
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	defer netns.Delete(path)
	var inside uint64
	for range 100 {
		err := netns.Do(path, func() error { inside = inode(t, "/proc/thread-self/ns/net"); return nil })
		if err != nil {
			t.Fatal(err)
		}
		if inside != inode(t, path) {
			t.Fatalf("Do ran in namespace %d, want %d", inside, inode(t, path))
		}
	}
	if n, own := inode(t, "/proc/thread-self/ns/net"), inode(t, "/proc/self/ns/net"); n != own {
		t.Errorf("afterwards the thread is in %d, want %d", n, own)
	}
	want := errors.New("cause")
	if err := netns.Do(path, func() error { return want }); err != want {
		t.Errorf("Do returned %v", err)
	}
}

// The kernel gives an inode again at once, most of the time: a namespace is told from the one before by its cookie.
func TestIdentitiesAreNeverGivenAgain(t *testing.T) {
	path, seen := filepath.Join(dir(t), "ns"), map[string]bool{}
	for range 50 {
		if err := netns.Create(path); err != nil {
			t.Fatal(err)
		}
		ns, err := netns.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		id, err := netns.IdentityOf(ns)
		inside, errInside := netns.Identify(path)
		if err != nil || errInside != nil || id != inside || seen[id.String()] {
			t.Fatalf("identity %v, by the socket inside %v, seen before: %v; %v, %v", id, inside, seen[id.String()], err, errInside)
		}
		seen[id.String()] = true
		ns.Close()
		if err := netns.Delete(path); err != nil {
			t.Fatal(err)
		}
	}
	other, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if id, err := netns.IdentityOf(other); err == nil {
		t.Errorf("a mount namespace is network namespace %v", id)
	}
}

func TestWhatIsNoNamespaceDoesNotExist(t *testing.T) {
	file := filepath.Join(t.TempDir(), "left")
	os.WriteFile(file, nil, 0o600)
	for _, path := range []string{file, "/nowhere/at/all"} {
		if err := netns.Do(path, func() error { return nil }); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Do(%q): %v, want fs.ErrNotExist", path, err)
		}
	}
}

func TestOwnedSurvivesARestartAndTheUser(t *testing.T) {
	d, marks := dir(t), t.TempDir()
	open := func() *netns.Owned {
		o, err := netns.OpenOwned(marks)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := open()
	kept, removed, replaced := filepath.Join(d, "kept"), filepath.Join(d, "removed"), filepath.Join(d, "replaced")
	for _, path := range []string{kept, removed, replaced} {
		if err := o.Create(path); err != nil {
			t.Fatal(err)
		}
		defer netns.Delete(path)
	}
	foreign := filepath.Join(d, "foreign")
	if err := netns.Create(foreign); err != nil {
		t.Fatal(err)
	}
	defer netns.Delete(foreign)
	for _, path := range []string{removed, replaced} { // as `ip netns del` does
		if err := netns.Delete(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := netns.Create(replaced); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(o.List()); inode(t, replaced) != inode(t, kept) && got != fmt.Sprint([]string{kept}) {
		t.Logf("before the restart: %s (an inode may be used again)", got)
	}
	if err := o.Create(foreign); err == nil {
		t.Error("Create took a foreign namespace")
	}
	o = open()
	if got := fmt.Sprint(o.List()); got != fmt.Sprint([]string{kept}) {
		t.Errorf("after a restart: %s, want only %s", got, kept)
	}
	for _, path := range []string{kept, removed, replaced, foreign} {
		if err := o.Delete(path); err != nil {
			t.Errorf("delete %s: %v", path, err)
		}
	}
	if netns.Exists(kept) || !netns.Exists(replaced) || !netns.Exists(foreign) {
		t.Error("Delete removed others' namespaces, or not ours")
	}
	// The directory is still in use by others, and stays prepared.
	if left, _ := os.ReadDir(marks); len(left) != 1 {
		t.Errorf("markers left: %v, want that of the directory", left)
	}
}

// TestDeleteSparesAReplacedNamespace has no restart between the user's change and ours: only the cookie tells.
func TestDeleteSparesAReplacedNamespace(t *testing.T) {
	o, err := netns.OpenOwned(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir(t), "a")
	if err := o.Create(path); err != nil {
		t.Fatal(err)
	}
	netns.Delete(path)
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	defer netns.Delete(path)
	if err := o.Delete(path); err != nil {
		t.Fatal(err)
	}
	if !netns.Exists(path) {
		t.Error("the user's namespace of the same name was removed")
	}
}

func TestCrashLeftoversAreClearedUp(t *testing.T) {
	d, marks := t.TempDir(), t.TempDir()
	o, err := netns.OpenOwned(marks)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(d, unix.MNT_DETACH) })
	path := filepath.Join(d, "a")
	if err := o.Create(path); err != nil {
		t.Fatal(err)
	}
	// As killed between umount and unlink, and in the middle of a marker.
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(marks, "half"), []byte(`{"Path":"/x`), 0o600)
	os.WriteFile(filepath.Join(marks, "written, not renamed"), []byte(`{"Path":"/x","Dir":{"Made":true}}`), 0o600)
	if o, err = netns.OpenOwned(marks); err != nil {
		t.Fatal(err)
	}
	if err := o.Leave(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{d, marks} {
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
}

func BenchmarkDo(b *testing.B) {
	path := filepath.Join(dir(b), "a")
	if err := netns.Create(path); err != nil {
		b.Fatal(err)
	}
	defer netns.Delete(path)
	for b.Loop() {
		if err := netns.Do(path, func() error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

// What was done to the directory is taken back when nothing is in it any more, also by the next process.
func TestOwnedLeavesTheDirectory(t *testing.T) {
	dir, marks := filepath.Join(t.TempDir(), "netns"), t.TempDir()
	o, err := netns.OpenOwned(marks)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "web")
	if err := o.Create(path); err != nil {
		t.Fatal(err)
	}
	if err := o.Leave(); err != nil {
		t.Fatal(err)
	}
	if !netns.Exists(path) {
		t.Fatal("a directory in use was taken away")
	}
	if o, err = netns.OpenOwned(marks); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(o.Delete(path), o.Leave()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", dir, err)
	}
	if left, _ := os.ReadDir(marks); len(left) > 0 {
		t.Errorf("marks left: %v", left)
	}
}

// Somebody removes the marks one by one: that is noticed, they come back, and a namespace is as ours as before.
func TestOwnedMissesEachMark(t *testing.T) {
	dir, marks := filepath.Join(t.TempDir(), "netns"), t.TempDir()
	o, err := netns.OpenOwned(marks)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "web")
	if err := o.Create(path); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(marks)
	if err != nil || len(files) != 2 || o.Missing() {
		t.Fatalf("marks of the directory and of the namespace: %v (%v)", files, err)
	}
	for _, f := range files {
		if err := os.Remove(filepath.Join(marks, f.Name())); err != nil {
			t.Fatal(err)
		}
		if !o.Missing() {
			t.Errorf("%s is not missed", f.Name())
		}
		if err := o.Restore(); err != nil || o.Missing() {
			t.Errorf("%s: %v", f.Name(), err)
		}
	}
	if o, err = netns.OpenOwned(marks); err != nil || len(o.List()) != 1 {
		t.Fatalf("ours after a restart: %v (%v)", o.List(), err)
	}
	if err := errors.Join(o.Delete(path), os.RemoveAll(marks), o.Leave()); err != nil {
		t.Error(err)
	}
}
