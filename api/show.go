package api

import (
	"context"
	"net/url"
)

// The kinds of what `flatnet show` and GET /v1/show/KIND list: all there is in a network namespace, flatnet's and others', each with
// the workload and the network that it belongs to; both are empty for what is not flatnet's.
const (
	ShowBridges = "bridges"
	ShowRoutes  = "routes"
	ShowLinks   = "links"
	ShowNeigh   = "neigh"
	ShowNFT     = "nft"
)

// HostBridge is a bridge of the host, as `brctl show` lists it.
type HostBridge struct {
	Name    string       `json:"name"`
	ID      string       `json:"id"` // priority and MAC: 8000.0211223344ff
	STP     bool         `json:"stp"`
	Ports   []BridgePort `json:"ports"`
	Network string       `json:"network,omitempty"`
}

// BridgePort is a link in a bridge.
type BridgePort struct {
	Link     string `json:"link"`
	Workload string `json:"workload,omitempty"`
}

// Link is a link, as `ip link` lists it.
type Link struct {
	Index     int      `json:"index"`
	Name      string   `json:"name"`
	Kind      string   `json:"kind,omitempty"` // veth, bridge, …; empty for hardware and lo
	Flags     []string `json:"flags"`
	State     string   `json:"state"` // operational: UP, DOWN, UNKNOWN, LOWERLAYERDOWN
	MTU       int      `json:"mtu"`   // bytes
	MAC       string   `json:"mac,omitempty"`
	Master    string   `json:"master,omitempty"`
	Peer      string   `json:"peer,omitempty"` // the other end or the link below: eth0 in web, eth0, if7 (in another namespace)
	Qdisc     string   `json:"qdisc,omitempty"`
	Addresses []string `json:"addresses,omitempty"` // with prefix length
	Workload  string   `json:"workload,omitempty"`
	Network   string   `json:"network,omitempty"`
}

// Route is one next hop of a route, as `ip route` lists it.
type Route struct {
	Dest    string   `json:"dest"`          // 10.66.0.0/24; 0.0.0.0/0 and ::/0 are the default routes
	Type    string   `json:"type"`          // unicast, local, broadcast, blackhole, …
	Via     string   `json:"via,omitempty"` // empty: on-link
	Link    string   `json:"link,omitempty"`
	Source  string   `json:"source,omitempty"`
	Proto   string   `json:"proto"`           // kernel, static, dhcp, …; 157 is flatnet's
	Scope   string   `json:"scope,omitempty"` // IPv4: global, link, host
	Metric  uint32   `json:"metric"`
	Table   string   `json:"table"`           // main, local, default, or a number
	State   []string `json:"state,omitempty"` // dead, linkdown, onlink
	MTU     int      `json:"mtu,omitempty"`   // bytes
	Network string   `json:"network,omitempty"`
}

// Neighbour is an entry of the neighbour table, as `ip neighbour` lists it.
type Neighbour struct {
	Address  string `json:"address"`
	Link     string `json:"link"`
	MAC      string `json:"mac,omitempty"`
	State    string `json:"state"` // REACHABLE, STALE, FAILED, PERMANENT, …; PROXY: the host answers for the address
	Router   bool   `json:"router,omitempty"`
	Workload string `json:"workload,omitempty"`
	Network  string `json:"network,omitempty"`
	Host     bool   `json:"host,omitempty"`     // it is this host
	Conflict string `json:"conflict,omitempty"` // the address is Workload's, but the MAC is not: whose it is, in words
}

// NFTObject is one object of flatnet's nft tables, as `nft list` writes it.
type NFTObject struct {
	Kind      string   `json:"kind"`                // table, set, map, element, chain, rule
	Family    string   `json:"family"`              // inet, bridge
	Name      string   `json:"name"`                // the table's, set's or chain's; of an element its set's, of a rule its chain's
	Text      string   `json:"text"`                // what stands in the listing for it
	Comment   string   `json:"comment,omitempty"`   // of a rule: why
	Networks  []string `json:"networks,omitempty"`  // that it is for; of a rule those with elements in the sets that it asks
	Workloads []string `json:"workloads,omitempty"` // of an element
	Forwards  []string `json:"forwards,omitempty"`  // of an element of the forwards' maps
	Idle      bool     `json:"idle,omitempty"`      // a rule that no packet can match now: a set that it asks is empty
	Stray     bool     `json:"stray,omitempty"`     // nobody asked for it: drift
}

// HostBridges lists the bridges of the host.
func (c *Client) HostBridges(ctx context.Context) ([]HostBridge, error) {
	return get[[]HostBridge](ctx, c, show(ShowBridges, ""))
}

// Links lists the links of the host, or of a workload's namespace.
func (c *Client) Links(ctx context.Context, workload string) ([]Link, error) {
	return get[[]Link](ctx, c, show(ShowLinks, workload))
}

// Routes lists the routes of all tables of the host, or of a workload's namespace.
func (c *Client) Routes(ctx context.Context, workload string) ([]Route, error) {
	return get[[]Route](ctx, c, show(ShowRoutes, workload))
}

// Neighbours lists the neighbours of the host, or of a workload's namespace.
func (c *Client) Neighbours(ctx context.Context, workload string) ([]Neighbour, error) {
	return get[[]Neighbour](ctx, c, show(ShowNeigh, workload))
}

// NFT lists flatnet's nft tables in the order of a listing: a table, its sets and maps each with its elements, its chains each with its
// rules.
func (c *Client) NFT(ctx context.Context) ([]NFTObject, error) {
	return get[[]NFTObject](ctx, c, show(ShowNFT, ""))
}

func show(kind, workload string) string {
	p := path("show", kind)
	if workload != "" {
		p += "?" + url.Values{"workload": {workload}}.Encode()
	}
	return p
}
