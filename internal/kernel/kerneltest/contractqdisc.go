package kerneltest

import (
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// The values of the story about limits.
var (
	shaperIn  = dataplane.NewShaper("fv-a", 12_500_000, 312_500, 625_000)
	shaperOut = dataplane.NewShaper("fi-a", 1_250_000, 31_250, 62_500)
	wayOut    = dataplane.Link{Name: "fi-a", Kind: dataplane.IFB, Owner: "ep/a/eth0", MAC: model.BridgeMAC("fi-a"), MTU: 1400, NoARP: true, Up: true}
	redirect  = dataplane.Redirect{Link: "fv-a", Via: "fi-a"}
)

func (s *story) shapes() {
	port := outerA(s.A)
	bare := func() dataplane.State { return stateOf(contractBridge, port) }
	full := func() dataplane.State { return stateOf(contractBridge, port, wayOut, shaperIn, shaperOut, redirect) }
	for _, o := range []dataplane.Object{shaperIn, redirect} {
		s.mustFail("limit a link that is not there", s.do(dataplane.HostNetns, dataplane.Add, o))
		s.must(s.do(dataplane.HostNetns, dataplane.Del, o))
	}
	s.apply(dataplane.HostNetns, full())
	s.expect(dataplane.HostNetns, full())
	s.must(s.Kernel.Apply(s.Context(), dataplane.HostNetns, dataplane.Diff(full(), dataplane.State{})))
	s.expect(dataplane.HostNetns, full())

	want := full() // one limit changes, the other ends
	slower := dataplane.NewShaper("fi-a", 125_000, 16_000, 19_125)
	want[slower.Key()] = slower
	delete(want, shaperIn.Key())
	s.apply(dataplane.HostNetns, want)
	s.expect(dataplane.HostNetns, want)

	s.Delete("fi-a") // nothing leads out any more, until the redirect is made anew
	stranded := stateOf(contractBridge, port, dataplane.Redirect{Link: "fv-a"})
	s.expect(dataplane.HostNetns, stranded)
	s.apply(dataplane.HostNetns, full())
	s.expect(dataplane.HostNetns, full())

	s.Foreign("nic0")
	onNIC, byPort := shaperIn, redirect
	onNIC.Link, byPort.Via = "nic0", "fv-a"
	for _, o := range []dataplane.Object{onNIC, dataplane.Redirect{Link: "nic0", Via: "fi-a"}, byPort} {
		s.mustFail("limit a link of others, or lead by one of another kind", s.do(dataplane.HostNetns, dataplane.Add, o))
	}
	s.must(s.do(dataplane.HostNetns, dataplane.Del, onNIC, dataplane.Redirect{Link: "nic0", Via: "fi-a"}))
	s.expect(dataplane.HostNetns, full())

	for range 2 {
		s.must(s.Kernel.Apply(s.Context(), dataplane.HostNetns, dataplane.Diff(bare(), full())))
		s.expect(dataplane.HostNetns, bare())
	}
	s.apply(dataplane.HostNetns, full())
	s.apply(dataplane.HostNetns, stateOf(contractBridge))
	s.expect(dataplane.HostNetns, stateOf(contractBridge))
}
