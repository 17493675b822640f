package story_test

import (
	"strings"
	"testing"

	"github.com/flatnet/flatnet/test/rig"
)

// A bridged network whose router is 198.51.100.1 becomes a nat network with that address as the host's, and back: the workload asks anew
// who its gateway is, rather than to go on sending to the MAC of the one before.
func TestGatewayIsAnotherMachineAfterAnEdit(t *testing.T) {
	o := newOffice(t)
	o.Cable(o.host, "eth1", o.router, "lan1")
	o.router.IP("address add 198.51.100.1/24 dev lan1")
	h := rig.New(t, o.host)
	h.Flatnet("net", "create", "lan", "--mode", "bridged", "--uplink", "eth1", "--subnet", "198.51.100.0/24", "--gateway", "198.51.100.1", "--ip-range", "198.51.100.64/26")
	h.Flatnet("run", "-d", "--name", "web", "--network", "lan", "--", "sleep", "1000")
	web := h.Workload("web")
	gateway := func() string {
		web.Run("ping", "-c1", "-W5", "203.0.113.80")
		fields := strings.Fields(web.Run("sh", "-c", "ip neigh show 198.51.100.1 | grep -o 'lladdr [^ ]*'"))
		return fields[1]
	}
	router := gateway()
	o.router.IP("route add 192.0.2.0/24 dev lan0 metric 1")
	h.Flatnet("net", "set", "lan", "--mode", "nat", "--uplink", "eth0")
	host := gateway()
	h.Flatnet("net", "set", "lan", "--mode", "bridged", "--uplink", "eth1", "--gateway", "198.51.100.1")
	if again := gateway(); again != router || host == router {
		t.Errorf("the gateway was %s, then %s, then %s", router, host, again)
	}
}
