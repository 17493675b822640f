package lab

import (
	"fmt"
	"slices"
	"testing"
)

func TestSpecs(t *testing.T) {
	for _, c := range []struct {
		spec Spec
		want string
	}{
		{Spec{}, "two-hosts vxlan: h1 on 1 web1 web2, h2 on 1 db1 db2"},
		{Spec{Hosts: Hosts(1), Backend: "host-gw"}, "one-host host-gw: h1 on 1 web1 web2"},
		{Spec{Hosts: Hosts(3), RoutedUnderlay: true}, "three-hosts vxlan: h1 on 1 web1 web2, h2 on 2 db1 db2, h3 on 1 app1 app2"},
		{Spec{Name: "x", RoutedUnderlay: true, Hosts: []HostSpec{{Name: "a", LAN: 2}, {Name: "b", Workloads: []string{"w"}}}}, "x vxlan: a on 2, b on 2 w"},
		{Spec{Hosts: Hosts(9)[8:]}, "one-host vxlan: h9 on 1 web5 web6"},
		{Spec{RoutedUnderlay: true, Backend: "host-gw"}, "FN6001: backend: host-gw cannot be: its routes lead to hosts on the same LAN, and with a routed underlay there are two"},
		{Spec{Name: "../x"}, "FN6001: name: ../x cannot be: a lab's name has at most 32 small letters, digits and dashes"},
		{Spec{Hosts: Hosts(101)}, "FN6001: hosts: 101 cannot be: a lab has at most 100 hosts"},
		{Spec{Hosts: []HostSpec{{Name: "h1", Workloads: []string{"h1"}}}}, "FN6001: hosts[0]: h1 cannot be: each name is given once"},
		{Spec{Hosts: []HostSpec{{Name: "lan"}}}, "FN6001: hosts[0]: lan cannot be: each name is given once"},
		{Spec{Hosts: []HostSpec{{Name: "far-too-long-a-name"}}}, "FN6001: hosts[0]: far-too-long-a-name cannot be: names of hosts and workloads begin with a letter and have at most 11 small letters, digits and dashes"},
		{Spec{RoutedUnderlay: true, Hosts: []HostSpec{{Name: "a", LAN: 3}}}, "FN6001: hosts[0].lan: 3 cannot be: with a routed underlay there are LAN 1 and LAN 2"},
	} {
		given := slices.Clone(c.spec.Hosts)
		s, err := c.spec.complete()
		got := ""
		if got = fmt.Sprint(err); err == nil {
			got = s.Name + " " + s.Backend + ":"
			for i, h := range s.Hosts {
				if i > 0 {
					got += ","
				}
				got += fmt.Sprintf(" %s on %d", h.Name, h.LAN)
				for _, w := range h.Workloads {
					got += " " + w
				}
			}
		}
		if got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
		for i, h := range given {
			if h.LAN != c.spec.Hosts[i].LAN {
				t.Errorf("the caller's hosts were changed: %v", c.spec.Hosts)
			}
		}
	}
}

func TestAddressesAreEachHostsOwn(t *testing.T) {
	seen := map[string]bool{}
	for lan := 1; lan <= 2; lan++ {
		for place := range []int{0: 0, 2*MaxHosts + 1: 0, routerPlace: 0} {
			for _, p := range onLAN(lan, place) {
				if seen[p.String()] {
					t.Errorf("%s is given twice", p)
				}
				seen[p.String()] = true
			}
		}
	}
}
