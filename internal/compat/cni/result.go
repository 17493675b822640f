package cni

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// previous is the result of the plugins before this one; nil when there are none. What all versions from 0.3.0 have in common is
// spelled in one way, so it is read as of the newest.
func (c *conf) previous() (*current.Result, error) {
	if c.PrevResult == nil || string(c.PrevResult) == "null" {
		return nil, nil
	}
	var r current.Result
	refused := model.Problem{Code: codePrevious, Path: "prevResult", Fix: "the plugins before flatnet in the configuration print it"}
	if err := json.Unmarshal(c.PrevResult, &r); err != nil {
		why := unreadable(err)
		if why.Path != "" {
			refused.Path += "." + why.Path
		}
		refused.Reason = why.Reason
		return nil, refused
	}
	if err := complete(&r); err != nil {
		refused.Reason = err.Error()
		return nil, refused
	}
	r.CNIVersion = newest
	return &r, nil
}

// complete is an error when a result lacks what every result has: the conversion to older versions counts on it.
func complete(r *current.Result) error {
	for i, link := range r.Interfaces {
		if link == nil {
			return fmt.Errorf("interfaces[%d] is null", i)
		}
	}
	for i, ip := range r.IPs {
		switch {
		case ip == nil || ip.Address.IP == nil:
			return fmt.Errorf("ips[%d] has no address", i)
		case ip.Interface != nil && (*ip.Interface < 0 || *ip.Interface >= len(r.Interfaces)):
			return fmt.Errorf("ips[%d] is on interface %d, of %d", i, *ip.Interface, len(r.Interfaces))
		}
	}
	for i, route := range r.Routes {
		if route == nil || route.Dst.IP == nil {
			return fmt.Errorf("routes[%d] has no destination", i)
		}
	}
	return nil
}

// result is what an ADD answers: what the plugins before did, and the endpoints of this attachment.
func (c *conf) result(of call, w api.Workload) ([]byte, error) {
	r, err := c.previous()
	if err != nil {
		return nil, err
	}
	if r == nil {
		r = &current.Result{CNIVersion: newest}
	}
	ends := endpointsOf(w, of)
	if len(ends) == 0 {
		return nil, fmt.Errorf("the daemon attached nothing as %s", of.IfName)
	}
	for _, e := range ends {
		if err := c.addEndpoint(r, e, of.Netns); err != nil {
			return nil, fmt.Errorf("endpoint %s: %w", e.IfName, err)
		}
	}
	c.addResolvers(r, ends)
	return c.print(r)
}

// endpointsOf are the workload's endpoints that the attachment made, with the one of CNI_IFNAME first.
func endpointsOf(w api.Workload, of call) []api.Endpoint {
	var list []api.Endpoint
	for _, e := range w.Endpoints {
		switch a := e.Attachment; {
		case a == nil || a.Container != of.Container || a.IfName != of.IfName:
		case e.IfName == of.IfName:
			list = slices.Insert(list, 0, e)
		default:
			list = append(list, e)
		}
	}
	return list
}

// addEndpoint adds the host's end, if the host has one, the container's, and what is on that.
func (c *conf) addEndpoint(r *current.Result, e api.Endpoint, sandbox string) error {
	if e.HostLink != "" {
		r.Interfaces = append(r.Interfaces, &current.Interface{Name: e.HostLink, Mac: e.HostMAC, Mtu: c.mtu(e)})
	}
	inside := len(r.Interfaces)
	r.Interfaces = append(r.Interfaces, &current.Interface{Name: e.IfName, Mac: e.MAC, Mtu: c.mtu(e), Sandbox: sandbox})
	for _, text := range e.IPs {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return err
		}
		r.IPs = append(r.IPs, &current.IPConfig{Interface: current.Int(inside), Address: ipNet(p), Gateway: gatewayOf(p, e.Gateways)})
	}
	for _, route := range e.Routes {
		dest, err := netip.ParsePrefix(route.Dest)
		if err != nil {
			return err
		}
		r.Routes = append(r.Routes, &types.Route{Dst: ipNet(dest), GW: net.ParseIP(route.Via)})
	}
	return nil
}

// mtu is told from CNI 1.1.0 on.
func (c *conf) mtu(e api.Endpoint) int {
	if c.CNIVersion != newest {
		return 0
	}
	return e.MTU
}

// gatewayOf is the gateway of an address's subnet, or else one of its family; nil when there is none.
func gatewayOf(address netip.Prefix, gateways []string) net.IP {
	var found net.IP
	for _, text := range gateways {
		g, err := netip.ParseAddr(text)
		if err != nil || g.Is4() != address.Addr().Is4() {
			continue
		}
		if address.Contains(g) {
			return g.AsSlice()
		}
		if found == nil {
			found = g.AsSlice()
		}
	}
	return found
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// addResolvers says whom to ask for names: whom the runtime or else the configuration names, or else the networks' resolvers
// behind those of the plugins before.
func (c *conf) addResolvers(r *current.Result, ends []api.Endpoint) {
	var ofNetworks []string
	for _, e := range ends {
		for _, server := range e.DNS {
			if !slices.Contains(ofNetworks, server) {
				ofNetworks = append(ofNetworks, server)
			}
		}
	}
	r.DNS = types.DNS{
		Nameservers: firstOf(c.RuntimeConfig.DNS.Servers, c.DNS.Nameservers, r.DNS.Nameservers, ofNetworks),
		Domain:      r.DNS.Domain,
		Search:      firstOf(c.RuntimeConfig.DNS.Searches, c.DNS.Search, r.DNS.Search),
		Options:     firstOf(c.RuntimeConfig.DNS.Options, c.DNS.Options, r.DNS.Options),
	}
	if c.DNS.Domain != "" {
		r.DNS.Domain = c.DNS.Domain
	}
}

// firstOf is the first list with something in it.
func firstOf(lists ...[]string) []string {
	for _, list := range lists {
		if len(list) > 0 {
			return list
		}
	}
	return nil
}

// print is the result as a line of JSON, of the version that was asked in.
func (c *conf) print(r *current.Result) ([]byte, error) {
	data, err := c.marshal(r)
	if err != nil {
		return nil, fmt.Errorf("put the result into CNI %s: %w", c.CNIVersion, err)
	}
	return append(data, '\n'), nil
}

// printed is a result of CNI 1.0.0 and later. Its library writes one by way of a map, which takes four times as long.
type printed struct {
	CNIVersion string               `json:"cniVersion"`
	Interfaces []*current.Interface `json:"interfaces,omitempty"`
	IPs        []*current.IPConfig  `json:"ips,omitempty"`
	Routes     []*types.Route       `json:"routes,omitempty"`
	DNS        *types.DNS           `json:"dns,omitempty"`
}

func (c *conf) marshal(r *current.Result) ([]byte, error) {
	if c.CNIVersion < "1" {
		converted, err := r.GetAsVersion(c.CNIVersion)
		if err != nil {
			return nil, err
		}
		return json.Marshal(converted)
	}
	p := printed{CNIVersion: c.CNIVersion, Interfaces: r.Interfaces, IPs: r.IPs, Routes: r.Routes}
	if !r.DNS.IsEmpty() {
		p.DNS = &r.DNS
	}
	return json.Marshal(p)
}
