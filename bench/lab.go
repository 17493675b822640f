package main

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/flatnet/flatnet/internal/model"
)

// The lab: one nat network of one or both families, and endpoints of which each has an address of each.
const (
	labNetwork = "lab"
	lab4       = "10.66.0.0/16"
	lab6       = "fd66::/64"
)

func labView(subnets ...string) model.View {
	n := model.Network{Name: labNetwork, Mode: model.NAT, Active: true}
	for _, s := range subnets {
		p := netip.MustParsePrefix(s)
		n.Subnets = append(n.Subnets, model.Subnet{Prefix: p, Gateway: p.Addr().Next()})
	}
	return model.View{Networks: map[string]model.Network{labNetwork: n}}
}

func labName(i int) string  { return fmt.Sprintf("w%d", i) }
func labNetns(i int) string { return "/run/netns/" + labName(i) }

// labWorkload is the i-th workload of the view, from 0, in a namespace that exists.
func labWorkload(v model.View, i int) model.Workload {
	e := model.Endpoint{Network: labNetwork, IfName: "eth0", MAC: model.EndpointMAC(labName(i), labNetwork)}
	for _, s := range v.Networks[labNetwork].Subnets {
		host := i + 2 // .1 is the gateway
		addr := s.Prefix.Addr().AsSlice()
		addr[len(addr)-2], addr[len(addr)-1] = byte(host>>8), byte(host)
		a, _ := netip.AddrFromSlice(addr)
		e.Addrs = append(e.Addrs, a)
	}
	return model.Workload{Name: labName(i), Netns: labNetns(i), Endpoints: []model.Endpoint{e}}
}

func linkIndex(name string) (int, error) {
	l, err := net.InterfaceByName(name)
	if err != nil {
		return 0, err
	}
	return l.Index, nil
}
