package api

import "time"

// APIVersion is what a Manifest must carry.
const APIVersion = "flatnet/v1"

// The kinds of Manifest.
const (
	KindNetwork = "Network"
	KindForward = "Forward"
)

// Manifest is one object as files carry it. Exactly the Spec that Kind names is set; on the wire it is the field "spec".
type Manifest struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Metadata   Metadata     `json:"metadata"`
	Network    *NetworkSpec `json:"-"`
	Forward    *ForwardSpec `json:"-"`
}

// Metadata names an object.
type Metadata struct {
	Name   string            `json:"name,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
}

// NetworkSpec is what is asked of a network. A nil pointer means the default, which is true for HostAdapter, Guard and
// Autostart.
type NetworkSpec struct {
	Mode         string       `json:"mode,omitempty"` // nat (default), routed, bridged, host-only, isolated, cable, cluster
	Bridge       string       `json:"bridge,omitempty"`
	ShareBridge  bool         `json:"shareBridge,omitempty"` // nat, routed, host-only: a bridge of that name that another program made is used as it is
	Subnets      []SubnetSpec `json:"subnets,omitempty"`     // empty: one IPv4 and one IPv6 subnet from the pools; "auto" likewise, singly
	HostAdapter  *bool        `json:"hostAdapter,omitempty"`
	Uplink       string       `json:"uplink,omitempty"`
	Masquerade   bool         `json:"masquerade,omitempty"` // routed: leaves with the host's address
	ProxyARP     bool         `json:"proxyARP,omitempty"`   // routed: the subnets are parts of the uplink's LAN
	SNATIPs      []string     `json:"snatIPs,omitempty"`
	MTU          int          `json:"mtu,omitempty"` // bytes; 0 follows the uplink
	DNS          []string     `json:"dns,omitempty"`
	IPv6         *bool        `json:"ipv6,omitempty"` // false: no automatic IPv6 subnet; default true
	Guard        *bool        `json:"guard,omitempty"`
	IsolatePorts bool         `json:"isolatePorts,omitempty"`
	Autostart    *bool        `json:"autostart,omitempty"`
	Inactive     bool         `json:"inactive,omitempty"` // define only: not started
	Cluster      *ClusterSpec `json:"cluster,omitempty"`  // of mode cluster
}

// ClusterSpec is what only networks of mode cluster have. It is one for all nodes.
type ClusterSpec struct {
	Pools         []PoolSpec        `json:"pools,omitempty"`         // empty: one of IPv4 that is free here
	Backend       string            `json:"backend,omitempty"`       // vxlan (default) or host-gw
	VNI           uint32            `json:"vni,omitempty"`           // 1 to 16777215; 0: the first free one
	Port          uint16            `json:"port,omitempty"`          // UDP; 0: 8472
	DirectRouting bool              `json:"directRouting,omitempty"` // vxlan: no tunnel to nodes on a common link
	Checksum      *bool             `json:"checksum,omitempty"`      // vxlan: the outer UDP checksum; default true
	Underlay      string            `json:"underlay,omitempty"`      // ipv4 (default) or ipv6: by which addresses the nodes reach each other
	NoMasquerade  []string          `json:"noMasquerade,omitempty"`  // prefixes outside that see the workloads' own addresses
	Nodes         []string          `json:"nodes,omitempty"`         // ids or names of the nodes that have the network; empty: all
	Reserved      []ReservationSpec `json:"reserved,omitempty"`
}

// PoolSpec is a range of addresses that is cut into blocks, of which nodes hold one or more.
type PoolSpec struct {
	Subnet string `json:"subnet"`
	Block  int    `json:"block,omitempty"` // prefix length of a block; 0: 24 or 64, or four blocks of a small pool
}

// ReservationSpec keeps a block for one node, or from all.
type ReservationSpec struct {
	Block string `json:"block"`
	Node  string `json:"node,omitempty"` // id; empty: nobody gets it
}

// ClusterEdit asks to change some settings of a cluster network; those left out (nil) stay.
type ClusterEdit struct {
	Pools         []PoolSpec        `json:"pools,omitzero"`
	Backend       *string           `json:"backend,omitempty"`
	VNI           *uint32           `json:"vni,omitempty"` // this, the port and the underlay interrupt what goes on while the nodes follow
	Port          *uint16           `json:"port,omitempty"`
	Underlay      *string           `json:"underlay,omitempty"`
	DirectRouting *bool             `json:"directRouting,omitempty"`
	Checksum      *bool             `json:"checksum,omitempty"`
	NoMasquerade  []string          `json:"noMasquerade,omitzero"`
	Nodes         []string          `json:"nodes,omitzero"`
	Reserved      []ReservationSpec `json:"reserved,omitzero"`
}

// NetworkEdit asks to change some fields of a network; those left out (nil) stay. What a new mode needs is filled in, and what it cannot
// have goes, unless it is asked for here.
type NetworkEdit struct {
	Mode         *string           `json:"mode,omitempty"`
	NAT          *bool             `json:"nat,omitempty"` // instead of Mode: true makes host-only and isolated nat and routed masquerade, false takes that back
	Bridge       *string           `json:"bridge,omitempty"`
	Subnets      []SubnetSpec      `json:"subnets,omitzero"` // all of them; "auto" is another one than now
	HostAdapter  *bool             `json:"hostAdapter,omitempty"`
	Uplink       *string           `json:"uplink,omitempty"`
	Masquerade   *bool             `json:"masquerade,omitempty"`
	ProxyARP     *bool             `json:"proxyARP,omitempty"`
	SNATIPs      []string          `json:"snatIPs,omitzero"`
	MTU          *int              `json:"mtu,omitempty"`
	DNS          []string          `json:"dns,omitzero"`
	Guard        *bool             `json:"guard,omitempty"`
	IsolatePorts *bool             `json:"isolatePorts,omitempty"`
	Autostart    *bool             `json:"autostart,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`     // these are set
	DropLabels   []string          `json:"dropLabels,omitempty"` // and these go
	Cluster      *ClusterEdit      `json:"cluster,omitempty"`
}

// SubnetSpec is one subnet of a network.
type SubnetSpec struct {
	Subnet   string   `json:"subnet"`            // 10.0.0.0/24, "auto", "auto4" or "auto6"
	Gateway  string   `json:"gateway,omitempty"` // empty: the first address
	IPRange  string   `json:"ipRange,omitempty"`
	Reserved []string `json:"reserved,omitempty"`
}

// Network is a network as it is.
type Network struct {
	Name   string            `json:"name"`
	ID     string            `json:"id"` // 64 hexadecimal digits, as docker's; derived from the name and the time of creation
	Labels map[string]string `json:"labels,omitempty"`
	Spec   NetworkSpec       `json:"spec"`
	Status NetworkStatus     `json:"status"`
}

// NetworkStatus is what the daemon made of a NetworkSpec.
type NetworkStatus struct {
	State     string         `json:"state"` // active, inactive, conflict, degraded
	Reason    string         `json:"reason,omitempty"`
	Scope     string         `json:"scope"` // node or cluster
	Created   time.Time      `json:"created"`
	Bridge    string         `json:"bridge,omitempty"`
	Subnets   []SubnetStatus `json:"subnets,omitempty"`
	MTU       int            `json:"mtu"` // bytes, in effect
	Uplinks   []string       `json:"uplinks,omitempty"`
	NAT       []string       `json:"nat,omitempty"` // in words: "10.66.0.0/24 leaves as the address of eth0"
	Return    *ReturnRoutes  `json:"return,omitempty"`
	Endpoints []Endpoint     `json:"endpoints,omitempty"`
	Forwards  []Forward      `json:"forwards,omitempty"`
	Nodes     []NodeBlocks   `json:"nodes,omitempty"`   // of mode cluster: who holds which blocks
	MTUNote   string         `json:"mtuNote,omitempty"` // of mode cluster: what the MTU is made of
	Also      string         `json:"also,omitempty"`    // of mode cluster, while the backend changes: the one that comes or goes
}

// NodeBlocks is a node's part in a cluster network.
type NodeBlocks struct {
	ID       string   `json:"id"`
	Name     string   `json:"name,omitempty"`
	Underlay []string `json:"underlay,omitempty"`
	Blocks   []string `json:"blocks,omitempty"`
	Self     bool     `json:"self,omitempty"`
	Alive    bool     `json:"alive"`
	Problem  string   `json:"problem,omitempty"` // why it is not reached
}

// ReturnRoutes is how machines of the LAN come to a routed network, or to one of the cluster.
type ReturnRoutes struct {
	Note   string        `json:"note"`             // what they are needed for
	Routes []ReturnRoute `json:"routes,omitempty"` // none with proxy ARP
}

// ReturnRoute is the command that makes a route over this host, for each kind of machine that may need it.
type ReturnRoute struct {
	Subnet  string `json:"subnet"`
	Via     string `json:"via"` // this host's address on the LAN
	Linux   string `json:"linux"`
	Windows string `json:"windows"`
	Router  string `json:"router"` // as Cisco and many others have it
}

// SubnetStatus is one subnet with how full it is.
type SubnetStatus struct {
	Subnet    string   `json:"subnet"`
	Gateway   string   `json:"gateway,omitempty"`
	IPRange   string   `json:"ipRange,omitempty"`
	Reserved  []string `json:"reserved,omitempty"`
	InUse     int      `json:"inUse"`
	Available float64  `json:"available"` // addresses left for automatic use; a float as IPv6 has many
}

// WorkloadSpec asks for a workload.
type WorkloadSpec struct {
	Name      string            `json:"name,omitempty"`    // empty: made up, as docker does
	Netns     string            `json:"netns,omitempty"`   // path of a namespace that exists; empty: the daemon makes one
	Sharing   string            `json:"sharing,omitempty"` // "", "none", "host", "container:NAME"
	Endpoints []EndpointSpec    `json:"endpoints,omitempty"`
	Publish   []string          `json:"publish,omitempty"` // [ip:]port[-range]:port[-range][/proto]
	Labels    map[string]string `json:"labels,omitempty"`
	Remove    bool              `json:"remove,omitempty"` // when its process has ended, also when its starter is gone by then
}

// EndpointSpec asks for one attachment.
type EndpointSpec struct {
	Network  string   `json:"network"` // "default" when empty
	IfName   string   `json:"ifName,omitempty"`
	MAC      string   `json:"mac,omitempty"`
	IPs      []string `json:"ips,omitempty"` // static addresses; a subnet without one gets one by itself
	Priority int      `json:"priority,omitempty"`
	Guard    *bool    `json:"guard,omitempty"` // nil: as the network says
	Isolated *bool    `json:"isolated,omitempty"`

	IPRanges  []string   `json:"ipRanges,omitempty"` // where automatic addresses come from: "FIRST-LAST" or a prefix
	Bandwidth *Bandwidth `json:"bandwidth,omitempty"`
	Aliases   []string   `json:"aliases,omitempty"` // further names of the workload on the network
}

// Bandwidth limits an endpoint. Rates are in bits per second, 0 for no limit; bursts in bits, 0 for a usual one.
type Bandwidth struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"` // towards the workload
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"` // from the workload
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

// Attachment names the CNI ADD that made an endpoint.
type Attachment struct {
	Config    string `json:"config"`    // the network configuration's name
	Container string `json:"container"` // CNI_CONTAINERID
	IfName    string `json:"ifName"`    // CNI_IFNAME
}

// EndpointRoute is a route of a workload by one of its endpoints.
type EndpointRoute struct {
	Dest string `json:"dest"` // a prefix
	Via  string `json:"via,omitempty"`
}

// Workload is a workload as it is.
type Workload struct {
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels,omitempty"`
	Sharing   string            `json:"sharing,omitempty"`
	Netns     string            `json:"netns"` // path to enter; /proc/1/ns/net for the host's; empty: there is none to enter, as its command or its namespace ended
	State     string            `json:"state"` // created, attached, running, exited, lost
	Process   Process           `json:"process"`
	Created   time.Time         `json:"created"`
	Endpoints []Endpoint        `json:"endpoints,omitempty"`
	Forwards  []Forward         `json:"forwards,omitempty"`
	Files     Files             `json:"files"`
}

// Files are what the workload sees in place of the host's.
type Files struct {
	ResolvConf string `json:"resolvConf,omitempty"` // path on the host
	Hosts      string `json:"hosts,omitempty"`
	Log        string `json:"log,omitempty"` // where a detached command's output goes
}

// Process is the command of a workload.
type Process struct {
	PID     int    `json:"pid,omitempty"`
	Command string `json:"command,omitempty"`
	Exited  bool   `json:"exited,omitempty"`
	Code    int    `json:"code,omitempty"`
}

// Endpoint is one attachment as it is.
type Endpoint struct {
	Workload string   `json:"workload"`
	Network  string   `json:"network"`
	IfName   string   `json:"ifName"`
	HostLink string   `json:"hostLink"`
	MAC      string   `json:"mac"`
	IPs      []string `json:"ips"` // with prefix length
	Gateways []string `json:"gateways,omitempty"`
	Netns    string   `json:"netns"`
	PID      int      `json:"pid,omitempty"`
	Guard    bool     `json:"guard"`
	Isolated bool     `json:"isolated,omitempty"`
	Priority int      `json:"priority,omitempty"`
	// DefaultRoute says that the workload leaves by this endpoint, with IPv4 or IPv6 or both.
	DefaultRoute bool `json:"defaultRoute,omitempty"`

	HostMAC    string          `json:"hostMAC,omitempty"`
	MTU        int             `json:"mtu,omitempty"`    // bytes
	Routes     []EndpointRoute `json:"routes,omitempty"` // beside those to its own subnets
	DNS        []string        `json:"dns,omitempty"`    // resolvers of the network
	Bandwidth  *Bandwidth      `json:"bandwidth,omitempty"`
	Aliases    []string        `json:"aliases,omitempty"`
	Attachment *Attachment     `json:"attachment,omitempty"` // the CNI ADD that made it
}

// ForwardSpec asks for a published port.
type ForwardSpec struct {
	Publish  string `json:"publish"` // [ip:]port[-range]:port[-range][/proto]
	Workload string `json:"workload"`
	Network  string `json:"network,omitempty"` // empty: the workload's nat network
}

// Forward is a published port as it is.
type Forward struct {
	Name      string `json:"name"` // tcp/8080
	Workload  string `json:"workload"`
	Network   string `json:"network"`
	Proto     string `json:"proto"`
	HostIP    string `json:"hostIP,omitempty"`
	HostPorts string `json:"hostPorts"`
	Ports     string `json:"ports"`
	Standing  bool   `json:"standing"` // outlives its workload
	Active    bool   `json:"active"`   // the workload is there
}

// Changed is the answer of a call that changes something: the object as it is now, and what was done for it.
type Changed[T any] struct {
	Object T      `json:"object"`
	Steps  []Step `json:"steps"`
	DryRun bool   `json:"dryRun,omitempty"`
}

// Step is one change of the kernel.
type Step struct {
	Netns   string `json:"netns,omitempty"` // empty: the host's
	Text    string `json:"text"`            // add link fn-lab …
	Command string `json:"command"`         // what one would type to do it by hand: ip link add …; nft add rule …
}

// Autostart switches whether a network starts with the daemon.
type Autostart struct {
	On bool `json:"on"`
}

// Finding is something that doctor noticed.
type Finding struct {
	Code    string `json:"code"`
	Level   string `json:"level"` // ok, note, warning, error
	What    string `json:"what"`
	Owner   string `json:"owner,omitempty"`
	Fix     string `json:"fix,omitempty"`
	Fixable bool   `json:"fixable,omitempty"` // `flatnet doctor --fix CODE` does it
}

// Fix asks to carry out the fixes of one code.
type Fix struct {
	Code string `json:"code"`
}

// Event is something that happened.
type Event struct {
	Time   time.Time `json:"time"`
	Type   string    `json:"type"` // created, deleted, started, stopped, attached, detached, repaired, drift, conflict, resolved, exited, error
	Object string    `json:"object"`
	Text   string    `json:"text,omitempty"`
	Steps  []Step    `json:"steps,omitempty"`
}

// CNIStatus says whether container runtimes get their containers attached.
type CNIStatus struct {
	Ready       bool      `json:"ready"`
	Problems    []Problem `json:"problems,omitempty"` // why not
	Attachments int       `json:"attachments"`        // links of containers that runtimes have here
	Socket      string    `json:"socket"`             // where flatnet-cni finds the daemon
	Network     string    `json:"network,omitempty"`  // where a configuration that names no network attaches now; empty: nowhere
}

// Version tells which program answers.
type Version struct {
	Version string   `json:"version"`
	API     []string `json:"api"`
	PID     int      `json:"pid"`
}

// Status is the daemon's health at a glance.
type Status struct {
	Version   string            `json:"version"`
	Since     time.Time         `json:"since"`
	Networks  int               `json:"networks"`
	Workloads int               `json:"workloads"`
	Forwards  int               `json:"forwards"`
	Cluster   *ClusterHealth    `json:"cluster,omitempty"`
	Repairs   uint64            `json:"repairs"`  // steps of repair since the daemon started
	Looked    time.Time         `json:"looked"`   // when kernel and rules were last read for Findings; doctor reads them at once
	Findings  []Finding         `json:"findings"` // of level warning and above
	Features  map[string]string `json:"features"` // what the kernel was found to have: "ipv6-loopback-forwards": "no: …"
}

// ClusterHealth is a host's cluster at a glance.
type ClusterHealth struct {
	Name  string     `json:"name"`
	Hosts int        `json:"hosts"`
	Alive int        `json:"alive"`          // of them, as far as is known
	Live  bool       `json:"live"`           // the store answers
	Away  *time.Time `json:"away,omitempty"` // since when it does not
	Twin  bool       `json:"twin,omitempty"` // another machine says that it is this host
}

// Problem is one thing wrong with a request.
type Problem struct {
	Code    string `json:"code"`           // FN2107
	File    string `json:"file,omitempty"` // lab.yaml:12; set by the client, which read the file
	Path    string `json:"path,omitempty"` // spec.subnets[0].gateway
	Reason  string `json:"reason"`
	Owner   string `json:"owner,omitempty"`
	Fix     string `json:"fix,omitempty"`
	Example string `json:"example,omitempty"`
}

// Error is the answer when a request is not carried out; with it the status is 4xx or 5xx.
type Error struct {
	Problems []Problem `json:"problems"`
	Exit     int       `json:"exit"` // the exit status that the command line tool shall end with; see Exit…
}

// The exit statuses of flatnet.
const (
	ExitOK           = 0
	ExitNegative     = 1 // drift, diff not empty, dropped
	ExitUsage        = 2
	ExitUnreachable  = 3 // the daemon
	ExitNotPermitted = 4
	ExitInconclusive = 5
	ExitTimeout      = 6
	ExitConflict     = 7
)

// Stop asks to end the processes of a workload.
type Stop struct {
	TimeoutSeconds int `json:"timeoutSeconds"` // between TERM and KILL; 0 means 10
}
