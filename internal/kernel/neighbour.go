package kernel

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// ForgetNeighbour lets a namespace ask anew who has an address on a link, for when another machine has it now: else it would go on
// sending to the one before until that entry is found dead, which takes up to a minute (RFC 4861 section 7.3.3). What is not known
// is no error.
func (k *Kernel) ForgetNeighbour(ctx context.Context, path, link string, addr netip.Addr) error {
	s, err := k.enter(path)
	if err != nil {
		return fmt.Errorf("forget neighbour %s: %w", addr, err)
	}
	defer s.leave()
	index, err := linkIndex(s.conn, link)
	if err != nil {
		return ignoringGone(err)
	}
	var b netlink.Batch
	b.Begin(unix.RTM_DELNEIGH, 0)
	header := make([]byte, unix.SizeofNdMsg)
	header[0] = family(addr)
	putIndex(header, index)
	b.Raw(header)
	b.Bytes(unix.NDA_DST, addr.AsSlice())
	for _, e := range s.conn.Do(&b, nil) {
		if err := ignoringGone(e); err != nil {
			return fmt.Errorf("forget neighbour %s dev %s: %w", addr, link, err)
		}
	}
	return ctx.Err()
}
