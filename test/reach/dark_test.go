package reach

import (
	"fmt"

	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
)

// darkLAN is a LAN on which the host has no address, only a NIC in the bridge of a network: trials of its workload and its machine, which
// reach each other, and nobody else whom no router leads there.
func (l *lab) darkLAN() []trial {
	l.Helper()
	lan3 := l.add(l.lan3, nil, "eth0")
	l.flat.must("net", "create", "bdark", "--mode", "bridged", "--uplink", "eth3", "--subnet", "198.18.3.0/24", "--subnet", "2001:db8:3::/64")
	l.flat.must("run", "-d", "--name", "bdarka", "--network", "bdark,ip=198.18.3.40,ip=2001:db8:3::40", "--", "sleep", "infinity")
	n := &network{name: "bdark", row: "bridged, on a NIC"}
	n.define(103)
	dark := l.add(kerneltest.At(l.T, "bdarka", l.flat.netns("bdarka")), n, "eth0")
	cell := "bridged, the host has no address there"
	all := append(crossing(cell, dark, lan3, dark.addrs), crossing(cell, lan3, dark, lan3.addrs)...)
	for _, name := range []string{"host", "lan1", "n1a", "r1a", "h1a", "bnica"} {
		other := l.actor(name)
		for i, a := range global(dark) {
			all = append(all, every(trial{cell: cell, from: other, to: a})...)
			dark.IP(fmt.Sprintf("route replace %s via %s", global(other)[i], global(lan3)[i]))
			all = append(all, every(trial{cell: cell, from: dark, to: global(other)[i]})...)
		}
	}
	return all
}
