package lab

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/flatnet/flatnet/internal/model"
)

// staticNetwork is the name of each host's network in a lab with routes by hand.
const staticNetwork = "lab"

// network is what the workloads are on.
func (l *Lab) network() string { return staticNetwork }

// connect makes the network of the workloads.
func (l *Lab) connect(ctx context.Context) error {
	if l.BackendName() != Static {
		return fmt.Errorf("backend %q: only %s yet", l.BackendName(), Static)
	}
	if err := l.eachHost(func(_ int, h *Host) error {
		_, err := h.Flatnet(ctx, "net", "create", staticNetwork, "--mode", "routed", "--subnet", blockOf(h.Number-1).String())
		return err
	}); err != nil {
		return err
	}
	if err := l.lan.IP(ctx, l.staticRoutes(nil)...); err != nil {
		return err
	}
	return l.eachHost(func(_ int, h *Host) error { return h.staticConnect(ctx) })
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

// Backend changes how packets get from host to host, while everything runs.
func (l *Lab) Backend(ctx context.Context, backend string) error {
	if l.BackendName() == Static || backend == Static {
		return model.Problem{Code: codeSpec, Path: "backend", Reason: "routes by hand are no backend: such a lab has no cluster",
			Example: "flatnet lab up --backend " + backend}
	}
	return l.change(func() error {
		if _, err := l.hosts[0].Flatnet(ctx, "net", "set", l.network(), "--backend", backend); err != nil {
			return err
		}
		if err := l.record(func(s *state) { s.Spec.Backend = backend }); err != nil {
			return err
		}
		return l.answer(ctx)
	})
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
