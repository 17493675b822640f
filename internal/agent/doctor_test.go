package agent

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/agent/checkup"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/model"
)

// What doctor advises to put back is the last default route that was another, not one that stood in between or is there again.
func TestPastDefaultRoutes(t *testing.T) {
	via := func(last byte) []kernel.DefaultRoute {
		if last == 0 {
			return nil
		}
		hop := kernel.DefaultHop{Via: netip.AddrFrom4([4]byte{192, 0, 2, last}), Link: "eth0"}
		return []kernel.DefaultRoute{{Hops: []kernel.DefaultHop{{Link: "tun0"}}, Metric: 100}, {Hops: []kernel.DefaultHop{hop}}}
	}
	for _, c := range []struct {
		seen []byte // last bytes of the routers; 0: no route
		want string
	}{
		{[]byte{1}, "none"},
		{[]byte{1, 1}, "none"},
		{[]byte{0, 1}, "none"},
		{[]byte{1, 0}, "192.0.2.1 at 1"},
		{[]byte{1, 0, 0, 0}, "192.0.2.1 at 1"},
		{[]byte{1, 0, 1}, "none"},
		{[]byte{1, 9}, "192.0.2.1 at 1"},
		{[]byte{1, 0, 9}, "192.0.2.1 at 1"},
		{[]byte{1, 9, 1}, "none"},
		{[]byte{1, 9, 1, 0}, "192.0.2.1 at 3"},
		{[]byte{1, 2, 3}, "192.0.2.2 at 2"},
	} {
		var p past
		for at, last := range c.seen {
			p.note(via(last), nil, time.Unix(int64(at), 0))
		}
		was := p.before()[0]
		got := "none"
		if !was.Until.IsZero() {
			got = fmt.Sprintf("%s at %d", was.Route.Hops[0].Via, was.Until.Unix())
		}
		if got != c.want || !p.before()[1].Until.IsZero() {
			t.Errorf("%v: %s, want %s", c.seen, got, c.want)
		}
	}
}

// A link that goes down loses its IPv6 addresses before its routes: the last ones are remembered.
func TestPastRemembersAddresses(t *testing.T) {
	var p past
	v6 := []kernel.DefaultRoute{{V6: true, Hops: []kernel.DefaultHop{{Via: netip.MustParseAddr("2001:db8::1"), Link: "eth0"}}}}
	lan := []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("2001:db8::10/64"), netip.MustParsePrefix("fe80::1/64")}
	p.note(v6, map[string][]netip.Prefix{"eth0": lan}, time.Unix(0, 0))
	p.note(v6, map[string][]netip.Prefix{"eth0": lan[:1]}, time.Unix(1, 0))
	p.note(nil, nil, time.Unix(2, 0))
	if was := p.before()[1]; was.Until.Unix() != 2 || len(was.Addrs) != 1 || was.Addrs[0] != lan[1] {
		t.Errorf("got %+v", was)
	}
}

// The kernel is asked again only when the facts of the host tell of other default routes.
func TestPastAsksWhenTheFactsChange(t *testing.T) {
	var p past
	node := func(routes ...string) model.Node {
		var n model.Node
		for _, r := range routes {
			n.Routes = append(n.Routes, model.HostRoute{Dest: netip.MustParsePrefix(r), Link: "eth0"})
		}
		return n
	}
	for i, c := range []struct {
		node model.Node
		want bool
	}{
		{node("0.0.0.0/0"), true}, {node("0.0.0.0/0"), false}, {node("0.0.0.0/0", "10.0.0.0/8"), false}, {node("10.0.0.0/8"), true}, {node(), false}, {node("::/0"), true},
	} {
		if got := p.changed(c.node); got != c.want {
			t.Errorf("%d: %v, want %v", i, got, c.want)
		}
	}
}

func TestSysctlSettings(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/sysctl.conf":               "# net.ipv4.ip_forward=1\n\nnet.ipv4.ip_forward = 1\n",
		"etc/sysctl.d/99-hard.conf":     "kernel.x=1\n-net/ipv4/ip_forward=0\nnet.ipv6.conf.all.forwarding =  0",
		"etc/sysctl.d/README":           "net.ipv4.ip_forward=0\n",
		"usr/lib/sysctl.d/10-dist.conf": "net.ipv4.conf.all.rp_filter=2\nforward\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var lines []string
	for _, s := range sysctlSettings(root) {
		lines = append(lines, fmt.Sprintf("%s:%d %s=%s (%s)", strings.TrimPrefix(s.File, root), s.Line, s.Name, s.Value, s.Text))
	}
	want := `/etc/sysctl.conf:3 net/ipv4/ip_forward=1 (net.ipv4.ip_forward = 1)
/etc/sysctl.d/99-hard.conf:2 net/ipv4/ip_forward=0 (-net/ipv4/ip_forward=0)
/etc/sysctl.d/99-hard.conf:3 net/ipv6/conf/all/forwarding=0 (net.ipv6.conf.all.forwarding =  0)`
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	text := checkup.SettingText(sysctlSettings(root), "net/ipv4/ip_forward")
	if want := filepath.Join(root, "etc/sysctl.d/99-hard.conf") + ", line 2: -net/ipv4/ip_forward=0"; text != want {
		t.Errorf("got %q, want %q", text, want)
	}
}
