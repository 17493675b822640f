package foreign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/kernel/nfnl"
)

const (
	reads       = 10    // how often a ruleset that changes under our eyes is read
	elementsMax = 65536 // of one set; the rest is not looked at
	ownTable    = "flatnet"
	elemKeyEnd  = 10 // NFTA_SET_ELEM_KEY_END
)

// Read reads all of netfilter but our own tables, in the network namespace of the calling thread. It needs CAP_NET_ADMIN.
func Read(ctx context.Context) (Ruleset, error) {
	sock, err := nfnl.Dial(0)
	if err != nil {
		return Ruleset{}, fmt.Errorf("foreign rules: %w", err)
	}
	defer sock.Close()
	r := Ruleset{Links: linkIndexes(), BridgeNF: map[bool]bool{false: isOn("bridge-nf-call-iptables"), true: isOn("bridge-nf-call-ip6tables")}}
	if r.Chains, err = readNFTables(ctx, sock); err != nil {
		return Ruleset{}, fmt.Errorf("foreign rules: nf_tables: %w", err)
	}
	legacy, err := readLegacy()
	if err != nil {
		return Ruleset{}, fmt.Errorf("foreign rules: ip_tables: %w", err)
	}
	r.Chains = append(r.Chains, legacy...)
	return r, nil
}

// isOn reads a sysctl of net.bridge, which is there only with br_netfilter.
func isOn(name string) bool {
	b, err := os.ReadFile("/proc/sys/net/bridge/" + name)
	return err == nil && strings.TrimSpace(string(b)) == "1"
}

func linkIndexes() map[string]uint32 {
	indexes := map[string]uint32{}
	links, err := net.Interfaces()
	if err != nil {
		return indexes // rules by index then may match or not
	}
	for _, l := range links {
		indexes[l.Name] = uint32(l.Index)
	}
	return indexes
}

func readNFTables(ctx context.Context, sock *nfnl.Socket) ([]Chain, error) {
	var err error
	for range reads {
		r := reader{ctx: ctx, sock: sock, sets: map[setKey]*Set{}, chains: map[setKey]int{}}
		if err = r.all(); err == nil {
			return r.list, nil
		}
		if !errors.Is(err, nfnl.ErrInterrupted) && !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	return nil, err
}

// reader reads nf_tables once.
type reader struct {
	ctx    context.Context
	sock   *nfnl.Socket
	list   []Chain
	chains map[setKey]int // places in list
	sets   map[setKey]*Set
}

// setKey names a set or chain.
type setKey struct {
	family uint8
	table  string
	name   string
}

// isOwn reports whether a table is one of ours.
func isOwn(family uint8, table string) bool {
	return table == ownTable && (family == unix.NFPROTO_INET || family == unix.NFPROTO_BRIDGE)
}

func (r *reader) all() error {
	if err := r.readSets(); err != nil {
		return err
	}
	if err := r.readChains(); err != nil {
		return err
	}
	return r.readRules()
}

func (r *reader) readChains() error {
	asleep, err := r.sleepingTables()
	if err != nil {
		return err
	}
	return r.sock.Dump(r.ctx, unix.NFT_MSG_GETCHAIN, unix.AF_UNSPEC, nil, func(m nfnl.Message) {
		c := chainOf(m)
		if isOwn(m.Family, c.Table) || asleep[setKey{m.Family, c.Table, ""}] {
			return
		}
		r.chains[setKey{m.Family, c.Table, c.Name}] = len(r.list)
		r.list = append(r.list, c)
	})
}

// sleepingTables are those with the flag dormant, whose chains see no packets.
func (r *reader) sleepingTables() (map[setKey]bool, error) {
	asleep := map[setKey]bool{}
	err := r.sock.Dump(r.ctx, unix.NFT_MSG_GETTABLE, unix.AF_UNSPEC, nil, func(m nfnl.Message) {
		if nfnl.Get(m.Attrs, unix.NFTA_TABLE_FLAGS).Uint32()&1 != 0 { // NFT_TABLE_F_DORMANT
			asleep[setKey{m.Family, nfnl.Get(m.Attrs, unix.NFTA_TABLE_NAME).String(), ""}] = true
		}
	})
	return asleep, err
}

func chainOf(m nfnl.Message) Chain {
	c := Chain{Family: familyName(m.Family)}
	for a := range nfnl.Attrs(m.Attrs) {
		switch a.Type {
		case unix.NFTA_CHAIN_TABLE:
			c.Table = a.String()
		case unix.NFTA_CHAIN_NAME:
			c.Name = a.String()
		case unix.NFTA_CHAIN_HOOK:
			c.Hook = hookName(m.Family, nfnl.Get(a.Value, unix.NFTA_HOOK_HOOKNUM).Uint32())
			c.Priority = int(int32(nfnl.Get(a.Value, unix.NFTA_HOOK_PRIORITY).Uint32()))
			c.Device = nfnl.Get(a.Value, unix.NFTA_HOOK_DEV).String()
		case unix.NFTA_CHAIN_POLICY:
			c.Drops = a.Uint32() == nfDrop
		}
	}
	return c
}

func familyName(n uint8) string {
	switch n {
	case unix.NFPROTO_INET:
		return "inet"
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_IPV6:
		return "ip6"
	case unix.NFPROTO_BRIDGE:
		return "bridge"
	case unix.NFPROTO_NETDEV:
		return "netdev"
	case unix.NFPROTO_ARP:
		return "arp"
	}
	return fmt.Sprint("family ", n)
}

// hookName: linux/netfilter.h, NF_INET_… and NF_NETDEV_….
func hookName(family uint8, n uint32) string {
	names := []string{"prerouting", "input", "forward", "output", "postrouting", "ingress"}
	if family == unix.NFPROTO_NETDEV {
		names = []string{"ingress", "egress"}
	}
	if int(n) < len(names) {
		return names[n]
	}
	return fmt.Sprint("hook ", n)
}

func (r *reader) readRules() error {
	return r.sock.Dump(r.ctx, unix.NFT_MSG_GETRULE, unix.AF_UNSPEC, nil, func(m nfnl.Message) {
		table := nfnl.Get(m.Attrs, unix.NFTA_RULE_TABLE).String()
		at, ok := r.chains[setKey{m.Family, table, nfnl.Get(m.Attrs, unix.NFTA_RULE_CHAIN).String()}]
		if !ok {
			return
		}
		c := compiler{family: m.Family, set: func(name string) *Set { return r.sets[setKey{m.Family, table, name}] }}
		rule := c.compile(bytes.Clone(nfnl.Get(m.Attrs, unix.NFTA_RULE_EXPRESSIONS).Value))
		r.list[at].Rules = append(r.list[at].Rules, rule)
	})
}

func (r *reader) readSets() error {
	err := r.sock.Dump(r.ctx, unix.NFT_MSG_GETSET, unix.AF_UNSPEC, nil, func(m nfnl.Message) {
		table := nfnl.Get(m.Attrs, unix.NFTA_SET_TABLE).String()
		if isOwn(m.Family, table) {
			return
		}
		s := setOf(m.Attrs)
		r.sets[setKey{m.Family, table, s.Name}] = s
	})
	for key, s := range r.sets {
		if err == nil {
			err = r.readElements(key, s)
		}
	}
	return err
}

func setOf(attrs []byte) *Set {
	s := &Set{Name: nfnl.Get(attrs, unix.NFTA_SET_NAME).String()}
	flags := nfnl.Get(attrs, unix.NFTA_SET_FLAGS).Uint32()
	fields := nfnl.Get(nfnl.Get(attrs, unix.NFTA_SET_DESC).Value, 2).Value // NFTA_SET_DESC_CONCAT
	for f := range nfnl.Attrs(fields) {
		s.Parts = append(s.Parts, int(nfnl.Get(f.Value, 1).Uint32())) // NFTA_SET_FIELD_LEN
	}
	if len(s.Parts) == 0 {
		s.Parts = []int{int(nfnl.Get(attrs, unix.NFTA_SET_KEY_LEN).Uint32())}
	}
	s.Interval = flags&unix.NFT_SET_INTERVAL != 0 && len(s.Parts) == 1
	s.Partial = flags&unix.NFT_SET_EVAL != 0 // packets add to it
	return s
}

func (r *reader) readElements(key setKey, s *Set) error {
	filter := func(w *nfnl.Writer) {
		w.String(unix.NFTA_SET_ELEM_LIST_TABLE, key.table)
		w.String(unix.NFTA_SET_ELEM_LIST_SET, key.name)
	}
	err := r.sock.Dump(r.ctx, unix.NFT_MSG_GETSETELEM, key.family, filter, func(m nfnl.Message) {
		for a := range nfnl.Attrs(nfnl.Get(m.Attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS).Value) {
			if len(s.Elements) == elementsMax {
				s.Partial = true
				return
			}
			s.add(a.Value)
		}
	})
	if s.Interval {
		slices.SortStableFunc(s.Elements, func(a, b Element) int { return bytes.Compare(a.Key, b.Key) })
	}
	return err
}

func (s *Set) add(attrs []byte) {
	var e Element
	var flags uint32
	for a := range nfnl.Attrs(attrs) {
		switch a.Type {
		case unix.NFTA_SET_ELEM_KEY:
			e.Key = bytes.Clone(nfnl.Get(a.Value, unix.NFTA_DATA_VALUE).Value)
		case elemKeyEnd:
			e.Last = bytes.Clone(nfnl.Get(a.Value, unix.NFTA_DATA_VALUE).Value)
		case unix.NFTA_SET_ELEM_DATA:
			e.Verdict = verdictOf(nfnl.Get(a.Value, unix.NFTA_DATA_VERDICT).Value)
		case unix.NFTA_SET_ELEM_FLAGS:
			flags = a.Uint32()
		}
	}
	e.End = flags&unix.NFT_SET_ELEM_INTERVAL_END != 0
	if len(e.Key) == 0 { // NFT_SET_ELEM_CATCHALL: whatever no other element has
		s.Partial = true
		return
	}
	s.Elements = append(s.Elements, e)
}
