package kernel

import (
	"slices"
	"sync"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// memory is what we know of the kernel's objects beyond the marks in the kernel. It may be lost with the process: then a
// pass may write once more what is already so.
type memory struct {
	mu     sync.Mutex
	spaces map[string]*remembered // by namespace
}

type remembered struct {
	sysctls map[string]dataplane.Sysctl // by name; Value is not used
	kernels map[string]dataplane.Link   // links by name whose MAC or MTU was left to the kernel: only Link with those fields
	far     map[farEnd]string           // veth ends that we put somewhere from this namespace: their near end's name
	addrs   map[dataplane.Address]bool  // in workloads' namespaces: what we gave, should somebody type it again without our mark
	proxies map[string]addrSet          // on the host, ours, by link
	shaped  map[string]bool             // links of ours that have, or had, a Shaper or a Redirect, by name
	made    map[string]int              // indexes of links that we made, by name; they have no mark for a moment
	index   int                         // of links: the next to try
}

// farEnd is the place of one end of a veth.
type farEnd struct{ netns, name string }

func newMemory() memory { return memory{spaces: map[string]*remembered{}} }

// with runs fn on what is remembered of a namespace.
func (m *memory) with(netns string, fn func(*remembered)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.spaces[netns]
	if r == nil {
		r = &remembered{
			sysctls: map[string]dataplane.Sysctl{},
			kernels: map[string]dataplane.Link{},
			far:     map[farEnd]string{},
			addrs:   map[dataplane.Address]bool{},
			proxies: map[string]addrSet{},
			shaped:  map[string]bool{},
			made:    map[string]int{},
		}
		m.spaces[netns] = r
	}
	fn(r)
}

// addressIs remembers an address in a workload's namespace, or forgets it. The host's own are made anew when they lack the
// mark; what a workload does is left alone, so there the mark can't be insisted on.
func (m *memory) addressIs(netns string, a dataplane.Address, there bool) {
	if netns == dataplane.HostNetns {
		return
	}
	m.with(netns, func(r *remembered) {
		if there {
			r.addrs[a] = true
		} else {
			delete(r.addrs, a)
		}
	})
}

// gave reports whether an address is one that we gave.
func (m *memory) gave(netns string, a dataplane.Address) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.spaces[netns]
	return r != nil && r.addrs[a]
}

// linkLeft forgets what was on a link in another namespace that went with its near end.
func (m *memory) linkLeft(netns, name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.spaces[netns]
	if r == nil || netns == dataplane.HostNetns {
		return
	}
	for a := range r.addrs {
		if a.Link == name {
			delete(r.addrs, a)
		}
	}
	delete(r.kernels, name)
	if len(r.addrs)+len(r.sysctls)+len(r.kernels)+len(r.far)+len(r.made) == 0 {
		delete(m.spaces, netns)
	}
}

func (m *memory) forget(netns string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.spaces, netns)
}

// nearEnd finds the other end of a link that we put where it is.
func (m *memory) nearEnd(netns, name string) (near farEnd, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := farEnd{netns, name}
	if host := m.spaces[dataplane.HostNetns]; host != nil && host.far[at] != "" { // but for cables
		return farEnd{dataplane.HostNetns, host.far[at]}, true
	}
	for in, r := range m.spaces {
		if end, ok := r.far[at]; ok {
			return farEnd{in, end}, true
		}
	}
	return farEnd{}, false
}

// linkIs remembers a link as it was applied.
func (r *remembered) linkIs(l dataplane.Link, netns string) {
	if l.MAC == (model.MAC{}) || l.MTU == 0 {
		r.kernels[l.Name] = dataplane.Link{MAC: l.MAC, MTU: l.MTU}
	} else {
		delete(r.kernels, l.Name)
	}
	if end, ok := farEndOf(l, netns); ok {
		r.far[end] = l.Name
	}
}

func (r *remembered) linkGone(l dataplane.Link, netns string) {
	delete(r.made, l.Name)
	delete(r.shaped, l.Name)
	delete(r.kernels, l.Name)
	if end, ok := farEndOf(l, netns); ok && r.far[end] == l.Name { // else another is there in its place
		delete(r.far, end)
	}
}

// asWanted takes off a link what was left to the kernel when it was applied.
func (r *remembered) asWanted(l dataplane.Link) dataplane.Link {
	if left, ok := r.kernels[l.Name]; ok {
		if left.MAC == (model.MAC{}) {
			l.MAC = model.MAC{}
		}
		if left.MTU == 0 {
			l.MTU = 0
		}
	}
	return l
}

func farEndOf(l dataplane.Link, netns string) (farEnd, bool) {
	if l.Kind != dataplane.Veth || l.Peer == "" {
		return farEnd{}, false
	}
	if l.PeerNetns != "" {
		netns = l.PeerNetns
	}
	return farEnd{netns, l.Peer}, true
}

// Track makes Observe of a namespace report these sysctls too, when they exist; their values do not matter. Those that
// Apply writes are tracked by themselves, so that this is only of use to one that has just started.
func (k *Kernel) Track(netns string, sysctls ...dataplane.Sysctl) {
	k.memory.with(netns, func(r *remembered) {
		for _, s := range sysctls {
			s.Value = ""
			r.sysctls[s.Name] = s
		}
	})
}

// tracked are the sysctls to observe in a namespace, by name.
func (k *Kernel) tracked(netns string) []dataplane.Sysctl {
	var all []dataplane.Sysctl
	k.memory.with(netns, func(r *remembered) {
		for _, s := range r.sysctls {
			all = append(all, s)
		}
	})
	if netns == dataplane.HostNetns {
		for _, name := range k.changed.names() {
			if !slices.ContainsFunc(all, func(s dataplane.Sysctl) bool { return s.Name == name }) {
				all = append(all, dataplane.Sysctl{Name: name})
			}
		}
	}
	return all
}
