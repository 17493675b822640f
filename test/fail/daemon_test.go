package fail_test

import (
	"fmt"
	"testing"

	"github.com/flatnet/flatnet/internal/lab"
)

func TestLivesThrough(t *testing.T) {
	s := newSite(t, lab.Spec{Hosts: hosts(3)})
	s.part("kill -9 of flatnetd", (*site).daemonsKilled)
	s.part("deleted by hand", (*site).takenAway)
	s.part("much at once", (*site).muchAtOnce)
	s.part("addresses change", (*site).addressesChange)
	s.part("the backend changes", (*site).backendChanges)
	s.part("fields of later versions", (*site).laterFields)
}

// daemonsKilled: nobody notices.
func (s *site) daemonsKilled() {
	flows := s.mesh()
	x := s.transfer("w1", "w2")
	for i, n := range []int{1, 2, 2, 1, 3} {
		s.must(s.h(n).Kill9())
		s.must(s.h(n).Start(s.Context()))
		s.settled(n)
		s.started(n, fmt.Sprint("more", i), s.Workload("w3"))
	}
	x.whole("flatnetd killed five times")
	s.lossless("flatnetd killed five times", 400, flows...)
}
