package etcd

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// Root is where everything stands. Its number is that of the layout of keys, not of the values.
const Root = "/flatnet/v1/"

const (
	networks = "networks/"
	nodes    = "nodes/"
	claims   = "claims/"
	alive    = "alive/"
	founded  = "cluster"
)

// keysSchema is that of values which say nothing that changes: all there is to say stands in their keys.
const keysSchema = 1

// objectKey is where a network or member stands, below the root.
func objectKey(kind store.Kind, name string) string {
	if kind == store.Network {
		return networks + name
	}
	return nodes + name
}

func claimKey(l model.Lease) string {
	return claims + l.Node + "/" + l.Network + "/" + l.Block.String()
}

// place is what a key stands for: an object, a claim, a node that is alive, or which cluster it all is.
type place struct {
	kind    store.Kind // of an object
	name    string
	lease   model.Lease // of a claim
	alive   string      // node
	founded bool
}

// parseKey reads a key without the root. Keys may come from anybody: what is not exactly as it would be written is refused.
func parseKey(key string) (place, error) {
	switch {
	case key == founded:
		return place{founded: true}, nil
	case strings.HasPrefix(key, networks):
		name := key[len(networks):]
		if p, bad := model.CheckName("network", name); bad {
			return place{}, p
		}
		return place{kind: store.Network, name: name}, nil
	case strings.HasPrefix(key, nodes):
		id := key[len(nodes):]
		return place{kind: store.Member, name: id}, checkID(id)
	case strings.HasPrefix(key, alive):
		id := key[len(alive):]
		return place{alive: id}, checkID(id)
	case strings.HasPrefix(key, claims):
		l, err := parseClaim(key[len(claims):])
		return place{lease: l}, err
	}
	return place{}, fmt.Errorf("a key that this flatnetd does not know")
}

func checkID(id string) error {
	if p, bad := model.CheckMemberID(id); bad {
		return p
	}
	return nil
}

func parseClaim(s string) (model.Lease, error) {
	part := strings.SplitN(s, "/", 3)
	if len(part) != 3 {
		return model.Lease{}, fmt.Errorf("a claim is NODE/NETWORK/BLOCK")
	}
	block, err := netip.ParsePrefix(part[2])
	if err != nil {
		return model.Lease{}, fmt.Errorf("block: %w", err)
	}
	if block.String() != part[2] || block != block.Masked() {
		return model.Lease{}, fmt.Errorf("block %q would be written %s", part[2], block.Masked())
	}
	if p, bad := model.CheckName("network", part[1]); bad {
		return model.Lease{}, p
	}
	return model.Lease{Network: part[1], Block: block, Node: part[0]}, checkID(part[0])
}
