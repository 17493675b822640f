package membership

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/internal/join"
)

// Changed says that the host's links or addresses may be others than before.
func (m *Membership) Changed() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// settle is how long an address must be gone: one that a DHCP client takes away and gives again is not.
const settle = 2 * time.Second

// follow moves what hangs on the host's addresses when they change.
func (m *Membership) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.changed:
		}
		pause(ctx, settle)
		if err := m.move(ctx); err != nil && ctx.Err() == nil {
			m.deps.Log.Error("follow the host's address", "err", err)
			m.deps.Tell("error", "node", "follow the host's address: "+err.Error())
		}
	}
}

// move notes where the host is reached now. On a server etcd, the join port and the certificates move there, too: the other hosts are told so
// with a join of the new address.
func (m *Membership) move(ctx context.Context) error {
	if err := m.take(ctx); err != nil {
		return nil
	}
	defer m.give()
	r := m.now()
	if r == nil || r.Phase != in || m.unread() != nil {
		return nil
	}
	node, err := m.deps.Node(ctx)
	if err != nil {
		return err
	}
	u, err := r.underlay(node)
	if err != nil || slices.Equal(u.addrs, r.Underlay) {
		return nil // without an address there is nowhere to go
	}
	before := r.Underlay
	r.Underlay, r.Why = u.addrs, u.why
	if !r.Server {
		return m.set(*r)
	}
	r.Servers = serversAt(u.addrs)
	if !r.External {
		r.Etcd = []string{urlOf(u.addrs[0], clientPort)}
	}
	if err := m.set(*r); err != nil {
		return err
	}
	m.deps.Tell("moved", "node", fmt.Sprintf("this server is at %s now, before at %s; on the other hosts: flatnet join %s --token T", strings.Join(words(u.addrs), " "), strings.Join(words(before), " "), u.addrs[0]))
	return m.again(ctx, *r)
}

func serversAt(addrs []netip.Addr) []string {
	var list []string
	for _, a := range addrs {
		list = append(list, netip.AddrPortFrom(a, join.Port).String())
	}
	return list
}

// again enters the cluster anew, by what the record says now. What holds in the kernel stays.
func (m *Membership) again(ctx context.Context, r record) error {
	if err := m.deps.Exit(ctx, false); err != nil {
		m.deps.Log.Debug("leave the store for a moment", "err", err)
	}
	m.endSession()
	if err := m.enter(r); err != nil {
		return err
	}
	m.mu.Lock()
	m.broken = nil // new papers were made, if the old ones were damaged
	m.mu.Unlock()
	s, err := m.open(r)
	if err != nil {
		return err
	}
	s.startEtcd()
	s.startNode()
	return nil
}
