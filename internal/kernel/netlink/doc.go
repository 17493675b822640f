// Package netlink is the least that talks netlink: it lays out messages in one buffer, sends many of them with one system
// call over a socket of its own, matches the kernel's answers by sequence number, and walks dumps again when they were
// interrupted. It knows nothing of links or routes; see netlink(7).
//
//	c, err := netlink.Open(unix.NETLINK_ROUTE)
//	var b netlink.Batch
//	b.Begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
//	b.Raw(make([]byte, unix.SizeofIfInfomsg))
//	b.String(unix.IFLA_IFNAME, "br0")
//	errs := c.Do(&b, nil) // one error for each message, nil for those done
package netlink
