package dataplane

import (
	"fmt"
	"net/netip"

	"github.com/flatnet/flatnet/internal/model"
)

// Program is one of our BPF programs, attached to the root of the cgroup hierarchy: it sees a system call of every socket
// of the machine and acts on those of our network namespace.
type Program struct {
	Name  string // identity; the hook's name too
	Stale bool   // seen only: attached for another version of flatnet, namespace or cgroup, and to be replaced
}

// Key is the name.
func (p Program) Key() Key { return Program{Name: p.Name} }

func (p Program) kind() kind { return kindProgram }

func (p Program) String() string {
	s := "program cgroup/" + p.Name
	if p.Stale {
		s += " stale"
	}
	return s
}

// LoopbackPrograms are those that LoopbackForwards need: bpf/loopback.c.
func LoopbackPrograms() [4]Program {
	return [...]Program{{Name: "connect6"}, {Name: "sendmsg6"}, {Name: "recvmsg6"}, {Name: "getpeername6"}}
}

// LoopbackForward brings what the host's own sockets send to one port of ::1 to a workload. NAT does so for every other
// address, but packets to ::1 can't leave lo.
type LoopbackForward struct {
	Proto  model.Proto // identity
	Port   uint16      // identity
	To     netip.Addr  // IPv6
	ToPort uint16
}

// Key is protocol and port.
func (f LoopbackForward) Key() Key { return LoopbackForward{Proto: f.Proto, Port: f.Port} }

func (f LoopbackForward) kind() kind { return kindLoopbackForward }

func (f LoopbackForward) String() string {
	return fmt.Sprintf("loopback %s [::1]:%d to %s", f.Proto, f.Port, netip.AddrPortFrom(f.To, f.ToPort))
}
