package join

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

// The bounds of what one address may try. A secret has 128 bits: this is against load and noise, not against guessing.
const (
	burst      = 20              // attempts that may fail at once
	refill     = 3 * time.Second // until one more may
	mostTold   = 4096            // addresses that are remembered
	mostAtOnce = 128             // connections
	mostOfOne  = 32              // connections of one address: the others are for the others, however slowly it speaks
)

// limiter counts failed attempts by address, an IPv6 one by its /64.
type limiter struct {
	mu    sync.Mutex
	spent map[netip.Prefix]bucket
}

// bucket is how much was tried, as of a time.
type bucket struct {
	tries float64
	at    time.Time
}

func newLimiter() *limiter { return &limiter{spent: map[netip.Prefix]bucket{}} }

// take counts an attempt, unless there were too many; give takes it back when it was a good one.
func (l *limiter) take(a netip.Addr, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := sourceOf(a)
	b := l.spent[key].asOf(now)
	if b.tries+1 > burst {
		l.spent[key] = b
		return false
	}
	l.forget(now)
	b.tries++
	l.spent[key] = b
	return true
}

func (l *limiter) give(a netip.Addr, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.spent[sourceOf(a)].asOf(now)
	b.tries = max(b.tries-1, 0)
	l.spent[sourceOf(a)] = b
}

// asOf is the bucket as of now.
func (b bucket) asOf(now time.Time) bucket {
	passed := max(now.Sub(b.at), 0)
	return bucket{max(b.tries-float64(passed)/float64(refill), 0), now}
}

// forget makes room: those that may try anything again go, and when all are busy, any.
func (l *limiter) forget(now time.Time) {
	if len(l.spent) < mostTold {
		return
	}
	for key, b := range l.spent {
		if b.asOf(now).tries == 0 || len(l.spent) > mostTold/2 {
			delete(l.spent, key)
		}
	}
}

func sourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// limited is a listener with a bound on its open connections, of all and of each address.
type limited struct {
	net.Listener
	free chan struct{}
	ctx  context.Context // of the listener's life

	mu   sync.Mutex
	open map[netip.Addr]int
}

func limitListener(ctx context.Context, l net.Listener) net.Listener {
	return &limited{Listener: l, free: make(chan struct{}, mostAtOnce), ctx: ctx, open: map[netip.Addr]int{}}
}

// Accept is net.Listener's. Who has too many connections is hung up on.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			<-l.free
			return nil, err
		}
		from := peerOf(c)
		if !l.enter(from) {
			_ = c.Close()
			continue
		}
		return &limitedConn{Conn: c, done: sync.OnceFunc(func() { l.leave(from) })}, nil
	}
}

func (l *limited) enter(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[from] >= mostOfOne {
		return false
	}
	l.open[from]++
	return true
}

func (l *limited) leave(from netip.Addr) {
	l.mu.Lock()
	if l.open[from]--; l.open[from] == 0 {
		delete(l.open, from)
	}
	l.mu.Unlock()
	<-l.free
}

func peerOf(c net.Conn) netip.Addr {
	a, _ := netip.ParseAddrPort(c.RemoteAddr().String())
	return a.Addr().Unmap()
}

type limitedConn struct {
	net.Conn
	done func()
}

// Close is net.Conn's.
func (c *limitedConn) Close() error {
	defer c.done()
	return c.Conn.Close()
}
