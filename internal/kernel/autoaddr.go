package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// isGenModeNone reports whether a sysctl says that a link gives itself no link-local address.
func isGenModeNone(s dataplane.Sysctl) bool {
	_, key, v6, ok := confName(s.Name)
	return ok && v6 && key == "addr_gen_mode" && s.Value == "1"
}

// dropAutoAddress takes the link-local address away that a link gave itself while addr_gen_mode still let it: the kernel leaves it
// (net/ipv6/addrconf.c, addrconf_sysctl_addr_gen_mode).
func dropAutoAddress(c *netlink.Conn, name string) error {
	var b netlink.Batch
	encodeGetLink(&b, name)
	var found link
	errs := c.Do(&b, func(_ int, m netlink.Message) {
		if l, ok := parseLink(m.Data); ok {
			found = l
		}
	})
	if found.index == 0 {
		return errors.Join(errs...)
	}
	b.Reset()
	auto := dataplane.Address{Link: name, Prefix: netip.PrefixFrom(found.MAC.LinkLocal(), 64)}
	encodeAddress(&b, unix.RTM_DELADDR, 0, auto, found.index)
	return ignoring(errors.Join(c.Do(&b, nil)...), unix.EADDRNOTAVAIL)
}

// settleQuiet is for after the far end of a veth was written: one that need not be quiet any more gives itself an address.
func (j *job) settleQuiet(t *task, l dataplane.Link) {
	if t.err == nil && t.Op != dataplane.Del && isFar(l) && !l.Quiet && t.seen != nil && t.seen.Quiet {
		t.err = j.space.do(func() error { return writeSysctl(fmt.Sprintf("net/ipv6/conf/%s/addr_gen_mode", l.Name), "0") }) // IN6_ADDR_GEN_MODE_EUI64
	}
}
