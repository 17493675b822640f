package etcd

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

// connections are those that are open to etcd. Linux keeps a TCP connection whose own address the host has no more, and answers never
// come: who knows that closes it, so that another one is made at once instead of after some silence.
type connections struct {
	mu   sync.Mutex
	open map[*connection]bool
}

type connection struct {
	net.Conn
	of *connections
}

// dial is for grpc.WithContextDialer.
func (c *connections) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: dialTime}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	one := &connection{conn, c}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[*connection]bool{}
	}
	c.open[one] = true
	return one, nil
}

// dialTime is how long a server may take to accept a connection; gRPC would wait for 20 s.
const dialTime = 3 * time.Second

// Close is net.Conn's.
func (c *connection) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// closeForeign closes those whose own address is none of the host's.
func (c *connections) closeForeign() {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return // their silence will tell
	}
	ours := map[netip.Addr]bool{}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			ours[p.Addr().Unmap()] = true
		}
	}
	for _, one := range c.all() {
		if a, ok := one.LocalAddr().(*net.TCPAddr); ok && !ours[a.AddrPort().Addr().Unmap().WithZone("")] {
			_ = one.Close() // it is of no use either way
		}
	}
}

func (c *connections) all() []*connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*connection, 0, len(c.open))
	for one := range c.open {
		all = append(all, one)
	}
	return all
}

// Moved says that the host's addresses may be others than before.
func (c *Client) Moved() { c.connections.closeForeign() }
