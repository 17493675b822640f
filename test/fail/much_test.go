package fail_test

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/flatnet/flatnet/test/rig"
)

// much is what may happen to a host.
var much = []struct{ what, how string }{
	{"routes flushed", "ip route flush proto 157"},
	{"a route deleted", "ip route del $(ip route show proto 157 | head -n1)"},
	{"FDB entries flushed", "bridge fdb flush dev fx-cluster"},
	{"neighbours flushed", "ip neigh flush nud permanent dev fx-cluster"},
	{"ruleset flushed", "nft flush ruleset"},
	{"members emptied", "nft flush set inet flatnet members4"},
	{"tunnel deleted", "ip link del fx-cluster"},
	{"tunnel down", "ip link set fx-cluster down"},
	{"tunnel renamed", "ip link set fx-cluster down; ip link set fx-cluster name mine; ip link set mine up"},
	{"bridge deleted", "ip link del fn-cluster"},
	{"the way to the workloads flushed", "ip route flush dev fn-cluster proto kernel"},
	{"bridge down", "ip link set fn-cluster down"},
	{"underlay's address away and back", "ip addr del $U/24 dev eth0; ip addr add $U/24 dev eth0; ip route replace default via 192.0.2.254 dev eth0"},
	{"underlay down and up", "ip link set eth0 down; sleep 0.0$N; ip link set eth0 up; ip route replace default via 192.0.2.254 dev eth0"},
}

// muchAtOnce: several of them on several hosts, while the network is changed and flatnetd is killed. Whatever meets whatever, nothing is left
// to do in the end and all workloads reach each other. See rig.Walk for MUCH_SEED and MUCH_STEPS.
func (s *site) muchAtOnce() {
	r, steps := rig.Walk(s.T, "MUCH", 20)
	for range steps {
		var did []string
		killed := 0
		var g sync.WaitGroup
		for range 1 + r.IntN(5) {
			m, n, late := much[r.IntN(len(much))], 1+r.IntN(len(s.Hosts())), time.Duration(r.IntN(30))*time.Millisecond
			did = append(did, fmt.Sprintf("h%d: %s", n, m.what))
			line := fmt.Sprintf("U=192.0.2.%d N=%d; %s", n, r.IntN(10), m.how)
			g.Go(func() {
				time.Sleep(late)
				_, _ = s.h(n).Exec(s.Context(), "sh", "-c", line) // what it is about may be gone
			})
		}
		var refused error
		if set := []string{"", "", "--backend=host-gw", "--backend=vxlan", "--mtu=1400", "--mtu=auto"}[r.IntN(6)]; set != "" {
			did = append(did, "net set "+set)
			g.Go(func() {
				if out, err := s.h(1).Flatnet(s.Context(), "net", "set", "cluster", set); err != nil {
					refused = fmt.Errorf("net set %s: %w\n%s", set, err, out)
				}
			})
		}
		if r.IntN(3) == 0 {
			n := 1 + r.IntN(len(s.Hosts()))
			did = append(did, fmt.Sprintf("h%d: kill -9", n))
			s.must(s.h(n).Kill9())
			s.must(s.h(n).Start(s.Context()))
			killed = n
		}
		g.Wait()
		s.Logf("%s", strings.Join(did, ", "))
		if refused != nil && killed != 1 && !strings.Contains(refused.Error(), "FN1604") && !strings.Contains(refused.Error(), "FN3011") {
			s.Error(refused) // but for hosts that are not reached just now, and a store that is not
		}
		for n := range s.Hosts() {
			s.settled(n + 1)
		}
		flows := s.mesh()
		for _, f := range flows {
			s.eventually(f.about+": answered", func() bool { return f.last() > 0 })
		}
		for _, f := range flows {
			f.stop()
		}
		if s.Failed() {
			break
		}
	}
	s.flatnet(1, "net", "set", "cluster", "--backend=vxlan", "--mtu=auto") // as it was
}
