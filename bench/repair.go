package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel"
	"github.com/flatnet/flatnet/internal/kernel/netlink"
	"github.com/flatnet/flatnet/internal/kernel/nft"
	"github.com/flatnet/flatnet/internal/model"
)

// repairGoal is what the time from a change by hand to its repair should be below.
const repairGoal = 100 * time.Millisecond

// repairs measures how long what somebody takes away by hand is gone, on a host of flatnetd's: from the kernel's first word of it,
// which the daemon hears too, until it is back.
func repairs(ctx context.Context, b *bench) error {
	populations, rounds := []int{100, manyEndpoints}, 10
	if b.quick {
		populations, rounds = []int{5}, 2
	}
	h, err := newDaemonHost(ctx, b, "repair")
	if err != nil {
		return err
	}
	defer h.stop()
	fmt.Printf("%-9s %-34s %10s %10s\n", "PRESENT", "TAKEN AWAY BY HAND", "BACK IN ms", "WORST ms")
	for _, n := range populations {
		if err := h.populate(ctx, n); err != nil {
			return err
		}
		if err := h.calmDown(); err != nil {
			return err
		}
		v, err := newVandal(ctx, h)
		if err != nil {
			return err
		}
		for _, d := range v.damages() {
			if err := v.measure(ctx, n, d, rounds); err != nil {
				return fmt.Errorf("%s: %w", d.name, err)
			}
		}
		v.close()
	}
	return nil
}

// vandal changes the host of a daemon behind its back, over sockets of its own.
type vandal struct {
	netns  string // path
	kernel *kernel.Kernel
	rules  *nft.Conn
	host   *netlink.Conn
	inet   int // socket on the host for ioctls, and …
	inside int // … in the first workload's namespace
	before dataplane.State
}

func newVandal(ctx context.Context, h *daemonHost) (v *vandal, err error) {
	v = &vandal{netns: "/run/netns/host-" + h.label}
	err = within(v.netns, func() (err error) {
		if v.rules, err = nft.New(nft.Config{}); err != nil {
			return err
		}
		if v.host, err = netlink.Open(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		if v.inet, err = openInet(); err != nil {
			return err
		}
		v.kernel, err = kernel.New(kernel.Config{RunDir: filepath.Join("/run", h.label, "vandal"), Nft: v.rules})
		return err
	})
	if err != nil {
		return nil, err
	}
	err = within(h.netns(0), func() (err error) {
		v.inside, err = openInet()
		return err
	})
	if err != nil {
		return nil, err
	}
	v.before, err = v.kernel.Observe(ctx, dataplane.HostNetns)
	return v, err
}

func (v *vandal) close() {
	v.kernel.Close()
	v.host.Close()
	unix.Close(v.inet)
	unix.Close(v.inside)
}

func openInet() (int, error) { return unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) }

// damage is one way to harm a host.
type damage struct {
	name string
	plan dataplane.Plan
	back func() asked // called before the damage
}

// asked reports whether something is so.
type asked func(ctx context.Context) (bool, error)

const labBridge = "fn-" + labNetwork

func (v *vandal) damages() []damage {
	gateway := v.object(func(o dataplane.Object) bool {
		a, ok := o.(dataplane.Address)
		return ok && a.Prefix.Addr().Is4()
	})
	bridge := v.before[dataplane.Link{Name: labBridge}.Key()].(dataplane.Link)
	port := v.before[dataplane.Link{Name: model.HostLinkName(labName(0), "eth0")}.Key()].(dataplane.Link)
	unplugged, small, down := port, port, bridge
	unplugged.Master, small.MTU, down.Up = "", port.MTU-100, false
	element := v.object(func(o dataplane.Object) bool {
		e, ok := o.(dataplane.Element)
		return ok && e.Is().Link == port.Name
	})
	rule := v.object(func(o dataplane.Object) bool {
		r, ok := o.(dataplane.Rule)
		return ok && r.Chain == "forward" && r.Pos == 0
	})
	return []damage{
		{"an address of the gateway", del(gateway), func() asked {
			return func(context.Context) (bool, error) { return hasAddress(v.inet, labBridge) }
		}},
		{"a port's place in its bridge", replace(unplugged), v.linkIs(port.Name, func(l seenLink) bool { return l.master != 0 })},
		{"a port's MTU", replace(small), v.linkIs(port.Name, func(l seenLink) bool { return l.mtu == port.MTU })},
		{"a bridge's being up", replace(down), v.linkIs(labBridge, func(l seenLink) bool { return l.up })},
		{"a veth, until its inside has an address", del(port), freshAddress(v.inside, "eth0")},
		{"an nft element", del(element), v.nextGeneration},
		{"an nft rule", del(rule), v.nextGeneration},
		{"an nft table", del(dataplane.Table{Family: dataplane.Inet}), v.nextGeneration},
		{"both nft tables", del(dataplane.Table{Family: dataplane.Inet}, dataplane.Table{Family: dataplane.BridgeNF}), v.nextGeneration},
		{"the bridge, until all ports are in it", del(bridge), func() asked { return v.allPorts(bridge) }},
	}
}

// object is the first, by text, of those that are chosen.
func (v *vandal) object(choose func(dataplane.Object) bool) dataplane.Object {
	var first dataplane.Object
	for _, o := range v.before {
		if choose(o) && (first == nil || o.String() < first.String()) {
			first = o
		}
	}
	return first
}

func del(objects ...dataplane.Object) (p dataplane.Plan) {
	for _, o := range objects {
		p = append(p, dataplane.Step{Op: dataplane.Del, Object: o})
	}
	return p
}

func replace(o dataplane.Object) dataplane.Plan {
	return dataplane.Plan{{Op: dataplane.Replace, Object: o}}
}

// measure does a damage again and again; after each the host must be as before in all.
func (v *vandal) measure(ctx context.Context, n int, d damage, rounds int) error {
	var took []time.Duration
	for range rounds {
		back := d.back()
		begin, end, err := v.do(ctx, d.plan)
		if err != nil {
			return err
		}
		if err := until(ctx, back); err != nil {
			return err
		}
		took = append(took, time.Since(begin))
		if err := errors.Join(end(), until(ctx, v.asBefore)); err != nil {
			return fmt.Errorf("the rest of the host: %w", err)
		}
	}
	slices.Sort(took)
	middle, worst := took[len(took)/2], took[len(took)-1]
	missed := ""
	if middle > repairGoal {
		missed = "  over the goal of " + repairGoal.String()
	}
	fmt.Printf("%-9d %-34s %10.1f %10.1f%s\n", n, d.name, millis(middle), millis(worst), missed)
	return nil
}

// do begins to carry out a plan and returns when the kernel first told of it; end waits for its end, which for some deletions is
// long after that.
func (v *vandal) do(ctx context.Context, p dataplane.Plan) (told time.Time, end func() error, err error) {
	group, protocol := unix.RTNLGRP_LINK, unix.NETLINK_ROUTE
	switch p[0].Object.(type) {
	case dataplane.Address:
		group = unix.RTNLGRP_IPV4_IFADDR
	case dataplane.Table, dataplane.Rule, dataplane.Element:
		group, protocol = unix.NFNLGRP_NFTABLES, unix.NETLINK_NETFILTER
	}
	var listener *netlink.Listener
	err = within(v.netns, func() (err error) {
		listener, err = netlink.Listen(protocol, group)
		return err
	})
	if err != nil {
		return told, nil, err
	}
	defer listener.Close()
	ended := make(chan error, 1)
	go func() { ended <- v.kernel.Apply(ctx, dataplane.HostNetns, p) }()
	err = listener.Wait(ctx)
	return time.Now(), func() error { return <-ended }, err
}

// until asks as often as it can whether something is so.
func until(ctx context.Context, so asked) error {
	const patience = 30 * time.Second
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Microsecond) {
		if is, err := so(ctx); is || err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return fmt.Errorf("not repaired within %s", patience)
}

func (v *vandal) asBefore(ctx context.Context) (bool, error) {
	have, err := v.kernel.Observe(ctx, dataplane.HostNetns)
	return len(dataplane.Diff(v.before, have)) == 0, err
}

// nextGeneration asks whether two transactions were made: the vandal's and the daemon's.
func (v *vandal) nextGeneration() asked {
	before, errBefore := v.rules.Generation(context.Background())
	return func(ctx context.Context) (bool, error) {
		now, err := v.rules.Generation(ctx)
		return now >= before+2, errors.Join(errBefore, err)
	}
}

// freshAddress asks whether a link is another than it was and has an IPv4 address, in the socket's namespace.
func freshAddress(socket int, link string) func() asked {
	return func() asked {
		r, _ := unix.NewIfreq(link)
		was, _ := index(socket, r)
		return func(context.Context) (bool, error) {
			is, err := index(socket, r)
			if err != nil || is == was {
				return false, nil
			}
			return hasAddress(socket, link)
		}
	}
}

func index(socket int, r *unix.Ifreq) (uint32, error) {
	err := unix.IoctlIfreq(socket, unix.SIOCGIFINDEX, r)
	return r.Uint32(), err
}

func hasAddress(socket int, link string) (bool, error) {
	r, err := unix.NewIfreq(link)
	if err != nil {
		return false, err
	}
	err = unix.IoctlIfreq(socket, unix.SIOCGIFADDR, r)
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	return err == nil, err
}

// seenLink is what of a link is of interest.
type seenLink struct {
	up          bool
	master, mtu int
}

func (v *vandal) linkIs(name string, as func(seenLink) bool) func() asked {
	return func() asked {
		return func(context.Context) (bool, error) {
			l, there, err := v.link(name)
			return there && as(l), err
		}
	}
}

func (v *vandal) link(name string) (l seenLink, there bool, err error) {
	var b netlink.Batch
	b.Begin(unix.RTM_GETLINK, 0)
	b.Raw(ifinfo(0, 0, 0))
	b.String(unix.IFLA_IFNAME, name)
	errs := v.host.Do(&b, func(_ int, m netlink.Message) {
		there = true
		l.up = binary.NativeEndian.Uint32(m.Data[8:])&unix.IFF_UP != 0
		attrs := maps.Collect(netlink.Attrs(m.Data[unix.SizeofIfInfomsg:]))
		l.master, l.mtu = int(attrs[unix.IFLA_MASTER].Uint32()), int(attrs[unix.IFLA_MTU].Uint32())
	})
	err = errors.Join(errs...)
	if errors.Is(err, unix.ENODEV) {
		return l, false, nil
	}
	return l, there, err
}

// allPorts reports whether the bridge is up and every port in it.
func (v *vandal) allPorts(bridge dataplane.Link) asked {
	var ports []string
	for _, o := range v.before {
		if l, ok := o.(dataplane.Link); ok && l.Master == bridge.Name {
			ports = append(ports, l.Name)
		}
	}
	slices.Sort(ports)
	return func(context.Context) (bool, error) {
		if l, there, err := v.link(bridge.Name); !there || !l.up || err != nil {
			return false, err
		}
		for _, name := range ports {
			if l, there, err := v.link(name); !there || l.master == 0 || err != nil {
				return false, err
			}
		}
		return true, nil
	}
}
