package kernel_test

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
)

// heir is a Kernel that takes over.
func heir(t *testing.T) *kernel.Kernel {
	unshare(t)
	k, err := kernel.New(kernel.Config{RunDir: t.TempDir(), TakeOver: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

// byHand does what another program did.
func byHand(t *testing.T, commands string) {
	t.Helper()
	for line := range strings.Lines(commands) {
		if out, err := exec.Command("sh", "-ec", line).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
}

func output(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

// What flanneld left behind: its tunnel is the same that is wanted here, so it is kept with its index and MAC, and what goes by it is never
// away.
func TestATunnelThatAnotherProgramLeftIsTakenOver(t *testing.T) {
	k := heir(t)
	byHand(t, `ip link add under type veth peer name far
ip link set under up
ip addr add 192.0.2.1/24 dev under
ip link add flannel.1 address c6:00:00:00:00:01 mtu 1450 type vxlan id 1 local 192.0.2.1 dev under dstport 8472 nolearning
ip addr add 10.5.52.0/32 dev flannel.1
ip addr add fd00:5:52::/128 dev flannel.1
ip link set flannel.1 up
ip neigh add 10.5.53.0 lladdr c6:00:00:00:00:02 dev flannel.1 nud permanent
bridge fdb append c6:00:00:00:00:02 dst 192.0.2.2 dev flannel.1 self permanent
ip route add 10.5.53.0/24 via 10.5.53.0 dev flannel.1 onlink
ip route add 10.5.60.0/24 via 192.0.2.9 dev under
ip route add 10.5.61.0/24 via 192.0.2.8 dev under`)
	index := output(t, "ip -o link show flannel.1 | cut -d: -f1")

	link := vxlan("flannel.1", 1)
	link.MAC = mustMAC("c6:00:00:00:00:01")
	route := func(prefix, via, link string) dataplane.Route { return dest(prefix, via, link) }
	tunnelled := route("10.5.53.0/24", "10.5.53.0", "flannel.1")
	tunnelled.OnLink = true
	want := state(link, addr("flannel.1", "10.5.52.0/32"), addr("flannel.1", "fd00:5:52::/128"), neigh("flannel.1", "10.5.53.0", "c6:00:00:00:00:02"), fdb("flannel.1", "c6:00:00:00:00:02", "192.0.2.2"),
		tunnelled, route("10.5.60.0/24", "192.0.2.9", "under"))
	have, err := k.Observe(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	watch := exec.Command("ip", "monitor", "route", "link", "address")
	var heard strings.Builder
	watch.Stdout = &heard
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	if err := k.Apply(t.Context(), "", dataplane.Diff(want, have)); err != nil {
		t.Fatal(err)
	}
	_ = watch.Process.Kill()
	_ = watch.Wait()
	if strings.Contains(heard.String(), "Deleted") {
		t.Errorf("something was away meanwhile:\n%s", heard.String())
	}
	have, err = k.Observe(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if rest := dataplane.Diff(want, have); len(rest) > 0 {
		t.Errorf("still to do: %s", rest)
	}
	if now := output(t, "ip -o link show flannel.1 | cut -d: -f1"); now != index {
		t.Errorf("the link has index %s, had %s", now, index)
	}

	// Another gateway is another's route, and another VNI another's tunnel.
	err = k.Apply(t.Context(), "", dataplane.Plan{{Op: dataplane.Add, Object: route("10.5.61.0/24", "192.0.2.9", "under")}})
	if !errors.Is(err, kernel.ErrNotOurs) {
		t.Errorf("a route elsewhere: %v", err)
	}
	byHand(t, "ip link add flannel.9 type vxlan id 9 local 192.0.2.1 dstport 8472 nolearning")
	if err := k.Apply(t.Context(), "", dataplane.Plan{{Op: dataplane.Add, Object: vxlan("flannel.9", 8)}}); !errors.Is(err, kernel.ErrNotOurs) {
		t.Errorf("a tunnel of another VNI: %v", err)
	}
}

func TestManyRoutesThatAnotherProgramLeftAreTakenOverInOneGo(t *testing.T) {
	k := heir(t)
	var by strings.Builder
	by.WriteString("ip link add under type veth peer name far\nip link set under up\nip addr add 192.0.2.1/24 dev under\n")
	want := state()
	for i := range 200 {
		fmt.Fprintf(&by, "ip route add 10.5.%d.0/24 via 192.0.2.9 dev under\n", i)
		want.Put(dest(fmt.Sprintf("10.5.%d.0/24", i), "192.0.2.9", "under"))
	}
	byHand(t, strings.ReplaceAll(by.String(), "\nip route", "; ip route"))
	have, err := k.Observe(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Apply(t.Context(), "", dataplane.Diff(want, have)); err != nil {
		t.Fatal(err)
	}
	if have, err = k.Observe(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if rest := dataplane.Diff(want, have); len(rest) > 0 {
		t.Errorf("still to do: %s", rest)
	}
}

// A value of a link that was another's is the link's own once that is ours.
func TestASysctlGoesWithALinkThatIsTakenOver(t *testing.T) {
	k := heir(t)
	byHand(t, "ip link add flannel.1 address c6:00:00:00:00:01 mtu 1450 type vxlan id 1 local 192.0.2.1 dstport 8472 nolearning\nip link set flannel.1 up")
	host := dataplane.Sysctl{Name: "net/ipv6/conf/flannel.1/accept_ra", Value: "2"}
	reach(t, k, "", state(host))
	link := vxlan("flannel.1", 1)
	own := dataplane.Sysctl{Name: host.Name, Link: link.Name, Value: "0"}
	reach(t, k, "", state(link, own))
	if have := observe(t, k, ""); have[own.Key()] != own {
		t.Errorf("it is not known to be ours: %s", text(have))
	}
}
