package api

import (
	"context"
	"net/http"
	"time"
)

// Init is how a cluster is begun. What is empty has its default.
type Init struct {
	Underlay []string      `json:"underlay,omitempty"` // a link, or one address of each family; default: the link of the default route
	Pools    []string      `json:"pools,omitempty"`    // of the network "cluster"; a prefix, or prefix:bits to say how large blocks are; default 10.244.0.0/16
	Name     string        `json:"name,omitempty"`     // of this host, for people; default: the host name
	Etcd     *ExternalEtcd `json:"etcd,omitempty"`     // nil: flatnet runs one here
}

// ExternalEtcd is one that somebody else runs. All nodes use the same certificate.
type ExternalEtcd struct {
	Endpoints []string `json:"endpoints"`      // URLs
	CA        string   `json:"ca,omitempty"`   // PEM
	Cert      string   `json:"cert,omitempty"` // PEM
	Key       string   `json:"key,omitempty"`  // PEM
}

// Join is how a host becomes a node of a cluster.
type Join struct {
	Address  string   `json:"address"` // of a server: HOST or HOST:PORT; the port is 7700 unless told
	Token    string   `json:"token"`
	Underlay []string `json:"underlay,omitempty"` // default: the address by which the server is reached
	Name     string   `json:"name,omitempty"`     // default: the host name
}

// Membership is this host's place in a cluster.
type Membership struct {
	Cluster  string   `json:"cluster"`
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	State    string   `json:"state"` // in; founding, joining or leaving: what was begun and is not done; with a dry run: free
	Server   bool     `json:"server"`
	Underlay []string `json:"underlay"`
	Link     string   `json:"link,omitempty"`
	Why      string   `json:"why,omitempty"` // that address
	MTU      int      `json:"mtu"`           // bytes, of the link
	Servers  []string `json:"servers"`       // ADDRESS:PORT
	Etcd     []string `json:"etcd"`          // URLs
	External bool     `json:"external,omitempty"`
	Blocks   []string `json:"blocks,omitempty"` // of cluster networks that this host holds
	Networks []string `json:"networks,omitempty"`
	Checks   []Check  `json:"checks,omitempty"` // what was looked at before anything changed
	Token    *Token   `json:"token,omitempty"`  // for the next host, of an init
	Live     bool     `json:"live"`             // the cluster's store answers

	Ways []Way `json:"ways,omitempty"` // to hosts of the cluster, as they were tried after a join

	Remains string `json:"remains,omitempty"` // after a leave: what is to be done on a server that could not be told
}

// Way is what became of packets to another host.
type Way struct {
	Host     string        `json:"host"`
	Network  string        `json:"network"`
	Backend  string        `json:"backend"`
	Underlay string        `json:"underlay"`          // the other host's address
	RTT      time.Duration `json:"rtt,omitempty"`     // nanoseconds, there and back
	Problem  string        `json:"problem,omitempty"` // why they do not arrive: a code and words
	Fix      string        `json:"fix,omitempty"`
}

// Check is one thing that was looked at before a host joins.
type Check struct {
	What   string `json:"what"`   // tcp/7700
	Result string `json:"result"` // ok, or what is wrong
	OK     bool   `json:"ok"`
}

// Token lets hosts join.
type Token struct {
	Name    string    `json:"name"`
	Token   string    `json:"token,omitempty"` // the token itself: told once, when it is made
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Uses    int       `json:"uses"`           // how often it may be used
	Used    []string  `json:"used,omitempty"` // by which hosts it was, by ID
	Join    string    `json:"join,omitempty"` // the command for the other host
}

// TokenSpec is how long and how often a token may be used.
type TokenSpec struct {
	Seconds int `json:"seconds,omitempty"` // default 900
	Uses    int `json:"uses,omitempty"`    // default 10
}

// Host is a node of the cluster.
type Host struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Self     bool     `json:"self,omitempty"`
	Server   bool     `json:"server,omitempty"`
	State    string   `json:"state"` // alive; silent: no sign of life for half a minute
	Underlay []string `json:"underlay"`
	MTU      int      `json:"mtu"`
	Version  string   `json:"version"`
	Schema   int      `json:"schema"`
	Blocks   []string `json:"blocks,omitempty"`
	Problem  string   `json:"problem,omitempty"` // why what the node says of itself is not used
}

// Membership returns this host's place in a cluster; FN2133 when it is in none.
func (c *Client) Membership(ctx context.Context) (Membership, error) {
	return get[Membership](ctx, c, "/cluster")
}

// InitCluster begins a cluster on this host. With DryRun it is only looked whether and how that would be done; Force goes on in spite of checks.
func (c *Client) InitCluster(ctx context.Context, i Init, how ...Option) (Membership, error) {
	return call[Membership](ctx, c, http.MethodPost, path("cluster", "init")+query(how), i)
}

// JoinCluster makes this host a node of a cluster; DryRun and Force are as for InitCluster.
func (c *Client) JoinCluster(ctx context.Context, j Join, how ...Option) (Membership, error) {
	return call[Membership](ctx, c, http.MethodPost, path("cluster", "join")+query(how), j)
}

// LeaveCluster takes this host out of its cluster. With Force also when the cluster cannot be told, or when other hosts are left without
// their server.
func (c *Client) LeaveCluster(ctx context.Context, how ...Option) (Membership, error) {
	return call[Membership](ctx, c, http.MethodPost, path("cluster", "leave")+query(how), nil)
}

// Hosts lists the nodes of the cluster by name.
func (c *Client) Hosts(ctx context.Context) ([]Host, error) { return get[[]Host](ctx, c, "/hosts") }

// RemoveHost takes another node out of the cluster, by name or ID; with Force also one that is alive.
func (c *Client) RemoveHost(ctx context.Context, host string, how ...Option) (Host, error) {
	return call[Host](ctx, c, http.MethodDelete, path("hosts", host)+query(how), nil)
}

// Tokens lists the tokens, oldest first.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	return get[[]Token](ctx, c, "/tokens")
}

// CreateToken makes a token.
func (c *Client) CreateToken(ctx context.Context, s TokenSpec) (Token, error) {
	return call[Token](ctx, c, http.MethodPost, "/tokens", s)
}

// RevokeToken takes a token back: nobody joins with it any more.
func (c *Client) RevokeToken(ctx context.Context, name string) (Token, error) {
	return call[Token](ctx, c, http.MethodDelete, path("tokens", name), nil)
}
