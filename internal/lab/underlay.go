package lab

import (
	"context"
	"fmt"
)

// mtu is that of every cable.
const mtu = 1500

// alias marks a link as the lab's, so that Down can look whether one got away.
func (l *Lab) alias() string { return "alias " + l.state.Mark }

// build makes the LAN's machine: a bridge for each LAN, an address in each, and a route to an internet that ends in it.
func (l *Lab) build(ctx context.Context) error {
	if err := l.hold(l.lan); err != nil {
		return fmt.Errorf("%s: %w", lanName, err)
	}
	if err := l.lan.Sysctl("net/ipv6/conf/all/accept_dad=0", "net/ipv6/conf/default/accept_dad=0",
		"net/ipv4/ip_forward=1", "net/ipv6/conf/all/forwarding=1"); err != nil {
		return err
	}
	lines := []string{"link set lo up", "address add " + internet + "/32 dev lo"}
	for lan := 1; lan <= l.state.Spec.lans(); lan++ {
		bridge := fmt.Sprintf("lan%d", lan)
		lines = append(lines, fmt.Sprintf("link add %s type bridge", bridge), fmt.Sprintf("link set %s %s", bridge, l.alias()))
		for _, a := range onLAN(lan, routerPlace) {
			lines = append(lines, fmt.Sprintf("address add %s dev %s nodad", a, bridge))
		}
		lines = append(lines, fmt.Sprintf("link set %s up", bridge))
	}
	return l.lan.IP(ctx, lines...)
}

// plugIn joins a host to its LAN. Both ends of the cable are made where they belong: none is ever on this machine.
func (h *Host) plugIn(ctx context.Context) error {
	lan := h.lab.lan
	if err := h.Sysctl("net/ipv6/conf/all/accept_dad=0", "net/ipv6/conf/default/accept_dad=0"); err != nil {
		return err
	}
	err := lan.IP(ctx, h.cable(),
		fmt.Sprintf("link set %s %s", h.port(), h.lab.alias()),
		fmt.Sprintf("link set %s master %s up", h.port(), h.bridge()))
	if err != nil {
		return err
	}
	lines := []string{"link set lo up", "link set eth0 " + h.lab.alias(), "link set eth0 up"}
	for _, a := range h.Addresses() {
		lines = append(lines, fmt.Sprintf("address add %s dev eth0 nodad", a))
	}
	return h.IP(ctx, append(lines, h.defaultRoutes()...)...)
}

// cable makes both ends. Its other end is said by a process of this machine's.
func (h *Host) cable() string {
	return fmt.Sprintf("link add %s mtu %d type veth peer name eth0 address %s mtu %d netns %d", h.port(), mtu, h.mac(), mtu, h.Holder.PID)
}

// mac is that of the host's eth0: a booted host has the same card.
func (h *Host) mac() string { return fmt.Sprintf("02:f1:a7:00:%02x:%02x", h.Spec.LAN, h.Number) }

// defaultRoutes lead to the router.
func (h *Host) defaultRoutes() []string {
	var lines []string
	for _, a := range onLAN(h.Spec.LAN, routerPlace) {
		lines = append(lines, fmt.Sprintf("route replace default via %s dev eth0", a.Addr()))
	}
	return lines
}
