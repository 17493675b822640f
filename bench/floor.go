package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// Of linux/veth.h, linux/if_addr.h and linux/netfilter/nf_tables.h.
const (
	vethInfoPeer    = 1
	addressProtocol = 11 // IFA_PROTO
	nftSubsystem    = unix.NFNL_SUBSYS_NFTABLES << 8
)

// floor attaches endpoints with the fewest system calls that one process can do it with: it knows everything beforehand,
// checks nothing, remembers nothing, and its namespaces are fresh. It makes the same objects as flatnet, which a test
// compares.
type floor struct {
	routes, nft *socket
	home        int // file descriptor of the host's namespace
}

// plug is one endpoint for the floor, everything computed beforehand.
type plug struct {
	netns        string
	port, inner  dataplane.Link
	bridge       int // index
	index        int // for the new port
	addrs        []netip.Prefix
	gateways     []netip.Addr
	elements     []dataplane.Element
	newElements  []message
	goneElements []message
}

func newFloor() (*floor, error) {
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := &floor{home: home}
	if f.routes, err = openSocket(unix.NETLINK_ROUTE); err != nil {
		return nil, err
	}
	f.nft, err = openSocket(unix.NETLINK_NETFILTER)
	return f, err
}

// newPlug takes from a workload's part of the State what the floor has to make.
func newPlug(part dataplane.Host, w model.Workload, bridge, index int) plug {
	p := plug{netns: w.Netns, bridge: bridge, index: index}
	for _, o := range part.Netns[dataplane.HostNetns] {
		switch o := o.(type) {
		case dataplane.Link:
			p.port = o
		case dataplane.Element:
			p.elements = append(p.elements, o)
		}
	}
	for _, o := range part.Netns[w.Netns] {
		switch o := o.(type) {
		case dataplane.Link:
			if o.Kind == dataplane.Veth {
				p.inner = o
			}
		case dataplane.Address:
			p.addrs = append(p.addrs, o.Prefix)
		case dataplane.Route:
			p.gateways = append(p.gateways, o.Via)
		}
	}
	p.newElements = transaction(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE, p.elements)
	p.goneElements = transaction(unix.NFT_MSG_DELSETELEM, 0, p.elements)
	return p
}

func (f *floor) attach(p plug) error {
	if err := f.link(p); err != nil {
		return err
	}
	if err := f.nft.send(len(p.newElements)-2, p.newElements...); err != nil {
		return fmt.Errorf("elements: %w", err)
	}
	return nil
}

// link makes an endpoint's veth and what is on it.
func (f *floor) link(p plug) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ns, err := unix.Open(p.netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	if err := f.routes.send(2, createPort(p, ns), silenceLink(p), setPort(p)); err != nil {
		return fmt.Errorf("port: %w", err)
	}
	if err := f.inside(ns, p); err != nil {
		return fmt.Errorf("inside: %w", err)
	}
	return nil
}

func (f *floor) detach(p plug) error {
	if err := f.nft.send(len(p.goneElements)-2, p.goneElements...); err != nil {
		return fmt.Errorf("elements: %w", err)
	}
	return f.routes.send(0, request(unix.RTM_DELLINK, 0, ifinfo(p.index, 0, 0)...))
}

// inside sets up the workload's side, from within its namespace.
func (f *floor) inside(ns int, p plug) error {
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return err
	}
	s, err := openSocket(unix.NETLINK_ROUTE)
	if back := unix.Setns(f.home, unix.CLONE_NEWNET); back != nil {
		return back
	}
	if err != nil {
		return err
	}
	defer s.close()
	m := []message{
		request(unix.RTM_NEWLINK, 0, ifinfo(1, unix.IFF_UP, unix.IFF_UP)...), // lo is always the first
	}
	if p.inner.Quiet {
		m = append(m, silenceLink(p))
	}
	m = append(m,
		request(unix.RTM_NEWLINK, 0, ifinfo(p.index, unix.IFF_UP, unix.IFF_UP)...).text(unix.IFLA_IFALIAS, p.inner.Alias()))
	for _, a := range p.addrs {
		m = append(m, newAddress(p.index, a))
	}
	for _, g := range p.gateways {
		m = append(m, newDefaultRoute(p.index, g))
	}
	return s.send(len(m)-1, m...)
}

// createPort makes both ends; the inner one has the same index in its namespace as the port on the host.
func createPort(p plug, ns int) message {
	return request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfo(p.index, 0, 0)...).
		text(unix.IFLA_IFNAME, p.port.Name).
		attr(unix.IFLA_ADDRESS, p.port.MAC[:]...).
		uint32(unix.IFLA_MTU, uint32(p.port.MTU)).
		uint32(unix.IFLA_MASTER, uint32(p.bridge)).
		uint32(unix.IFLA_NUM_TX_QUEUES, 1).
		uint32(unix.IFLA_NUM_RX_QUEUES, 1).
		nest(unix.IFLA_LINKINFO, func(m message) message {
			return m.text(unix.IFLA_INFO_KIND, "veth").nest(unix.IFLA_INFO_DATA, func(m message) message {
				return m.nest(vethInfoPeer, func(m message) message {
					return append(m, ifinfo(p.index, 0, 0)...).
						text(unix.IFLA_IFNAME, p.inner.Name).
						attr(unix.IFLA_ADDRESS, p.inner.MAC[:]...).
						uint32(unix.IFLA_MTU, uint32(p.inner.MTU)).
						uint32(unix.IFLA_NUM_TX_QUEUES, 1).
						uint32(unix.IFLA_NUM_RX_QUEUES, 1).
						uint32(unix.IFLA_NET_NS_FD, uint32(ns))
				})
			})
		})
}

// silenceLink keeps the port from having a link-local address, and likewise the other end, which has the same index.
func silenceLink(p plug) message {
	return request(unix.RTM_NEWLINK, 0, ifinfo(p.index, 0, 0)...).nest(unix.IFLA_AF_SPEC, func(m message) message {
		return m.nest(unix.AF_INET6, func(m message) message { return m.attr(unix.IFLA_INET6_ADDR_GEN_MODE, 1) })
	})
}

func setPort(p plug) message {
	m := request(unix.RTM_NEWLINK, 0, ifinfo(p.index, unix.IFF_UP, unix.IFF_UP)...).text(unix.IFLA_IFALIAS, p.port.Alias())
	if !p.port.Hairpin {
		return m
	}
	return m.nest(unix.IFLA_LINKINFO, func(m message) message {
		return m.text(unix.IFLA_INFO_SLAVE_KIND, "bridge").nest(unix.IFLA_INFO_SLAVE_DATA, func(m message) message {
			return m.attr(unix.IFLA_BRPORT_MODE, 1)
		})
	})
}

func newAddress(index int, a netip.Prefix) message {
	family := byte(unix.AF_INET)
	if a.Addr().Is6() {
		family = unix.AF_INET6
	}
	fixed := append([]byte{family, byte(a.Bits()), 0, 0}, binary.NativeEndian.AppendUint32(nil, uint32(index))...)
	m := request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, fixed...).
		attr(unix.IFA_LOCAL, a.Addr().AsSlice()...).attr(unix.IFA_ADDRESS, a.Addr().AsSlice()...)
	if family == unix.AF_INET6 {
		m = m.uint32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
	}
	return m.attr(addressProtocol, dataplane.RouteProtocol)
}

func newDefaultRoute(index int, via netip.Addr) message {
	family := byte(unix.AF_INET)
	if via.Is6() {
		family = unix.AF_INET6
	}
	fixed := []byte{family, 0, 0, 0, unix.RT_TABLE_MAIN, dataplane.RouteProtocol, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST, 0, 0, 0, 0}
	return request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, fixed...).
		attr(unix.RTA_GATEWAY, via.AsSlice()...).uint32(unix.RTA_OIF, uint32(index))
}

// transaction is an nft batch with one message for the elements of each set.
func transaction(typ, flags uint16, elements []dataplane.Element) []message {
	frame := []byte{unix.AF_UNSPEC, 0, 0, unix.NFNL_SUBSYS_NFTABLES}
	messages := []message{request(unix.NFNL_MSG_BATCH_BEGIN, 0, frame...)}
	bySet := map[dataplane.Set][]dataplane.Element{}
	for _, e := range elements {
		bySet[e.Set()] = append(bySet[e.Set()], e)
	}
	for set, es := range bySet {
		family := byte(unix.NFPROTO_INET)
		if set.Family == dataplane.BridgeNF {
			family = unix.NFPROTO_BRIDGE
		}
		m := request(nftSubsystem|typ, flags, family, 0, 0, 0).
			text(unix.NFTA_SET_ELEM_LIST_TABLE, dataplane.TableName).
			text(unix.NFTA_SET_ELEM_LIST_SET, set.Name)
		messages = append(messages, m.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(m message) message {
			for _, e := range es {
				m = m.nest(unix.NFTA_LIST_ELEM, func(m message) message {
					return m.nest(unix.NFTA_SET_ELEM_KEY, func(m message) message { return m.attr(unix.NFTA_DATA_VALUE, key(e)...) })
				})
			}
			return m
		}))
	}
	return append(messages, request(unix.NFNL_MSG_BATCH_END, 0, frame...))
}

// key is an element's key for the sets that endpoints are in: an address, or a link and maybe a MAC or an address.
func key(e dataplane.Element) []byte {
	is := e.Is()
	if is.Link == "" {
		return is.Addr.AsSlice()
	}
	b := make([]byte, 16, 40) // IFNAMSIZ
	copy(b, is.Link)
	switch e.Set().Type[1] {
	case dataplane.EtherAddr:
		b = append(append(b, is.MAC[:]...), 0, 0)
	case dataplane.IPv4Addr, dataplane.IPv6Addr, dataplane.NDAddr:
		b = append(b, is.Addr.AsSlice()...)
	}
	return b
}
