package fail_test

import (
	"time"
)

// addressesChange: a node moves, the others follow, and never lose their way to each other.
func (s *site) addressesChange() {
	for _, c := range []struct {
		n        int
		old, now string
	}{{3, "192.0.2.3", "192.0.2.33"}, {3, "192.0.2.33", "192.0.2.3"}} {
		moves, others := []*flow{}, []*flow{}
		mover := s.h(c.n).Spec.Workloads[0]
		for _, from := range s.Workloads() {
			for _, to := range s.Workloads() {
				switch {
				case from.Name == to.Name:
				case from.Name == mover || to.Name == mover:
					moves = append(moves, s.flow(from.Name, to.Name))
				default:
					others = append(others, s.flow(from.Name, to.Name))
				}
			}
		}
		s.run(s.h(c.n), "ip addr del "+c.old+"/24 dev eth0; ip addr add "+c.now+"/24 dev eth0; ip route replace default via 192.0.2.254 dev eth0")
		moved := time.Now()
		var back time.Duration
		s.eventually("all reach it again", func() bool {
			back = 0
			for _, f := range moves {
				if f.after(moved) == 0 {
					return false
				}
				back = max(back, f.after(moved))
			}
			return true
		})
		time.Sleep(300 * time.Millisecond)
		s.lossless("h"+string(rune('0'+c.n))+" moved, the others among each other", 0, others...)
		lost := 0
		for _, f := range moves {
			lost += f.stop().lost
		}
		s.Logf("%s moved to %s: all workloads reach it again %v after, %d pings lost in %d flows", c.old, c.now, back.Round(time.Millisecond), lost, len(moves))
		for n := range s.Hosts() {
			s.settled(n + 1)
		}
	}
}
