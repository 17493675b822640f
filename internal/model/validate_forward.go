package model

import (
	"fmt"
	"net/netip"
)

// ValidateForward says what is wrong with a standing forward. One of the same Name and target in the View is itself. The
// workload need not be there: a standing forward waits for it.
func ValidateForward(v View, f Forward) Problems {
	c := forwardCheck{view: v}
	c.target, c.found = v.Workloads[f.Workload]
	return c.check(f)
}

type forwardCheck struct {
	view       View
	target     Workload
	found      bool
	publishing bool // with the target, which replaces its version in the View
}

func (c forwardCheck) check(f Forward) Problems {
	var ps Problems
	for _, check := range []func(Forward) (Problem, bool){c.ports, c.network, c.endpoint, c.hostIP, c.clash} {
		if p, bad := check(f); bad {
			ps = append(ps, p)
		}
	}
	return ps
}

func (c forwardCheck) ports(f Forward) (Problem, bool) {
	switch {
	case !f.Proto.forwardable():
		return Problem{Code: CodeForward, Path: "spec.publish", Reason: fmt.Sprintf("protocol %s cannot be forwarded", f.Proto), Fix: "tcp, udp or sctp"}, true
	case !f.HostPorts.valid() || !f.Ports.valid():
		return Problem{Code: CodeForward, Path: "spec.publish", Reason: fmt.Sprintf("ports %s to %s are no ranges", f.HostPorts, f.Ports),
			Fix: "ports are 1 to 65535", Example: "8080:80"}, true
	case f.HostPorts.Len() != f.Ports.Len():
		return lengthProblem(f), true
	}
	return Problem{}, false
}

func (p Ports) valid() bool { return p.First > 0 && p.First <= p.Last }

func lengthProblem(f Forward) Problem {
	return Problem{Code: CodeForwardLength, Path: "spec.publish",
		Reason: fmt.Sprintf("host ports %s are %d, workload ports %s are %d", f.HostPorts, f.HostPorts.Len(), f.Ports, f.Ports.Len()),
		Fix:    "as many on both sides", Example: "8000-8010:9000-9010"}
}

func (c forwardCheck) network(f Forward) (Problem, bool) {
	n, ok := c.view.Networks[f.Network]
	if !ok {
		return noNetwork("spec.network", f.Network, c.view), true
	}
	if n.Mode == Bridged {
		return Problem{Code: CodeForwardMode, Path: "spec.network", Reason: fmt.Sprintf("network %q is bridged: its workloads are reached at their own addresses, there is nothing to publish", n.Name),
			Fix: "leave the forward out, or attach the workload to a nat network too"}, true
	}
	if !n.Routes() {
		return Problem{Code: CodeForwardMode, Path: "spec.network", Reason: fmt.Sprintf("network %q is %s: nobody outside may come in, so it publishes no ports", n.Name, n.Mode),
			Fix: "attach the workload to a nat network"}, true
	}
	return Problem{}, false
}

func (c forwardCheck) endpoint(f Forward) (Problem, bool) {
	p, bad := CheckName("workload", f.Workload)
	if bad {
		return p.at("spec.workload"), true
	}
	n, ok := c.view.Networks[f.Network]
	if !ok || !n.Routes() {
		return Problem{}, false // said already
	}
	p = Problem{Code: CodeForwardTarget, Path: "spec.workload"}
	v6 := f.HostIP.Is6()
	if f.HostIP.IsValid() && !n.hasFamily(v6) {
		p.Reason = fmt.Sprintf("network %q has no %s subnet for a forward on %s", n.Name, family(v6), f.HostIP)
		return p, true
	}
	if !c.found {
		return Problem{}, false
	}
	e, ok := c.target.Endpoint(f.Network)
	switch {
	case !ok:
		p.Reason = fmt.Sprintf("workload %q is not on network %q", f.Workload, f.Network)
		p.Fix, p.Example = "attach it first", fmt.Sprintf("flatnet connect %s %s", f.Network, f.Workload)
	case f.HostIP.IsValid() && len(e.Addrs) > 0 && !e.hasFamily(v6):
		p.Reason = fmt.Sprintf("workload %q has no %s address for a forward on %s", f.Workload, family(v6), f.HostIP)
	default:
		return Problem{}, false
	}
	return p, true
}

func family(v6 bool) string {
	if v6 {
		return "IPv6"
	}
	return "IPv4"
}

func (n Network) hasFamily(v6 bool) bool {
	for _, s := range n.Subnets {
		if s.Prefix.Addr().Is6() == v6 {
			return true
		}
	}
	return false
}

func (c forwardCheck) hostIP(f Forward) (Problem, bool) {
	a := f.HostIP
	if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() {
		return Problem{}, false
	}
	fix := "addresses:"
	for _, l := range c.view.Node.Links {
		for _, p := range l.Addrs {
			if p.Addr() == a {
				return Problem{}, false
			}
			if !l.Loopback && p.Addr().Is6() == a.Is6() && !p.Addr().IsLinkLocalUnicast() {
				fix += " " + p.Addr().String()
			}
		}
	}
	if fix == "addresses:" {
		fix = fmt.Sprintf("the host has no %s address", family(a.Is6()))
	}
	return Problem{Code: CodeForwardHostIP, Path: "spec.publish", Reason: fmt.Sprintf("%s is not an address of this host", a), Fix: fix, Example: exampleForward(f)}, true
}

func exampleForward(f Forward) string {
	f.HostIP = netip.Addr{}
	return f.Publish()
}

// clash goes over the maps, not over AllForwards, which sorts: publishing a thousand must not cost a thousand sorts. Of
// several it names the first by name.
func (c forwardCheck) clash(f Forward) (Problem, bool) {
	var first Forward
	found := false
	meet := func(g Forward) {
		if g.Clashes(f) && (!found || g.Name() < first.Name()) {
			first, found = g, true
		}
	}
	for _, g := range c.view.Forwards {
		if c.publishing || g.Workload != f.Workload || g.Network != f.Network || g.Name() != f.Name() {
			meet(g)
		}
	}
	for name, w := range c.view.Workloads {
		if c.publishing && name == c.target.Name {
			continue
		}
		for _, g := range w.Forwards {
			meet(g)
		}
	}
	if !found {
		return Problem{}, false
	}
	return clashProblem(f, first), true
}

func clashProblem(f, owner Forward) Problem {
	return Problem{Code: CodeForwardClash, Path: "spec.publish", Reason: fmt.Sprintf("%s is forwarded already", f.Name()),
		Owner: fmt.Sprintf("forward %s of workload %q", owner.Name(), owner.Workload), Fix: "choose another host port or address"}
}
