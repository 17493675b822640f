package story_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/test/rig"
)

// ip netns del X; ip netns add X: what was in the first X is never put into the second one, however soon that comes.
func TestTheNextNamespaceAtThePath(t *testing.T) {
	o := newOffice(t)
	h := rig.New(t, o.host)
	path := o.host.Path + "-x" // beside the others that this test made
	t.Cleanup(func() { _ = netns.Delete(path) })
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	stands := kerneltest.At(t, "x", path)
	for round := range 20 {
		do(netns.Create(path))
		spec := api.WorkloadSpec{Name: "w", Netns: path, Endpoints: []api.EndpointSpec{{}}}
		_, err := h.Client().CreateWorkload(context.Background(), spec)
		do(err)
		has(t, stands.Run("ip", "link"), "eth0")
		do(netns.Delete(path))
		time.Sleep(time.Duration(round%7) * time.Millisecond)
		do(netns.Create(path))
		for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if links := stands.Run("ip", "-o", "link"); strings.Contains(links, "eth0") {
				t.Fatalf("round %d: the next namespace has\n%s", round, links)
			}
		}
		h.Flatnet("rm", "w")
		do(netns.Delete(path))
	}
}

// ip netns del of a workload that flatnet made, under its running command: that goes on, and the file comes back, of the namespace that it is in.
// Neither is anything of it put into one that somebody else has stand there.
func TestTheFileOfANamespaceGoes(t *testing.T) {
	d := newDesk(t)
	path := filepath.Join(d.NetnsDir(), "a")
	before, err := netns.Identify(path)
	if err != nil {
		t.Fatal(err)
	}
	a, err := d.Client().Workload(context.Background(), "a")
	if err != nil {
		t.Fatal(err)
	}
	theirs := fmt.Sprintf("/proc/%d/ns/net", a.Process.PID)
	if _, err := d.Client().CreateWorkload(context.Background(), api.WorkloadSpec{Name: "w", Netns: theirs, Endpoints: []api.EndpointSpec{{IfName: "eth5"}}}); err == nil || !strings.Contains(err.Error(), "FN2116") {
		t.Errorf("a namespace that flatnet made, by another path: %v", err)
	}
	for _, dead := range []bool{false, true} {
		if dead {
			d.Kill()
		}
		if err := netns.Delete(path); err != nil {
			t.Fatal(err)
		}
		if dead {
			d.Start()
		} else {
			d.host.IP("link set fv-b down") // something to look at all for, which else is done every 30 s
		}
		d.Eventually("the file is back", func() bool {
			now, err := netns.Identify(path)
			if err == nil && now != before {
				t.Fatalf("flatnetd killed: %v: another namespace stands there", dead)
			}
			return err == nil
		})
		d.isAsBefore("ip netns del a")
	}
	if out := d.Flatnet("doctor"); strings.Contains(out, "FN5001") || strings.Contains(out, "FN5002") || strings.Contains(out, "FN5004") {
		t.Errorf("doctor:\n%s", out)
	}

	if err := netns.Delete(path); err != nil {
		t.Fatal(err)
	}
	if err := netns.Create(path); err != nil { // it may be too late
		t.Fatal(err)
	}
	if now, _ := netns.Identify(path); now != before {
		_, _ = d.Try("doctor", "--fix", "FN5002", "-y")
		time.Sleep(100 * time.Millisecond)
		if out := kerneltest.At(t, "a", path).Run("ip", "-o", "link"); strings.Contains(out, "eth0") || strings.Contains(out, "LOOPBACK,UP") {
			t.Errorf("in the namespace of somebody else:\n%s", out)
		}
		if err := netns.Delete(path); err != nil {
			t.Fatal(err)
		}
	}
	d.host.IP("link set fv-b down")
	d.isAsBefore("another namespace came and went")
}
