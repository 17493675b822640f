package fail_test

import (
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/lab"
)

// A workload that was on a network which the cluster has no more is no reason for its host not to follow the cluster, also after flatnetd was
// started again.
func TestFollowsBesideAWorkloadOfANetworkThatIsGone(t *testing.T) {
	s := newSite(t, lab.Spec{Name: "ghost", Hosts: hosts(2)})
	s.flatnet(1, "net", "create", "pods", "--mode", "cluster", "--pool", "10.80.0.0/16", "--vni", "50")
	s.eventually("b runs", func() bool {
		_, err := s.h(2).Flatnet(t.Context(), "run", "-d", "--name", "b", "--network", "cluster", "--network", "pods", "--", "sleep", "1d")
		return err == nil
	})
	s.flatnet(1, "net", "rm", "pods", "--force")
	s.eventually("h2 has heard of it", func() bool { return len(s.told(2, "conflict", time.Now().Add(-time.Minute))) > 0 })
	s.must(s.h(2).Kill9())
	s.must(s.h(2).Start(t.Context()))
	s.settled(2)
	s.flatnet(1, "net", "set", "cluster", "--port", "8473")
	s.eventually("w2 answers w1 by the new port", func() bool {
		_, err := s.Workload("w1").Exec(t.Context(), "ping", "-c1", "-W1", s.address("w2"))
		return err == nil
	})
	for n := range s.Hosts() {
		s.settled(n + 1)
	}
}
