package story_test

import (
	"strings"
	"testing"

	"github.com/flatnet/flatnet/test/rig"
)

// A machine of the LAN sends in a workload's name. The host must not take it for the workload's: conntrack would let in what the machine
// then sends to the workload, as an answer.
func TestNobodyElseSpeaksForAWorkload(t *testing.T) {
	o := newOffice(t)
	h := rig.New(t, o.host)
	h.Flatnet("net", "create", "lab", "--subnet", "10.8.0.0/24", "--subnet", "fd08::/64")
	h.Flatnet("run", "-d", "--name", "web", "--network", "lab", "--", "sleep", "1000")
	o.router.IP("address add 10.8.0.2/32 dev lo", "address add fd08::2/128 dev lo nodad",
		"address add 10.8.0.77/32 dev lo", "route add 198.51.100.7/32 via 192.0.2.10", "route add 2001:db8:7::7/128 via 2001:db8::10")
	h.Eventually("the router has the address", func() bool {
		return strings.Contains(o.router.Run("ip", "-6", "route", "show", "table", "local"), "fd08::2")
	})
	known := func(from string) bool {
		family := "ipv4"
		if strings.Contains(from, ":") {
			family = "ipv6"
		}
		return strings.Contains(o.host.Run("conntrack", "-L", "-f", family), "src="+from+" ")
	}
	say := func(from, to string) {
		o.router.Try("sh", "-c", "echo forged | ncat -u -w 1 -s "+from+" -p 5353 "+to+" 5353")
	}
	say("10.8.0.77", "198.51.100.7") // nobody's address: the host routes for the LAN as it did before flatnet
	if !known("10.8.0.77") {
		t.Fatal("the host did not see what the router sent")
	}
	say("10.8.0.2", "198.51.100.7")
	say("fd08::2", "2001:db8:7::7")
	for _, from := range []string{"10.8.0.2", "fd08::2"} {
		if known(from) {
			t.Errorf("the host takes for %s what somebody else sent in its name", from)
		}
	}
	h.Workload("web").Run("ping", "-c1", "-W5", "203.0.113.80")
}
