package flannel

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
	"github.com/flatnet/flatnet/internal/store/etcd"
)

// world is what is known of flannel's keys, and who we are among them. It has no effects; a mutex of Cluster's guards it.
type world struct {
	names   Names
	hint    Subnet // what the node held before, by its subnet.env
	foreign bool   // the bridge is the CNI plugin's
	config  Config
	unread  error // why there is no config yet; nil: there is. The first one stands, as with flanneld, until flatnetd starts anew
	newer   error // what has become of config since

	entries  map[string]*entry // by name
	ordered  []*entry          // the same, in the order in which they came; nil: to be put together
	revision int64
	live     bool

	self    model.Member    // as last published; the zero Member: not yet
	id      string          // what we call ourselves, whatever our address becomes; empty: not yet
	held    map[string]grip // by name: ours
	vtep    VTEP            // of our keys, once one was written; kept when they are deleted
	vtep6   VTEP
	settled bool   // what was ours from before is in held
	choice  Subnet // what to take next
}

// Names is what things are called on this node.
type Names struct {
	Network string // of IPv4; that of IPv6 has V6Suffix behind it
	Bridge  string // flannel's cni0
}

// V6Suffix ends the name of the network of flannel's IPv6: it has its own nodes' addresses, and its own tunnel.
const V6Suffix = "-v6"

// entry is one key below subnets/.
type entry struct {
	name   string // below subnets/
	kv     etcd.KV
	subnet Subnet
	value  Value
	id     string // of the node that the value names
	err    error  // why it cannot be read
}

// grip is what we last wrote, or found, at a key of ours.
type grip struct {
	value string
	lease int64
	twin  bool // somebody else has written since
}

func newWorld(s Settings) *world {
	return &world{names: s.Names, hint: s.Hint, foreign: s.ForeignBridge, self: s.Member, id: s.Member.ID,
		unread: errors.New("not read yet"), entries: map[string]*entry{}, held: map[string]grip{}}
}

const (
	configKey  = "config"
	subnetsDir = "subnets/"
)

// MemberID is the id of the node that flannel knows by an address.
func MemberID(public netip.Addr) string {
	return "flannel-" + strings.NewReplacer(".", "-", ":", "-").Replace(public.String())
}

// readAll takes in a whole reading. Keys of ours that were written since stay.
func (w *world) readAll(kvs []etcd.KV, root string, revision int64) {
	later := map[string]*entry{}
	for name, e := range w.entries {
		if _, ours := w.held[name]; ours && e.kv.Modified > revision {
			later[name] = e
		}
	}
	w.entries, w.ordered = later, nil
	for _, kv := range kvs {
		w.take(kv, root)
	}
	w.revision, w.live = revision, true
	w.settle()
}

// changed takes in what has changed, and says whether that is of interest to anybody.
func (w *world) changed(kvs []etcd.KV, root string, revision int64) bool {
	news := !w.live
	for _, kv := range kvs {
		news = w.take(kv, root) || news
	}
	w.revision, w.live = max(w.revision, revision), true
	w.settle()
	return news
}

// take takes in one key.
func (w *world) take(kv etcd.KV, root string) bool {
	key := strings.TrimPrefix(kv.Key, root)
	name, isSubnet := strings.CutPrefix(key, subnetsDir)
	switch {
	case key == configKey:
		return w.takeConfig(kv)
	case !isSubnet:
		return false
	}
	have, known := w.entries[name]
	if known && have.kv.Modified >= kv.Modified {
		return false
	}
	if kv.Deleted {
		return w.forget(name)
	}
	e := read(name, kv)
	w.watchGrip(e)
	if known && have.kv.Created == e.kv.Created {
		same := have.value == e.value && (have.err == nil) == (e.err == nil)
		*have = *e // keeps its place
		return !same
	}
	w.entries[name], w.ordered = e, nil
	return true
}

func (w *world) forget(name string) bool {
	_, known := w.entries[name]
	delete(w.entries, name)
	w.ordered = nil
	return known
}

func read(name string, kv etcd.KV) *entry {
	e := &entry{name: name, kv: kv}
	if e.subnet, e.err = ParseSubnet(name); e.err != nil {
		return e
	}
	if e.value, e.err = ParseValue(kv.Value); e.err == nil {
		e.id = MemberID(e.value.PublicIP)
	}
	return e
}

// watchGrip notices who else writes a key of ours.
func (w *world) watchGrip(e *entry) {
	if g, ours := w.held[e.name]; ours && g.value != "" {
		g.twin = g.value != string(e.kv.Value) || g.lease != e.kv.Lease
		w.held[e.name] = g
	}
}

// takeConfig keeps the first configuration that can be used: nodes that have read another one could not be spoken to.
func (w *world) takeConfig(kv etcd.KV) bool {
	if kv.Deleted {
		w.newer = errors.New("it was deleted; what it said stands until flatnetd starts anew")
		return true
	}
	c, err := ParseConfig(kv.Value)
	if err == nil {
		err = c.spoken()
	}
	switch {
	case w.unread != nil:
		w.config, w.unread = c, err
	case err != nil:
		w.newer = fmt.Errorf("it was changed, and what it said stands: %w", err)
	case c != w.config:
		w.newer = errors.New("it was changed; what it said stands until flatnetd starts anew, as with flanneld")
	default:
		w.newer = nil
	}
	return true
}

// spoken says what of a configuration flatnet does not do.
func (c Config) spoken() error {
	switch {
	case c.Backend.Type != VXLAN && c.Backend.Type != HostGW:
		return fmt.Errorf("backend %q is not one that flatnet speaks: vxlan, host-gw", clip(c.Backend.Type))
	case c.Backend.GBP:
		return errors.New("the group policy bits of GBP are not something that flatnet sends")
	}
	return nil
}

// settle takes over, once, what is ours from before.
func (w *world) settle() {
	if w.settled || w.unread != nil || w.id == "" || !w.live {
		return
	}
	w.settled = true
	for name, e := range w.entries {
		if w.mine(e) && w.config.fitsSubnet(e.subnet) == nil {
			w.held[name] = grip{lease: e.kv.Lease}
		}
	}
}

// owner is the id of who holds an entry that can be read.
func (w *world) owner(e *entry) string {
	if g, ours := w.held[e.name]; ours && (w.mine(e) || g.value == string(e.kv.Value)) {
		return w.id // also while our address is another than when we wrote
	}
	if w.id != "" && w.mine(e) {
		return w.id
	}
	return e.id
}

// mine reports whether a key says that this node holds its subnet.
func (w *world) mine(e *entry) bool {
	return e.err == nil && w.self.Underlay4.IsValid() && e.value.PublicIP == w.self.Underlay4
}

// publish is what the node says of itself.
func (w *world) publish(m model.Member) {
	w.self, w.id = m, m.ID
	w.settle()
}

// order is the entries in the order in which they came: what the first has, no later one can take.
func (w *world) order() []*entry {
	if w.ordered == nil {
		w.ordered = slices.SortedFunc(maps.Values(w.entries), func(a, b *entry) int {
			return cmp.Or(cmp.Compare(a.kv.Created, b.kv.Created), cmp.Compare(a.name, b.name))
		})
	}
	return w.ordered
}

// sound are the entries that can be used, in their order, and why the others cannot.
func (w *world) sound() ([]*entry, map[string]error) {
	all := w.order()
	refused := map[string]error{}
	seen := crowd{blocks: make(map[netip.Prefix]string, len(all)), macs: make(map[model.MAC]netip.Addr, len(all))}
	good := make([]*entry, 0, len(all))
	for _, e := range all {
		if err := w.check(e, seen); err != nil {
			refused[subnetsDir+e.name] = err
			continue
		}
		good = append(good, e)
	}
	return good, refused
}

// crowd is what the entries before one have taken.
type crowd struct {
	blocks map[netip.Prefix]string  // subnet → name of the entry
	macs   map[model.MAC]netip.Addr // of tunnel links → node
}

// check judges one entry, and notes what it takes.
func (w *world) check(e *entry, seen crowd) error {
	if e.err != nil {
		return e.err
	}
	if err := w.config.Fits(e.subnet, e.value); err != nil {
		return err
	}
	if _, ours := w.held[e.name]; w.settled && w.mine(e) && !ours {
		return fmt.Errorf("it says that this node, %s, holds it, which it does not", e.value.PublicIP)
	}
	for _, p := range e.subnet.Prefixes() {
		if other, taken := seen.blocks[p]; taken {
			return fmt.Errorf("%s is held already by the older %s", p, other)
		}
	}
	for _, t := range []VTEP{e.value.VTEP, e.value.VTEPv6} {
		if other, taken := seen.macs[t.MAC]; taken && other != e.value.PublicIP && t != (VTEP{}) {
			return fmt.Errorf("VtepMAC %s belongs to node %s, whose packets it would get", t.MAC, other)
		}
	}
	for _, p := range e.subnet.Prefixes() {
		seen.blocks[p] = e.name
	}
	for _, t := range []VTEP{e.value.VTEP, e.value.VTEPv6} {
		if t != (VTEP{}) {
			seen.macs[t.MAC] = e.value.PublicIP
		}
	}
	return nil
}

// snapshot is what the keys mean.
func (w *world) snapshot() store.ClusterSnapshot {
	n := len(w.entries)
	s := store.ClusterSnapshot{Token: fmt.Sprint(w.revision), Live: w.live, Networks: map[string]model.Network{}, Members: make(map[string]model.Member, n),
		Leases: make(map[model.LeaseKey]model.Lease, n), Alive: make(map[string]bool, n), Unread: map[string]error{}}
	if w.id != "" {
		s.Members[w.id], s.Alive[w.id] = w.self, true
	}
	if w.unread != nil {
		// Nothing may be deleted for want of a configuration.
		s.Token, s.Live, s.Unread[configKey] = "", false, w.unread
		return s
	}
	if w.newer != nil {
		s.Unread[configKey] = w.newer
	}
	good, refused := w.sound()
	for key, err := range refused {
		s.Unread[key] = err
	}
	holds := false
	for _, e := range good {
		id := w.owner(e)
		holds = holds || id == w.id
		if id != w.id {
			s.Members[id], s.Alive[id] = w.stranger(id, e.value), true // that its key stands is all the sign of life there is
		}
		for _, l := range w.leases(e, id) {
			s.Leases[l.Key()] = l
		}
	}
	w.choose(holds)
	for _, n := range w.networks() {
		s.Networks[n.Name] = n
	}
	return s
}

// stranger is another node, of which flannel knows but the addresses. Its MTU is taken to be this node's, as flanneld does.
func (w *world) stranger(id string, v Value) model.Member {
	return model.Member{ID: id, Name: v.PublicIP.String(), Underlay4: v.PublicIP, Underlay6: v.PublicIPv6, MTU: cmp.Or(w.self.MTU, model.DefaultMTU), Version: "by flannel's keys", Schema: store.Schema}
}

func (w *world) leases(e *entry, id string) []model.Lease {
	leases := []model.Lease{{Network: w.names.Network, Block: e.subnet.V4, Node: id, MAC: e.value.VTEP.MAC}}
	if e.subnet.V6.IsValid() {
		leases = append(leases, model.Lease{Network: w.names.Network + V6Suffix, Block: e.subnet.V6, Node: id, MAC: e.value.VTEPv6.MAC})
	}
	return leases
}

// networks are the configuration as ours. Each family is a network by itself, as each has its own tunnel: flannel.1 between the nodes' IPv4
// addresses, flannel-v6.1 between their IPv6 ones.
func (w *world) networks() []model.Network {
	all := []model.Network{w.network(w.config.V4, "flannel.", w.names.Network, w.choice.V4)}
	if w.config.V6.Network.IsValid() {
		all = append(all, w.network(w.config.V6, "flannel-v6.", w.names.Network+V6Suffix, w.choice.V6))
	}
	return all
}

func (w *world) network(r Range, tunnel, name string, next netip.Prefix) model.Network {
	b := w.config.Backend
	o := model.Overlay{Pools: []model.BlockPool{r.Pool()}, Backend: model.Backend(b.Type), VNI: model.DefaultVNI, Port: model.DefaultVXLANPort,
		UnderlayV6: r.Network.Addr().Is6(), DirectRouting: b.DirectRouting, Reserved: r.reserved(),
		Inherited: true, ForeignBridge: w.foreign}
	n := model.Network{Name: name, Mode: model.Cluster, Active: true, Autostart: true}
	if w.foreign || name == w.names.Network {
		n.Bridge = w.names.Bridge // one of ours is of one network
	}
	if b.Type == VXLAN {
		o.VNI, o.Port, o.Tunnel = b.VNI, b.Port, fmt.Sprint(tunnel, b.VNI)
		if b.MTU != 0 {
			n.MTU = b.MTU - o.Overhead() // flannel's is that of the underlay
		}
	}
	if next.IsValid() {
		o.Reserved = append(o.Reserved, model.Reservation{Block: next, Node: w.id})
	}
	n.Cluster = o
	return n
}

// mostReserved bounds the list of what SubnetMin and SubnetMax leave out. The rest of a longer one is refused when it is claimed.
const mostReserved = 64

// reserved are the subnets that flannel never gives out.
func (r Range) reserved() []model.Reservation {
	var all []model.Reservation
	pool := r.Pool()
	for i := uint64(0); i < pool.Count() && len(all) < mostReserved; i++ {
		b := pool.Block(i)
		if r.Gives(b) {
			break
		}
		all = append(all, model.Reservation{Block: b})
	}
	for i := pool.Count(); i > 0 && len(all) < mostReserved; i-- {
		b := pool.Block(i - 1)
		if r.Gives(b) {
			break
		}
		all = append(all, model.Reservation{Block: b})
	}
	return all
}

// choose settles what this node takes if it holds nothing: what it had by its subnet.env, else one of the first hundred free, as flannel does.
// It stays with that while nobody else has it.
func (w *world) choose(holds bool) {
	if holds || w.id == "" {
		w.choice = Subnet{}
		return
	}
	free := w.free()
	w.choice.V4 = pick(w.config.V4, w.choice.V4, w.hint.V4, free)
	if w.config.V6.Network.IsValid() {
		w.choice.V6 = pick(w.config.V6, w.choice.V6, w.hint.V6, free)
	}
}

// free says whether nobody has a block. A key that cannot be used has its block all the same: it could not be written over.
func (w *world) free() func(netip.Prefix) bool {
	taken := make(map[netip.Prefix]bool, len(w.entries))
	for _, e := range w.entries {
		for _, p := range e.subnet.Prefixes() {
			taken[p] = true
		}
	}
	return func(p netip.Prefix) bool { return !taken[p] }
}

// hundred is among how many free subnets flannel draws, so that nodes that start at once seldom want the same.
const (
	hundred   = 100
	mostTried = 1 << 20
)

func pick(r Range, last, hint netip.Prefix, free func(netip.Prefix) bool) netip.Prefix {
	for _, p := range []netip.Prefix{last, hint} {
		if p.IsValid() && r.Gives(p) && free(p) {
			return p
		}
	}
	var some []netip.Prefix
	pool := r.Pool()
	start, _ := pool.Index(netip.PrefixFrom(r.Min, r.Bits))
	for i := start; i < pool.Count() && i-start < mostTried && len(some) < hundred; i++ {
		if p := pool.Block(i); r.Gives(p) && free(p) {
			some = append(some, p)
		}
	}
	if len(some) == 0 {
		return netip.Prefix{}
	}
	return some[rand.IntN(len(some))]
}
