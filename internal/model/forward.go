package model

import (
	"fmt"
	"net/netip"
)

// Proto is a transport protocol, by its IP protocol number.
type Proto uint8

// The protocols that can be forwarded.
const (
	TCP  Proto = 6
	UDP  Proto = 17
	SCTP Proto = 132
)

// String is the protocol's name in /etc/protocols, or its number.
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	case 0:
		return ""
	}
	return fmt.Sprint(uint8(p))
}

// Ports is an inclusive range of ports; Last is never below First. The zero Ports is none.
type Ports struct{ First, Last uint16 }

// Len is the number of ports in the range.
func (p Ports) Len() int {
	if p.First == 0 {
		return 0
	}
	return int(p.Last) - int(p.First) + 1
}

// Overlaps reports whether the ranges share a port.
func (p Ports) Overlaps(q Ports) bool { return p.First <= q.Last && q.First <= p.Last }

func (p Ports) String() string {
	if p.First == p.Last {
		return fmt.Sprint(p.First)
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

// Forward publishes ports of a workload on addresses of the host.
type Forward struct {
	Network   string // the nat network whose endpoint receives
	Workload  string
	Proto     Proto
	HostIP    netip.Addr // an address of the host; zero: every address, IPv4 and IPv6
	HostPorts Ports
	Ports     Ports // of the workload; as many as HostPorts
}

// Name identifies a forward among all of a host: what it listens on. `tcp/8080`, `udp/192.0.2.1:53`, `tcp/[fd00::1]:80-89`.
func (f Forward) Name() string {
	if !f.HostIP.IsValid() {
		return fmt.Sprintf("%s/%s", f.Proto, f.HostPorts)
	}
	if f.HostIP.Is6() {
		return fmt.Sprintf("%s/[%s]:%s", f.Proto, f.HostIP, f.HostPorts)
	}
	return fmt.Sprintf("%s/%s:%s", f.Proto, f.HostIP, f.HostPorts)
}

// Shifted reports whether the workload's ports differ from the host's.
func (f Forward) Shifted() bool { return f.HostPorts != f.Ports }

// Clashes reports whether two forwards listen on a common port: a forward on every address clashes with one on any, one
// on 0.0.0.0 or :: with any of its family.
func (f Forward) Clashes(g Forward) bool {
	if f.Proto != g.Proto || !f.HostPorts.Overlaps(g.HostPorts) {
		return false
	}
	if !f.HostIP.IsValid() || !g.HostIP.IsValid() || f.HostIP == g.HostIP {
		return true
	}
	return f.HostIP.Is6() == g.HostIP.Is6() && (f.HostIP.IsUnspecified() || g.HostIP.IsUnspecified())
}
