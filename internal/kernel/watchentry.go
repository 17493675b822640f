package kernel

import (
	"encoding/binary"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// entry takes a neighbour or FDB entry of a tunnel link of ours. A neighbour that does not stay any more is as good as gone.
func (w *watcher) entry(m netlink.Message) {
	e, ok := parseEntry(m.Data)
	l := w.links[e.index]
	if !ok || l == nil || !l.marked || l.Kind != dataplane.VXLAN {
		return
	}
	o, there := e.object(l.Name)
	w.news.add(o, !there || m.Type == unix.RTM_DELNEIGH)
}

// ear keeps from Watch's socket what it has no use for. The kernel tells of each neighbour that a thousand workloads have or lose, and of
// each MAC address that a bridge learns, in the group in which it tells of what is on tunnel links. And it tells of the thousands of routes
// and neighbours that we write ourselves.
type ear struct {
	mu       sync.Mutex
	listener *netlink.Listener // nil while nobody watches
	writer   uint32            // port of the socket by which we write
	tunnels  map[int]bool      // indexes of the links whose neighbours and FDB entries are heard of
}

// begin is for a new listener, which hears of no neighbours until they are admitted.
func (e *ear) begin(l *netlink.Listener, writer uint32) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listener, e.writer, e.tunnels = l, writer, map[int]bool{}
	return e.tune()
}

func (e *ear) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.listener = nil
}

// admit lets be heard what happens on a link from now on.
func (e *ear) admit(index int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.listener == nil || e.tunnels[index] {
		return nil
	}
	e.tunnels[index] = true
	return e.tune()
}

// forget is for a link that is gone.
func (e *ear) forget(index int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.tunnels, index)
}

func (e *ear) tune() error { return e.listener.Filter(heard(e.writer, e.tunnels)) }

// mostHeard is how many tunnel links a filter is made for; of more it lets everything through, as its size is limited (net.core.optmem_max).
const mostHeard = 256

// heard is a filter of packets that drops messages about routes and neighbours that name us as the writer, and about neighbours of other links
// than some. Without the writer's name come the end of a neighbour, and all about FDB entries (net/core/neighbour.c neigh_cleanup_and_release,
// drivers/net/vxlan/vxlan_core.c vxlan_fdb_notify).
func heard(writer uint32, links map[int]bool) []unix.SockFilter {
	const (
		all        = 0xffffffff
		typeAt     = 4                       // nlmsg_type of struct nlmsghdr
		writerAt   = 12                      // nlmsg_pid
		indexAt    = unix.SizeofNlMsghdr + 4 // ndm_ifindex of struct ndmsg
		jump, load = unix.BPF_JMP | unix.BPF_JEQ, unix.BPF_LD
	)
	pass, drop := unix.SockFilter{Code: unix.BPF_RET, K: all}, unix.SockFilter{Code: unix.BPF_RET}
	is := func(typ uint16, then uint8) unix.SockFilter {
		return unix.SockFilter{Code: jump, Jt: then, K: asLoaded16(typ)}
	}
	f := []unix.SockFilter{
		{Code: load | unix.BPF_H | unix.BPF_ABS, K: typeAt},
		is(unix.RTM_NEWROUTE, 4), is(unix.RTM_DELROUTE, 3), is(unix.RTM_NEWNEIGH, 6), is(unix.RTM_DELNEIGH, 5),
		pass,
		{Code: load | unix.BPF_W | unix.BPF_ABS, K: writerAt}, {Code: jump, Jf: 1, K: asLoaded32(writer)}, drop, pass,
		{Code: load | unix.BPF_W | unix.BPF_ABS, K: writerAt}, {Code: jump, Jf: 1, K: asLoaded32(writer)}, drop,
	}
	if len(links) > mostHeard {
		return append(f, pass)
	}
	f = append(f, unix.SockFilter{Code: load | unix.BPF_W | unix.BPF_ABS, K: indexAt})
	for index := range links {
		f = append(f, unix.SockFilter{Code: jump, Jf: 1, K: asLoaded32(uint32(index))}, pass)
	}
	return append(f, drop)
}

// asLoaded16 is the number that the filter sees in the place of one of the machine's byte order: it loads network byte order.
func asLoaded16(n uint16) uint32 {
	return uint32(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, n)))
}

func asLoaded32(n uint32) uint32 {
	return binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, n))
}

// admitTunnel is for a link that is being told of.
func (w *watcher) admitTunnel(l link) error {
	if l.Kind != dataplane.VXLAN || !l.marked {
		return nil
	}
	return w.k.ear.admit(l.index)
}
