package kerneltest

import (
	"net/netip"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// The values of the stories about tunnels: one of IPv4 and one of IPv6, each with a peer.
var (
	tunnel4 = dataplane.Link{Name: "fx-lab", Kind: dataplane.VXLAN, Owner: "net/lab", MAC: model.BridgeMAC("fx4"), MTU: 1450, Up: true,
		Tunnel: dataplane.Tunnel{VNI: 7, Port: 8472, Local: netip.MustParseAddr("192.0.2.1")}}
	tunnel6 = dataplane.Link{Name: "fx-six", Kind: dataplane.VXLAN, Owner: "net/six", MAC: model.BridgeMAC("fx6"), MTU: 1430, Up: true,
		Tunnel: dataplane.Tunnel{VNI: 7, Port: 8472, Local: netip.MustParseAddr("2001:db8::1"), NoTxCsum: true}}
	peer4      = model.BridgeMAC("peer4")
	peer6      = model.BridgeMAC("peer6")
	neighbour4 = dataplane.Neighbour{Link: "fx-lab", Addr: netip.MustParseAddr("10.67.0.0"), MAC: peer4}
	neighbour6 = dataplane.Neighbour{Link: "fx-six", Addr: netip.MustParseAddr("fd67::"), MAC: peer6}
	entry4     = dataplane.FDB{Link: "fx-lab", MAC: peer4, Dst: netip.MustParseAddr("198.18.0.2")}
	entry6     = dataplane.FDB{Link: "fx-six", MAC: peer6, Dst: netip.MustParseAddr("2001:db8::2")}
	block4     = dataplane.Route{Dest: netip.MustParsePrefix("10.67.0.0/24"), Via: neighbour4.Addr, OnLink: true, Link: "fx-lab", Source: gateway4.Prefix.Addr()}
	block6     = dataplane.Route{Dest: netip.MustParsePrefix("fd67::/64"), Via: neighbour6.Addr, OnLink: true, Link: "fx-six", Source: gateway6.Prefix.Addr()}
)

func tunnelState() dataplane.State {
	return stateOf(contractBridge, gateway4, gateway6, tunnel4, tunnel6, neighbour4, neighbour6, entry4, entry6, block4, block6)
}

func (s *story) tunnels() {
	for _, o := range []dataplane.Object{neighbour4, entry4} {
		s.mustFail("add what is on a tunnel that is not there", s.do(dataplane.HostNetns, dataplane.Add, o))
		s.must(s.do(dataplane.HostNetns, dataplane.Del, o))
	}
	s.apply(dataplane.HostNetns, tunnelState())
	s.expect(dataplane.HostNetns, tunnelState())
	s.must(s.Kernel.Apply(s.Context(), dataplane.HostNetns, dataplane.Diff(tunnelState(), dataplane.State{})))
	s.expect(dataplane.HostNetns, tunnelState())

	want := tunnelState()
	n, e := neighbour4, entry6
	n.MAC, e.Dst = model.BridgeMAC("other"), netip.MustParseAddr("2001:db8::3")
	want[n.Key()], want[e.Key()] = n, e
	delete(want, entry4.Key())
	delete(want, neighbour6.Key())
	s.apply(dataplane.HostNetns, want)
	s.expect(dataplane.HostNetns, want)

	s.Delete("fx-six")
	for _, o := range []dataplane.Object{tunnel6, e, block6} {
		delete(want, o.Key())
	}
	s.expect(dataplane.HostNetns, want)
	s.apply(dataplane.HostNetns, tunnelState())
	s.expect(dataplane.HostNetns, tunnelState())
	for range 2 {
		s.must(s.Kernel.Apply(s.Context(), dataplane.HostNetns, dataplane.Diff(stateOf(contractBridge), tunnelState())))
		s.expect(dataplane.HostNetns, stateOf(contractBridge))
	}
}

func (s *story) changesTunnel() {
	s.apply(dataplane.HostNetns, tunnelState())
	local, mac, vni := tunnel4, tunnel4, tunnel4
	local.Tunnel.Local = netip.MustParseAddr("192.0.2.9")
	mac.MAC = model.BridgeMAC("another")
	vni.Tunnel.VNI, vni.Tunnel.NoTxCsum = 8, true
	for _, change := range []struct {
		to    dataplane.Link
		loses []dataplane.Object
	}{
		{local, nil},
		{mac, []dataplane.Object{neighbour4}},
		{vni, []dataplane.Object{neighbour4, entry4, block4}},
	} {
		want := tunnelState()
		want[change.to.Key()] = change.to
		s.apply(dataplane.HostNetns, want)
		for _, o := range change.loses {
			delete(want, o.Key())
		}
		s.expect(dataplane.HostNetns, want)
		for range 2 { // there it is made anew
			s.apply(dataplane.HostNetns, tunnelState())
		}
		s.expect(dataplane.HostNetns, tunnelState())
	}

	second := tunnel4
	second.Name, second.Owner = "fx-two", "net/two"
	s.mustFail("a second link with the VNI", s.do(dataplane.HostNetns, dataplane.Add, second))
	s.expect(dataplane.HostNetns, tunnelState())
	moved := stateOf(contractBridge, gateway4, second)
	s.apply(dataplane.HostNetns, moved) // which is free when the first one goes
	s.expect(dataplane.HostNetns, moved)
}

func (s *story) refusesEntries() {
	s.Foreign("fx-lab")
	s.apply(dataplane.HostNetns, stateOf(contractBridge))
	s.mustFail("a tunnel over a foreign link", s.do(dataplane.HostNetns, dataplane.Add, tunnel4))
	onBridge := entry4
	onBridge.Link = "fn-lab"
	for _, o := range []dataplane.Object{neighbour4, entry4, onBridge} {
		s.mustFail("add what is on no tunnel of ours", s.do(dataplane.HostNetns, dataplane.Add, o))
		s.must(s.do(dataplane.HostNetns, dataplane.Del, o))
	}
	s.expect(dataplane.HostNetns, stateOf(contractBridge))
	s.Delete("fx-lab")
	s.apply(dataplane.HostNetns, tunnelState())
	s.expect(dataplane.HostNetns, tunnelState())
}
