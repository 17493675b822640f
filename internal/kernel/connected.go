package kernel

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// The kernel makes an IPv4 address's connected route with the address and when its link goes up. Who deletes it leaves a gateway that can
// reach nobody: so on the host an address without it counts as missing, and is made anew.

// connected is where a connected route leads.
type connected struct {
	dest  netip.Prefix
	index int // of the link
}

func connectedOf(a netip.Prefix, index int) connected { return connected{a.Masked(), index} }

// connectedRoutes are those of all tables: a link may be in a VRF.
func connectedRoutes(c *netlink.Conn) (map[connected]bool, error) {
	found := map[connected]bool{}
	err := dumpRoutes(c, unix.RTPROT_KERNEL, func() { clear(found) }, func(r route) {
		if r.proto == unix.RTPROT_KERNEL && r.kind == unix.RTN_UNICAST {
			found[connected{r.dest, r.hops[0].index}] = true
		}
	})
	return found, err
}

// withoutBare leaves out the addresses of the host whose connected routes are gone though their links are up.
func (o *observation) withoutBare(c *netlink.Conn, found []dataplane.Object) ([]dataplane.Object, error) {
	up := map[string]int{} // indexes
	for i := range o.ours {
		if l := &o.ours[i]; l.Up {
			up[l.Name] = l.index
		}
	}
	routes, err := connectedRoutes(c)
	return slices.DeleteFunc(found, func(one dataplane.Object) bool {
		a := one.(dataplane.Address)
		index, isUp := up[a.Link]
		return isUp && isBare(a.Prefix, index, routes)
	}), err
}

func isBare(a netip.Prefix, index int, routes map[connected]bool) bool {
	return a.Addr().Is4() && !a.IsSingleIP() && !routes[connectedOf(a, index)]
}

// connectedGone tells of the address whose connected route somebody has deleted.
func (w *watcher) connectedGone(r route) {
	index := r.hops[0].index
	name, known := w.names[index]
	if known && r.proto == unix.RTPROT_KERNEL && r.kind == unix.RTN_UNICAST && r.source.Is4() && w.isOurs(index) {
		w.news.add(dataplane.Address{Link: name, Prefix: netip.PrefixFrom(r.source, r.dest.Bits())}, true)
	}
}
