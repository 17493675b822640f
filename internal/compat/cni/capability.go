package cni

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/internal/model"
)

// portMapping is an item of the capability portMappings.
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// publish is what the runtime wants published: neighbouring ports with one distance to the container's become a range, so
// that a range which a runtime spelled out is one forward again.
func (c *conf) publish() ([]string, error) {
	var list []model.Forward
	for i, m := range c.RuntimeConfig.PortMappings {
		if m.HostPort == 0 { // a container's port that is not published
			continue
		}
		f, err := m.forward()
		if err != nil {
			return nil, model.Problem{Code: codeInvalid, Path: fmt.Sprintf("runtimeConfig.portMappings[%d]", i), Reason: err.Error()}
		}
		list = append(list, f)
	}
	var texts []string
	for _, f := range merged(list) {
		texts = append(texts, f.Publish())
	}
	return texts, nil
}

func (m portMapping) forward() (model.Forward, error) {
	f := model.Forward{Proto: model.TCP}
	for _, port := range []int{m.HostPort, m.ContainerPort} {
		if port < 1 || port > 65535 {
			return f, fmt.Errorf("%d is not a port from 1 to 65535", port)
		}
	}
	switch strings.ToLower(m.Protocol) {
	case "", "tcp":
	case "udp":
		f.Proto = model.UDP
	case "sctp":
		f.Proto = model.SCTP
	default:
		return f, fmt.Errorf("protocol %q is none of tcp, udp, sctp", brief(m.Protocol))
	}
	if m.HostIP != "" {
		ip, err := netip.ParseAddr(m.HostIP)
		if err != nil || ip.Zone() != "" {
			return f, fmt.Errorf("hostIP %q is no IP address", brief(m.HostIP))
		}
		f.HostIP = ip.Unmap()
	}
	f.HostPorts = model.Ports{First: uint16(m.HostPort), Last: uint16(m.HostPort)}
	f.Ports = model.Ports{First: uint16(m.ContainerPort), Last: uint16(m.ContainerPort)}
	return f, nil
}

// merged joins forwards of one port each to ranges where they continue each other. One that is there twice stays once.
func merged(list []model.Forward) []model.Forward {
	slices.SortStableFunc(list, func(a, b model.Forward) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), a.HostIP.Compare(b.HostIP), cmp.Compare(a.HostPorts.First, b.HostPorts.First))
	})
	var out []model.Forward
	for _, f := range slices.Compact(list) {
		if last := len(out) - 1; last >= 0 && continues(out[last], f) {
			out[last].HostPorts.Last, out[last].Ports.Last = f.HostPorts.Last, f.Ports.Last
			continue
		}
		out = append(out, f)
	}
	return out
}

func continues(f, next model.Forward) bool {
	return f.Proto == next.Proto && f.HostIP == next.HostIP &&
		int(f.HostPorts.Last)+1 == int(next.HostPorts.First) && int(f.Ports.Last)+1 == int(next.Ports.First)
}

// ipRange is an item of the capability ipRanges, as host-local has it.
type ipRange struct {
	Subnet     string `json:"subnet"`
	RangeStart string `json:"rangeStart"`
	RangeEnd   string `json:"rangeEnd"`
	Gateway    string `json:"gateway"`
}

// ranges are where the automatic addresses come from.
func (c *conf) ranges() ([]string, error) {
	var list []string
	for i, set := range c.RuntimeConfig.IPRanges {
		for j, r := range set {
			text, err := r.text()
			if err != nil {
				return nil, model.Problem{Code: codeInvalid, Path: fmt.Sprintf("runtimeConfig.ipRanges[%d][%d]", i, j), Reason: err.Error()}
			}
			list = append(list, text)
		}
	}
	return list, nil
}

// text is the range as the daemon reads it: a prefix, or its first and last address.
func (r ipRange) text() (string, error) {
	subnet, err := netip.ParsePrefix(r.Subnet)
	if err != nil {
		return "", fmt.Errorf("subnet %q is no prefix, as 10.244.1.0/24", brief(r.Subnet))
	}
	if r.Gateway != "" {
		return "", fmt.Errorf("gateway %s: a network of flatnet has its gateway already", brief(r.Gateway))
	}
	subnet = subnet.Masked()
	bounds := model.AddrRange{First: subnet.Addr(), Last: model.LastAddr(subnet)}
	for _, b := range []struct {
		key, text string
		to        *netip.Addr
	}{{"rangeStart", r.RangeStart, &bounds.First}, {"rangeEnd", r.RangeEnd, &bounds.Last}} {
		if b.text == "" {
			continue
		}
		a, err := netip.ParseAddr(b.text)
		if err != nil || !subnet.Contains(a) {
			return "", fmt.Errorf("%s %q is no address of %s", b.key, brief(b.text), subnet)
		}
		*b.to = a
	}
	if bounds.Last.Less(bounds.First) {
		return "", fmt.Errorf("the range ends before it begins: %s to %s", bounds.First, bounds.Last)
	}
	return bounds.String(), nil
}
