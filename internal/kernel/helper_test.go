package kernel_test

import (
	"context"
	"maps"
	"net/netip"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/internal/model"
)

// host puts the test into a network namespace of its own, which ends with the test, and opens a Kernel there.
func host(t testing.TB) *kernel.Kernel {
	unshare(t)
	return open(t, t.TempDir())
}

func unshare(t testing.TB) {
	runtime.LockOSThread() // for ever: the thread ends with the test's goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("these tests need root: unshare: %v", err)
	}
}

func open(t testing.TB, dir string) *kernel.Kernel {
	k, err := kernel.New(kernel.Config{RunDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

// nsDir is a directory for namespaces' files.
func nsDir(t testing.TB) string {
	dir := filepath.Join(t.TempDir(), "netns")
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// workload makes a namespace that is somebody else's.
func workload(t testing.TB, name string) string {
	path := filepath.Join(nsDir(t), name)
	if err := netns.Create(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netns.Delete(path) })
	return path
}

// run runs a command in the test's namespace and returns what it says.
func run(t testing.TB, line string) string {
	t.Helper()
	args := strings.Fields(line)
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

func observe(t testing.TB, k *kernel.Kernel, netns string) dataplane.State {
	t.Helper()
	s, err := k.Observe(context.Background(), netns)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func apply(t testing.TB, k *kernel.Kernel, netns string, p dataplane.Plan) {
	t.Helper()
	if err := k.Apply(context.Background(), netns, p); err != nil {
		t.Fatalf("apply:\n%s%v", p, err)
	}
}

// reach makes a namespace what is wanted and checks the law Observe(Apply(Diff(want, have))) == want.
func reach(t testing.TB, k *kernel.Kernel, netns string, want dataplane.State) {
	t.Helper()
	plan := dataplane.Diff(want, observe(t, k, netns))
	apply(t, k, netns, plan)
	if left := dataplane.Diff(want, observe(t, k, netns)); len(left) > 0 {
		t.Fatalf("after\n%sthere is left\n%s", plan, left)
	}
}

func state(objects ...dataplane.Object) dataplane.State {
	s := dataplane.State{}
	if err := s.Put(objects...); err != nil {
		panic(err)
	}
	return s
}

func text(s dataplane.State) string {
	var lines []string
	for _, o := range s {
		lines = append(lines, o.String()+"\n")
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// with is the state with one more object.
func with(s dataplane.State, o dataplane.Object) dataplane.State {
	s = maps.Clone(s)
	s[o.Key()] = o
	return s
}

func bridge(name string) dataplane.Link {
	return dataplane.Link{
		Name: name, Kind: dataplane.Bridge, Owner: "net/" + name, MAC: model.BridgeMAC(name), MTU: 1500, Up: true,
	}
}

func veth(name, master, path string) dataplane.Link {
	return dataplane.Link{
		Name: name, Kind: dataplane.Veth, Owner: "ep/" + name + "/eth0", MAC: model.HostSideMAC(model.EndpointMAC(name, "lab")),
		MTU: 1500, Up: true, Master: master, Peer: "eth0", PeerNetns: path,
	}
}

func farVeth(of string) dataplane.Link {
	return dataplane.Link{
		Name: "eth0", Kind: dataplane.Veth, Owner: "ep/" + of + "/eth0", MAC: model.EndpointMAC(of, "lab"), MTU: 1500, Up: true,
	}
}

func lo(up bool) dataplane.Link {
	return dataplane.Link{Name: "lo", Kind: dataplane.Loopback, Up: up}
}

func addr(link, prefix string) dataplane.Address {
	return dataplane.Address{Link: link, Prefix: netip.MustParsePrefix(prefix)}
}

func dest(prefix, via, link string) dataplane.Route {
	r := dataplane.Route{Dest: netip.MustParsePrefix(prefix), Link: link}
	if via != "" {
		r.Via = netip.MustParseAddr(via)
	}
	return r
}
