package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/agent/checkup"
	"github.com/flatnet/flatnet/internal/dataplane"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/internal/reconcile"
)

// The codes of what the agent itself finds; package kernel/foreign has those of other people's rules.
const (
	FindingDrift         = "FN5001" // the kernel differs from what is asked for
	FindingInnerDrift    = "FN5002" // a workload's namespace does
	FindingForwarding    = checkup.CodeForwarding
	FindingLost          = "FN5004" // a workload's namespace is gone
	FindingFeature       = "FN5005" // the kernel lacks something
	FindingBridgeNF      = "FN5006" // bridged frames go through iptables
	FindingNetworkd      = "FN5007" // systemd-networkd may remove our routes
	FindingBroken        = "FN5008" // something stored cannot be made
	FindingNotObservable = "FN5009" // the kernel could not be looked at
	FindingPutBack       = "FN5010" // something of ours was changed by others, and put back
	FindingDamaged       = "FN5011" // a file of the run directory could not be read
	FindingNoLink        = "FN5012" // a link of others that a network needs is gone
)

// The levels of a finding.
const (
	levelNote    = "note"
	levelWarning = "warning"
	levelError   = "error"
)

// Plan is what the kernel lacks or has too much, in the host's and the workloads' namespaces.
func (a *Agent) Plan(ctx context.Context) ([]api.Step, error) {
	changes, err := a.rec.Drift(ctx)
	return steps(changes), a.withoutLost(err)
}

// withoutLost drops the error of namespaces that are known to be gone.
func (a *Agent) withoutLost(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		a.lookForLost(context.Background(), reconcile.Hint{Resync: true})
		return nil
	}
	return err
}

// Repair carries out now what the loop would do soon.
func (a *Agent) Repair(ctx context.Context, dryRun bool) ([]api.Step, error) {
	if err := a.begin(ctx); err != nil {
		return nil, err
	}
	defer a.end()
	if dryRun {
		changes, err := a.rec.Drift(ctx)
		return steps(slices.DeleteFunc(changes, func(c reconcile.Change) bool { return c.Netns != dataplane.HostNetns })), err
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	defer a.looks.note(look{})
	changes, err := a.rec.Repair(ctx)
	return steps(changes), err
}

// Doctor looks for what is wrong, or might be in the way.
func (a *Agent) Doctor(ctx context.Context) ([]api.Finding, error) {
	defer a.deps.processors.another()()
	asked := make(chan []api.Finding, 1)
	go func() { asked <- a.wayFindings(ctx) }()
	seen := a.look(ctx, true)
	a.looks.note(seen)
	list := slices.Concat(a.known(), seen.findings, a.containerFindings(ctx, "/"), <-asked)
	slices.SortStableFunc(list, func(a, b api.Finding) int { return cause(a) - cause(b) })
	return list, nil
}

// cause orders findings: what is first is why there are others.
func cause(f api.Finding) int {
	if f.Code == checkup.CodeDownLink || f.Code == checkup.CodeTunnelPort {
		return 0
	}
	return 1
}

// known are the findings that cost no look.
func (a *Agent) known() []api.Finding {
	a.mu.RLock()
	list := slices.Concat(a.conflictFindings(), a.lostFindings(), a.brokenFindings(), a.lackingFindings(), a.clusterFindings(), a.storedFindings())
	a.mu.RUnlock()
	return slices.Concat(list, damagedFindings(a.config.RunDir), a.featureFindings())
}

// look reads kernel and rules, and says what is wrong there; inside asks for a look beyond drift into the workloads' namespaces
// too.
func (a *Agent) look(ctx context.Context, inside bool) look {
	defer a.deps.processors.another()()
	at := a.deps.Now()
	a.mu.RLock()
	v := a.state.snapshot()
	a.mu.RUnlock()
	changes, err := a.rec.Drift(ctx)
	facts, factsErr := a.checkup(ctx, v, inside)
	foreign, closed, foreignErr := a.foreignFindings(ctx, v, checkup.OtherBridges(facts))
	facts.Closed = closed
	judged := checkup.Findings(facts)
	list := append(driftFindings(changes, told(judged), a.withoutLost(err)), a.putBackFindings(changes)...)
	list = append(list, hostFindings(v, foreign)...)
	list = append(list, judged...)
	list = append(list, foreign...)
	list = slices.Concat(list, unread("the host could not be looked at in full", factsErr), unread("other people's rules could not be read", foreignErr))
	return look{at, list}
}

// checkup gathers facts; without somebody to ask there are none, and then nothing is found.
func (a *Agent) checkup(ctx context.Context, v model.View, inside bool) (checkup.Facts, error) {
	if a.deps.Surveyor == nil {
		return checkup.Facts{}, nil
	}
	return a.facts(ctx, v, inside)
}

func (a *Agent) foreignFindings(ctx context.Context, v model.View, others []checkup.OtherBridge) (list []api.Finding, closed []string, err error) {
	if a.deps.Foreign == nil {
		return nil, nil, nil
	}
	return a.deps.Foreign.Findings(ctx, v, others)
}

// unread is what could not be looked at, if there is an error.
func unread(what string, err error) []api.Finding {
	if err == nil {
		return nil
	}
	return []api.Finding{{Code: FindingNotObservable, Level: levelNote, What: what + ": " + err.Error()}}
}

func (a *Agent) conflictFindings() []api.Finding {
	var list []api.Finding
	for _, name := range slices.Sorted(maps.Keys(a.conflicts)) {
		list = append(list, api.Finding{Code: model.CodeOverlapHost, Level: levelError, What: fmt.Sprintf("network %q: %s", name, a.conflicts[name]),
			Owner: "it stays until that is taken away, or the network has another subnet", Fix: otherSubnets(a.state.view, a.state.view.Networks[name])})
	}
	return list
}

// otherSubnets is the command that gives a network subnets that nothing of the host overlaps.
func otherSubnets(v model.View, n model.Network) string {
	command := "flatnet net set " + n.Name
	for _, s := range n.Subnets {
		if _, overlaps := n.Overlap(v.Node, s.Prefix); !overlaps {
			continue
		}
		if s.Prefix.Addr().Is6() {
			command += " --subnet " + autoSubnet6
		} else {
			command += " --subnet " + autoSubnet
		}
	}
	return command + " --renumber"
}

func (a *Agent) lostFindings() []api.Finding {
	var list []api.Finding
	for _, name := range slices.Sorted(maps.Keys(a.state.lost)) {
		list = append(list, api.Finding{Code: FindingLost, Level: levelWarning, What: fmt.Sprintf("workload %q: %s", name, a.state.lost[name]), Fix: "flatnet rm " + name})
	}
	return list
}

func (a *Agent) brokenFindings() []api.Finding {
	var list []api.Finding
	for _, name := range slices.Sorted(maps.Keys(a.broken)) {
		list = append(list, api.Finding{Code: FindingBroken, Level: levelError, What: fmt.Sprintf("%s: %s", name, a.broken[name])})
	}
	return list
}

func (a *Agent) lackingFindings() []api.Finding {
	var list []api.Finding
	v := a.state.view
	for _, name := range slices.Sorted(maps.Keys(v.Networks)) {
		n := v.Networks[name]
		if link, lacks := v.LacksLink(n); lacks && n.Active {
			list = append(list, api.Finding{Code: FindingNoLink, Level: levelError, What: fmt.Sprintf("network %q: link %s is not there", name, link),
				Fix: "when it is back, it is used again; or choose another: flatnet net set " + name + " --uplink LINK"})
		}
	}
	return list
}

// told reports whether default routes of workloads were judged: drift need not tell of them again.
func told(judged []api.Finding) bool {
	return slices.ContainsFunc(judged, func(f api.Finding) bool { return f.Code == checkup.CodeInnerRoute })
}

func driftFindings(changes []reconcile.Change, routesTold bool, err error) []api.Finding {
	var list []api.Finding
	for _, c := range changes {
		if c.Netns != dataplane.HostNetns {
			list = append(list, innerFindings(c, routesTold)...)
			continue
		}
		list = append(list, outerFindings(c.Plan)...)
	}
	if err != nil {
		list = append(list, api.Finding{Code: FindingNotObservable, Level: levelError, What: "the kernel could not be looked at: " + err.Error()})
	}
	return list
}

// innerFindings tell of a workload's namespace, without the default routes that a finding of their own tells of.
func innerFindings(c reconcile.Change, routesTold bool) []api.Finding {
	var lines []string
	for _, s := range c.Plan {
		if r, ok := s.Object.(dataplane.Route); !ok || !routesTold || r.Table != 0 || r.Dest.Bits() != 0 {
			lines = append(lines, s.String())
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return []api.Finding{{Code: FindingInnerDrift, Level: levelWarning, What: fmt.Sprintf("inside %s something was changed; to undo it: %s", c.Netns, listed(lines)),
		Owner: "the workload's own doing: it stays unless you undo it", Fix: "flatnet doctor --fix " + FindingInnerDrift, Fixable: true}}
}

// outerFindings tell of the host's own namespace; what is about forwarding is told by itself.
func outerFindings(p dataplane.Plan) []api.Finding {
	var list []api.Finding
	var lines []string
	for _, s := range p {
		if name, ok := forwardSwitch(s.String()); ok {
			list = append(list, forwardingFinding(name, s))
		} else {
			lines = append(lines, s.String())
		}
	}
	if len(lines) > 0 {
		list = append(list, api.Finding{Code: FindingDrift, Level: levelError, What: "the kernel differs from what is asked for: " + listed(lines), Fix: "flatnet doctor --fix " + FindingDrift, Fixable: true})
	}
	return list
}

// forwardingFinding says why forwarding is off although flatnet sets it, where that can be told.
func forwardingFinding(name string, s dataplane.Step) api.Finding {
	f := api.Finding{Code: FindingForwarding, Level: levelError, What: "forwarding is off: workloads do not reach beyond this host (" + s.String() + ")", Owner: checkup.SettingText(sysctlSettings("/"), name)}
	if err := writable(name); err != nil {
		f.Owner = strings.TrimSpace(err.Error() + "\n" + f.Owner)
		f.Fix = s.Command(dataplane.HostNetns)
		return f
	}
	f.Fix, f.Fixable = "flatnet doctor --fix "+FindingForwarding, true
	return f
}

// forwardSwitch is the sysctl that a step sets, if it is one that makes the host forward.
func forwardSwitch(step string) (name string, ok bool) {
	for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if strings.Contains(step, " sysctl "+name+"=") {
			return name, true
		}
	}
	return "", false
}

func (a *Agent) featureFindings() []api.Finding {
	var list []api.Finding
	features := a.deps.Host.Features()
	for _, name := range slices.Sorted(maps.Keys(features)) {
		if why, no := strings.CutPrefix(features[name], "no"); no {
			list = append(list, api.Finding{Code: FindingFeature, Level: levelNote, What: name + ": not on this kernel" + why})
		}
	}
	return list
}

// hostFindings are facts of the host that are no fault, but explain surprises.
func hostFindings(v model.View, foreign []api.Finding) []api.Finding {
	var list []api.Finding
	if len(v.Networks) == 0 {
		return nil
	}
	harms := slices.ContainsFunc(foreign, func(f api.Finding) bool { return f.Code == FindingBridgeNF })
	if on := framesFiltered(); len(on) > 0 && !harms {
		list = append(list, api.Finding{Code: FindingBridgeNF, Level: levelNote, What: are(on, "1") + ": frames between workloads go through iptables and nft forward rules too, and cost more",
			Owner: "br_netfilter, wanted by Docker and Kubernetes: where these run it has to stay", Fix: "sysctl -w net.bridge." + strings.Join(on, "=0 net.bridge.") + "=0"})
	}
	if _, err := os.Stat("/run/systemd/netif/state"); err == nil && !foreignRoutesKept() {
		list = append(list, api.Finding{Code: FindingNetworkd, Level: levelNote, What: "systemd-networkd removes routes that it did not make when it restarts; flatnet puts them back",
			Owner: "systemd-networkd", Fix: "ManageForeignRoutes=no in /etc/systemd/networkd.conf.d/flatnet.conf, then networkctl reload"})
	}
	return list
}

// framesFiltered are the switches that lead bridged frames through the rules for packets.
func framesFiltered() []string {
	return slices.DeleteFunc([]string{"bridge-nf-call-iptables", "bridge-nf-call-ip6tables"}, func(name string) bool {
		value, err := os.ReadFile("/proc/sys/net/bridge/" + name)
		return err != nil || strings.TrimSpace(string(value)) != "1"
	})
}

// are says what some things are, or one is.
func are(names []string, what string) string {
	verb := " is "
	if len(names) > 1 {
		verb = " are "
	}
	return strings.Join(names, " and ") + verb + what
}

// foreignRoutesKept reports whether networkd was told to leave other people's routes alone.
func foreignRoutesKept() bool {
	files := []string{"/etc/systemd/networkd.conf"}
	for _, dir := range []string{"/usr/lib/systemd/networkd.conf.d", "/run/systemd/networkd.conf.d", "/etc/systemd/networkd.conf.d"} {
		entries, _ := os.ReadDir(dir) // a directory that is not there has no files
		for _, e := range entries {
			files = append(files, dir+"/"+e.Name())
		}
	}
	kept := false
	for _, file := range files {
		text, _ := os.ReadFile(file)
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), "ManageForeignRoutes="); ok {
				kept = slices.Contains([]string{"no", "false", "0", "off"}, value)
			}
		}
	}
	return kept
}

// Counters are for metrics.
func (a *Agent) Counters() Counters {
	reconciled := a.rec.Stats() // which may wait for a pass, and keeps nobody from anything meanwhile
	a.mu.RLock()
	defer a.mu.RUnlock()
	v := a.state.view
	c := Counters{
		Changes: a.count.changes.Load(), Refused: a.count.refused.Load(), Panics: a.count.panics.Load(), Events: a.count.events.Load(),
		Networks: len(v.Networks), Workloads: len(v.Workloads), Forwards: len(v.AllForwards()), Conflicts: len(a.conflicts), Lost: len(a.state.lost),
		Reconcile: reconciled,
	}
	for _, w := range v.Workloads {
		c.Endpoints += len(w.Endpoints)
	}
	return c
}
