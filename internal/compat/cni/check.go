package cni

import (
	"fmt"
	"net/netip"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// compare is an error when the result that the runtime remembers of the ADD is not what the workload has. Plugins behind flatnet may
// have added to the result, so what is in it beside is not looked at.
func (c *conf) compare(of call, w api.Workload) error {
	r, err := c.previous()
	if err != nil {
		return err
	}
	if r == nil {
		return model.Problem{Code: codePrevious, Path: "prevResult", Reason: "it is missing, and CHECK is about nothing else", Fix: "the runtime keeps the result of ADD, and gives it here"}
	}
	for _, e := range endpointsOf(w, of) {
		if err := compareEndpoint(r, e, of.Netns); err != nil {
			return err
		}
	}
	return nil
}

func compareEndpoint(r *current.Result, e api.Endpoint, sandbox string) error {
	at := -1
	for i, link := range r.Interfaces {
		if link.Name == e.IfName && link.Sandbox == sandbox {
			at = i
		}
	}
	if at < 0 {
		return differs("interfaces", fmt.Sprintf("link %s of %s is not in it", e.IfName, sandbox))
	}
	if mac := r.Interfaces[at].Mac; mac != "" && !sameMAC(mac, e.MAC) {
		return differs(fmt.Sprintf("interfaces[%d].mac", at), fmt.Sprintf("it is %s, and link %s has %s", brief(mac), e.IfName, e.MAC))
	}
	for _, text := range e.IPs {
		if p, err := netip.ParsePrefix(text); err == nil && !hasAddress(r, at, p) {
			return differs("ips", fmt.Sprintf("address %s of link %s is not in it", text, e.IfName))
		}
	}
	return nil
}

func differs(path, reason string) error {
	return model.Problem{Code: model.CodeDrifted, Path: "prevResult." + path, Reason: reason, Fix: "attach it anew: DEL, then ADD"}
}

func sameMAC(a, b string) bool {
	x, err := model.ParseMAC(a)
	y, also := model.ParseMAC(b)
	return err == nil && also == nil && x == y
}

// hasAddress reports whether the result has an address on that link, or on none in particular.
func hasAddress(r *current.Result, link int, want netip.Prefix) bool {
	for _, ip := range r.IPs {
		got, ok := netip.AddrFromSlice(ip.Address.IP)
		bits, _ := ip.Address.Mask.Size()
		if ok && (ip.Interface == nil || *ip.Interface == link) && netip.PrefixFrom(got.Unmap(), bits) == want {
			return true
		}
	}
	return false
}
