package dataplane

import "fmt"

// Object is one kernel object as we want or see it. The set of kinds is closed.
type Object interface {
	// Key is the object with only its identity fields set.
	Key() Key
	// String is the object in iproute2's or nft's words.
	String() string
	kind() kind
}

// Key identifies an Object: it is one, with only its identity fields set.
type Key Object

// kind orders the steps of a Plan: additions in this order, deletions in the reverse.
type kind uint8

const (
	kindHostSysctl kind = iota // of links that are not ours, and global ones
	kindNetns
	kindTable
	kindSet
	kindChain
	kindRule
	kindElement
	kindLoopbackForward // before the programs that read them
	kindProgram
	kindBridge
	kindLink
	kindPort
	kindShaper
	kindRedirect // by way of links that are shaped by then
	kindLinkSysctl
	kindAddress
	kindNeighbour // before the routes by way of it
	kindFDB
	kindRouteRule // a table that is empty still is passed by
	kindRoute
	kindProxyNeighbour
)

// State is a set of objects, each under its key.
type State map[Key]Object

// Put adds an object; a second one under the same key is an error, as two parts of a host then claim one thing.
func (s State) Put(objects ...Object) error {
	for _, o := range objects {
		key := o.Key()
		if key == o { // most are all identity: one value in memory serves as both
			key = o
		}
		if old, taken := s[key]; taken && old != o {
			return fmt.Errorf("two parts claim one object: %q and %q", old, o)
		}
		s[key] = o
	}
	return nil
}

// Host is everything one machine must run: a State for each network namespace, by path; "" is the daemon's own.
type Host struct {
	Netns map[string]State
}

// HostNetns is the key of the daemon's own namespace in Host.Netns.
const HostNetns = ""

// State returns the State of a namespace, made empty when it is not there yet.
func (h *Host) State(netns string) State {
	if h.Netns == nil {
		h.Netns = map[string]State{}
	}
	if h.Netns[netns] == nil {
		h.Netns[netns] = State{}
	}
	return h.Netns[netns]
}

// Merge adds all of part to h.
func (h *Host) Merge(part Host) error {
	for netns, state := range part.Netns {
		into := h.State(netns)
		for _, o := range state {
			if err := into.Put(o); err != nil {
				return err
			}
		}
	}
	return nil
}
