package model

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Sharing says whose network namespace a workload uses.
type Sharing string

// The attachments that are no network are values of Sharing other than Own.
const (
	Own    Sharing = ""          // a namespace of its own; with no Endpoints this is docker's "none"
	Host   Sharing = "host"      // the host's own
	Joined Sharing = "container" // that of Workload.Join
)

// Workload is one network namespace with its endpoints: the unit of attach, check and repair.
type Workload struct {
	Name      string
	Sharing   Sharing
	Join      string // the other workload's name when Sharing is Joined
	Netns     string // path of the namespace file; empty when Sharing is not Own
	Managed   bool   // flatnetd made the namespace and removes it
	NetnsID   string // of one that others made: tells it from another that stands at the same path later
	Runtime   bool   `json:",omitempty"` // a CNI runtime made it
	Unseen    bool   `json:",omitempty"` // Netns leads nowhere from where flatnetd is: it was handed the namespace, open, to attach it
	Endpoints []Endpoint
	Forwards  []Forward // published with `run -p`: they live and die with the workload
	Process   Process
	Labels    map[string]string
	Created   time.Time
	Remove    bool // forgotten when its command ends; else it stays listed as exited
	Settling  bool // in the journal: its namespace may be half set up, as a change of it was not seen done
}

// Process is the command that runs in a workload; the zero Process is none.
type Process struct {
	PID     int
	Start   uint64 // field 22 of /proc/PID/stat, clock ticks since boot: a PID alone may be reused
	Command string // joined by spaces, for people
	Exited  bool
	Code    int // exit status, 128+signal when killed by one
}

// ByRuntime reports whether a CNI runtime made the workload: it goes when its last endpoint goes, or its namespace.
func (w Workload) ByRuntime() bool {
	return w.Runtime && !slices.ContainsFunc(w.Endpoints, func(e Endpoint) bool { return e.Attachment == Attachment{} })
}

// Endpoint is one attachment of a workload to a network. Its key is (workload, IfName).
type Endpoint struct {
	Network  string
	IfName   string // inside the namespace, for example eth0
	MAC      MAC
	Addrs    []netip.Addr // at most one in each subnet of the network
	Priority int          // the endpoint with the highest carries the default route; ties go to the first
	NoGuard  bool         // may use any source address
	Isolated bool         // reaches the gateway but no other isolated endpoint of the network

	Attachment Attachment  `json:",omitzero"` // the CNI ADD that made it; zero: none did
	Bandwidth  Bandwidth   `json:",omitzero"`
	Ranges     []AddrRange `json:",omitempty"` // automatic addresses come from these, of those families that have one
	Aliases    []string    `json:",omitempty"` // further names that the workload is to be found by on the network
}

// Attachment names what one CNI ADD made: the name of the network configuration, CNI_CONTAINERID and CNI_IFNAME (CNI 1.1.0).
type Attachment struct{ Config, Container, IfName string }

// Bandwidth limits an endpoint; a rate of 0 is no limit. Rates are in bits per second, bursts in bits.
type Bandwidth struct {
	IngressRate, IngressBurst uint64 // towards the workload
	EgressRate, EgressBurst   uint64 // from the workload
}

// AddrRange is an inclusive range of addresses of one family.
type AddrRange struct{ First, Last netip.Addr }

// String is the range as a prefix where it is one, else FIRST-LAST.
func (r AddrRange) String() string {
	for bits := r.First.BitLen(); bits >= 0; bits-- {
		if p := netip.PrefixFrom(r.First, bits); p.Masked().Addr() != r.First {
			break
		} else if LastAddr(p) == r.Last {
			return p.String()
		}
	}
	return fmt.Sprintf("%s-%s", r.First, r.Last)
}

// Contains reports whether the address is in the range.
func (r AddrRange) Contains(a netip.Addr) bool {
	return a.BitLen() == r.First.BitLen() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

// HostLink is the link name of the endpoint's host side.
func HostLinkName(workload, ifname string) string { return endpointLinkName("fv", workload, ifname) }

// LimitLinkName is the name of the link that what the endpoint sends passes when its rate is limited.
func LimitLinkName(workload, ifname string) string { return endpointLinkName("fi", workload, ifname) }

func endpointLinkName(prefix, workload, ifname string) string {
	if ifname == "eth0" {
		return linkName(prefix, workload)
	}
	return hashedLinkName(prefix, workload+"/"+ifname)
}

// Endpoint returns the workload's endpoint on the named network.
func (w Workload) Endpoint(network string) (Endpoint, bool) {
	for _, e := range w.Endpoints {
		if e.Network == network {
			return e, true
		}
	}
	return Endpoint{}, false
}

// LeadsOut reports whether the endpoint has a gateway of that family: its workload can be reached from elsewhere by it, and
// answers by it.
func (v View) LeadsOut(e Endpoint, v6 bool) bool {
	n, ok := v.Networks[e.Network]
	return ok && n.leadsOut(v6) && e.hasFamily(v6)
}

// Gateway returns the endpoint that carries the default route of a family: the one of highest Priority whose network
// has a way out and which has an address of that family.
func (v View) Gateway(w Workload, v6 bool) (Endpoint, bool) {
	var best Endpoint
	found := false
	for _, e := range w.Endpoints {
		if !v.LeadsOut(e, v6) {
			continue
		}
		if !found || e.Priority > best.Priority {
			best, found = e, true
		}
	}
	return best, found
}

func (e Endpoint) hasFamily(v6 bool) bool {
	for _, a := range e.Addrs {
		if a.Is6() == v6 {
			return true
		}
	}
	return false
}
