package nft

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
)

// newNetns puts the test into a network namespace of its own, which goes with the thread.
func newNetns(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: sudo make test")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare: %v", err)
	}
}

func newConn(t *testing.T) *Conn {
	t.Helper()
	c, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return c
}

func nftCLI(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("nft", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// observe checks on the way that what the Conn knows without reading is what it would read.
func observe(t *testing.T, c *Conn) dataplane.State {
	t.Helper()
	known, err := c.Observe(ctx(t), false)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := c.read(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	if d := dataplane.Diff(state(t, seen.objects...), known); len(d) > 0 {
		t.Fatalf("what is known is not what is there; it would take %d steps, among them:\n%s", len(d), d[:min(len(d), 20)])
	}
	return known
}

func apply(t *testing.T, c *Conn, p dataplane.Plan) {
	t.Helper()
	if err := c.Apply(ctx(t), p); err != nil {
		t.Fatalf("%v\nplan:\n%s", err, p)
	}
}

// become applies what leads from what is there to want, and checks that it is there then.
func become(t *testing.T, c *Conn, want dataplane.State) {
	t.Helper()
	apply(t, c, dataplane.Diff(want, observe(t, c)))
	same(t, want, observe(t, c))
}

func same(t *testing.T, want, got dataplane.State) {
	t.Helper()
	if d := dataplane.Diff(want, got); len(d) > 0 {
		t.Fatalf("the kernel is not as wanted; it would take %d steps, among them:\n%s", len(d), d[:min(len(d), 20)])
	}
}

func state(t *testing.T, objects ...dataplane.Object) dataplane.State {
	t.Helper()
	s := dataplane.State{}
	if err := s.Put(objects...); err != nil {
		t.Fatal(err)
	}
	return s
}
