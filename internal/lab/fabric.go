package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel/netns"
	"github.com/flatnet/flatnet/internal/lab/probe"
	"github.com/flatnet/flatnet/internal/model"
)

// The names of the network that the workloads are on.
const (
	clusterNetwork = "cluster" // flatnet init makes it
	staticNetwork  = "lab"     // each host's own, where routes are by hand
	defaultNetwork = "default" // each host's own, behind NAT, that every flatnetd begins with
)

// network is what the workloads are on.
func (l *Lab) network() string {
	switch l.BackendName() {
	case Static:
		return staticNetwork
	case None:
		return defaultNetwork
	}
	return clusterNetwork
}

// clustered reports whether the hosts are in a cluster.
func (l *Lab) clustered() bool { return l.BackendName() != Static && l.BackendName() != None }

// connect makes the network of the workloads. It calls in with each host that is on it.
func (l *Lab) connect(ctx context.Context, in func(*Host)) error {
	switch l.BackendName() {
	case Static:
		return l.connectByHand(ctx, in)
	case None:
		return nil
	}
	first, others := l.hosts[0], l.hosts[1:]
	join, err := first.Output(ctx, append([]string{"flatnet", "init", "-y"}, l.state.Spec.Init...)...)
	if err != nil {
		return err
	}
	in(first)
	if err := l.raiseBackend(ctx); err != nil {
		return err
	}
	// What init tells people to type on the other machines.
	command := strings.Fields(strings.TrimPrefix(strings.TrimSpace(string(join)), "sudo "))
	if len(others) > tokenUses {
		if command, err = first.invite(ctx, command, len(others)); err != nil {
			return err
		}
	}
	for _, h := range others { // one after the other: their blocks are then in order
		if _, err := h.Exec(ctx, command...); err != nil {
			return err
		}
		in(h)
	}
	return nil
}

// tokenUses is how many hosts the token of an init lets in.
const tokenUses = 10

// invite is the join command with a token for more hosts.
func (h *Host) invite(ctx context.Context, command []string, hosts int) ([]string, error) {
	client := h.Client()
	defer client.Close()
	token, err := client.CreateToken(ctx, api.TokenSpec{Uses: hosts})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Name, h.told(err))
	}
	return strings.Fields(strings.TrimPrefix(token.Join, "sudo ")), nil
}

// raiseBackend sets the backend that was asked for; init takes vxlan.
func (l *Lab) raiseBackend(ctx context.Context) error {
	if l.BackendName() == "vxlan" {
		return nil
	}
	return l.setBackend(ctx, l.BackendName())
}

// setBackend is flatnet net set cluster --backend.
func (l *Lab) setBackend(ctx context.Context, backend string, how ...api.Option) error {
	first := l.hosts[0]
	client := first.Client()
	defer client.Close()
	_, err := client.EditNetwork(ctx, clusterNetwork, api.NetworkEdit{Cluster: &api.ClusterEdit{Backend: &backend}}, how...)
	return first.told(err)
}

// connectByHand makes a network on each host, and routes between them.
func (l *Lab) connectByHand(ctx context.Context, in func(*Host)) error {
	if err := l.eachHost(func(_ int, h *Host) error {
		_, err := h.Flatnet(ctx, "net", "create", staticNetwork, "--mode", "routed", "--subnet", blockOf(h.Number-1).String())
		return err
	}); err != nil {
		return err
	}
	if err := l.lan.IP(ctx, l.staticRoutes(nil)...); err != nil {
		return err
	}
	return l.eachHost(func(_ int, h *Host) error {
		defer in(h)
		return h.staticConnect(ctx)
	})
}

// staticConnect gives a host its routes by hand.
func (h *Host) staticConnect(ctx context.Context) error {
	routes := h.lab.staticRoutes(h)
	if len(routes) == 0 {
		return nil
	}
	return h.IP(ctx, routes...)
}

// staticRoutes lead to the workloads of the other hosts, by their underlay address where it is on the same LAN, else by the
// router; nil is the router itself.
func (l *Lab) staticRoutes(of *Host) []string {
	var lines []string
	for _, h := range l.hosts {
		via := h.Address()
		if of == h {
			continue
		}
		if of != nil && of.Spec.LAN != h.Spec.LAN {
			via = onLAN(of.Spec.LAN, routerPlace)[0].Addr()
		}
		lines = append(lines, fmt.Sprintf("route replace %s via %s", blockOf(h.Number-1), via))
	}
	return lines
}

// Force is the option of net set that takes a backend also when it cuts off what runs behind a router.
const Force = api.Force

// Backend changes how packets get from host to host, while everything runs, and tells what a ping lost meanwhile. All pairs are
// to answer afterwards; with Force it is only told how many do not.
func (l *Lab) Backend(ctx context.Context, backend string, how ...api.Option) error {
	if !l.clustered() || backend == Static || backend == None {
		return model.Problem{Code: codeSpec, Path: "backend", Reason: "static and none are no backends: such a lab has no cluster",
			Example: "flatnet lab up --backend " + backend}
	}
	for _, h := range l.hosts {
		if err := h.must(); err != nil {
			return err
		}
	}
	return l.change(func() error {
		traffic, about, err := l.startTraffic(ctx)
		if err != nil {
			return err
		}
		time.Sleep(trafficBefore)
		err = l.setBackend(ctx, backend, how...)
		if err == nil {
			err = l.record(func(s *state) { s.Spec.Backend = backend })
		}
		switch {
		case err != nil:
		case slices.Contains(how, Force):
			err = l.count(ctx)
		default:
			err = l.answer(ctx)
		}
		if traffic == nil {
			return err
		}
		if err == nil {
			time.Sleep(trafficAfter)
		}
		if result := traffic.Stop(); err == nil {
			l.tell("  ping %s, every %v meanwhile: %s", about, trafficPace, result)
		}
		return err
	})
}

// A ping that runs while something is changed.
const (
	trafficPace   = 10 * time.Millisecond  // between two packets
	trafficBefore = 100 * time.Millisecond // it begins before the change
	trafficAfter  = time.Second            // and goes on after it
)

// startTraffic pings from the first to the last workload, when that is another one.
func (l *Lab) startTraffic(ctx context.Context) (traffic *probe.Traffic, about string, err error) {
	workloads := l.Workloads()
	if len(workloads) < 2 {
		return nil, "", nil
	}
	from, to := workloads[0], workloads[len(workloads)-1]
	addr, err := to.Address(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", to.host.Name, to.host.told(err))
	}
	err = netns.Do(from.Netns(), func() (err error) {
		traffic, err = probe.StartTraffic(addr, trafficPace)
		return err
	})
	return traffic, from.Name + " → " + to.Name, err
}

// rejoin gives a host that has booted what its disk does not remember.
func (l *Lab) rejoin(ctx context.Context, h *Host) error {
	if l.BackendName() == Static {
		return h.staticConnect(ctx)
	}
	return nil
}

// cutAddress takes an address apart as the picture of a lab shows it: 10.244.1.0/24 and .2.
func cutAddress(s string) (subnet, place string) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return "", s
	}
	place = p.Addr().String()
	if p.Addr().Is4() {
		place = place[strings.LastIndexByte(place, '.'):]
	}
	return p.Masked().String(), place
}
