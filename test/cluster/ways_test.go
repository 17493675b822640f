package cluster_test

import (
	"regexp"
	"strings"
	"testing"
)

// drops has the LAN drop what a rule of nft matches, until mend is called.
func (o *office) drops(rule string) (mend func()) {
	o.Helper()
	o.lan.Run("nft", "add table bridge broken; add chain bridge broken c { type filter hook forward priority 0; }; add rule bridge broken c "+rule+" drop")
	return func() { o.lan.Run("nft", "delete table bridge broken") }
}

// Who joins is told whether packets get through: before anything changes, as far as that can be known, and then by the tunnel itself.
func TestJoinTriesTheWay(t *testing.T) {
	o := newOffice(t, 4)
	line := o.begin()

	mend := o.drops("oifname p2 udp dport 8472")
	o.refused(2, "FN5424", "other UDP does", append(line, "--name", "h2")...)
	mend()
	mend = o.drops("oifname p2 ip protocol udp")
	o.refused(2, "FN5424", "neither udp 8472 nor another port", append(line, "--name", "h2")...)
	mend()
	o.outside(2)

	well := regexp.MustCompile(`checks: .* udp/8472 ok .*\n(.*\n)*joined as h2 \S+\.  h2 <-> h1 overlay \d+\.\d ms\.`)
	if out := o.join(2, line); !well.MatchString(out) {
		t.Errorf("all is well, and join says:\n%s", out)
	}

	mend = o.drops("iifname p3 udp dport 8472") // nothing that is sent before shows that
	if out := o.join(3, line); !strings.Contains(out, "not well FN5420: network cluster: packets to and from h1 (192.0.2.1) get lost") || strings.Contains(out, "<->") {
		t.Errorf("the tunnel does not get through, and join says:\n%s", out)
	}
	mend()

	mend = o.drops("iifname p4 ip protocol udp meta length > 1400")
	if out := o.join(4, line); !strings.Contains(out, "not well FN5422: network cluster: packets of 1450 bytes to or from h1 (192.0.2.1) get lost") {
		t.Errorf("large packets do not get through, and join says:\n%s", out)
	}
	mend()
}
