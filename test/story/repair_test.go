package story_test

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/test/rig"
)

// vandals are what somebody does to what is ours on the host; $ROUTER is another namespace, $A that of workload a.
var vandals = []struct{ name, script string }{
	{"nft flush ruleset", "nft delete table inet flatnet; nft delete table bridge flatnet"},
	{"an element", "nft flush set inet flatnet nat"},
	{"a chain", "nft flush chain inet flatnet forward"},
	{"a rule put in front", "nft insert rule inet flatnet forward drop"},
	{"the address", "ip address flush dev fn-default scope global"},
	{"the way to the workloads", "ip route flush dev fn-default proto kernel"},
	{"a port", "ip link del fv-a"},
	{"a port from inside", "nsenter --net=$A ip link del eth0"},
	{"a port moved away", "ip link set fv-a netns $ROUTER"},
	{"a port renamed", "ip link set fv-a down && ip link set fv-a name mine"},
	{"a port down", "ip link set fv-b down"},
	{"a port unplugged", "ip link set fv-b nomaster"},
	{"a port's hairpin", "bridge link set dev fv-b hairpin off"},
	{"the MTU", "ip link set fv-b mtu 1400"},
	{"the bridge", "ip link del fn-default"},
	{"the bridge down", "ip link set fn-default down"},
	{"forwarding", "sysctl -qw net.ipv4.ip_forward=0"},
}

// desk is an office with a flatnetd and two workloads, which remembers how all of it was.
type desk struct {
	office
	*rig.Host
	t      *testing.T
	env    []string
	before string
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	o := newOffice(t)
	d := &desk{office: o, Host: rig.New(t, o.host), t: t}
	d.Flatnet("run", "-d", "--name", "a", "-p", "8080:80", "--", "sleep", "1000")
	d.Flatnet("run", "-d", "--name", "b", "--", "sleep", "1000")
	d.env = []string{"ROUTER=" + o.router.Path, "A=" + d.Workload("a").Path}
	d.before = d.now()
	return d
}

// suffers has a vandal at work. It may come too late: another one was there before.
func (d *desk) suffers(script string) (out string, err error) {
	return d.host.Try(slices.Concat([]string{"env"}, d.env, []string{"sh", "-c", script})...)
}

// now is all that a vandal could change and a repair must bring back, on the host and inside the workloads.
func (d *desk) now() string {
	return state(d.host) + "\na:\n" + state(d.Workload("a")) + "\nb:\n" + state(d.Workload("b"))
}

func (d *desk) isAsBefore(after string) {
	d.t.Helper()
	var now string
	defer func() {
		if d.t.Failed() {
			d.t.Logf("before:\n%s\nnow:\n%s", d.before, now)
		}
	}()
	d.Eventually(after+": all is as before", func() bool { now = d.now(); return now == d.before })
	d.Flatnet("exec", "a", "--", "ping", "-c1", "-W2", strings.Split(endpoint(d.t, d.Host, "b").IPs[0], "/")[0])
	d.Flatnet("exec", "b", "--", "ping", "-c1", "-W2", "203.0.113.80")
}

// Whatever somebody takes away on the host comes back by itself, with an event; what is not ours stays untouched.
func TestRepair(t *testing.T) {
	d := newDesk(t)
	d.host.Run("nft", "add table inet theirs { chain c { type filter hook forward priority 10; policy accept; counter; }; }")
	d.host.IP("link add theirs type bridge", "route add 198.51.100.0/24 via 192.0.2.1")
	const look = "nft list table inet theirs | grep -v counter; ip route show 198.51.100.0/24; ip link show theirs"
	theirs := d.host.Run("sh", "-c", look)
	d.before = d.now()
	for _, v := range vandals {
		if out, err := d.suffers(v.script); err != nil {
			t.Fatalf("%s: %v: %s", v.name, err, out)
		}
		d.isAsBefore(v.name)
	}
	if now := d.host.Run("sh", "-c", look); now != theirs {
		t.Errorf("what is not ours changed:\n%s\nwas:\n%s", now, theirs)
	}
	status, err := d.Client().Status(context.Background())
	if err != nil || status.Repairs == 0 {
		t.Errorf("repairs counted: %d (%v)", status.Repairs, err)
	}
}

// edits are what the owner does meanwhile, and takes back.
var edits = []struct{ does, undo []string }{
	{[]string{"net", "set", "default", "--mtu", "1400"}, []string{"net", "set", "default", "--mtu", "1500"}},
	{[]string{"run", "-d", "--name", "c", "-p", "8081:80", "--", "sleep", "1000"}, []string{"rm", "-f", "c"}},
	{[]string{"net", "create", "more", "--subnet", "10.78.0.0/24"}, []string{"net", "rm", "more"}},
	{[]string{"net", "connect", "lab", "b"}, []string{"net", "disconnect", "lab", "b"}},
}

// Several vandals at once, while the owner changes the network and changes it back and flatnetd is killed: whatever meets whatever, all is as
// before in the end.
// See rig.Walk for VANDALS_SEED and VANDALS_STEPS.
func TestRepairOfMuchAtOnce(t *testing.T) {
	r, steps := rig.Walk(t, "VANDALS", 12)
	d := newDesk(t)
	d.Flatnet("net", "create", "lab", "--subnet", "10.77.0.0/24")
	d.before = d.now()
	for range steps {
		var names []string
		var g sync.WaitGroup
		for range 1 + r.IntN(4) {
			v, late := vandals[r.IntN(len(vandals))], time.Duration(r.IntN(20))*time.Millisecond
			names = append(names, v.name)
			g.Go(func() {
				time.Sleep(late)
				d.suffers(v.script)
			})
		}
		for _, e := range edits {
			if r.IntN(2) != 0 {
				names = append(names, strings.Join(e.does, " "))
				g.Go(func() { d.Try(e.does...) }) // what is changed may be gone: then it says so
			}
		}
		if r.IntN(3) == 0 {
			names = append(names, "kill -9")
			time.Sleep(time.Duration(r.IntN(40)) * time.Millisecond)
			d.Kill()
			d.Start()
		}
		g.Wait()
		for _, e := range edits {
			d.Eventually(strings.Join(e.undo, " "), func() bool {
				out, err := d.Try(e.undo...)
				return err == nil || strings.Contains(out, "FN1004") // there is none
			})
		}
		d.isAsBefore(strings.Join(names, ", "))
	}
}

// state is what a machine has, without what differs from one making to the next.
func state(m *kerneltest.Machine) string {
	out, _ := m.Try("sh", "-c", `nft list table inet flatnet; nft list table bridge flatnet; ip -d link show type bridge; ip -d link show type veth
		ip address; ip route; ip -6 route; sysctl net.ipv4.ip_forward`)
	var lines []string
	for l := range strings.Lines(unstable.ReplaceAllString(out, "")) {
		if words := strings.Fields(l); len(words) > 0 {
			lines = append(lines, strings.Join(words, " "))
		}
	}
	slices.Sort(lines) // a link made anew comes last
	return strings.Join(lines, "\n")
}

var unstable = regexp.MustCompile(`(?m)^\d+: |@if\d+|link-netnsid \d+|link-netns \S+|(gc|hello|tcn|topology_change)_timer +[\d.]+|designated_(port|bridge) \S+|(root|bridge)_id \S+|port_(id|no) \S+|valid_lft.*|state \S+|<[A-Z,_-]*>|inet6 fe80.*\n|.*fe80::/64.*\n|.*ff00::/8.*\n|qdisc \S+|linkdown|num\w+ \d+|gso\w* \d+|gro\w* \d+|tso\w* \d+|elements = \{[^}]*\}|( +# handle \d+)|brd 0.*`)
