package fail_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/lab"
)

// backendChanges: under pings between all, and a transfer. Workloads get the MTU of the new backend when nobody can send by the old one any
// more, half a minute after the change.
func (s *site) backendChanges() { s.changesBackend(false) }

func (s *site) changesBackend(toTheEnd bool) {
	for i, c := range []struct {
		backend, mtu string
		killed       int
	}{{"host-gw", "1500", 0}, {"vxlan", "1450", 0}, {"host-gw", "1500", 2}, {"vxlan", "1450", 3}} {
		if !toTheEnd {
			c.mtu = "1450"
		}
		flows, x := s.mesh(), s.transfer("w1", "w3")
		time.Sleep(200 * time.Millisecond)
		changed := make(chan error, 1)
		began := time.Now()
		go func() {
			_, err := s.h(1).Flatnet(s.Context(), "net", "set", "cluster", "--backend", c.backend)
			changed <- err
		}()
		what := "to " + c.backend
		if c.killed != 0 {
			what += fmt.Sprintf(", h%d's flatnetd killed meanwhile", c.killed)
			time.Sleep(time.Duration(i) * 30 * time.Millisecond)
			s.must(s.h(c.killed).Kill9())
			time.Sleep(500 * time.Millisecond)
			s.must(s.h(c.killed).Start(s.Context()))
		}
		s.must(<-changed)
		took := time.Since(began)
		for n := range s.Hosts() {
			w := s.h(n + 1).Spec.Workloads[0]
			s.within(time.Minute, w+" has the MTU "+c.mtu, func() bool {
				out, err := s.Workload(w).Exec(s.Context(), "cat", "/sys/class/net/eth0/mtu")
				return err == nil && strings.TrimSpace(out) == c.mtu
			})
			s.settled(n + 1)
		}
		time.Sleep(500 * time.Millisecond)
		x.whole(what)
		s.lossless(fmt.Sprintf("%s in %v", what, took.Round(time.Millisecond)), 400, flows...)
	}
}

// laterFields: what a newer flatnetd has written, and this one has never heard of, is kept when this one changes the network.
func (s *site) laterFields() {
	c := s.etcd()
	value, _ := s.get(c, "networks/cluster")
	s.put(c, "networks/cluster", strings.Replace(value, `"value":{`, `"value":{"Later":{"A":[1,2]},`, 1))
	flows := s.mesh()
	s.flatnet(1, "net", "set", "cluster", "--backend", "host-gw")
	s.flatnet(1, "net", "set", "cluster", "--backend", "vxlan")
	if value, _ = s.get(c, "networks/cluster"); !strings.Contains(value, `"Later":{"A":[1,2]}`) {
		s.Errorf("what a newer flatnetd wrote is gone: %s", value)
	}
	s.lossless("beside a newer flatnetd", 0, flows...)
}

func TestBackendChangesToTheEnd(t *testing.T) {
	long(t)
	newSite(t, lab.Spec{Hosts: hosts(3)}).changesBackend(true)
}
