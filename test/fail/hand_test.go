package fail_test

import (
	"strings"
	"time"
)

// takenAway: what leads to other nodes is deleted by hand, and put back before much is lost.
func (s *site) takenAway() {
	const onTunnel = "dev fx-cluster"
	for _, c := range []struct{ what, how string }{
		{"routes", "ip route flush proto 157"},
		{"FDB entries", "for m in $(bridge fdb show " + onTunnel + " | sed -n 's/^\\(\\S*\\) dst.*/\\1/p'); do bridge fdb del $m " + onTunnel + "; done"},
		{"neighbours", "for a in $(ip -4 neigh show nud permanent " + onTunnel + " | cut -d' ' -f1); do ip neigh del $a " + onTunnel + "; done"},
		{"nft rules", "nft flush ruleset"},
		{"an nft table", "nft delete table inet flatnet"},
		{"the tunnel", "ip link del fx-cluster"},
		{"the bridge", "ip link del fn-cluster"},
	} {
		before, repairs, began := s.macs(2), s.repairs(2), time.Now()
		to, from, beside := s.flow("w1", "w2"), s.flow("w2", "w1"), s.flow("w1", "w3")
		s.eventually("pings flow", func() bool { return to.last() > 0 && from.last() > 0 && beside.last() > 0 })
		s.run(s.h(2), c.how)
		gone := time.Now()
		s.eventually(c.what+" of h2: pings are answered again", func() bool { return to.after(gone) != 0 && from.after(gone) != 0 })
		back := max(to.after(gone), from.after(gone))
		s.eventually("it is told", func() bool { return len(s.told(2, "repaired", began)) > 0 && s.repairs(2) > repairs })
		s.settled(2)
		s.lossless(c.what+" of h2 deleted, between the others", 0, beside)
		s.Logf("%s of h2 deleted: answers again %v after; → h2 %v; h2 → %v", c.what, back.Round(time.Millisecond), to.stop(), from.stop())
		if after := s.macs(2); after != before {
			s.Errorf("%s deleted: the links were\n%s\nand are\n%s", c.what, before, after)
		}
	}
}

// macs are the addresses of a host's links of the network.
func (s *site) macs(n int) string {
	s.Helper()
	return strings.TrimSpace(s.run(s.h(n), "for l in fn-cluster fx-cluster; do echo $l $(cat /sys/class/net/$l/address); done"))
}

func (s *site) repairs(n int) uint64 {
	s.Helper()
	c := s.h(n).Client()
	defer c.Close()
	status, err := c.Status(s.Context())
	s.must(err)
	return uint64(status.Repairs)
}
