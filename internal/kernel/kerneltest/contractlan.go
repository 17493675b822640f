package kerneltest

import (
	"net/netip"

	"github.com/flatnet/flatnet/internal/dataplane"
)

func sourceRule(from string, table int) dataplane.RouteRule {
	return dataplane.RouteRule{Priority: 15700, From: netip.MustParseAddr(from), Table: table}
}

func inTable(r dataplane.Route, table int) dataplane.Route {
	r.Table = table
	return r
}

func (s *story) routesBySource() {
	s.attach()
	rules := []dataplane.Object{sourceRule("10.66.0.2", 15700), sourceRule("fd66::2", 15700)}
	want := innerState()
	s.must(want.Put(rules...))
	s.must(want.Put(inTable(defaultA4, 15700), inTable(defaultA6, 15700), dataplane.Route{Dest: netip.MustParsePrefix("10.66.0.0/24"), Table: 15700, Link: "eth0"}))
	s.apply(s.A, want)
	s.expect(s.A, want)
	s.must(s.Kernel.Apply(s.Context(), s.A, dataplane.Diff(want, dataplane.State{}))) // twice is once
	for _, to := range []int{15701, 15700} {
		for _, r := range []dataplane.RouteRule{sourceRule("10.66.0.2", to), sourceRule("fd66::2", to)} {
			want[r.Key()] = r
		}
		s.apply(s.A, want)
		s.expect(s.A, want)
	}
	s.Delete("fv-a") // the routes of every table go with it, the rules stay
	s.expect(s.A, stateOf(append(rules, loUp)...))
	s.apply(s.A, stateOf(loUp))
	s.expect(s.A, stateOf(loUp))
}

func (s *story) proxies() {
	p4 := dataplane.ProxyNeighbour{Link: "nic0", Addr: netip.MustParseAddr("192.0.2.7")}
	p6 := dataplane.ProxyNeighbour{Link: "nic0", Addr: netip.MustParseAddr("2001:db8::7")}
	s.mustFail("add a proxy on a link that is not there", s.do(dataplane.HostNetns, dataplane.Add, p4))
	s.must(s.do(dataplane.HostNetns, dataplane.Del, p4))
	for range 2 {
		s.Foreign("nic0")
		s.expect(dataplane.HostNetns, dataplane.State{})
		s.apply(dataplane.HostNetns, stateOf(p4, p6))
		s.must(s.do(dataplane.HostNetns, dataplane.Add, p4))
		s.expect(dataplane.HostNetns, stateOf(p4, p6))
		s.apply(dataplane.HostNetns, stateOf(p6))
		s.expect(dataplane.HostNetns, stateOf(p6))
		s.Delete("nic0")
		s.expect(dataplane.HostNetns, dataplane.State{})
	}
}

func (s *story) borrowsPort() {
	lan := contractBridge
	lan.Uplink = "nic0"
	other := contractBridge
	other.Name, other.Uplink = "fn-other", "nic0"
	port := dataplane.Port{Link: "nic0", Master: "fn-lab"}
	s.apply(dataplane.HostNetns, stateOf(lan, outerA(s.A)))
	s.mustFail("borrow a link that is not there", s.do(dataplane.HostNetns, dataplane.Add, port))
	s.must(s.do(dataplane.HostNetns, dataplane.Del, port))
	s.mustFail("borrow a link of ours", s.do(dataplane.HostNetns, dataplane.Add, dataplane.Port{Link: "fv-a", Master: "fn-lab"}))
	for range 2 { // it comes back as another link of the name
		s.Foreign("nic0")
		s.mustFail("into a bridge that is not there", s.do(dataplane.HostNetns, dataplane.Add, dataplane.Port{Link: "nic0", Master: "fn-other"}))
		s.expect(dataplane.HostNetns, stateOf(lan, outerA(s.A)))
		for range 2 {
			s.must(s.do(dataplane.HostNetns, dataplane.Add, port))
			s.expect(dataplane.HostNetns, stateOf(lan, outerA(s.A), port))
		}
		s.Delete("nic0")
		s.expect(dataplane.HostNetns, stateOf(lan, outerA(s.A)))
	}
	s.Foreign("nic0")
	s.must(s.do(dataplane.HostNetns, dataplane.Add, port))
	moved := dataplane.Port{Link: "nic0", Master: "fn-other"}
	s.apply(dataplane.HostNetns, stateOf(contractBridge, other, moved, outerA(s.A)))
	s.expect(dataplane.HostNetns, stateOf(contractBridge, other, moved, outerA(s.A)))
	s.Delete("fn-other")
	s.expect(dataplane.HostNetns, stateOf(contractBridge, outerA(s.A)))
	s.apply(dataplane.HostNetns, stateOf(contractBridge, other, moved, outerA(s.A)))
	s.apply(dataplane.HostNetns, stateOf(contractBridge, outerA(s.A)))
	s.expect(dataplane.HostNetns, stateOf(contractBridge, outerA(s.A)))
	s.apply(dataplane.HostNetns, stateOf(lan, outerA(s.A))) // named, but not put there
	s.expect(dataplane.HostNetns, stateOf(lan, outerA(s.A)))
}
