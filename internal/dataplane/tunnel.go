package dataplane

import (
	"fmt"
	"net/netip"

	"github.com/flatnet/flatnet/internal/model"
)

// Tunnel is what a VXLAN link has beyond what every link has (RFC 7348). It never learns: its neighbours and FDB entries are objects of
// their own. Its underlay is whatever the routing table says.
type Tunnel struct {
	VNI      uint32     // 1 to 16777215
	Port     uint16     // UDP, here and at the peers
	Local    netip.Addr // outer source address; its family is that of all peers
	NoTxCsum bool       // the outer UDP checksum of what is sent is zero, and zero is accepted (RFC 6935, RFC 6936)
}

func (t Tunnel) String() string {
	s := fmt.Sprintf("id %d local %s dstport %d nolearning", t.VNI, t.Local, t.Port)
	switch {
	case !t.NoTxCsum && t.Local.Is4():
		return s + " udpcsum"
	case t.NoTxCsum && t.Local.Is4():
		return s + " noudpcsum"
	case t.NoTxCsum:
		return s + " udp6zerocsumtx udp6zerocsumrx"
	}
	return s
}

// Neighbour says which MAC address has an IP address on a link of ours (ip neigh, nud permanent), with our protocol number.
type Neighbour struct {
	Link string     // identity
	Addr netip.Addr // identity
	MAC  model.MAC
}

// Key is link and address.
func (n Neighbour) Key() Key { return Neighbour{Link: n.Link, Addr: n.Addr} }

func (n Neighbour) kind() kind { return kindNeighbour }

func (n Neighbour) String() string { return string(n.append(nil)) }

func (n Neighbour) append(b []byte) []byte {
	b = append(appendAddr(append(b, "neigh "...), n.Addr), " dev "...)
	return appendMAC(append(append(b, n.Link...), " lladdr "...), n.MAC)
}

// FDB says at which outer address a VXLAN link of ours reaches a MAC address (bridge fdb, self permanent). The kernel marks
// these with nobody's number: all of such a link are ours.
type FDB struct {
	Link string     // identity
	MAC  model.MAC  // identity
	Dst  netip.Addr // of the family of the link's Local
}

// Key is link and MAC address.
func (f FDB) Key() Key { return FDB{Link: f.Link, MAC: f.MAC} }

func (f FDB) kind() kind { return kindFDB }

func (f FDB) String() string { return string(f.append(nil)) }

func (f FDB) append(b []byte) []byte {
	b = append(appendMAC(append(b, "fdb "...), f.MAC), " dev "...)
	return appendAddr(append(append(b, f.Link...), " dst "...), f.Dst)
}

// appendAddr is a's String: AppendTo leaves out the invalid one.
func appendAddr(b []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return append(b, a.String()...)
	}
	return a.AppendTo(b)
}

func (n Neighbour) command(op Op) string {
	if op == Del {
		return fmt.Sprintf("ip neigh del %s dev %s", n.Addr, n.Link)
	}
	return fmt.Sprintf("ip neigh replace %s dev %s lladdr %s nud permanent protocol %d", n.Addr, n.Link, n.MAC, RouteProtocol)
}

func (f FDB) command(op Op) string {
	if op == Del {
		return fmt.Sprintf("bridge fdb del %s dev %s self", f.MAC, f.Link)
	}
	return fmt.Sprintf("bridge fdb replace %s dev %s dst %s self permanent", f.MAC, f.Link, f.Dst)
}
