package kernel

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// Of linux/genetlink.h, linux/nl80211.h and linux/wireless.h.
const (
	genlControl    = 0x10 // GENL_ID_CTRL
	genlHeader     = 4    // sizeof(struct genlmsghdr): command, version, reserved
	radioFamily    = "nl80211"
	wirelessNameOf = 0x8B01 // SIOCGIWNAME
)

// radios knows which links of the host are wireless. That never changes while a link stands, so each is asked about once; this is the
// only question about a link that takes system calls of its own.
type radios struct {
	mu    sync.Mutex
	known map[radioKey]bool
	ask   func(name string, index int) bool
}

type radioKey struct {
	name  string
	index int
}

func newRadios(ask func(name string, index int) bool) *radios {
	return &radios{known: map[radioKey]bool{}, ask: ask}
}

// wireless reports whether a link is of IEEE 802.11. A link with a kind is made of software, as are loopbacks and tunnels.
func (r *radios) wireless(l *link) bool {
	if l.Kind != "" || !l.ether {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := radioKey{l.Name, l.index}
	is, known := r.known[key]
	if !known {
		is = r.ask(l.Name, l.index)
		r.known[key] = is
	}
	return is
}

// isRadio asks the kernel: drivers of before 2007 know only the old ioctl, those of the latest radios only nl80211.
func (k *Kernel) isRadio(name string, index int) bool {
	if r, err := unix.NewIfreq(name); err == nil && unix.IoctlIfreq(k.host.FD(), wirelessNameOf, r) == nil {
		return true
	}
	is := false
	err := (&space{ns: k.hostNS}).do(func() error {
		c, err := netlink.Open(unix.NETLINK_GENERIC)
		if err != nil {
			return err
		}
		defer c.Close()
		family, err := genlFamily(c, radioFamily)
		if err != nil {
			return err
		}
		var b netlink.Batch
		b.Begin(family, 0)
		b.Raw([]byte{unix.NL80211_CMD_GET_INTERFACE, 0, 0, 0})
		b.Uint32(unix.NL80211_ATTR_IFINDEX, uint32(index))
		is = c.Do(&b, nil) == nil
		return nil
	})
	return is && err == nil
}

// genlFamily finds the number of a family of generic netlink; ENOENT when the kernel does not have it.
func genlFamily(c *netlink.Conn, name string) (family uint16, err error) {
	var b netlink.Batch
	b.Begin(genlControl, 0)
	b.Raw([]byte{unix.CTRL_CMD_GETFAMILY, 1, 0, 0})
	b.String(unix.CTRL_ATTR_FAMILY_NAME, name)
	errs := c.Do(&b, func(_ int, m netlink.Message) {
		if len(m.Data) < genlHeader {
			return
		}
		for typ, a := range netlink.Attrs(m.Data[genlHeader:]) {
			if typ == unix.CTRL_ATTR_FAMILY_ID {
				family = a.Uint16()
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	if family == 0 {
		return 0, unix.ENOENT
	}
	return family, nil
}
