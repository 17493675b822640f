package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/kernel/nft"
	"github.com/flatnet/flatnet/internal/model"
)

// mender is the floor of a repair: it knows what will be taken away, has every message ready, and sends them in as few system calls as
// there is room for as soon as it hears of it. It looks at nothing and makes what flatnet makes, which is checked after each time.
type mender struct {
	*floor
	netns string
	index int // for new links
}

const (
	firstMended = 1 << 20 // link indexes that nobody else gives
	mendBuffer  = 64 << 20
)

func newMender(netns string) (*mender, error) {
	m := &mender{netns: netns, index: firstMended}
	err := within(netns, func() (err error) {
		m.floor, err = newFloor()
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, s := range []*socket{m.routes, m.nft} {
		for _, option := range []int{unix.SO_SNDBUFFORCE, unix.SO_RCVBUFFORCE} {
			err = errors.Join(err, unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, option, mendBuffer))
		}
	}
	return m, err
}

func (m *mender) close() {
	m.routes.close()
	m.nft.close()
	unix.Close(m.home)
}

// work is everything to send, ready.
type work struct {
	links, after []message // after: what needs a link that is up
	nft          []byte
	nftAck       uint32
	sysctls      []dataplane.Sysctl
	veths        []plug
}

// ready lays out what carries out a plan on a host that has have. inside is what a workload has whose veth is in the plan.
func (m *mender) ready(plan dataplane.Plan, have, inside dataplane.State) (*work, error) {
	made := map[string]int{}
	index := func(name string) int {
		if i := made[name]; i != 0 {
			return i
		}
		i, _ := indexIn(m.routes.fd, name)
		return i
	}
	work := &work{}
	var rest dataplane.Plan
	var up []message
	for _, s := range plan {
		switch o := s.Object.(type) {
		case dataplane.Link:
			old, there := have[o.Key()].(dataplane.Link)
			if !there {
				m.index++
				made[o.Name] = m.index
			}
			switch {
			case o.Kind == dataplane.Bridge && !there:
				work.links = append(work.links, newBridge(o, made[o.Name])...)
				up = bridgeUp(made[o.Name])
			case o.Kind == dataplane.Bridge:
				up = bridgeUp(index(o.Name))
			case !there:
				work.veths = append(work.veths, vethOf(o, inside, index(o.Master), made[o.Name]))
			default:
				work.links = append(work.links, changes(old, o, index(o.Name), index(o.Master))...)
			}
		case dataplane.Address:
			work.after = append(work.after, newAddress(index(o.Link), o.Prefix))
		case dataplane.Sysctl:
			work.sysctls = append(work.sysctls, o)
		default:
			rest = append(rest, s)
		}
	}
	work.links = append(work.links, up...)
	var err error
	if len(rest) > 0 {
		work.nft, work.nftAck, err = nft.Encode(rest, have)
	}
	return work, err
}

// vethOf is a workload's veth for the floor, without the elements, which nobody took.
func vethOf(port dataplane.Link, inside dataplane.State, bridge, index int) plug {
	outside := dataplane.State{port.Key(): port}
	part := dataplane.Host{Netns: map[string]dataplane.State{dataplane.HostNetns: outside, port.PeerNetns: inside}}
	return newPlug(part, model.Workload{Netns: port.PeerNetns}, bridge, index)
}

// do sends it all.
func (m *mender) do(w *work) error {
	if w.nft != nil {
		if err := m.nft.sendBytes(w.nft, w.nftAck); err != nil {
			return fmt.Errorf("nft: %w", err)
		}
	}
	for _, p := range w.veths {
		if err := m.floor.link(p); err != nil {
			return err
		}
	}
	for _, messages := range [][]message{w.links, w.after} {
		if len(messages) == 0 {
			continue
		}
		if err := m.routes.send(len(messages)-1, messages...); err != nil {
			return err
		}
	}
	return m.write(w.sysctls)
}

func (m *mender) write(sysctls []dataplane.Sysctl) error {
	if len(sysctls) == 0 {
		return nil
	}
	return within(m.netns, func() (err error) {
		for _, s := range sysctls {
			err = errors.Join(err, os.WriteFile(filepath.Join("/proc/sys", s.Name), []byte(s.Value), 0))
		}
		return err
	})
}

// newBridge makes one that is down, marked as ours, with an MTU of its own.
func newBridge(l dataplane.Link, index int) []message {
	return []message{
		request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfo(index, 0, 0)...).
			text(unix.IFLA_IFNAME, l.Name).attr(unix.IFLA_ADDRESS, l.MAC[:]...).uint32(unix.IFLA_MTU, uint32(l.MTU+1)).
			nest(unix.IFLA_LINKINFO, func(m message) message {
				return m.text(unix.IFLA_INFO_KIND, "bridge").nest(unix.IFLA_INFO_DATA, func(m message) message {
					return m.uint32(unix.IFLA_BR_STP_STATE, 0).uint32(unix.IFLA_BR_FORWARD_DELAY, 0)
				})
			}),
		request(unix.RTM_NEWLINK, 0, ifinfo(index, 0, 0)...).text(unix.IFLA_IFALIAS, l.Alias()).uint32(unix.IFLA_MTU, uint32(l.MTU)),
	}
}

// bridgeUp sets one up without multicast snooping meanwhile, which is the quickest way that we know.
func bridgeUp(index int) []message {
	snoop := func(on byte) message {
		return request(unix.RTM_NEWLINK, 0, ifinfo(index, 0, 0)...).nest(unix.IFLA_LINKINFO, func(m message) message {
			return m.text(unix.IFLA_INFO_KIND, "bridge").nest(unix.IFLA_INFO_DATA, func(m message) message {
				return m.attr(unix.IFLA_BR_MCAST_SNOOPING, on)
			})
		})
	}
	return []message{snoop(0), request(unix.RTM_NEWLINK, 0, ifinfo(index, unix.IFF_UP, unix.IFF_UP)...), snoop(1)}
}

// changes make a port what it was: its MTU, its bridge, and the settings that a new place there lacks.
func changes(old, l dataplane.Link, index, master int) []message {
	m := request(unix.RTM_NEWLINK, 0, ifinfo(index, 0, 0)...)
	if old.MTU != l.MTU {
		m = m.uint32(unix.IFLA_MTU, uint32(l.MTU))
	}
	if old.Master == l.Master {
		return []message{m}
	}
	header := ifinfo(index, 0, 0)
	header[0] = unix.AF_BRIDGE
	hairpin := byte(0)
	if l.Hairpin {
		hairpin = 1
	}
	return []message{m.uint32(unix.IFLA_MASTER, uint32(master)),
		request(unix.RTM_SETLINK, 0, header...).nest(unix.IFLA_PROTINFO, func(m message) message { return m.attr(unix.IFLA_BRPORT_MODE, hairpin) })}
}

// indexIn is the index of a link in the namespace of a socket.
func indexIn(fd int, link string) (int, error) {
	r, err := unix.NewIfreq(link)
	if err != nil {
		return 0, err
	}
	i, err := index(fd, r)
	return int(i), err
}

// mend has the mender repair a damage, and returns how long that took from the kernel's first word of it.
func (v *vandal) mend(ctx context.Context, d damage, w *work) (time.Duration, error) {
	begin, end, err := v.do(ctx, d.plan)
	if err != nil {
		return 0, err
	}
	if err := v.mender.do(w); err != nil {
		return 0, errors.Join(err, end())
	}
	took := time.Since(begin)
	if err := end(); err != nil {
		return 0, err
	}
	return took, v.isAsBefore(ctx)
}

func (v *vandal) isAsBefore(ctx context.Context) error {
	have, err := v.kernel.Observe(ctx, dataplane.HostNetns)
	if err != nil {
		return err
	}
	if left := dataplane.Diff(v.before, have); len(left) > 0 {
		return fmt.Errorf("the floor left to do:\n%s", left)
	}
	return nil
}
