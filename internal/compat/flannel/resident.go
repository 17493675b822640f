package flannel

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/store"
)

// DefaultSubnetFile is where flannel's CNI plugin looks.
const DefaultSubnetFile = "/run/flannel/subnet.env"

// Whose the bridge cni0 is.
const (
	BridgeAuto   = "auto"   // the CNI plugin's, if that is set up here or has made one; else ours
	BridgeOurs   = "ours"   // flatnet's: its workloads are on it
	BridgeTheirs = "theirs" // the CNI plugin's: flatnet has the tunnel, the routes and the rules
)

// Options are what an operator says of a host that is to be one of flannel's nodes.
type Options struct {
	Settings
	SubnetFile string // default DefaultSubnetFile
	Iface      string // name of a link, or an address, where the other nodes reach this one; empty: that of the default route
	Bridge     string // one of the above
	CNIDir     string // default /etc/cni/net.d
	Version    string // of this flatnetd, for people
	Log        *slog.Logger
}

// Resident is a host among flannel's nodes: what package agent needs to enter, and subnet.env for the CNI plugin.
type Resident struct {
	o Options

	mu      sync.Mutex
	self    string
	cluster *Cluster
	wrote   string // what subnet.env says, as far as we know
}

// NewResident has done nothing yet.
func NewResident(o Options) *Resident {
	if o.SubnetFile == "" {
		o.SubnetFile = DefaultSubnetFile
	}
	if o.CNIDir == "" {
		o.CNIDir = "/etc/cni/net.d"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Resident{o: o}
}

// Open begins to follow flannel's keys as the node that this host is by its links and routes now. An error says why it is none yet.
func (r *Resident) Open(node model.Node) (store.Cluster, string, error) {
	_, addr, err := r.underlay(node)
	if err != nil {
		return nil, "", err
	}
	r.setSelf(MemberID(addr))
	s := r.o.Settings
	if s.Member, err = r.Describe(node); err != nil {
		return nil, "", err
	}
	s.Hint = r.hint()
	bridge := s.Names.Bridge
	if bridge == "" {
		bridge = DefaultBridge
	}
	s.ForeignBridge = r.o.Bridge == BridgeTheirs || r.o.Bridge != BridgeOurs && r.theirs(node, bridge)
	c, err := Open(s)
	if err != nil {
		return nil, "", err
	}
	r.o.Log.Info("one of flannel's nodes", "etcd", s.Endpoints, "as", addr, "keys", c.root, "bridge of the CNI plugin", s.ForeignBridge)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cluster = c
	return c, s.Member.ID, nil
}

func (r *Resident) setSelf(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.self = id
}

// hint is the subnet that the file of before says; zero when there is none.
func (r *Resident) hint() Subnet {
	data, err := os.ReadFile(r.o.SubnetFile)
	if errors.Is(err, fs.ErrNotExist) {
		return Subnet{}
	}
	var e Env
	if err == nil {
		e, err = ParseEnv(data)
	}
	if err != nil {
		r.o.Log.Warn("what this node held before is not known", "file", r.o.SubnetFile, "err", err)
		return Subnet{}
	}
	return e.Held()
}

// theirs reports whether flannel's CNI plugin is at work here.
func (r *Resident) theirs(node model.Node, bridge string) bool {
	if l, there := node.Link(bridge); there && l.Bridge {
		return true // one of ours is not among the node's
	}
	files, _ := filepath.Glob(filepath.Join(r.o.CNIDir, "*.conf*"))
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil && bytes.Contains(data, []byte(`"flannel"`)) {
			return true
		}
	}
	return false
}

// underlay is the link and the IPv4 address by which the others reach this host.
func (r *Resident) underlay(node model.Node) (model.HostLink, netip.Addr, error) {
	if a, err := netip.ParseAddr(r.o.Iface); err == nil {
		if link, has := node.Has(a); has && a.Is4() {
			l, _ := node.Link(link)
			return l, a, nil
		}
		return model.HostLink{}, a, fmt.Errorf("no link of this host has the IPv4 address %s", a)
	}
	links := node.Uplinks()
	if r.o.Iface != "" {
		l, there := node.Link(r.o.Iface)
		if !there {
			return model.HostLink{}, netip.Addr{}, fmt.Errorf("there is no link %s", r.o.Iface)
		}
		links = []model.HostLink{l}
	}
	for _, l := range links {
		if a := node.AddrOn(l.Name, false); a.IsValid() {
			return l, a, nil
		}
	}
	return model.HostLink{}, netip.Addr{}, errors.New("the host has no IPv4 address by which others could reach it: no default route leads by a link that has one; name the link with --flannel-iface")
}

// Describe is how this host is to be known.
func (r *Resident) Describe(node model.Node) (model.Member, error) {
	l, addr, err := r.underlay(node)
	if err != nil {
		return model.Member{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m := model.Member{ID: r.self, Name: node.Name, Underlay4: addr, Underlay6: node.AddrOn(l.Name, true), MTU: l.MTU, Version: r.o.Version, Schema: store.Schema}
	if _, bad := model.CheckName("node", m.Name); bad {
		m.Name = addr.String()
	}
	return m, nil
}

// Adopted hears of what the host has taken over: then subnet.env is written, if it says something else.
func (r *Resident) Adopted(v model.View) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cluster == nil {
		return
	}
	env, ok := r.cluster.env(v)
	if !ok || env.String() == r.wrote {
		return
	}
	if err := writeFile(r.o.SubnetFile, env.String()); err != nil {
		r.o.Log.Error("write the CNI plugin's file; it is tried again", "err", err)
		return
	}
	r.wrote = env.String()
	r.o.Log.Info("wrote the CNI plugin's file", "file", r.o.SubnetFile, "subnet", env.Subnet, "mtu", env.MTU)
}

// env is the file for what a host has of the networks; ok is false while it has nothing.
func (c *Cluster) env(v model.View) (Env, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.world
	four, six := v.Networks[w.names.Network], v.Networks[w.names.Network+V6Suffix]
	if w.unread != nil || !four.Active || len(four.Subnets) == 0 {
		return Env{}, false
	}
	s, mtu := Subnet{V4: four.Subnets[0].Prefix}, v.MTU(four)
	if w.config.V6.Network.IsValid() {
		if len(six.Subnets) == 0 {
			return Env{}, false // it is about to come
		}
		s.V6, mtu = six.Subnets[0].Prefix, min(mtu, v.MTU(six))
	}
	return w.config.Env(s, mtu, true), true // the rules masquerade, so the bridge plugin need not
}

// writeFile puts a file in its place as a whole.
func writeFile(path, text string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".subnet-")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
