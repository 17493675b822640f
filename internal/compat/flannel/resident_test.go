package flannel

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// machine is a host with a LAN, a second link, and what more a test says.
func machine(more ...model.HostLink) model.Node {
	prefixes := func(words ...string) (all []netip.Prefix) {
		for _, w := range words {
			all = append(all, netip.MustParsePrefix(w))
		}
		return all
	}
	return model.Node{Name: "a", Links: append([]model.HostLink{
		{Name: "eth0", MTU: 1500, Up: true, Addrs: prefixes("192.0.2.1/24", "2001:db8::1/64")},
		{Name: "eth1", MTU: 9000, Up: true, Addrs: prefixes("198.51.100.1/24")},
	}, more...), Routes: []model.HostRoute{{Dest: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.254"), Link: "eth0"}}}
}

func TestWhereAHostIsReached(t *testing.T) {
	for _, x := range []struct {
		iface, want string
		change      func(*model.Node)
	}{
		{want: "flannel-192-0-2-1 192.0.2.1 2001:db8::1 1500"},
		{iface: "eth1", want: "flannel-198-51-100-1 198.51.100.1 invalid IP 9000"},
		{iface: "198.51.100.1", want: "flannel-198-51-100-1 198.51.100.1 invalid IP 9000"},
		{iface: "eth7", want: "there is no link eth7"},
		{iface: "198.51.100.7", want: "no link of this host has the IPv4 address 198.51.100.7"},
		{change: func(n *model.Node) { n.Routes = nil }, want: "no default route"},
	} {
		node := machine()
		if x.change != nil {
			x.change(&node)
		}
		r := NewResident(Options{Iface: x.iface})
		_, a, err := r.underlay(node)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			r.setSelf(MemberID(a))
			m, err := r.Describe(node)
			if err != nil {
				t.Fatal(err)
			}
			got = fmt.Sprint(m.ID, " ", m.Underlay4, " ", m.Underlay6, " ", m.MTU)
		}
		if !strings.Contains(got, x.want) {
			t.Errorf("%q: got %s, want %s", x.iface, got, x.want)
		}
	}
}

func TestWhoseTheBridgeIs(t *testing.T) {
	dir := t.TempDir()
	r := NewResident(Options{CNIDir: dir})
	if r.theirs(machine(), "cni0") {
		t.Error("nobody else is there, and yet it is theirs")
	}
	if !r.theirs(machine(model.HostLink{Name: "cni0", Bridge: true}), "cni0") {
		t.Error("a bridge of others is not theirs")
	}
	if err := os.WriteFile(filepath.Join(dir, "10-flannel.conflist"), []byte(`{"name": "cbr0", "plugins": [{"type": "flannel"}]}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if !r.theirs(machine(), "cni0") {
		t.Error("flannel's CNI plugin is set up, and yet it is not theirs")
	}
}

// The file follows what the host has; a host that has nothing yet, or nothing any more, leaves what is there.
func TestTheFileFollowsWhatTheHostHas(t *testing.T) {
	s := newServer(t)
	s.put(conf, `{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}`)
	file := filepath.Join(t.TempDir(), "run", "subnet.env")
	r := NewResident(Options{Settings: quick(s, nil), SubnetFile: file, Bridge: BridgeTheirs})
	host := machine()
	c, self, err := r.Open(host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n := &node{Cluster: c.(*Cluster), t: t, id: self, ip: "192.0.2.1"}
	view := model.View{Node: host, Self: self, Members: map[string]model.Member{}, Networks: map[string]model.Network{}}
	r.Adopted(view)
	if _, err := os.Stat(file); err == nil {
		t.Error("a host that has nothing wrote a file")
	}
	l := n.takes()
	snap := n.sees("its lease", func(s store.ClusterSnapshot) bool { return len(s.Leases) == 1 })
	view.Members, view.Networks["flannel"] = snap.Members, snap.Networks["flannel"].At([]netip.Prefix{l.Block})
	r.Adopted(view)
	want := "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=" + first(l.Block).String() + "\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
	got, err := os.ReadFile(file)
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	if h := r.hint(); h.V4 != l.Block {
		t.Errorf("the next life would take %s, not %s", h, l.Block)
	}
	delete(view.Networks, "flannel")
	r.Adopted(view)
	if again, _ := os.ReadFile(file); string(again) != want {
		t.Errorf("now it is %s", again)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
