package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

func encodeKey(f dataplane.LoopbackForward) loopbackForwardKey {
	return loopbackForwardKey{Port: networkOrder(f.Port), Proto: uint16(f.Proto)}
}

func encode(f dataplane.LoopbackForward) (loopbackForwardKey, loopbackForwardTo, error) {
	if !f.To.Is6() || f.To.Is4In6() || f.To.Zone() != "" {
		return loopbackForwardKey{}, loopbackForwardTo{}, fmt.Errorf("%s is no IPv6 address that sockets can be sent to", f.To)
	}
	to := loopbackForwardTo{Port: networkOrder(f.ToPort)}
	addr := f.To.As16()
	for i := range to.Addr {
		to.Addr[i] = binary.NativeEndian.Uint32(addr[4*i:])
	}
	return encodeKey(f), to, nil
}

func decode(key loopbackForwardKey, to loopbackForwardTo) dataplane.LoopbackForward {
	var addr [16]byte
	for i, word := range to.Addr {
		binary.NativeEndian.PutUint32(addr[4*i:], word)
	}
	return dataplane.LoopbackForward{
		Proto: model.Proto(key.Proto), Port: networkOrder(key.Port),
		To: netip.AddrFrom16(addr), ToPort: networkOrder(to.Port),
	}
}

// networkOrder changes a port to network byte order and back.
func networkOrder(port uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, port))
}
