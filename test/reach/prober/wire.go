// Package prober is the agent that reachability tests run in each network namespace: it listens, answers, and sends probes
// of four kinds on request, many at once, and remembers which probes reached it and from which address. Every
// probe carries a token, so that what a target saw can be told apart whatever was translated on the way.
//
// The test binary serves as agent when Serving says so:
//
//	func TestMain(m *testing.M) {
//		if prober.Serving() {
//			os.Exit(prober.Serve())
//		}
//		…
//	}
//
// and a test starts agents with Start. A request and an answer are one line of JSON on the agent's stdin and stdout.
package prober

import (
	"net/netip"
	"time"
)

// Kind is a kind of probe.
type Kind string

// The kinds. Each ends with an answer of the target's agent or, for ICMP, its kernel.
const (
	ICMP Kind = "icmp" // echo request
	TCP  Kind = "tcp"  // connect, a token, a line back
	UDP  Kind = "udp"  // a datagram, one back
	SCTP Kind = "sctp" // INIT by a raw socket, INIT ACK back; there is no SCTP in the kernel
)

// Kinds are all of them.
var Kinds = []Kind{ICMP, TCP, UDP, SCTP}

// Port is where every agent listens without being asked.
const Port = 7777

// Probe is one packet or connection to send.
type Probe struct {
	Token    uint32
	Kind     Kind
	To       netip.Addr // with a zone when link-local
	Port     uint16     // 0: Port
	From     netip.Addr // zero: as the kernel chooses
	FromPort uint16     `json:",omitempty"` // UDP: 0: as the kernel chooses
	Wait     time.Duration
}

// Outcome is what became of a probe at its sender.
type Outcome string

// The outcomes. Silence and Unreachable both mean that nothing came back from a target; Refused that something did.
const (
	Answered    Outcome = "answered"
	Refused     Outcome = "refused"     // a reset, or port unreachable: it arrived at a machine without listener
	Unreachable Outcome = "unreachable" // no route here, or an ICMP error of a router
	Silence     Outcome = "silence"
	Failed      Outcome = "failed" // could not be tried
)

// Result is the outcome of the probe with that token.
type Result struct {
	Token   uint32
	Outcome Outcome
	Detail  string `json:",omitempty"`
}

// Seen is a probe that reached the agent: its token, from which address to which, as the target sees it.
type Seen struct {
	Token    uint32
	Kind     Kind
	From, To netip.Addr
	Port     uint16 `json:",omitempty"`
}

// request is one line to the agent; exactly one of its parts is set.
type request struct {
	N      int
	Probe  []Probe  `json:",omitempty"`
	Listen []Listen `json:",omitempty"`
	Seen   bool     `json:",omitempty"`
	Send   *Frames  `json:",omitempty"`
	Sniff  string   `json:",omitempty"`
	Caught string   `json:",omitempty"`
}

// answer is one line back.
type answer struct {
	N       int
	Results []Result `json:",omitempty"`
	Seen    []Seen   `json:",omitempty"`
	Frames  [][]byte `json:",omitempty"`
	Err     string   `json:",omitempty"`
}

// Listen is one more port to listen on, TCP or UDP. SCTP is heard on every port.
type Listen struct {
	Kind Kind
	Port uint16
	Addr netip.Addr // zero: every address
}

// Frames are Ethernet frames to send by a link as they are.
type Frames struct {
	Link   string
	Frames [][]byte
}
