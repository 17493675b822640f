package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/ipam"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
	"github.com/flatnet/flatnet/internal/render"
)

// The states of a network.
const (
	stateActive   = "active"
	stateInactive = "inactive"
	stateConflict = "conflict" // something on the host overlaps it
	stateDegraded = "degraded" // the kernel lacks what was asked
)

// The functions here turn values of model into those of api. They are called with Agent.mu held, at least for reading.

func (a *Agent) describeNetwork(n model.Network) api.Network {
	v := a.state.view
	d := api.Network{
		Name: n.Name, ID: networkID(n), Labels: n.Labels, Spec: networkSpec(n),
		Status: api.NetworkStatus{Scope: "node", Created: n.Created, MTU: v.MTU(n), Subnets: a.describeSubnets(n), NAT: natText(v, n), Return: returnRoutes(v, n)},
	}
	d.Status.State, d.Status.Reason = a.networkState(n)
	if n.HasBridge() {
		d.Status.Bridge = n.BridgeName()
	}
	if n.Mode == model.Cluster {
		a.describeCluster(n, &d)
	}
	if n.Routes() || n.Uplink != "" {
		d.Status.Uplinks = uplinks(v, n)
	}
	for _, name := range slices.Sorted(maps.Keys(v.Workloads)) {
		for _, e := range v.Workloads[name].Endpoints {
			if e.Network == n.Name {
				d.Status.Endpoints = append(d.Status.Endpoints, a.describeEndpoint(v.Workloads[name], e))
			}
		}
	}
	for _, f := range v.AllForwards() {
		if f.Network == n.Name {
			d.Status.Forwards = append(d.Status.Forwards, a.describeForward(f))
		}
	}
	return d
}

func networkID(n model.Network) string {
	h := sha256.Sum256(fmt.Appendf(nil, "network/%s/%d", n.Name, n.Created.UnixNano()))
	return hex.EncodeToString(h[:])
}

func (a *Agent) networkState(n model.Network) (state, reason string) {
	if !n.Active {
		return stateInactive, a.unfit[n.Name]
	}
	if n.Mode == model.Cluster && len(n.Subnets) == 0 && a.fabric != nil {
		return stateDegraded, strings.TrimSuffix("this host holds no block of it yet: "+a.fabric.Why(n.Name), ": ")
	}
	if owner, ok := a.conflicts[n.Name]; ok {
		return stateConflict, owner
	}
	if reason, ok := a.broken[n.Name]; ok {
		return stateDegraded, reason
	}
	if link, lacks := a.state.view.LacksLink(n); lacks {
		return stateDegraded, fmt.Sprintf("link %s is not there", link)
	}
	return stateActive, ""
}

func uplinks(v model.View, n model.Network) []string {
	if n.Uplink != "" {
		return []string{n.Uplink}
	}
	var names []string
	for _, l := range v.Node.Uplinks() {
		names = append(names, l.Name)
	}
	return names
}

// natText says in words as whom workloads leave.
func natText(v model.View, n model.Network) []string {
	if !n.Translates() || !n.Active {
		return nil
	}
	var lines []string
	for _, s := range n.Subnets {
		as := "the address of the link that it leaves by"
		if links := uplinks(v, n); len(links) > 0 {
			as = "the address of " + strings.Join(links, " or ")
		}
		if snat := n.SNATFor(s.Prefix.Addr().Is6()); snat.IsValid() {
			as = snat.String()
		}
		lines = append(lines, fmt.Sprintf("%s leaves as %s", s.Prefix, as))
	}
	return lines
}

func (a *Agent) describeSubnets(n model.Network) []api.SubnetStatus {
	var list []api.SubnetStatus
	for _, s := range n.Subnets {
		d := api.SubnetStatus{Subnet: s.Prefix.String(), Gateway: text(s.Gateway), IPRange: prefixText(s.Range), Reserved: texts(s.Reserved)}
		automatic := 0
		for addr := range a.state.used[n.Name] {
			if s.Prefix.Contains(addr) {
				d.InUse++
			}
			if ipam.Range(s).Contains(addr) && !slices.Contains(s.Reserved, addr) {
				automatic++
			}
		}
		d.Available = ipam.Size(s) - float64(automatic)
		list = append(list, d)
	}
	return list
}

// The states of a workload.
const (
	workloadCreated  = "created"
	workloadAttached = "attached" // by a CNI runtime, which has its command
	workloadRunning  = "running"
	workloadExited   = "exited"
	workloadLost     = "lost" // its namespace is gone
)

func (a *Agent) describeWorkload(w model.Workload) api.Workload {
	d := api.Workload{
		Name: w.Name, Labels: w.Labels, Sharing: sharingText(w), Netns: a.netnsOf(w), State: workloadCreated, Created: w.Created,
		Process: api.Process{PID: w.Process.PID, Command: w.Process.Command, Exited: w.Process.Exited, Code: w.Process.Code},
		Files:   a.filesOf(w),
	}
	switch {
	case w.Process.Exited:
		d.State = workloadExited
	case a.isLost(w):
		d.State = workloadLost
	case running(w):
		d.State = workloadRunning
	case w.ByRuntime():
		d.State = workloadAttached
	}
	for _, e := range w.Endpoints {
		d.Endpoints = append(d.Endpoints, a.describeEndpoint(w, e))
	}
	for _, f := range a.forwardsTo(w) {
		d.Forwards = append(d.Forwards, a.describeForward(f))
	}
	return d
}

func sharingText(w model.Workload) string {
	switch {
	case w.Sharing == model.Joined:
		return string(model.Joined) + ":" + w.Join
	case w.Sharing == model.Own && len(w.Endpoints) == 0 && !w.Process.Exited:
		return sharingNone
	}
	return string(w.Sharing)
}

// hostNetns is how one enters the host's namespace.
const hostNetns = "/proc/1/ns/net"

// netnsOf is the namespace to enter for a workload's commands; empty when there is none. Who gets a path of a namespace that
// has ended would take another for it.
func (a *Agent) netnsOf(w model.Workload) string {
	switch {
	case w.Process.Exited || a.isLost(w):
		return ""
	case w.Sharing == model.Host:
		return hostNetns
	case w.Sharing == model.Joined:
		return a.state.view.Workloads[w.Join].Netns
	}
	return w.Netns
}

// isLost reports whether the namespace that a workload is in has vanished.
func (a *Agent) isLost(w model.Workload) bool {
	_, own := a.state.lost[w.Name]
	_, joined := a.state.lost[w.Join]
	return own || joined
}

func (a *Agent) describeEndpoint(w model.Workload, e model.Endpoint) api.Endpoint {
	n := a.state.view.Networks[e.Network]
	d := api.Endpoint{
		Workload: w.Name, Network: e.Network, IfName: e.IfName, MAC: e.MAC.String(), Netns: a.netnsOf(w), IPs: []string{},
		Guard: !e.NoGuard && !n.NoGuard, Isolated: e.Isolated, Priority: e.Priority, DefaultRoute: a.carriesDefault(w, e),
	}
	if n.HasBridge() {
		d.HostLink, d.HostMAC = model.HostLinkName(w.Name, e.IfName), model.HostSideMAC(e.MAC).String()
	}
	if running(w) {
		d.PID = w.Process.PID
	}
	d.MTU, d.DNS, d.Aliases, d.Routes = a.state.view.MTU(n), texts(n.DNS), e.Aliases, a.describeRoutes(w, e)
	if e.Bandwidth != (model.Bandwidth{}) {
		limits := api.Bandwidth(e.Bandwidth)
		d.Bandwidth = &limits
	}
	if e.Attachment != (model.Attachment{}) {
		by := api.Attachment(e.Attachment)
		d.Attachment = &by
	}
	for _, addr := range e.Addrs {
		s, ok := n.Subnet(addr)
		bits := addr.BitLen()
		if ok {
			bits = s.Prefix.Bits()
		}
		d.IPs = append(d.IPs, netip.PrefixFrom(addr, bits).String())
		if a.state.view.LeadsOut(e, addr.Is6()) && s.Gateway.IsValid() {
			d.Gateways = append(d.Gateways, s.Gateway.String())
		}
	}
	return d
}

func (a *Agent) describeRoutes(w model.Workload, e model.Endpoint) []api.EndpointRoute {
	var list []api.EndpointRoute
	for _, r := range render.Routes(a.state.view, w) {
		if r.Link == e.IfName {
			list = append(list, api.EndpointRoute{Dest: r.Dest.String(), Via: text(r.Via)})
		}
	}
	return list
}

// carriesDefault reports whether a workload leaves by the endpoint.
func (a *Agent) carriesDefault(w model.Workload, e model.Endpoint) bool {
	for _, v6 := range []bool{false, true} {
		if out, ok := a.state.view.Gateway(w, v6); ok && out.Network == e.Network && a.state.view.Networks[e.Network].Active {
			return true
		}
	}
	return false
}

func (a *Agent) describeForward(f model.Forward) api.Forward {
	w, there := a.state.view.Workloads[f.Workload]
	_, on := w.Endpoint(f.Network)
	_, lost := a.state.lost[f.Workload]
	_, standing := a.state.view.Forwards[f.Name()]
	return api.Forward{
		Name: f.Name(), Workload: f.Workload, Network: f.Network, Proto: f.Proto.String(), HostIP: text(f.HostIP), HostPorts: f.HostPorts.String(),
		Ports: f.Ports.String(), Standing: standing, Active: there && on && !lost && a.state.view.Networks[f.Network].Active && a.state.view.Networks[f.Network].Routes(),
	}
}

// addrText is a workload's addresses in one line.
func addrText(w model.Workload) string {
	var words []string
	for _, e := range w.Endpoints {
		for _, addr := range e.Addrs {
			words = append(words, addr.String())
		}
	}
	return strings.Join(words, " ")
}

// steps turns what would be done into the caller's words, with the commands to do it by hand.
func steps(changes []reconcile.Change) []api.Step {
	return worded(changes, dataplane.Step.Command)
}

// did is steps of what was done: nobody has to type that any more, and an attachment is quick.
func did(changes []reconcile.Change) []api.Step {
	return worded(changes, func(dataplane.Step, string) string { return "" })
}

// didFirst is did of so many steps at most, with how many there are.
func didFirst(changes []reconcile.Change, most int) (first []api.Step, all int) {
	var some []reconcile.Change
	for _, c := range changes {
		room := max(0, most-all)
		all += len(c.Plan)
		some = append(some, reconcile.Change{Netns: c.Netns, Plan: c.Plan[:min(room, len(c.Plan))]})
	}
	return did(some), all
}

func worded(changes []reconcile.Change, command func(dataplane.Step, string) string) []api.Step {
	n := 0
	for _, c := range changes {
		n += len(c.Plan)
	}
	list := make([]api.Step, 0, n)
	for _, c := range changes {
		for _, s := range c.Plan {
			list = append(list, api.Step{Netns: c.Netns, Text: s.String(), Command: command(s, c.Netns)})
		}
	}
	return list
}
