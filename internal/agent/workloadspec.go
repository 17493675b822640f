package agent

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/model"
)

// workloadReader turns a request into a workload without addresses, noting what cannot be read.
type workloadReader struct {
	view     model.View
	netnsDir string
	problems model.Problems
}

// mostEndpoints bounds what one request can ask for: what they have in common is looked for pair by pair.
const mostEndpoints = 64

func (r *workloadReader) add(p model.Problem) { r.problems = append(r.problems, p) }

func (r *workloadReader) read(spec api.WorkloadSpec) model.Workload {
	w := model.Workload{Name: spec.Name, Labels: maps.Clone(spec.Labels), Netns: spec.Netns, Remove: spec.Remove}
	endpoints := spec.Endpoints
	if r.sharing(&w, spec.Sharing); w.Sharing == model.Own && spec.Sharing == "" && len(endpoints) == 0 {
		endpoints = []api.EndpointSpec{{Network: DefaultNetwork}}
	}
	if w.Sharing == model.Own && w.Netns == "" {
		w.Netns, w.Managed = filepath.Join(r.netnsDir, w.Name), true
	}
	if spec.Sharing == sharingNone && len(endpoints) > 0 {
		r.add(model.Problem{Code: model.CodeSharing, Path: "sharing", Reason: "a workload on networks is not without any", Fix: "leave out the networks, or the sharing"})
	}
	if len(endpoints) > mostEndpoints {
		r.add(model.Problem{Code: model.CodeTooLarge, Path: "endpoints", Reason: fmt.Sprintf("%d endpoints are too many for one workload", len(endpoints)), Fix: fmt.Sprintf("at most %d", mostEndpoints)})
		endpoints = nil
	}
	for i, e := range endpoints {
		w.Endpoints = append(w.Endpoints, r.endpoint(i, e))
	}
	for i, p := range spec.Publish {
		r.publish(&w, i, p)
	}
	return w
}

const sharingNone = "none"

func (r *workloadReader) sharing(w *model.Workload, text string) {
	kind, join, joins := strings.Cut(text, ":")
	switch {
	case text == "" || text == sharingNone:
	case text == string(model.Host):
		w.Sharing = model.Host
	case joins && kind == string(model.Joined):
		w.Sharing, w.Join = model.Joined, join
	default:
		r.add(model.Problem{Code: model.CodeSharing, Path: "sharing", Reason: fmt.Sprintf("sharing %q is not known", short(text)),
			Fix: "empty for a namespace of its own, none, host, container:NAME", Example: "container:web"})
	}
}

func (r *workloadReader) endpoint(i int, spec api.EndpointSpec) model.Endpoint {
	path := fmt.Sprintf("endpoints[%d]", i)
	e := model.Endpoint{Network: spec.Network, IfName: spec.IfName, Priority: spec.Priority, NoGuard: isFalse(spec.Guard)}
	if e.Network == "" {
		e.Network = DefaultNetwork
	}
	if e.IfName == "" {
		e.IfName = fmt.Sprintf("eth%d", i)
	}
	e.Isolated = r.view.Networks[e.Network].IsolatePorts
	if spec.Isolated != nil {
		e.Isolated = *spec.Isolated
	}
	if spec.MAC != "" {
		mac, err := model.ParseEndpointMAC(spec.MAC)
		if p, ok := err.(model.Problem); ok {
			p.Path = path + ".mac"
			r.add(p)
		}
		e.MAC = mac
	}
	for j, text := range spec.IPs {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			r.add(badAddr(model.CodeAddress, fmt.Sprintf("%s.ips[%d]", path, j), text))
			continue
		}
		e.Addrs = append(e.Addrs, a.Unmap())
	}
	for j, text := range spec.IPRanges {
		rng, err := model.ParseAddrRange(text)
		if p, ok := err.(model.Problem); ok {
			p.Path = fmt.Sprintf("%s.ipRanges[%d]", path, j)
			r.add(p)
			continue
		}
		e.Ranges = append(e.Ranges, rng)
	}
	if spec.Bandwidth != nil {
		e.Bandwidth = model.Bandwidth(*spec.Bandwidth)
	}
	e.Aliases = slices.Clone(spec.Aliases)
	return e
}

func (r *workloadReader) publish(w *model.Workload, i int, text string) {
	path := fmt.Sprintf("publish[%d]", i)
	f, err := model.ParseForward(text)
	if p, ok := err.(model.Problem); ok {
		p.Path = path
		r.add(p)
		return
	}
	f.Workload = w.Name
	if f.Network = publishingNetwork(r.view, *w); f.Network == "" {
		r.add(model.Problem{Code: model.CodeForwardMode, Path: path, Reason: "the workload is on no nat or routed network, so nobody outside could come in by this host",
			Fix: "attach it to a nat network"})
		return
	}
	w.Forwards = append(w.Forwards, f)
}

// publishingNetwork is the nat or routed network by which a workload is published: that of the endpoint with the highest priority.
func publishingNetwork(v model.View, w model.Workload) string {
	best, network := 0, ""
	for _, e := range w.Endpoints {
		if v.Networks[e.Network].Routes() && (network == "" || e.Priority > best) {
			best, network = e.Priority, e.Network
		}
	}
	return network
}
