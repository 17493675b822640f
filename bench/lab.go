package main

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/flatnet/flatnet/internal/model"
)

// The lab: one nat network with both families, and endpoints of which each has an IPv4 and an IPv6 address.
const (
	labNetwork = "lab"
	lab4       = "10.66.0.0/16"
	lab6       = "fd66::/64"
)

func labView() model.View {
	subnet := func(s string) model.Subnet {
		p := netip.MustParsePrefix(s)
		return model.Subnet{Prefix: p, Gateway: p.Addr().Next()}
	}
	n := model.Network{Name: labNetwork, Mode: model.NAT, Active: true, Subnets: []model.Subnet{subnet(lab4), subnet(lab6)}}
	return model.View{Networks: map[string]model.Network{labNetwork: n}}
}

func labName(i int) string  { return fmt.Sprintf("w%d", i) }
func labNetns(i int) string { return "/run/netns/" + labName(i) }

// labWorkload is the i-th workload, from 0, in a namespace that exists.
func labWorkload(i int) model.Workload {
	host := i + 2 // .1 is the gateway
	v4 := netip.MustParsePrefix(lab4).Addr().As4()
	v6 := netip.MustParsePrefix(lab6).Addr().As16()
	v4[2], v4[3] = byte(host>>8), byte(host)
	v6[14], v6[15] = byte(host>>8), byte(host)
	return model.Workload{
		Name: labName(i), Netns: labNetns(i),
		Endpoints: []model.Endpoint{{
			Network: labNetwork, IfName: "eth0", MAC: model.EndpointMAC(labName(i), labNetwork),
			Addrs: []netip.Addr{netip.AddrFrom4(v4), netip.AddrFrom16(v6)},
		}},
	}
}

func linkIndex(name string) (int, error) {
	l, err := net.InterfaceByName(name)
	if err != nil {
		return 0, err
	}
	return l.Index, nil
}
