package kernel

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/netlink"
)

// broom deletes links of the host without waiting for the kernel, which for some 20 ms after a link is gone waits until no packet
// uses what it was made of. Each deletion has a socket of its own meanwhile.
type broom struct {
	another func() (done func()) // see Config
	mu      sync.Mutex
	idle    []*netlink.Conn
	closed  bool
	busy    chan struct{} // has room for as many as may be at work: each holds a thread
}

const maxSweeps = 32

func newBroom(another func() (done func())) *broom {
	if another == nil {
		another = func() (done func()) { return func() {} }
	}
	return &broom{another: another, busy: make(chan struct{}, maxSweeps)}
}

// delete returns when the link is gone, or why not.
func (b *broom) delete(host *space, index int) error {
	b.busy <- struct{}{}
	conn, err := b.take(host)
	if err != nil {
		<-b.busy
		return err
	}
	batch := &netlink.Batch{}
	encodeDelete(batch, index)
	done := b.another()
	return conn.DoEarly(batch, func() {
		done()
		b.giveBack(conn)
		<-b.busy
	})
}

func (b *broom) take(host *space) (conn *netlink.Conn, err error) {
	b.mu.Lock()
	if n := len(b.idle); n > 0 {
		conn, b.idle = b.idle[n-1], b.idle[:n-1]
	}
	b.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	err = host.do(func() (err error) {
		conn, err = netlink.Open(unix.NETLINK_ROUTE)
		return err
	})
	return conn, err
}

func (b *broom) giveBack(conn *netlink.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		conn.Close()
		return
	}
	b.idle = append(b.idle, conn)
}

func (b *broom) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, conn := range b.idle {
		conn.Close()
	}
	b.idle = nil
}
