package membership

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/etcdserver"
	"github.com/flatnet/flatnet/internal/join"
	"github.com/flatnet/flatnet/internal/model"
)

// preflight is what was looked at before anything changed.
type preflight struct {
	checks   []api.Check
	problems model.Problems
}

// add notes the outcome of a check: nil is good.
func (p *preflight) add(what string, err error) {
	p.say(what, "ok", err)
}

// say is add with other words for good.
func (p *preflight) say(what, good string, err error) {
	if err == nil {
		p.checks = append(p.checks, api.Check{What: what, Result: good, OK: true})
		return
	}
	var one model.Problem
	var many model.Problems
	switch {
	case errors.As(err, &many):
	case errors.As(err, &one):
		many = model.Problems{one}
	default:
		many = model.Problems{{Code: model.CodeInternal, Reason: what + ": " + err.Error()}}
	}
	p.problems = append(p.problems, many...)
	p.checks = append(p.checks, api.Check{What: what, Result: many[0].Reason})
}

// verdict is nil when all is well, or the caller goes on in spite of it.
func (p *preflight) verdict(force bool) error {
	if force {
		return nil
	}
	return p.problems.Err()
}

// portFree tries to listen as we will.
func portFree(ctx context.Context, network string, at netip.AddrPort) error {
	l := net.ListenConfig{}
	var err error
	if network == "udp" {
		var c net.PacketConn
		if c, err = l.ListenPacket(ctx, network, at.String()); err == nil {
			return c.Close()
		}
	} else {
		var c net.Listener
		if c, err = l.Listen(ctx, network, at.String()); err == nil {
			return c.Close()
		}
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return model.Problem{Code: model.CodePortTaken, Reason: fmt.Sprintf("%s port %d is in use on this host", network, at.Port()),
			Owner: fmt.Sprintf("see who: ss -lpn sport = :%d", at.Port()), Fix: "end that, or see whether it is another overlay's or an etcd"}
	}
	return err
}

// tunnelPorts are free, in every family: a tunnel takes them on all addresses.
func (p *preflight) tunnelPorts(ctx context.Context, networks []model.Network, good func(port uint16) string) {
	for _, port := range tunnelPortsOf(networks) {
		p.say(fmt.Sprintf("udp/%d", port), good(port), portFree(ctx, "udp", netip.AddrPortFrom(netip.IPv4Unspecified(), port)))
	}
}

// heard is what came to this host's tunnel ports of what the server has sent there.
type heard struct {
	asked bool // the server has sent something
	at    netip.Addr
	from  netip.AddrPort
	deaf  []uint16
	plain bool // it came to a port that no firewall knows
}

// good is what is said of a port that is free.
func (h heard) good(port uint16) string {
	if !h.asked || slices.Contains(h.deaf, port) {
		return "free here"
	}
	return "ok"
}

// arrives says whether the tunnels' packets will.
func (p *preflight) arrives(h heard, networks []model.Network) {
	for _, port := range tunnelPortsOf(networks) {
		if !h.asked || !slices.Contains(h.deaf, port) {
			continue
		}
		bad := model.Problem{Code: codeTunnelDeaf, Reason: fmt.Sprintf("udp %d that %s sends to %s does not arrive, and other UDP does", port, h.from.Addr(), h.at),
			Owner: "a firewall of this host or on the way", Fix: fmt.Sprintf("let udp %d pass between all hosts, both ways; or --force, and no workload here reaches one elsewhere", port)}
		if !h.plain {
			bad.Reason = fmt.Sprintf("nothing that %s sends to %s arrives, neither udp %d nor another port", h.from.Addr(), h.at, port)
			bad.Owner = "a firewall that drops all, or an address where the server does not reach this host"
			bad.Fix = fmt.Sprintf("let udp %d pass between all hosts; or name the address where the others reach this host: --underlay", port)
		}
		p.add(fmt.Sprintf("udp/%d from the server", port), bad)
	}
}

// tunnelPortsOf are the ports that tunnels of networks come in by.
func tunnelPortsOf(networks []model.Network) []uint16 {
	var ports []uint16
	for _, n := range networks {
		if n.Cluster.Backend == model.VXLAN && !slices.Contains(ports, n.Cluster.Port) {
			ports = append(ports, n.Cluster.Port)
		}
	}
	return ports
}

// subnets are free on this host, and all else that its networks need.
func (p *preflight) subnets(m *Membership, node model.Node, networks []model.Network) {
	var problems model.Problems
	for _, n := range networks {
		problems = append(problems, m.deps.Check(node, n)...)
	}
	p.say("subnet", "free", problems.Err())
}

// founds looks at a host that is to be the first of a cluster.
func (m *Membership) founds(ctx context.Context, node model.Node, u underlay, r record, n model.Network) *preflight {
	p := &preflight{}
	ports := []uint16{join.Port}
	if r.External {
		p.external(ctx, r.Etcd)
	} else {
		ports = append(ports, clientPort, peerPort)
		_, err := etcdserver.Find()
		if err != nil {
			err = model.Problem{Code: model.CodeNotFound, Reason: err.Error(), Fix: "install it beside flatnetd, or use an etcd that runs elsewhere: --etcd URL"}
		}
		p.add(etcdserver.Program, err)
	}
	for _, port := range ports {
		p.add(fmt.Sprintf("tcp/%d", port), portFree(ctx, "tcp", netip.AddrPortFrom(u.addrs[0], port)))
	}
	p.tunnelPorts(ctx, []model.Network{n}, func(uint16) string { return "free here" })
	p.subnets(m, node, []model.Network{n})
	return p
}

// joins looks at a host that is to join: it has a token, and the cluster has said what there is.
func (m *Membership) joins(ctx context.Context, e enrolment, answer join.Answer, path join.Path, h heard) *preflight {
	p := &preflight{}
	p.add(fmt.Sprintf("tcp/%d", e.peer.Port()), nil) // it has just answered
	p.etcd(ctx, answer.Cluster.Etcd, e.token.Pin)
	if !e.again { // else it is this node that has them
		p.tunnelPorts(ctx, answer.Cluster.Networks, h.good)
		p.arrives(h, answer.Cluster.Networks)
	}
	p.mtu(ctx, e.under, e.peer, answer.Cluster.MTU)
	p.clock(path.Skew)
	if !e.again {
		p.families(e.record.member(e.under, m.deps.Version), answer.Cluster.Networks)
		p.subnets(m, e.node, answer.Cluster.Networks)
	}
	return p
}

// families of the underlay that the networks use are among those of the host: without, it would be in the cluster and reach nobody.
func (p *preflight) families(me model.Member, networks []model.Network) {
	for _, n := range networks {
		if !n.Active || !n.Cluster.On(me) || me.Underlay(n.Cluster.UnderlayV6).IsValid() {
			continue
		}
		uses, other := "IPv4", "ipv6"
		if n.Cluster.UnderlayV6 {
			uses, other = "IPv6", "ipv4"
		}
		p.add("underlay", model.Problem{Code: model.CodeUnderlay, Path: "underlay",
			Reason: fmt.Sprintf("the hosts reach each other over %s on network %s, and this host has only %s", uses, n.Name, strings.Join(words(me.Underlays()), " ")),
			Fix:    fmt.Sprintf("give this host an %s address there; or, if all hosts have an %s one, on one of them: flatnet net set %s --underlay %s", uses, strings.Replace(other, "ip", "IP", 1), n.Name, other)})
	}
}

// external is an etcd that runs already: somebody listens at one of its addresses.
func (p *preflight) external(ctx context.Context, endpoints []string) {
	var errs []string
	for _, endpoint := range endpoints {
		u, err := url.Parse(endpoint)
		if err == nil {
			err = dialEtcd(ctx, u, true, join.Pin{})
		}
		if err == nil {
			p.add("etcd", nil)
			return
		}
		errs = append(errs, err.Error())
	}
	p.add("etcd", externalAway(endpoints, strings.Join(errs, "; ")))
}

// etcd is reached, and is the cluster's.
func (p *preflight) etcd(ctx context.Context, e join.Etcd, pin join.Pin) {
	for _, endpoint := range e.Endpoints {
		u, err := url.Parse(endpoint)
		if err == nil {
			err = dialEtcd(ctx, u, e.External, pin)
		}
		what := "etcd"
		if u != nil && u.Port() != "" {
			what = "tcp/" + u.Port()
		}
		if err != nil {
			err = model.Problem{Code: model.CodePeer, Reason: fmt.Sprintf("the cluster's etcd at %s cannot be reached: %s", endpoint, err), Fix: fmt.Sprintf("open tcp %s towards the server", u.Port())}
		}
		p.add(what, err)
	}
}

func dialEtcd(ctx context.Context, u *url.URL, external bool, pin join.Pin) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if external {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
		if err != nil {
			return err
		}
		return c.Close()
	}
	c, err := (&tls.Dialer{Config: join.Pinned(pin)}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	return c.Close()
}

// mtu compares the links, and proves the way between them where something answers.
func (p *preflight) mtu(ctx context.Context, u underlay, peer netip.AddrPort, theirs int) {
	what := fmt.Sprintf("mtu %d", u.mtu)
	if theirs != 0 && theirs != u.mtu {
		p.add(what, model.Problem{Code: model.CodePathMTU, Reason: fmt.Sprintf("the MTU of %s is %d, that of the server's link is %d", u.link, u.mtu, theirs),
			Fix: "make them equal; all hosts of a cluster need one MTU", Example: fmt.Sprintf("ip link set %s mtu %d", u.link, min(u.mtu, theirs))})
		return
	}
	path, proven, err := probeMTU(ctx, peer, u.mtu)
	switch {
	case err == nil && proven && path < u.mtu:
		p.add(what, model.Problem{Code: model.CodePathMTU, Reason: fmt.Sprintf("%s has MTU %d, but on the way to %s only %d bytes pass", u.link, u.mtu, peer.Addr(), path),
			Fix: "give the links of the hosts the smaller MTU", Example: fmt.Sprintf("ip link set %s mtu %d", u.link, path)})
	case err != nil || !proven:
		p.say(what, "not proven: nothing answers a probe", nil)
	default:
		p.add(what, nil)
	}
}

// codeTunnelDeaf is a host that is to join, and that tunnels' packets do not come to.
const codeTunnelDeaf = "FN5424"

// mostSkew is how far clocks may differ: certificates are valid a day early, and tokens for minutes.
const mostSkew = 5 * time.Minute

func (p *preflight) clock(skew time.Duration) {
	if skew.Abs() <= mostSkew {
		p.add("clock", nil)
		return
	}
	word := "behind"
	if skew < 0 {
		word = "ahead of"
	}
	p.add("clock", model.Problem{Code: model.CodeClocks, Reason: fmt.Sprintf("the clock of this host is %v %s the server's", skew.Abs().Round(time.Second), word), Fix: "set it", Example: "timedatectl set-ntp true"})
}
