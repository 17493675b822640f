package kernel

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// No radio is needed to see who is asked about, and how often.
func TestRadiosAreAskedOnce(t *testing.T) {
	asked := map[string]int{}
	r := newRadios(func(name string, _ int) bool {
		asked[name]++
		return name == "wlan0"
	})
	nic := func(name string, index int) *link {
		return &link{Link: dataplane.Link{Name: name}, index: index, ether: true}
	}
	tunnel := nic("tun0", 4)
	tunnel.ether = false
	port := nic("fv-a", 5)
	port.Kind = dataplane.Veth
	for range 3 {
		for _, l := range []*link{nic("eth0", 2), nic("wlan0", 3), tunnel, port} {
			if got, want := r.wireless(l), l.Name == "wlan0"; got != want {
				t.Errorf("%s is wireless: %v", l.Name, got)
			}
		}
	}
	if !r.wireless(nic("wlan0", 9)) || asked["wlan0"] != 2 {
		t.Error("another link of that name was not asked about")
	}
	if len(asked) != 2 || asked["eth0"] != 1 {
		t.Errorf("asked: %v", asked)
	}
}

func TestGenericFamily(t *testing.T) {
	c, err := netlink.Open(unix.NETLINK_GENERIC)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if family, err := genlFamily(c, "nlctrl"); family != genlControl || err != nil {
		t.Errorf("nlctrl: %d, %v", family, err)
	}
	if _, err := genlFamily(c, "none such"); err == nil {
		t.Error("a family that is not there was found")
	}
}
