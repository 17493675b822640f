package foreign

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/model"
)

// match is a match of iptables (xt_…): its name and the structure that it is given.
type match struct {
	Name     string
	Revision uint32
	Info     []byte
}

// holds decides the few matches that are common and simple; all others may hold or not.
func (m match) holds(p packet) truth {
	switch m.Name {
	case "comment":
		return yes
	case "conntrack":
		return m.conntrack(p)
	case "state":
		return m.state(p)
	case "addrtype":
		return m.addrtype(p)
	case "tcp", "udp":
		return m.ports(p)
	case "multiport":
		return m.multiport(p)
	case "rpfilter":
		return m.rpfilter()
	case "mark":
		return m.mark(p)
	case "mac":
		return m.mac(p)
	}
	return maybe
}

func (m match) u16(at int) uint16 {
	if at+2 > len(m.Info) {
		return 0
	}
	return binary.NativeEndian.Uint16(m.Info[at:])
}

func (m match) u32(at int) uint32 {
	if at+4 > len(m.Info) {
		return 0
	}
	return binary.NativeEndian.Uint32(m.Info[at:])
}

func (m match) u8(at int) uint8 {
	if at >= len(m.Info) {
		return 0
	}
	return m.Info[at]
}

// Bits of xt_conntrack (linux/netfilter/xt_conntrack.h).
const (
	xtState       = 1 << 0
	xtEstablished = 1 << 1
	xtNew         = 1 << 3
	xtDNAT        = 1 << 7
)

func (p packet) xtStateBits() uint16 {
	bits := uint16(xtNew)
	if p.Answer {
		bits = xtEstablished
	}
	if p.forwarded() {
		bits |= xtDNAT
	}
	return bits
}

// conntrack: struct xt_conntrack_mtinfo1 to 3. Only the state is decided.
func (m match) conntrack(p packet) truth {
	flags, invert, states := m.u16(146), m.u16(148), m.u16(150)
	if m.Revision == 1 {
		states = uint16(m.u8(150))
	}
	if m.Revision < 1 || m.Revision > 3 || len(m.Info) < 152 || flags&xtState == 0 {
		return maybe
	}
	t := truthOf(p.xtStateBits()&states != 0)
	if invert&xtState != 0 {
		t = t.not()
	}
	if t == yes && flags != xtState {
		return maybe
	}
	return t
}

// state: struct xt_state_info.
func (m match) state(p packet) truth {
	if len(m.Info) < 4 {
		return maybe
	}
	return truthOf(uint32(p.xtStateBits())&m.u32(0) != 0)
}

// addrtype: struct xt_addrtype_info_v1, bits by RTN_….
func (m match) addrtype(p packet) truth {
	const invertSource, invertDest = 1, 2
	if m.Revision != 1 || len(m.Info) < 8 {
		return maybe
	}
	t := yes
	if source := m.u16(0); source != 0 {
		t = min(t, xor(truthOf(source>>p.sourceType()&1 != 0), m.u32(4)&invertSource != 0))
	}
	if dest := m.u16(2); dest != 0 {
		t = min(t, xor(truthOf(dest>>p.destType()&1 != 0), m.u32(4)&invertDest != 0))
	}
	return t
}

func xor(t truth, invert bool) truth {
	if invert {
		return t.not()
	}
	return t
}

// ports: struct xt_tcp and xt_udp begin with the first and last source port, then those of the destination.
func (m match) ports(p packet) truth {
	inverted := m.u8(8) // of xt_udp; xt_tcp has option and flags before it
	t := yes
	if m.Name == "tcp" { // option, flags' mask, flags
		inverted = m.u8(11)
		t = xor(truthOf(p.tcpFlags()&m.u8(9) == m.u8(10)), inverted&8 != 0) // XT_TCP_INV_FLAGS
		if m.u8(8) != 0 {
			t = min(t, maybe)
		}
	}
	if len(m.Info) < 9 {
		return maybe
	}
	return min(t, xor(portIn(p.SrcPort, m.u16(0), m.u16(2)), inverted&1 != 0), xor(portIn(p.DstPort, m.u16(4), m.u16(6)), inverted&2 != 0))
}

// portIn: port 0 is not known.
func portIn(port, first, last uint16) truth {
	switch {
	case first == 0 && last == 0xffff:
		return yes
	case port == 0:
		return maybe
	}
	return truthOf(first <= port && port <= last)
}

// multiport: struct xt_multiport_v1: flags, count, 15 ports, 15 marks of ranges, invert.
func (m match) multiport(p packet) truth {
	const destination = 1
	count := int(m.u8(1))
	if m.Revision != 1 || len(m.Info) < 48 || count > 15 || m.u8(0) != destination {
		return maybe
	}
	t := no
	for i := 0; i < count; i++ {
		first, last := m.u16(2+2*i), m.u16(2+2*i)
		if m.u8(32+i) != 0 && i+1 < count {
			i++
			last = m.u16(2 + 2*i)
		}
		t = max(t, portIn(p.DstPort, first, last))
	}
	return xor(t, m.u8(47) != 0)
}

// rpfilter: struct xt_rpfilter_info. Probes come from where their source is routed.
func (m match) rpfilter() truth {
	const invert = 1 << 3
	return truthOf(m.u8(0)&invert == 0)
}

// mark: struct xt_mark_mtinfo1.
func (m match) mark(p packet) truth {
	if p.markUnknown || m.Revision != 1 || len(m.Info) < 9 {
		return maybe
	}
	return xor(truthOf(m.u32(0) == 0), m.u8(8) != 0)
}

// mac: struct xt_mac_info.
func (m match) mac(p packet) truth {
	if p.SrcMAC == (model.MAC{}) || len(m.Info) < 12 {
		return maybe
	}
	return xor(truthOf(string(m.Info[:6]) == string(p.SrcMAC[:])), m.u32(8) != 0)
}

// text is the match in iptables' words.
func (m match) text() string {
	switch m.Name {
	case "comment":
		return fmt.Sprintf("/* %s */", strings.TrimRight(string(m.Info), "\x00"))
	case "conntrack":
		return "-m conntrack --ctstate " + stateNames(uint32(m.u16(150)))
	case "state":
		return "-m state --state " + stateNames(m.u32(0))
	case "tcp", "udp":
		return "-m " + m.Name + portText(" --sport ", m.u16(0), m.u16(2)) + portText(" --dport ", m.u16(4), m.u16(6))
	case "addrtype":
		if dest := m.u16(2); dest == 1<<unix.RTN_LOCAL {
			return "-m addrtype --dst-type LOCAL"
		}
	}
	return "-m " + m.Name
}

func portText(word string, first, last uint16) string {
	switch {
	case first == 0 && last == 0xffff:
		return ""
	case first == last:
		return fmt.Sprint(word, first)
	}
	return fmt.Sprintf("%s%d:%d", word, first, last)
}

func stateNames(bits uint32) string {
	var names []string
	for i, name := range []string{"INVALID", "ESTABLISHED", "RELATED", "NEW"} {
		if bits&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// targetVerdict is what a target of iptables does; marks tells that it may change the packet's mark.
func targetVerdict(name string) (v Verdict, marks bool) {
	switch name {
	case "REJECT", "DROP":
		return Verdict{Kind: Drop}, false
	case "MASQUERADE", "SNAT", "DNAT", "REDIRECT", "NETMAP", "TPROXY", "ACCEPT":
		return Verdict{Kind: Accept}, false
	case "NFQUEUE", "QUEUE", "TARPIT", "SYNPROXY":
		return Verdict{Kind: Unknown}, false
	case "MARK", "CONNMARK":
		return Verdict{}, true
	}
	return Verdict{}, false
}

// translates reports whether a target gives packets another source.
func translates(target string) bool {
	return target == "MASQUERADE" || target == "SNAT" || target == "NETMAP"
}
