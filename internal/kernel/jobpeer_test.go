package kernel_test

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/netns"
)

// TestAnEndTakenAwayIsMadeAnew moves and renames the host's end of a veth. Its other end stands in the way of a new one.
func TestAnEndTakenAwayIsMadeAnew(t *testing.T) {
	k := host(t)
	quiet(t)
	ns, elsewhere := workload(t, "w"), workload(t, "elsewhere")
	outside := state(bridge("fn-a"), veth("fv-w", "fn-a", ns))
	inside := state(lo(true), farVeth("fv-w"), addr("eth0", "10.1.0.2/16"), addr("eth0", "fd01::2/64"), dest("0.0.0.0/0", "10.1.0.1", "eth0"))
	for _, line := range []string{
		"ip link set fv-w netns " + elsewhere,
		"ip link set fv-w name mine",
		"ip link set fv-w name mine netns " + elsewhere,
	} {
		reach(t, k, "", outside)
		reach(t, k, ns, inside)
		if link := ipIn(t, ns, "-d", "link", "show", "eth0"); !strings.Contains(link, "group default") {
			t.Errorf("a link that is set up is left in its group: %s", link)
		}
		if strings.Contains(line, " name ") {
			run(t, "ip link set fv-w down")
		}
		run(t, line)
		reach(t, k, "", outside)
		if left := ipIn(t, elsewhere, "-o", "link", "show", "type", "veth"); left != "" {
			t.Errorf("%s: left there: %s", line, left)
		}
		reach(t, k, ns, inside)
	}
}

// TestAPeerOfOthersStays: a workload's own link of the name that an endpoint would have is in the way, and stays.
func TestAPeerOfOthersStays(t *testing.T) {
	k := host(t)
	ns := workload(t, "w")
	add := dataplane.Plan{{Op: dataplane.Add, Object: bridge("fn-a")}, {Op: dataplane.Add, Object: veth("fv-w", "fn-a", ns)}}
	for _, alias := range []string{"", "mine", "flatnet ep/other/eth0", "flatnet ep/fv-w/eth0 peer eth0 netns /run/netns/x"} {
		ipIn(t, ns, "link", "add", "eth0", "type", "veth", "peer", "name", "x")
		ipIn(t, ns, "link", "set", "eth0", "alias", alias)
		err := k.Apply(context.Background(), "", add)
		if !errors.Is(err, kernel.ErrNotOurs) {
			t.Errorf("alias %q: %v", alias, err)
		}
		ipIn(t, ns, "link", "del", "eth0")
	}
}

// ipIn runs ip in a namespace.
func ipIn(t *testing.T, path string, args ...string) string {
	t.Helper()
	var out []byte
	err := netns.Do(path, func() (err error) {
		out, err = exec.Command("ip", args...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
