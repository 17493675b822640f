package kernel

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

const ifaProto = 11 // IFA_PROTO of linux/if_addr.h, kernel 5.18

// address is an address as the kernel tells it, ours or not.
type address struct {
	prefix netip.Prefix
	index  int // of its link
	proto  uint8
}

func (a address) ours() bool { return a.proto == dataplane.RouteProtocol }

// parseAddress reads an RTM_NEWADDR or RTM_DELADDR message.
func parseAddress(p []byte) (address, bool) {
	if len(p) < unix.SizeofIfAddrmsg {
		return address{}, false
	}
	a := address{index: int(binary.NativeEndian.Uint32(p[4:]))}
	var local, addr netip.Addr
	for typ, v := range netlink.Attrs(p[unix.SizeofIfAddrmsg:]) {
		switch typ {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_ADDRESS: // the far end's on a point-to-point link, else the same
			addr, _ = netip.AddrFromSlice(v)
		case ifaProto:
			a.proto = v.Uint8()
		}
	}
	if !local.IsValid() {
		local = addr
	}
	a.prefix = netip.PrefixFrom(local, int(p[1]))
	return a, a.prefix.IsValid()
}

func encodeAddress(b *netlink.Batch, typ, flags uint16, a dataplane.Address, index int) {
	b.Begin(typ, flags)
	b.Raw(addrMsg(a.Prefix, index))
	b.Bytes(unix.IFA_LOCAL, a.Prefix.Addr().AsSlice())
	b.Bytes(unix.IFA_ADDRESS, a.Prefix.Addr().AsSlice())
	if typ == unix.RTM_DELADDR {
		return
	}
	if a.Prefix.Addr().Is6() {
		b.Uint32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
	}
	b.Uint8(ifaProto, dataplane.RouteProtocol)
}

// addrMsg is struct ifaddrmsg.
func addrMsg(prefix netip.Prefix, index int) []byte {
	p := make([]byte, unix.SizeofIfAddrmsg)
	p[0] = family(prefix.Addr())
	p[1] = uint8(prefix.Bits())
	binary.NativeEndian.PutUint32(p[4:], uint32(index))
	return p
}

func family(a netip.Addr) uint8 {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func putIndex(header []byte, index int) {
	binary.NativeEndian.PutUint32(header[4:], uint32(index))
}
