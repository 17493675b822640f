package kernel_test

import (
	"bufio"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netns"
)

// crashDir is set in the process that TestKilledAtAnyTime kills: a directory with the host's namespace and the run directory.
const crashDir = "FLATNET_TEST_CRASH_DIR"

// TestKilledAtAnyTime kills a process that applies states, and has the next one clear up: nothing may be left that bears no
// mark.
func TestKilledAtAnyTime(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() {
		unix.Unmount(filepath.Join(dir, "ns"), unix.MNT_DETACH)
		unix.Unmount(dir, unix.MNT_DETACH)
	})
	host := filepath.Join(dir, "host")
	if err := netns.Create(host); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netns.Delete(host) })
	runtime.LockOSThread() // the thread ends with the test
	f, err := netns.Open(host)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	nic(t, "nic0")
	for range 20 {
		killOne(t, dir)
		k := open(t, filepath.Join(dir, "run"))
		reach(t, k, "", dataplane.State{})
		if left := links(t); left != "lo" {
			t.Fatalf("left: %s", left)
		}
		if v := strings.TrimSpace(run(t, "sysctl -n net.ipv4.ip_forward net.ipv4.conf.all.arp_ignore")); v != "0\n0" {
			t.Fatalf("sysctls are %q", v)
		}
		upAre(t, map[string]bool{"nic0": false})
		if left := run(t, "ip rule show priority 100") + run(t, "ip neigh show proxy") + run(t, "ip link show type bridge_slave"); left != "" {
			t.Fatalf("left: %s", left)
		}
		if err := k.Leave(); err != nil {
			t.Fatal(err)
		}
		for _, sub := range []string{"ns", "run/netns"} {
			if left, _ := os.ReadDir(filepath.Join(dir, sub)); len(left) != 0 {
				t.Fatalf("left in %s: %v", sub, left)
			}
		}
	}
}

// links are the names of all links; a veth goes a little after its peer's namespace.
func links(t *testing.T) (names string) {
	for range 100 {
		var all []string
		for _, line := range strings.Split(strings.TrimSpace(run(t, "ip -br link")), "\n") {
			if name := strings.Fields(line)[0]; !strings.Contains(name, "nic0") {
				all = append(all, name)
			}
		}
		if names = strings.Join(all, " "); names == "lo" {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return names
}

func killOne(t *testing.T, dir string) {
	child := exec.Command("/proc/self/exe", "-test.run", "^TestAppliesUntilKilled$")
	child.Env = append(os.Environ(), crashDir+"="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the child says %q, %v", line, err)
	}
	time.Sleep(time.Duration(rand.IntN(60_000)) * time.Microsecond)
	child.Process.Kill()
	child.Wait()
}

func TestAppliesUntilKilled(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		return // TestKilledAtAnyTime runs it
	}
	k := open(t, filepath.Join(dir, "run")) // it was started in the host's namespace
	space := filepath.Join(dir, "ns", "w")
	full := state(dataplane.Netns{Path: space}, uplinked("fn-a", "nic0"), veth("fv-a", "fn-a", space), addr("fn-a", "10.1.0.1/24"),
		vxlan("fx-a", 7), neigh("fx-a", "10.2.0.0", "02:00:00:00:00:01"), fdb("fx-a", "02:00:00:00:00:01", "198.18.0.1"),
		onLink("10.2.0.0/24", "10.2.0.0", "fx-a", "10.1.0.1"),
		ifb("fi-a", "fv-a"), dataplane.NewShaper("fi-a", 125_000, 16_000, 19_125), dataplane.NewShaper("fv-a", 125_000, 16_000, 19_125),
		dataplane.Redirect{Link: "fv-a", Via: "fi-a"},
		dataplane.Port{Link: "nic0", Master: "fn-a"}, rule(100, "10.1.0.2", 7), proxied("nic0", "10.1.0.2"),
		sysctl("net/ipv4/ip_forward", "", "1"), sysctl("net/ipv4/conf/all/arp_ignore", "", "1"))
	os.Stdout.WriteString("ready\n")
	for {
		k.Apply(context.Background(), "", dataplane.Diff(full, dataplane.State{}))
		k.Apply(context.Background(), space, dataplane.Plan{{Op: dataplane.Add, Object: farVeth("fv-a")}})
		k.Apply(context.Background(), "", dataplane.Diff(dataplane.State{}, full))
	}
}
