package story_test

import (
	"strings"
	"testing"

	"github.com/flatnet/flatnet/test/rig"
)

// Who saves all rules of a host for its next boot, as Debian's nftables.service loads them, saves flatnet's too: the file must load,
// or the host would boot without any rules. flatnetd then finds its tables, and makes of them what it wants.
func TestSavedRulesetLoads(t *testing.T) {
	o := newOffice(t)
	h := rig.New(t, o.host)
	h.Flatnet("net", "create", "lab", "--uplink", "eth0", "--snat-ip", "192.0.2.10")
	h.Flatnet("net", "create", "closed", "--mode", "host-only", "--isolate-ports")
	h.Flatnet("net", "create", "quiet", "--mode", "nat", "--no-host-adapter")
	h.Flatnet("net", "create", "switch", "--mode", "isolated")
	h.Flatnet("run", "-d", "--name", "a", "--network", "lab", "--network", "closed", "--network", "switch",
		"-p", "8000-8009:9000-9009/udp", "-p", "80:8080", "-p", "7000-7009:7000-7009", "--", "sleep", "1000")
	h.Kill() // or it would repair what loading does twice
	saved := o.host.Run("nft", "list", "ruleset")
	o.host.Run("sh", "-c", "nft list ruleset > /tmp/saved.nft; nft flush ruleset; nft -f /tmp/saved.nft; rm /tmp/saved.nft")
	if again := o.host.Run("nft", "list", "ruleset"); again != saved || !strings.Contains(again, "table bridge flatnet") {
		t.Errorf("loaded again it reads\n%s\nnot\n%s", again, saved)
	}
	h.Start()
	h.Eventually("nothing left to do", func() bool { return strings.TrimSpace(h.Flatnet("plan")) == "" })
}
