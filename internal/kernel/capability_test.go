package kernel_test

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/internal/model"
)

// underCapabilities is set in the process that TestCapabilities starts.
const underCapabilities = "FLATNET_TEST_UNDER_CAPABILITIES"

// TestCapabilities runs TestUnderCapabilities in a process that can't have more than these.
func TestCapabilities(t *testing.T) {
	keep := []int{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_NET_RAW, unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH}
	runtime.LockOSThread() // the thread ends with the test, and the process inherits from it
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if !slices.Contains(keep, c) {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	child := exec.Command("/proc/self/exe", "-test.run", "^TestUnderCapabilities$", "-test.v")
	child.Env = append(os.Environ(), underCapabilities+"=1")
	if out, err := child.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestUnderCapabilities(t *testing.T) {
	if os.Getenv(underCapabilities) == "" {
		return // TestCapabilities runs it
	}
	unshare(t)
	dir := t.TempDir()
	ns := nsDir(t) + "/w"
	t.Cleanup(func() { netns.Delete(ns) })
	k := open(t, dir)
	reach(t, k, "", state(dataplane.Netns{Path: ns}, bridge("fn-a"), veth("fv-a", "fn-a", ns), addr("fn-a", "10.1.0.1/24"),
		sysctl("net/ipv4/ip_forward", "", "1"), sysctl("net/ipv4/conf/fv-a/arp_ignore", "fv-a", "1")))
	reach(t, k, ns, state(lo(true), farVeth("fv-a"), addr("eth0", "10.1.0.2/24"), dest("0.0.0.0/0", "10.1.0.1", "eth0"),
		sysctl("net/ipv6/conf/eth0/accept_ra", "eth0", "0")))
	if _, err := k.Node(context.Background()); err != nil {
		t.Error(err)
	}
	if _, _, err := k.PortHolder(context.Background(), model.TCP, netip.Addr{}, model.Ports{First: 1, Last: 65535}); err != nil {
		t.Error(err)
	}
	if _, err := k.FlushConntrack(context.Background(), model.UDP, netip.Addr{}, model.Ports{First: 1, Last: 65535}); err != nil {
		t.Error(err)
	}
	reach(t, k, "", dataplane.State{})
}
