package model

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const forwardForm = "[ip:]port[-range]:port[-range][/tcp|udp|sctp]"

// ParseForward reads what to publish, as docker writes it: [ip:]port[-range]:port[-range][/tcp|udp|sctp]. A port alone
// stands for both sides, no protocol for TCP. An IPv6 address stands in brackets. Network and Workload stay empty. The
// error is a Problem.
func ParseForward(s string) (Forward, error) {
	bad := func(format string, args ...any) (Forward, error) {
		return Forward{}, Problem{Code: CodeForward, Reason: fmt.Sprintf("forward %q: ", s) + fmt.Sprintf(format, args...),
			Fix: "the form is " + forwardForm, Example: "127.0.0.1:8080:80/tcp"}
	}
	f := Forward{Proto: TCP}
	rest, proto, hasProto := strings.Cut(s, "/")
	if hasProto {
		if err := f.Proto.UnmarshalText([]byte(strings.ToLower(proto))); err != nil || !f.Proto.forwardable() {
			return bad("protocol %q is none of tcp, udp, sctp", proto)
		}
	}
	host, rest, err := cutHostIP(rest)
	if err != nil {
		return bad("%s", err)
	}
	f.HostIP = host
	first, second, both := strings.Cut(rest, ":")
	if host.IsValid() && !both {
		return bad("after an address come two ports, the host's and the workload's")
	}
	if !both {
		second = first
	}
	if strings.Contains(second, ":") {
		return bad("too many colons; an IPv6 address stands in brackets, as [fd00::1]:8080:80")
	}
	if f.HostPorts, err = ParsePorts(first); err != nil {
		return bad("host port: %s", err)
	}
	if f.Ports, err = ParsePorts(second); err != nil {
		return bad("workload port: %s", err)
	}
	if f.HostPorts.Len() != f.Ports.Len() {
		return Forward{}, lengthProblem(f)
	}
	return f, nil
}

// cutHostIP takes the address that a forward may begin with, and its colon.
func cutHostIP(s string) (netip.Addr, string, error) {
	if inside, ok := strings.CutPrefix(s, "["); ok {
		text, rest, ok := strings.Cut(inside, "]:")
		a, err := netip.ParseAddr(text)
		if !ok || err != nil || !a.Is6() || a.Zone() != "" {
			return a, "", fmt.Errorf("%q does not begin with an IPv6 address in brackets and a colon", s)
		}
		return a.Unmap(), rest, nil
	}
	text, rest, _ := strings.Cut(s, ":")
	if !strings.Contains(text, ".") {
		return netip.Addr{}, s, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return a, "", fmt.Errorf("%q is not an IP address", text)
	}
	return a, rest, nil
}

// Publish is the forward's ports as ParseForward reads them.
func (f Forward) Publish() string {
	s := fmt.Sprintf("%s:%s/%s", f.HostPorts, f.Ports, f.Proto)
	switch {
	case f.HostIP.Is6():
		return "[" + f.HostIP.String() + "]:" + s
	case f.HostIP.IsValid():
		return f.HostIP.String() + ":" + s
	}
	return s
}

// ParsePorts reads a port or an inclusive range of them: 80, 8000-8010.
func ParsePorts(s string) (Ports, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	var p Ports
	var err error
	if p.First, err = parsePort(first); err != nil {
		return Ports{}, err
	}
	if p.Last, err = parsePort(last); err != nil {
		return Ports{}, err
	}
	if p.Last < p.First {
		return Ports{}, fmt.Errorf("range %s ends before it begins", s)
	}
	return p, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port from 1 to 65535", s)
	}
	return uint16(n), nil
}

// ParseEndpointMAC reads a MAC that an endpoint can have: of one station, not of a group, and not zero. The error is a
// Problem.
func ParseEndpointMAC(s string) (MAC, error) {
	m, err := ParseMAC(s)
	if err != nil {
		return MAC{}, Problem{Code: CodeMAC, Reason: err.Error(), Example: exampleMAC}
	}
	if m == (MAC{}) {
		return MAC{}, Problem{Code: CodeMAC, Reason: "MAC " + s + " is no address at all", Example: exampleMAC}
	}
	if p, bad := checkMAC(m); bad {
		return MAC{}, p
	}
	return m, nil
}

const exampleMAC = "02:00:5e:10:00:01"

// ParseAddrRange reads FIRST-LAST, a prefix, or one address. The error is a Problem.
func ParseAddrRange(s string) (AddrRange, error) {
	bad := Problem{Code: CodeAddress, Reason: fmt.Sprintf("%s is no range of addresses", quote(s)), Fix: "FIRST-LAST or a prefix", Example: "10.8.0.100-10.8.0.199"}
	if p, err := netip.ParsePrefix(s); err == nil {
		p = p.Masked()
		return AddrRange{First: p.Addr(), Last: LastAddr(p)}, nil
	}
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	a, err1 := netip.ParseAddr(first)
	b, err2 := netip.ParseAddr(last)
	r := AddrRange{First: a.Unmap(), Last: b.Unmap()}
	if err1 != nil || err2 != nil || a.Zone() != "" || b.Zone() != "" || !r.Contains(r.First) {
		return AddrRange{}, bad
	}
	return r, nil
}

// MarshalText is empty for the zero MAC.
func (m MAC) MarshalText() ([]byte, error) {
	if m == (MAC{}) {
		return nil, nil
	}
	const digits = "0123456789abcdef"
	text := make([]byte, 0, 17)
	for i, octet := range m {
		if i > 0 {
			text = append(text, ':')
		}
		text = append(text, digits[octet>>4], digits[octet&15])
	}
	return text, nil
}

// UnmarshalText reads what MarshalText wrote.
func (m *MAC) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*m = MAC{}
		return nil
	}
	var err error
	*m, err = ParseMAC(string(text))
	return err
}

func (p Proto) forwardable() bool { return p == TCP || p == UDP || p == SCTP }

// MarshalText is the protocol's name, or its number.
func (p Proto) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (p *Proto) UnmarshalText(text []byte) error {
	for _, q := range []Proto{0, TCP, UDP, SCTP} {
		if q.String() == string(text) {
			*p = q
			return nil
		}
	}
	n, err := strconv.ParseUint(string(text), 10, 8)
	if err != nil {
		return fmt.Errorf("protocol %q is neither tcp, udp, sctp nor a number", text)
	}
	*p = Proto(n)
	return nil
}

// MarshalText is empty for the zero Ports.
func (p Ports) MarshalText() ([]byte, error) {
	if p == (Ports{}) {
		return nil, nil
	}
	return []byte(p.String()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (p *Ports) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*p = Ports{}
		return nil
	}
	var err error
	*p, err = ParsePorts(string(text))
	return err
}
