package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/socket"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/model"
)

// Lister lists what there is in a network namespace, ours and others'; "" is the host's. When the namespace is gone the error is
// fs.ErrNotExist.
type Lister interface {
	ListLinks(ctx context.Context, netns string) ([]kernel.LinkInfo, error)
	ListRoutes(ctx context.Context, netns string) ([]kernel.RouteInfo, error)
	ListNeighbours(ctx context.Context, netns string) ([]kernel.NeighbourInfo, error)
}

// showRoutes answers GET /v1/show/KIND.
func (a *Agent) showRoutes(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/show/{kind}", func(w http.ResponseWriter, r *http.Request) {
		v, err := a.serveShow(r)
		if err != nil {
			socket.Fail(w, err)
			return
		}
		socket.Answer(w, v)
	})
}

func (a *Agent) serveShow(r *http.Request) (any, error) {
	kind, q := r.PathValue("kind"), r.URL.Query()
	for name, values := range q {
		if name != "workload" {
			return nil, model.Problem{Code: model.CodeUnknownField, Path: "?" + short(name), Reason: fmt.Sprintf("this call has no parameter %q", short(name)), Fix: "parameters: [workload]"}
		}
		if len(values) > 1 {
			return nil, model.Problem{Code: model.CodeMalformed, Path: "?workload", Reason: "more than one workload", Fix: "ask for one at a time"}
		}
	}
	ctx, workload := r.Context(), q.Get("workload")
	hostOnly := model.Problem{Code: model.CodeUnknownField, Path: "?workload", Reason: fmt.Sprintf("%s is a list of the host alone", short(kind)),
		Fix: "links, routes and neigh are there for a workload too"}
	switch kind {
	case api.ShowLinks:
		return a.Links(ctx, workload)
	case api.ShowRoutes:
		return a.Routes(ctx, workload)
	case api.ShowNeigh:
		return a.Neighbours(ctx, workload)
	case api.ShowBridges:
		if workload != "" {
			return nil, hostOnly
		}
		return a.HostBridges(ctx)
	case api.ShowNFT:
		if workload != "" {
			return nil, hostOnly
		}
		return a.NFT(ctx)
	}
	return nil, model.Problem{Code: model.CodeNotFound, Path: "kind", Reason: fmt.Sprintf("there is no list of %q", short(kind)), Fix: "bridges, routes, links, neigh or nft"}
}

// HostBridges lists the host's bridges, everyone's.
func (a *Agent) HostBridges(ctx context.Context) ([]api.HostBridge, error) {
	links, err := a.deps.Host.ListLinks(ctx, dataplane.HostNetns)
	if err != nil {
		return nil, err
	}
	o := a.owners(model.Workload{})
	links = slices.Clone(links)
	slices.SortFunc(links, func(a, b kernel.LinkInfo) int { return strings.Compare(a.Name, b.Name) })
	list := []api.HostBridge{}
	for _, l := range links {
		if l.Kind != string(dataplane.Bridge) {
			continue
		}
		b := api.HostBridge{Name: l.Name, ID: l.BridgeID, STP: l.STP, Network: o.bridges[l.Name], Ports: []api.BridgePort{}}
		for _, p := range links {
			if p.Master == l.Name {
				b.Ports = append(b.Ports, api.BridgePort{Link: p.Name, Workload: o.ports[p.Name].workload})
			}
		}
		list = append(list, b)
	}
	return list, nil
}

// Links lists the links of the host, or of a workload's namespace.
func (a *Agent) Links(ctx context.Context, workload string) ([]api.Link, error) {
	netns, w, err := a.placeOf(workload)
	if err != nil {
		return nil, err
	}
	links, err := a.deps.Host.ListLinks(ctx, netns)
	if err != nil {
		return nil, listProblem(workload, err)
	}
	o := a.owners(w)
	list := make([]api.Link, len(links))
	for i, l := range links {
		p := o.ports[l.Name]
		list[i] = api.Link{
			Index: l.Index, Name: l.Name, Kind: l.Kind, Flags: append([]string{}, l.Flags...), State: l.State, MTU: l.MTU, MAC: l.MAC, Master: l.Master,
			Peer: l.Peer, Qdisc: l.Qdisc, Addresses: prefixTexts(l.Addrs), Workload: p.workload, Network: o.networkOf(l.Name),
		}
		if p.peer != "" {
			list[i].Peer = p.peer
		}
		if list[i].Network == "" {
			list[i].Network = o.bridges[l.Master]
		}
	}
	return list, nil
}

// Routes lists the routes of the host, or of a workload's namespace.
func (a *Agent) Routes(ctx context.Context, workload string) ([]api.Route, error) {
	netns, w, err := a.placeOf(workload)
	if err != nil {
		return nil, err
	}
	routes, err := a.deps.Host.ListRoutes(ctx, netns)
	if err != nil {
		return nil, listProblem(workload, err)
	}
	o := a.owners(w)
	list := make([]api.Route, len(routes))
	for i, r := range routes {
		list[i] = api.Route{
			Dest: r.Dest.String(), Type: r.Type, Via: text(r.Via), Link: r.Link, Source: text(r.Source), Proto: r.Proto, Scope: r.Scope,
			Metric: r.Metric, Table: r.Table, State: r.State, MTU: r.MTU, Network: o.networkOf(r.Link),
		}
	}
	return list, nil
}

// Neighbours lists the neighbours of the host, or of a workload's namespace.
func (a *Agent) Neighbours(ctx context.Context, workload string) ([]api.Neighbour, error) {
	netns, w, err := a.placeOf(workload)
	if err != nil {
		return nil, err
	}
	neighbours, err := a.deps.Host.ListNeighbours(ctx, netns)
	if err != nil {
		return nil, listProblem(workload, err)
	}
	o := a.owners(w)
	list := make([]api.Neighbour, len(neighbours))
	for i, n := range neighbours {
		list[i] = o.neighbour(n)
	}
	return list, nil
}

// placeOf is the namespace of a workload, and the workload whose own it is; without a name the host's.
func (a *Agent) placeOf(name string) (netns string, w model.Workload, err error) {
	if name == "" {
		return dataplane.HostNetns, w, nil
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	all := a.state.view.Workloads
	w, ok := all[name]
	switch {
	case !ok:
		return "", w, notFound("workload", name, all)
	case a.netnsOf(w) == "":
		return "", w, model.Problem{Code: model.CodeNotRunning, Path: "workload", Reason: fmt.Sprintf("workload %q has no namespace any more", name), Fix: "see its state", Example: "flatnet ps -a"}
	case w.Sharing == model.Host:
		return dataplane.HostNetns, model.Workload{}, nil
	case w.Sharing == model.Joined:
		w = all[w.Join]
	}
	return w.Netns, w, nil
}

// listProblem tells of a namespace that has just gone; any other error stays what it is.
func listProblem(workload string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return model.Problem{Code: model.CodeNotRunning, Path: "workload", Reason: fmt.Sprintf("the namespace of workload %q is gone", workload), Fix: "see its state", Example: "flatnet ps -a"}
	}
	return err
}

// owners says whose what the kernel has in one namespace is.
type owners struct {
	view     model.View
	workload string // whose namespace it is; empty: the host's
	bridges  map[string]string
	ports    map[string]port
	addrs    map[placed[netip.Addr]]owner
	macs     map[placed[string]]owner
}

// port is a link that an endpoint has in the namespace.
type port struct{ workload, network, peer string }

// placed is a value that means something on one network only.
type placed[T any] struct {
	network string
	value   T
}

// owner is a workload, or the host.
type owner struct {
	workload string
	host     bool
}

func (o owner) String() string {
	if o.host {
		return "the host"
	}
	return o.workload
}

// owners reads what is asked for now, as seen from the namespace of inside; the zero Workload has the host's.
func (a *Agent) owners(inside model.Workload) *owners {
	a.mu.RLock()
	v := a.state.snapshot()
	a.mu.RUnlock()
	o := &owners{view: v, workload: inside.Name, bridges: map[string]string{}, ports: map[string]port{},
		addrs: map[placed[netip.Addr]]owner{}, macs: map[placed[string]]owner{}}
	for _, n := range v.Networks {
		o.network(n)
	}
	for _, w := range v.Workloads {
		for _, e := range w.Endpoints {
			o.endpoint(w, e)
		}
	}
	for _, e := range inside.Endpoints {
		if v.Networks[e.Network].Mode == model.Cable {
			o.ports[e.IfName] = port{inside.Name, e.Network, o.farEnd(inside.Name, e.Network)}
		}
	}
	return o
}

// farEnd is the other end of a cable.
func (o *owners) farEnd(workload, network string) string {
	for _, w := range o.view.Workloads {
		if e, on := w.Endpoint(network); on && w.Name != workload {
			return e.IfName + " in " + w.Name
		}
	}
	return ""
}

// network notes the host's own place on it.
func (o *owners) network(n model.Network) {
	if !n.Active || !n.HasBridge() {
		return
	}
	if o.workload == "" {
		o.bridges[n.BridgeName()] = n.Name
	}
	if n.NeedsSubnet() {
		for _, s := range n.Subnets {
			o.addrs[placed[netip.Addr]{n.Name, s.Gateway}] = owner{host: true}
		}
	}
	if !n.BorrowsBridge() {
		mac := model.BridgeMAC(n.Name)
		o.addrs[placed[netip.Addr]{n.Name, mac.LinkLocal()}] = owner{host: true}
		o.macs[placed[string]{n.Name, mac.String()}] = owner{host: true}
	}
}

func (o *owners) endpoint(w model.Workload, e model.Endpoint) {
	o.macs[placed[string]{e.Network, e.MAC.String()}] = owner{workload: w.Name}
	for _, addr := range append([]netip.Addr{e.MAC.LinkLocal()}, e.Addrs...) {
		o.addrs[placed[netip.Addr]{e.Network, addr}] = owner{workload: w.Name}
	}
	if !o.view.Networks[e.Network].HasBridge() {
		return
	}
	switch hostLink := model.HostLinkName(w.Name, e.IfName); o.workload {
	case "":
		o.ports[hostLink] = port{w.Name, e.Network, e.IfName + " in " + w.Name}
	case w.Name:
		o.ports[e.IfName] = port{w.Name, e.Network, hostLink + " on the host"}
	}
}

// networkOf is the network of a link, by its name.
func (o *owners) networkOf(link string) string {
	if network, ok := o.bridges[link]; ok {
		return network
	}
	return o.ports[link].network
}

func (o *owners) neighbour(n kernel.NeighbourInfo) api.Neighbour {
	d := api.Neighbour{Address: n.Addr.String(), Link: n.Link, MAC: n.MAC, State: n.State, Router: n.Router, Network: o.networkOf(n.Link)}
	if n.Proxy {
		d.State = stateProxy
		d.Network = o.proxied(n.Addr)
	}
	if d.Network == "" {
		return d
	}
	who, known := o.addrs[placed[netip.Addr]{d.Network, n.Addr}]
	byMAC, ours := o.macs[placed[string]{d.Network, n.MAC}]
	switch {
	case !known:
		who = byMAC
	case n.MAC == "":
	case !ours:
		d.Conflict = fmt.Sprintf("this MAC is not that of %s", who)
	case who != byMAC:
		d.Conflict = fmt.Sprintf("this is the MAC of %s", byMAC)
	}
	d.Workload, d.Host = who.workload, who.host
	return d
}

// stateProxy is the state of an address that the host answers for.
const stateProxy = "PROXY"

// proxied is the network whose endpoint has an address that the host answers for on the LAN.
func (o *owners) proxied(addr netip.Addr) string {
	for _, n := range o.view.Networks {
		if who := o.addrs[placed[netip.Addr]{n.Name, addr}]; who.workload != "" && n.ProxyARP {
			return n.Name
		}
	}
	return ""
}

func prefixTexts(prefixes []netip.Prefix) []string {
	var list []string
	for _, p := range prefixes {
		list = append(list, p.String())
	}
	return list
}
