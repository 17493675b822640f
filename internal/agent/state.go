package agent

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/render"
)

// edit is a change of what people ask for: the new value under each name, or nil where one goes. Names are those of the
// View's maps.
type edit struct {
	networks  map[string]*model.Network
	workloads map[string]*model.Workload
	forwards  map[string]*model.Forward
	cluster   *common // never written to this host's own records; nil: as it is
}

// common is what the nodes of a cluster have in common, and by what it differs from what was before. The maps are a picture's: they are never
// written.
type common struct {
	members map[string]model.Member
	leases  map[model.LeaseKey]model.Lease
	ids     []string // of members
	keys    []model.LeaseKey
}

func (e edit) empty() bool {
	return len(e.networks)+len(e.workloads)+len(e.forwards) == 0 && (e.cluster == nil || len(e.cluster.ids)+len(e.cluster.keys) == 0)
}

func putNetwork(n model.Network) edit {
	return edit{networks: map[string]*model.Network{n.Name: &n}}
}

func putWorkload(w model.Workload) edit {
	return edit{workloads: map[string]*model.Workload{w.Name: &w}}
}

func deleteWorkload(name string) edit {
	return edit{workloads: map[string]*model.Workload{name: nil}}
}

// state is all that is asked of this node, and the indexes that make an attachment's cost independent of how many there
// are. Its maps are written in place under Agent.state's lock, but for the view's Members and Leases, which are a picture's; nothing outside
// holds on to them.
type state struct {
	view model.View
	seed [5]byte // of the pools

	used   map[string]map[netip.Addr]string // by network and address: whose it is
	macs   map[string]map[model.MAC]string  // by network and MAC
	netns  map[string]string                // by path: whose it is
	ports  map[string]string                // by link name of an endpoint's host side: whose it is
	joined map[string]map[string]bool       // by workload: those that share its namespace
	next   map[netip.Prefix]netip.Addr      // by subnet: where to look for a free address
	added  map[containerLink]string         // by what CNI runtimes call an attachment: whose endpoints it made
	lent   map[string]int                   // paths of the namespaces that CNI runtimes lend just now, and how often
	lost   map[string]string                // workloads whose namespace vanished, with the reason

	holders map[model.Holder][]model.Lease // the view's leases by who holds them, in order
	refused map[string]string              // nodes that are not reached on a network, by part, with the reason
}

// containerLink is what tells a CNI runtime's attachments apart. The configuration's name does not: a runtime may have another one by the
// time that it takes the attachment away.
type containerLink struct{ container, ifName string }

func linkOf(at model.Attachment) containerLink { return containerLink{at.Container, at.IfName} }

func newState() *state {
	return &state{
		view: model.View{Networks: map[string]model.Network{}, Workloads: map[string]model.Workload{}, Forwards: map[string]model.Forward{}, Members: map[string]model.Member{}, Leases: map[model.LeaseKey]model.Lease{}},
		used: map[string]map[netip.Addr]string{}, macs: map[string]map[model.MAC]string{},
		netns: map[string]string{}, ports: map[string]string{}, joined: map[string]map[string]bool{}, next: map[netip.Prefix]netip.Addr{}, added: map[containerLink]string{}, lent: map[string]int{}, lost: map[string]string{},
		holders: map[model.Holder][]model.Lease{}, refused: map[string]string{},
	}
}

// apply makes the change and returns the one that takes it back.
func (s *state) apply(e edit) (inverse edit) {
	for name, n := range e.networks {
		for _, subnet := range s.view.Networks[name].Subnets {
			if n == nil {
				delete(s.next, subnet.Prefix) // another network there begins anew
			}
		}
	}
	return edit{
		networks:  swap(s.view.Networks, e.networks),
		workloads: s.applyWorkloads(e.workloads),
		forwards:  swap(s.view.Forwards, e.forwards),
		cluster:   s.applyCluster(e.cluster),
	}
}

func (s *state) applyCluster(c *common) (was *common) {
	if c == nil {
		return nil
	}
	was = &common{s.view.Members, s.view.Leases, c.ids, c.keys}
	s.view.Members, s.view.Leases = c.members, c.leases
	for _, key := range c.keys {
		if l, there := was.leases[key]; there {
			s.unhold(l)
		}
		if l, there := c.leases[key]; there {
			s.hold(l)
		}
	}
	return was
}

func (s *state) hold(l model.Lease) {
	at := model.Holder{Network: l.Network, Node: l.Node}
	held := append(slices.Clone(s.holders[at]), l)
	slices.SortFunc(held, func(a, b model.Lease) int { return model.CompareLeases(a.Key(), b.Key()) })
	s.holders[at] = slices.Clip(held)
}

func (s *state) unhold(l model.Lease) {
	at := model.Holder{Network: l.Network, Node: l.Node}
	s.holders[at] = slices.DeleteFunc(slices.Clone(s.holders[at]), func(o model.Lease) bool { return o.Block == l.Block })
	if len(s.holders[at]) == 0 {
		delete(s.holders, at)
	}
}

// peer renders the way to one node on one network. What cannot be reached is noted; it keeps nothing else from working.
func (s *state) peer(name string, at model.Holder) dataplane.Host {
	host, err := render.Peer(s.view, at.Network, at.Node, s.holders[at])
	delete(s.refused, name)
	if err != nil {
		s.refused[name] = err.Error()
	}
	return host
}

func (s *state) applyWorkloads(change map[string]*model.Workload) map[string]*model.Workload {
	for name := range change {
		if old, ok := s.view.Workloads[name]; ok {
			s.unindex(old)
		}
	}
	inverse := swap(s.view.Workloads, change)
	for _, w := range change {
		if w != nil {
			s.index(*w)
		}
	}
	return inverse
}

func swap[K comparable, V any](m map[K]V, change map[K]*V) map[K]*V {
	if len(change) == 0 {
		return nil
	}
	inverse := make(map[K]*V, len(change))
	for name, v := range change {
		inverse[name] = nil
		if old, ok := m[name]; ok {
			inverse[name] = &old
		}
		if v == nil {
			delete(m, name)
		} else {
			m[name] = *v
		}
	}
	return inverse
}

func (s *state) index(w model.Workload) {
	for _, e := range w.Endpoints {
		for _, a := range e.Addrs {
			put(s.used, e.Network, a, w.Name)
		}
		put(s.macs, e.Network, e.MAC, w.Name)
		s.ports[model.HostLinkName(w.Name, e.IfName)] = w.Name
		if e.Attachment != (model.Attachment{}) {
			s.added[linkOf(e.Attachment)] = w.Name
		}
	}
	if w.Netns != "" {
		s.netns[w.Netns] = w.Name
	}
	if w.Join != "" {
		put(s.joined, w.Join, w.Name, true)
	}
}

func (s *state) unindex(w model.Workload) {
	for _, e := range w.Endpoints {
		for _, a := range e.Addrs {
			drop(s.used, e.Network, a)
		}
		drop(s.macs, e.Network, e.MAC)
		delete(s.ports, model.HostLinkName(w.Name, e.IfName))
		delete(s.added, linkOf(e.Attachment))
	}
	if s.netns[w.Netns] == w.Name {
		delete(s.netns, w.Netns)
	}
	drop(s.joined, w.Join, w.Name)
	delete(s.lost, w.Name)
}

// gave moves on behind the addresses of a workload that just came.
func (s *state) gave(w model.Workload) {
	for _, e := range w.Endpoints {
		for _, a := range e.Addrs {
			if subnet, ok := s.view.Networks[e.Network].Subnet(a); ok {
				s.next[subnet.Prefix] = a.Next()
			}
		}
	}
}

func put[A, B comparable, V any](m map[A]map[B]V, a A, b B, v V) {
	if m[a] == nil {
		m[a] = map[B]V{}
	}
	m[a][b] = v
}

func drop[A, B comparable, V any](m map[A]map[B]V, a A, b B) {
	delete(m[a], b)
	if len(m[a]) == 0 {
		delete(m, a)
	}
}

// parts renders everything. A part that cannot be rendered is left out and told of, so that one bad record takes down
// nothing else.
func (s *state) parts() (map[string]dataplane.Host, []error) {
	parts := map[string]dataplane.Host{}
	var errs []error
	add := func(name string, part dataplane.Host, err error) {
		if err != nil {
			errs = append(errs, &partError{name, err})
			return
		}
		parts[name] = part
	}
	v := s.view
	host, err := render.Node(v)
	add(render.NodePart, host, err)
	for name := range v.Networks {
		host, err := s.networkPart(name)
		add(render.NetworkPart(name), host, err)
	}
	for name := range v.Workloads {
		host, err := s.workloadPart(name)
		add(render.WorkloadPart(name), host, err)
	}
	for name, f := range v.Forwards {
		host, err := s.forwardPart(f)
		add(render.ForwardPart(name), host, err)
	}
	for id := range v.Members {
		host, err := render.Member(v, id)
		add(render.MemberPart(id), host, err)
	}
	for at := range s.holders {
		name := render.PeerPart(at.Network, at.Node)
		add(name, s.peer(name, at), nil)
	}
	return parts, errs
}

// partError says which part could not be rendered.
type partError struct {
	part string
	err  error
}

func (e *partError) Error() string { return e.part + ": " + e.err.Error() }
func (e *partError) Unwrap() error { return e.err }

// touched renders what an edit that was applied changed, and no more; inverse is what apply returned.
func (s *state) touched(inverse edit) (map[string]dataplane.Host, []error) {
	t := touching{state: s}
	if c := inverse.cluster; c != nil {
		t.parts = make(map[string]dataplane.Host, len(c.ids)+len(c.keys)) // at the start, thousands
	} else {
		t.parts = map[string]dataplane.Host{}
	}
	for name := range inverse.networks {
		t.network(name)
	}
	for name, was := range inverse.workloads {
		t.workload(name, was)
	}
	for name := range inverse.forwards {
		t.forward(name)
	}
	if inverse.cluster != nil {
		t.common(*inverse.cluster)
	}
	return t.parts, t.errs
}

type touching struct {
	*state
	parts map[string]dataplane.Host
	errs  []error
}

func (t *touching) add(part string, render func() (dataplane.Host, error)) {
	if _, done := t.parts[part]; done {
		return
	}
	host, err := render()
	if err != nil {
		t.errs = append(t.errs, &partError{part, err})
		return
	}
	t.parts[part] = host
}

// network touches its own part, the node's, and those of all that is attached.
func (t *touching) network(name string) {
	t.add(render.NodePart, func() (dataplane.Host, error) { return render.Node(t.view) })
	t.networkOnly(name)
	for other, n := range t.view.Networks {
		if other != name && n.SharesBridge(t.view.Networks[name]) {
			t.networkOnly(other) // what both say stands in one's part
		}
	}
	if len(t.view.Members) > 0 {
		t.peersOf(name)
	}
	for w, workload := range t.view.Workloads {
		if _, on := workload.Endpoint(name); on {
			t.add(render.WorkloadPart(w), func() (dataplane.Host, error) { return t.workloadPart(w) })
		}
	}
	for f, forward := range t.view.Forwards {
		if forward.Network == name {
			t.forward(f)
		}
	}
}

// common touches the ways to nodes that are reached elsewhere, or hold other blocks.
func (t *touching) common(before common) {
	for _, id := range before.ids {
		t.member(id)
	}
	for _, key := range before.keys {
		was, had := before.leases[key]
		now, has := t.view.Leases[key]
		if _, ok := t.view.Networks[key.Network]; ok && t.view.Self != "" && (now.Node == t.view.Self || was.Node == t.view.Self) {
			t.networkOnly(key.Network) // the tunnel may be known by another MAC now
		}
		if had {
			t.peer(model.Holder{Network: key.Network, Node: was.Node})
		}
		if has {
			t.peer(model.Holder{Network: key.Network, Node: now.Node})
		}
	}
}

// member touches the node's own part, and the ways to it. What this node itself is concerns every network of the cluster.
func (t *touching) member(id string) {
	t.add(render.MemberPart(id), func() (dataplane.Host, error) { return render.Member(t.view, id) })
	for name, n := range t.view.Networks {
		if n.Mode != model.Cluster {
			continue
		}
		if id == t.view.Self {
			t.network(name)
		}
		t.peer(model.Holder{Network: name, Node: id})
	}
}

func (t *touching) peer(at model.Holder) {
	name := render.PeerPart(at.Network, at.Node)
	t.add(name, func() (dataplane.Host, error) { return t.state.peer(name, at), nil })
}

// peersOf touches all nodes of a network of the cluster. Which nodes the rules know hangs on there being such a network.
func (t *touching) peersOf(network string) {
	for at := range t.holders {
		if at.Network == network {
			t.peer(at)
		}
	}
	for id := range t.view.Members {
		t.add(render.MemberPart(id), func() (dataplane.Host, error) { return render.Member(t.view, id) })
	}
}

// networkOnly touches the network's own part, which for a cable holds what stands in the workloads.
func (t *touching) networkOnly(name string) {
	t.add(render.NetworkPart(name), func() (dataplane.Host, error) { return t.networkPart(name) })
}

func (t *touching) workload(name string, was *model.Workload) {
	t.add(render.WorkloadPart(name), func() (dataplane.Host, error) { return t.workloadPart(name) })
	now := t.view.Workloads[name]
	if was == nil {
		was = &model.Workload{}
	}
	for _, e := range slices.Concat(now.Endpoints, was.Endpoints) {
		if t.view.Networks[e.Network].Mode == model.Cable {
			t.networkOnly(e.Network)
		}
	}
	for f, forward := range t.view.Forwards {
		if forward.Workload == name {
			t.forward(f)
		}
	}
}

func (t *touching) forward(name string) {
	t.add(render.ForwardPart(name), func() (dataplane.Host, error) {
		f, ok := t.view.Forwards[name]
		if !ok {
			return dataplane.Host{}, nil
		}
		return t.forwardPart(f)
	})
}

// networkPart is empty for a network that is gone, and for a cable one end of which is.
func (s *state) networkPart(name string) (dataplane.Host, error) {
	n, ok := s.view.Networks[name]
	if !ok {
		return dataplane.Host{}, nil
	}
	for w := range s.lost {
		if _, on := s.view.Workloads[w].Endpoint(name); on && n.Mode == model.Cable {
			return dataplane.Host{}, nil
		}
	}
	return render.Network(s.view, n)
}

// workloadPart is empty for a workload that is gone, or whose namespace is.
func (s *state) workloadPart(name string) (dataplane.Host, error) {
	w, ok := s.view.Workloads[name]
	if _, lost := s.lost[name]; !ok || lost {
		return dataplane.Host{}, nil
	}
	if w.Unseen && s.lent[w.Netns] == 0 {
		host, err := render.Workload(s.view, w)
		delete(host.Netns, w.Netns) // set up when it was lent, and out of reach since
		return host, err
	}
	if w.Netns != "" {
		w.Process.Exited = false // its command has ended, but others share its namespace still: see ended
	}
	return render.Workload(s.view, w)
}

func (s *state) forwardPart(f model.Forward) (dataplane.Host, error) {
	if _, lost := s.lost[f.Workload]; lost {
		return dataplane.Host{}, nil
	}
	return render.Forward(s.view, f)
}

// snapshot is a View that nobody writes any more.
func (s *state) snapshot() model.View {
	v := s.view
	v.Networks, v.Workloads, v.Forwards = maps.Clone(v.Networks), maps.Clone(v.Workloads), maps.Clone(v.Forwards)
	return v
}
