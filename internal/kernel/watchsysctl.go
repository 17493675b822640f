package kernel

import (
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// The few sysctls that the kernel tells changes of, by attribute (linux/netconf.h NETCONFA_*).
var netconfKeys = map[uint16]string{
	2: "forwarding", 3: "rp_filter", 6: "ignore_routes_with_linkdown", 8: "bc_forwarding",
}

const (
	netconfLink    = 1  // NETCONFA_IFINDEX
	netconfAll     = -1 // NETCONFA_IFINDEX_ALL
	netconfDefault = -2 // NETCONFA_IFINDEX_DEFAULT
)

// sysctl takes a notification of RTNLGRP_IPV4_NETCONF or RTNLGRP_IPV6_NETCONF and tells of the tracked ones.
func (w *watcher) sysctl(m netlink.Message) {
	if len(m.Data) < 4 { // struct netconfmsg, padded
		return
	}
	index, values := 0, map[string]string{}
	for typ, a := range netlink.Attrs(m.Data[4:]) {
		if typ == netconfLink {
			index = int(int32(a.Uint32()))
		} else if key, ok := netconfKeys[typ]; ok {
			values[key] = strconv.Itoa(int(int32(a.Uint32())))
		}
	}
	link, prefix := w.confLink(index), "net/ipv4/conf/"
	if m.Data[0] == unix.AF_INET6 {
		prefix = "net/ipv6/conf/"
	}
	tracked := w.k.tracked(dataplane.HostNetns)
	if _, told := values["rp_filter"]; told && m.Data[0] == unix.AF_INET && w.isFact(prefix+link+"/rp_filter", index, tracked) {
		w.news.foreign = true
	}
	tell := func(name, value string) {
		i := slices.IndexFunc(tracked, func(s dataplane.Sysctl) bool { return s.Name == name })
		if i >= 0 {
			w.news.add(dataplane.Sysctl{Name: name, Link: tracked[i].Link, Value: value}, false)
		}
	}
	for key, value := range values {
		tell(prefix+link+"/"+key, value)
		if prefix+link+"/"+key == "net/ipv4/conf/all/forwarding" {
			tell("net/ipv4/ip_forward", value)
		}
	}
}

// isFact reports whether a sysctl is one that Node tells, of a link of others or of all, and that is not ours to set.
func (w *watcher) isFact(name string, index int, tracked []dataplane.Sysctl) bool {
	if slices.ContainsFunc(tracked, func(s dataplane.Sysctl) bool { return s.Name == name }) {
		return false
	}
	l := w.links[index]
	return index == netconfAll || l != nil && !l.marked
}

func (w *watcher) confLink(index int) string {
	switch index {
	case netconfAll:
		return "all"
	case netconfDefault:
		return "default"
	}
	return w.names[index]
}
