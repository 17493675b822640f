package flannel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/storetest"
)

// translated is a Cluster as the contract speaks to one: nodes have names, and say nothing of where they are.
type translated struct {
	*Cluster
	mu   sync.Mutex
	said bool
}

// addressOf gives the contract's nodes addresses: a, b, n0 to n5.
func addressOf(node string) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 0, node[0], 100 + node[len(node)-1]%100})
}

func fromID(id string) string {
	var part [4]int
	if n, _ := fmt.Sscanf(strings.ReplaceAll(id, "-", " "), "flannel %d %d %d %d", &part[0], &part[1], &part[2], &part[3]); n != 4 {
		return id
	}
	for _, name := range []string{"a", "b", "n0", "n1", "n2", "n3", "n4", "n5"} {
		if MemberID(addressOf(name)) == id {
			return name
		}
	}
	return id
}

// as publishes the node that a call is of.
func (c *translated) as(ctx context.Context, node string) (string, error) {
	a := addressOf(node)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.said {
		return MemberID(a), nil
	}
	c.said = true
	_, err := c.Cluster.Write(ctx, store.PutMember(model.Member{ID: MemberID(a), Name: node, Underlay4: a, MTU: 1500, Schema: 1}, store.Any))
	return MemberID(a), err
}

func (c *translated) Watch(ctx context.Context, each func(store.ClusterSnapshot)) error {
	return c.Cluster.Watch(ctx, func(s store.ClusterSnapshot) {
		s.Leases = maps.Clone(s.Leases)
		for key, l := range s.Leases {
			l.Node = fromID(l.Node)
			s.Leases[key] = l
		}
		each(s)
	})
}

func (c *translated) Claim(ctx context.Context, l model.Lease) (store.Held, error) {
	node := l.Node
	var err error
	if l.Node, err = c.as(ctx, node); err != nil {
		return store.Held{}, err
	}
	held, err := c.Cluster.Claim(ctx, l)
	held.Lease.Node = node
	var taken *store.TakenError
	if errors.As(err, &taken) {
		taken.Holder = fromID(taken.Holder)
	}
	return held, err
}

func (c *translated) Renew(ctx context.Context, node string) ([]store.Held, error) {
	id, err := c.as(ctx, node)
	if err != nil {
		return nil, err
	}
	held, err := c.Cluster.Renew(ctx, id)
	for i := range held {
		held[i].Lease.Node = node
	}
	return held, err
}

func (c *translated) Release(ctx context.Context, l model.Lease) (err error) {
	if l.Node, err = c.as(ctx, l.Node); err != nil {
		return err
	}
	return c.Cluster.Release(ctx, l)
}

func TestBlocksKeepTheContractOfClusters(t *testing.T) {
	s := newServer(t)
	storetest.RunClaims(t, func(t *testing.T) storetest.Shared {
		root := fmt.Sprintf("/flannel/%d", ports.Add(1))
		s.put(root+"/config", `{"Network": "10.70.0.0/16", "Backend": {"Type": "host-gw"}}`)
		settings := quick(s, func(set *Settings) {
			set.Prefix, set.Names.Network, set.Grace = root, "pods", 2*time.Second
		})
		return storetest.Shared{Grace: settings.Grace, Alive: settings.Grace,
			Client: func() store.Cluster {
				c, err := Open(settings)
				if err != nil {
					t.Fatal(err)
				}
				return &translated{Cluster: c}
			},
			Wipe: func(l model.Lease) { s.delete(root + "/subnets/" + Subnet{V4: l.Block}.String()) },
		}
	})
}
