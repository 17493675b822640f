package kerneltest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
)

// Subject is a kernel for one run of a Contract test: an empty host namespace, and two empty workload namespaces that are
// not ours.
type Subject struct {
	Kernel  Kernel
	A, B    string // paths of the workload namespaces
	Managed string // a path where a namespace of ours may be made
	// Foreign makes a link in the host's namespace that is not ours, down and as a NIC is.
	Foreign func(name string)
	// Delete removes a link of the host's namespace as somebody else would.
	Delete func(name string)
	// Move takes a link of the host's namespace to B as somebody else would.
	Move func(name string)
}

// Contract is what package reconcile relies on. It runs each story on a new Subject.
func Contract(t *testing.T, subject func(t *testing.T) Subject) {
	for _, s := range stories {
		t.Run(strings.ReplaceAll(s.name, " ", "-"), func(t *testing.T) {
			s.run(&story{T: t, Subject: subject(t)})
		})
	}
}

// story is one contract test at work.
type story struct {
	*testing.T
	Subject
}

var stories = []struct {
	name string
	run  func(*story)
}{
	{"what is applied is observed", (*story).observesWhatItApplied},
	{"an addition of what is there succeeds", (*story).addsTwice},
	{"a deletion of what is absent succeeds", (*story).deletesTwice},
	{"replacing leads to what is wanted", (*story).replaces},
	{"what is gone is not replaced", (*story).missesLinks},
	{"a foreign name is taken", (*story).respectsForeignLinks},
	{"a step that fails does not stop the others", (*story).goesOn},
	{"objects need what they stand on", (*story).needsParents},
	{"with an end of a veth goes the other", (*story).cascadesVeth},
	{"a veth whose end was moved is made anew", (*story).movesVeth},
	{"with a bridge go its addresses but not its ports", (*story).cascadesBridge},
	{"with a table goes its content", (*story).cascadesTable},
	{"rules and their tables", (*story).routesBySource},
	{"with a link go its proxied neighbours", (*story).proxies},
	{"a tunnel and what leads to its peers", (*story).tunnels},
	{"a tunnel is changed or made anew", (*story).changesTunnel},
	{"what is on others' links is left alone", (*story).refusesEntries},
	{"what comes and goes is held back", (*story).shapes},
	{"a link of others is borrowed and given back", (*story).borrowsPort},
	{"a managed namespace comes and goes with all in it", (*story).managesNetns},
	{"an absent namespace is an error", (*story).missesNetns},
}

func (s *story) apply(netns string, want dataplane.State) {
	s.Helper()
	if err := s.Kernel.Apply(context.Background(), netns, dataplane.Diff(want, s.observe(netns))); err != nil {
		s.Fatalf("apply: %v", err)
	}
}

func (s *story) do(netns string, op dataplane.Op, objects ...dataplane.Object) error {
	var p dataplane.Plan
	for _, o := range objects {
		p = append(p, dataplane.Step{Op: op, Object: o})
	}
	return s.Kernel.Apply(context.Background(), netns, p)
}

func (s *story) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *story) mustFail(what string, err error) {
	s.Helper()
	if err == nil {
		s.Errorf("%s: want an error", what)
	}
}

func (s *story) observe(netns string) dataplane.State {
	s.Helper()
	got, err := s.Kernel.Observe(context.Background(), netns)
	if err != nil {
		s.Fatalf("observe %s: %v", spaceName(netns), err)
	}
	return got
}

// expect compares what is observed with what is wanted, as lines of text.
func (s *story) expect(netns string, want dataplane.State) {
	s.Helper()
	if d := dataplane.Diff(want, s.observe(netns)); len(d) != 0 {
		s.Errorf("%s: observed differs from wanted; to mend it:\n%s", spaceName(netns), d)
	}
}

func stateOf(objects ...dataplane.Object) dataplane.State {
	s := dataplane.State{}
	if err := s.Put(objects...); err != nil {
		panic(err) // a mistake in this file
	}
	return s
}

// The values of the stories.
var (
	contractBridge = dataplane.Link{Name: "fn-lab", Kind: dataplane.Bridge, Owner: "net/lab", MAC: model.BridgeMAC("lab"), MTU: 1400, Up: true}
	gateway4       = dataplane.Address{Link: "fn-lab", Prefix: netip.MustParsePrefix("10.66.0.1/24")}
	gateway6       = dataplane.Address{Link: "fn-lab", Prefix: netip.MustParsePrefix("fd66::1/64")}
	bridgeSysctl   = dataplane.Sysctl{Name: "net/ipv4/conf/fn-lab/arp_ignore", Link: "fn-lab", Value: "1"}
	macA           = model.EndpointMAC("a", "lab")
	innerA         = dataplane.Link{Name: "eth0", Kind: dataplane.Veth, Owner: "ep/a/eth0", MAC: macA, MTU: 1400, Up: true}
	innerA4        = dataplane.Address{Link: "eth0", Prefix: netip.MustParsePrefix("10.66.0.2/24")}
	innerA6        = dataplane.Address{Link: "eth0", Prefix: netip.MustParsePrefix("fd66::2/64")}
	defaultA4      = dataplane.Route{Dest: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.66.0.1"), Link: "eth0"}
	defaultA6      = dataplane.Route{Dest: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd66::1"), Link: "eth0"}
	loUp           = dataplane.Link{Name: "lo", Kind: dataplane.Loopback, Up: true}

	table    = dataplane.Table{Family: dataplane.Inet}
	names    = dataplane.Set{Family: dataplane.Inet, Name: "nets", Type: dataplane.Types{dataplane.IfName}}
	ports    = dataplane.Set{Family: dataplane.Inet, Name: "forward4", Type: dataplane.Types{dataplane.InetProto, dataplane.InetService}, Value: dataplane.Types{dataplane.IPv4Addr, dataplane.InetService}}
	chainIn  = dataplane.Chain{Family: dataplane.Inet, Name: "input", Hook: dataplane.Input, Type: "filter"}
	lab      = names.Element(dataplane.Tuple{Link: "fn-lab"})
	forward  = ports.Element(dataplane.Tuple{Proto: model.TCP, Port: 8080}).To(dataplane.Tuple{Addr: netip.MustParseAddr("10.66.0.2"), Port: 80})
	ruleDrop = dataplane.Rule{Family: dataplane.Inet, Chain: "input", Match: dataplane.Match{CTState: dataplane.Invalid,
		Lookup: dataplane.Lookup{Fields: dataplane.Fields{dataplane.IIF}, Set: "nets"}}, Verdict: dataplane.Verdict{Do: dataplane.Drop}}
)

func outerA(netns string) dataplane.Link {
	return dataplane.Link{Name: "fv-a", Kind: dataplane.Veth, Owner: "ep/a/eth0", MAC: model.HostSideMAC(macA), MTU: 1400, Up: true,
		Master: "fn-lab", Peer: "eth0", PeerNetns: netns, Isolated: true, Hairpin: true}
}

func nftState() []dataplane.Object {
	return []dataplane.Object{table, names, ports, chainIn, ruleDrop, lab, forward}
}

func (s *story) hostState() dataplane.State {
	return stateOf(append(nftState(), contractBridge, gateway4, gateway6, bridgeSysctl, outerA(s.A))...)
}

func innerState() dataplane.State {
	return stateOf(loUp, innerA, innerA4, innerA6, defaultA4, defaultA6)
}

func (s *story) attach() {
	s.Helper()
	s.apply(dataplane.HostNetns, s.hostState())
	s.apply(s.A, innerState())
}

func (s *story) observesWhatItApplied() {
	s.expect(dataplane.HostNetns, dataplane.State{})
	s.expect(s.A, stateOf(dataplane.Link{Name: "lo", Kind: dataplane.Loopback}))
	s.attach()
	s.expect(dataplane.HostNetns, s.hostState())
	s.expect(s.A, innerState())
	s.apply(dataplane.HostNetns, dataplane.State{})
	s.expect(dataplane.HostNetns, dataplane.State{})
	s.expect(s.A, stateOf(loUp))
}

func (s *story) addsTwice() {
	s.attach()
	s.must(s.Kernel.Apply(context.Background(), dataplane.HostNetns, dataplane.Diff(s.hostState(), dataplane.State{})))
	s.must(s.Kernel.Apply(context.Background(), s.A, dataplane.Diff(innerState(), dataplane.State{})))
	s.expect(dataplane.HostNetns, s.hostState())
	s.expect(s.A, innerState())
}

func (s *story) deletesTwice() {
	s.attach()
	remove := dataplane.Diff(dataplane.State{}, s.observe(dataplane.HostNetns))
	for range 2 {
		s.must(s.Kernel.Apply(context.Background(), dataplane.HostNetns, remove))
		s.expect(dataplane.HostNetns, dataplane.State{})
	}
}

func (s *story) replaces() {
	s.attach()
	want := s.hostState()
	port := outerA(s.A)
	port.MTU, port.Isolated, port.Hairpin = 1300, false, false
	to := forward.To(dataplane.Tuple{Addr: netip.MustParseAddr("10.66.0.3"), Port: 81})
	sysctl := bridgeSysctl
	sysctl.Value = "2"
	r := ruleDrop
	r.Do = dataplane.Accept
	for _, o := range []dataplane.Object{port, to, sysctl, r} {
		want[o.Key()] = o
	}
	s.apply(dataplane.HostNetns, want)
	s.expect(dataplane.HostNetns, want)

	moved := outerA(s.B) // the other end into another namespace: made anew
	want[moved.Key()] = moved
	s.apply(dataplane.HostNetns, want)
	s.expect(dataplane.HostNetns, want)
	s.expect(s.A, stateOf(loUp))
	quiet := innerA
	quiet.Quiet = true
	for _, l := range []dataplane.Link{quiet, innerA} {
		inside := innerState()
		inside[l.Key()] = l
		s.apply(s.B, inside)
		s.expect(s.B, inside)
	}
}

func (s *story) missesLinks() {
	s.attach()
	port, want := outerA(s.A), s.hostState()
	s.Delete(port.Name)
	delete(want, port.Key())
	port.MTU = 1300
	s.mustFail("change a port that went", s.do(dataplane.HostNetns, dataplane.Replace, port))
	s.expect(dataplane.HostNetns, want)
	s.expect(s.A, stateOf(loUp))
}

func (s *story) respectsForeignLinks() {
	s.Foreign("fn-lab")
	s.mustFail("add a bridge over a foreign link", s.do(dataplane.HostNetns, dataplane.Add, contractBridge))
	s.expect(dataplane.HostNetns, dataplane.State{})
	s.must(s.do(dataplane.HostNetns, dataplane.Del, contractBridge))
	s.mustFail("the foreign link is still there", s.do(dataplane.HostNetns, dataplane.Add, contractBridge))
	s.Delete("fn-lab")
	s.must(s.do(dataplane.HostNetns, dataplane.Add, contractBridge))
}

func (s *story) goesOn() {
	orphan := dataplane.Address{Link: "absent0", Prefix: netip.MustParsePrefix("10.99.0.1/24")}
	err := s.do(dataplane.HostNetns, dataplane.Add, orphan, contractBridge, gateway4)
	if err == nil || !strings.Contains(err.Error(), "absent0") {
		s.Errorf("got %v, want an error that names absent0", err)
	}
	s.expect(dataplane.HostNetns, stateOf(contractBridge, gateway4))
}

func (s *story) needsParents() {
	gone := outerA(s.Managed + "-absent")
	lonely := innerA
	lonely.Name = "eth9"
	for _, o := range []dataplane.Object{outerA(s.A), gateway4, bridgeSysctl, names, lab, ruleDrop, lonely,
		dataplane.Route{Dest: netip.MustParsePrefix("10.5.0.0/16"), Link: "fn-lab"}} {
		s.mustFail(fmt.Sprintf("add %s", o), s.do(dataplane.HostNetns, dataplane.Add, o))
	}
	s.must(s.do(dataplane.HostNetns, dataplane.Add, contractBridge, gateway4))
	s.mustFail("add a veth into a namespace that is not there", s.do(dataplane.HostNetns, dataplane.Add, gone))
	s.mustFail("add a route by a gateway that is not on-link", s.do(dataplane.HostNetns, dataplane.Add,
		dataplane.Route{Dest: netip.MustParsePrefix("10.5.0.0/16"), Via: netip.MustParseAddr("10.77.0.1"), Link: "fn-lab"}))
	s.expect(dataplane.HostNetns, stateOf(contractBridge, gateway4))
}

func (s *story) cascadesVeth() {
	s.attach()
	s.Delete("fv-a")
	want := s.hostState()
	delete(want, outerA(s.A).Key())
	s.expect(dataplane.HostNetns, want)
	s.expect(s.A, stateOf(loUp))
	s.attach()
	s.expect(dataplane.HostNetns, s.hostState())
	s.expect(s.A, innerState())
}

func (s *story) movesVeth() {
	s.attach()
	s.Move("fv-a")
	want := s.hostState()
	delete(want, outerA(s.A).Key())
	s.expect(dataplane.HostNetns, want)
	s.expect(s.A, innerState())
	s.apply(dataplane.HostNetns, s.hostState())
	s.expect(dataplane.HostNetns, s.hostState())
	s.expect(s.A, stateOf(loUp)) // it is not ours before it is set up
	s.expect(s.B, stateOf(dataplane.Link{Name: "lo", Kind: dataplane.Loopback}))
	s.Move("fv-a") // nor when the next one is made
	s.apply(dataplane.HostNetns, s.hostState())
	s.attach()
	s.expect(s.A, innerState())

	s.Move("fv-a")
	s.mustFail("take the place of another endpoint's end", s.do(dataplane.HostNetns, dataplane.Add, otherA(s.A)))
	s.expect(s.A, innerState())
}

// otherA is a host end whose other end would have the name of a's.
func otherA(netns string) dataplane.Link {
	other := outerA(netns)
	other.Name, other.Owner, other.MAC = "fv-o", "ep/o/eth0", model.HostSideMAC(model.EndpointMAC("o", "lab"))
	return other
}

func (s *story) cascadesBridge() {
	s.attach()
	s.Delete("fn-lab")
	port := outerA(s.A)
	port.Master, port.Isolated, port.Hairpin = "", false, false
	s.expect(dataplane.HostNetns, stateOf(append(nftState(), port)...))
	s.apply(dataplane.HostNetns, s.hostState())
	s.expect(dataplane.HostNetns, s.hostState())
}

func (s *story) cascadesTable() {
	s.attach()
	s.must(s.do(dataplane.HostNetns, dataplane.Del, table))
	s.expect(dataplane.HostNetns, stateOf(contractBridge, gateway4, gateway6, bridgeSysctl, outerA(s.A)))
	s.apply(dataplane.HostNetns, s.hostState())
	s.expect(dataplane.HostNetns, s.hostState())
}

func (s *story) managesNetns() {
	ns := dataplane.Netns{Path: s.Managed}
	want := stateOf(ns, contractBridge, outerA(s.Managed))
	s.apply(dataplane.HostNetns, want)
	s.expect(dataplane.HostNetns, want)
	s.apply(s.Managed, innerStateWithoutRoutes())
	s.expect(s.Managed, innerStateWithoutRoutes())
	s.must(s.do(dataplane.HostNetns, dataplane.Del, outerA(s.Managed), ns))
	s.expect(dataplane.HostNetns, stateOf(contractBridge))
	s.must(s.do(dataplane.HostNetns, dataplane.Del, ns))
	_, err := s.Kernel.Observe(context.Background(), s.Managed)
	s.mustFail("observe what was removed", err)
}

func innerStateWithoutRoutes() dataplane.State { return stateOf(loUp, innerA, innerA4, innerA6) }

func (s *story) missesNetns() {
	_, err := s.Kernel.Observe(context.Background(), s.Managed)
	s.mustFail("observe an absent namespace", err)
	s.mustFail("add in an absent namespace", s.do(s.Managed, dataplane.Add, loUp))
}

// Text is a state as sorted lines, for messages and golden files.
func Text(s dataplane.State) string {
	var lines []string
	for _, o := range s {
		lines = append(lines, o.String())
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
