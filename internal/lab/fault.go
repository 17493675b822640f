package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/flatnet/flatnet/internal/model"
)

// faultHostDown is the fault that others are explained by.
const faultHostDown = "host-down"

// lowMTU is what a path is narrowed to: less than a full packet, more than most small ones.
const lowMTU = 1400

// Faults are all that Break can make.
func Faults() []Fault {
	return []Fault{
		{Name: "mtu", Is: "the MTU of a host's cable is lowered, or without a host big packets vanish on the LAN", whole: true, plan: planMTU,
			See:  "small packets pass, big ones don't: a ping answers, a download stands still",
			Hint: "flatnet lab exec WORKLOAD -- ping -c1 -M do -s 1400 OTHER"},
		{Name: "blocked-port", Is: "the LAN drops the tunnel's UDP port", whole: true, plan: planBlockedPort,
			See: "hosts reach each other, workloads of different hosts don't (host-gw has no port, and goes on)"},
		{Name: "bad-checksums", Is: "a host's NIC spoils the checksums of what comes to it in a tunnel", plan: planChecksums,
			See: "pings between hosts answer, TCP hangs; doctor on other hosts says so", Hint: "flatnet lab exec WORKLOAD -- fetch http://OTHER/"},
		{Name: "lost-route", Is: "the routes to other hosts' workloads are deleted", plan: planRoutes,
			See: "flatnetd puts them back before a person can look", Hint: "flatnet lab exec HOST -- flatnet events"},
		{Name: "lost-fdb", Is: "the tunnel forgets behind which host a MAC is", plan: planFDB,
			See: "flatnetd puts it back before a person can look", Hint: "flatnet lab exec HOST -- bridge fdb"},
		{Name: "lost-neigh", Is: "the tunnel forgets the MACs of other hosts", plan: planNeighbours,
			See: "flatnetd puts them back before a person can look", Hint: "flatnet lab exec HOST -- ip neigh"},
		{Name: "lost-tunnel", Is: "the tunnel's link is deleted, and all routes by it with it", plan: planTunnel,
			See: "flatnetd makes it again, with the same MAC, before a person can look", Hint: "flatnet lab exec HOST -- ip -d link show type vxlan"},
		{Name: "nft-flush", Is: "all nft rules are deleted, as a restarting firewall does", plan: commands("nft flush ruleset"),
			See: "flatnetd puts its own back before a person can look", Hint: "flatnet lab exec HOST -- flatnet show nft"},
		{Name: "forward-drop", Is: "another tool's firewall drops what is forwarded", plan: planForwardDrop,
			See: "workloads of this host and of others don't reach each other; doctor names the table", Hint: "flatnet lab exec HOST -- flatnet doctor"},
		{Name: faultHostDown, Is: "the host's power is cut; fixed, it boots with its old disk and starts its workloads", plan: planHostDown,
			after: powerOff, back: powerOn, See: "its workloads are gone, the others go on"},
		{Name: "partition", Is: "the hosts named can't reach the others, nor the others them; each side reaches the router", plan: planPartition,
			See: "workloads reach those on their own side only"},
		{Name: "etcd-down", Is: "the etcd of a host, or of all, is stopped where it stands", whole: true, plan: planEtcd,
			See: "traffic goes on; what needs the cluster waits", Hint: "flatnet lab exec HOST -- flatnet status"},
		{Name: "changed-address", Is: "the host's underlay addresses change", plan: planChangedAddress,
			after: moveTo(true), back: moveTo(false), See: "a cluster follows within a moment; routes by hand don't", Hint: "flatnet lab exec ELSEWHERE -- ip route"},
	}
}

// commands are those to carry out on each host; nothing is to be undone, as flatnetd does it.
func commands(lines ...string) func(context.Context, *Lab, []*Host) (do, undo []Command, err error) {
	return func(_ context.Context, _ *Lab, hosts []*Host) (do, undo []Command, err error) {
		for _, h := range hosts {
			for _, line := range lines {
				do = append(do, Command{h.Name, line})
			}
		}
		return do, nil, nil
	}
}

// onLANs are rules in a table of the LAN's bridges; the table's name is the fault's. Every frame comes by pre, also one
// that is then routed to the other LAN, and leaves by post.
func onLANs(table string, pre, post []string) (do, undo []Command) {
	add := func(line string) { do = append(do, Command{lanName, line}) }
	add("nft add table bridge " + table)
	for _, chain := range []struct {
		name, hook string
		rules      []string
	}{{"pre", "prerouting", pre}, {"post", "postrouting", post}} {
		if len(chain.rules) == 0 {
			continue
		}
		add(fmt.Sprintf("nft 'add chain bridge %s %s { type filter hook %s priority 0; }'", table, chain.name, chain.hook))
		for _, rule := range chain.rules {
			add(fmt.Sprintf("nft 'add rule bridge %s %s %s'", table, chain.name, rule))
		}
	}
	return do, []Command{{lanName, "nft delete table bridge " + table}}
}

// tableOf is the name of a fault's table.
func tableOf(fault string, hosts []*Host) string {
	return strings.ReplaceAll(strings.Join(append([]string{fault}, hostNames(hosts)...), "_"), "-", "_")
}

func planMTU(_ context.Context, _ *Lab, hosts []*Host) (do, undo []Command, err error) {
	if len(hosts) == 0 {
		do, undo = onLANs(tableOf("mtu", nil), []string{fmt.Sprintf("meta length > %d drop", lowMTU)}, nil)
	}
	for _, h := range hosts {
		do = append(do, Command{h.Name, fmt.Sprintf("ip link set eth0 mtu %d", lowMTU)})
		undo = append(undo, Command{h.Name, fmt.Sprintf("ip link set eth0 mtu %d", mtu)})
	}
	return do, undo, nil
}

func planBlockedPort(ctx context.Context, l *Lab, hosts []*Host) (do, undo []Command, err error) {
	port := l.tunnelPort(ctx)
	drop := fmt.Sprintf("udp dport %d drop", port)
	rules := []string{"ip protocol udp " + drop, "ip6 nexthdr udp " + drop}
	pre, post := rules, []string(nil)
	if len(hosts) > 0 {
		pre, post = nil, nil
		for _, rule := range rules {
			pre = append(pre, "iifname "+ports(hosts)+" "+rule)
			post = append(post, "oifname "+ports(hosts)+" "+rule)
		}
	}
	do, undo = onLANs(tableOf("blocked_port", hosts), pre, post)
	return do, undo, nil
}

// planChecksums has the LAN write something else where TCP and UDP in a VXLAN packet over IPv4 have their checksums: 50 bytes come before the inner
// IPv4 header (RFC 7348). The hosts compute them first: on a cable of veth nobody does, and what is not computed cannot be wrong.
func planChecksums(ctx context.Context, l *Lab, hosts []*Host) (do, undo []Command, err error) {
	const inner, protocol, header = 50, 9, 20
	var rules []string
	for _, of := range []struct{ protocol, checksum int }{{6, 16}, {17, 6}} {
		sum := fmt.Sprintf("@nh,%d,16", 8*(inner+header+of.checksum))
		rules = append(rules, fmt.Sprintf("oifname %s ip protocol udp udp dport %d @nh,%d,8 %d %s != 0 %s set 0x6666",
			ports(hosts), l.tunnelPort(ctx), 8*(inner+protocol), of.protocol, sum, sum))
	}
	do, undo = onLANs(tableOf("bad_checksums", hosts), nil, rules)
	for _, h := range l.hosts {
		do = append(do, Command{h.Name, "ethtool -K eth0 tx off"})
		undo = append(undo, Command{h.Name, "ethtool -K eth0 tx on"})
	}
	return do, undo, nil
}

// ports are the LAN's ends of hosts' cables, as nft writes a set.
func ports(hosts []*Host) string {
	var all []string
	for _, h := range hosts {
		all = append(all, `"`+h.port()+`"`)
	}
	return "{ " + strings.Join(all, ", ") + " }"
}

// sideMark marks a frame that came from the hosts that are cut off; others have another, so that the router, which marks
// nothing, is reached by both sides.
const sideMark, otherMark = 1, 2

func planPartition(_ context.Context, _ *Lab, hosts []*Host) (do, undo []Command, err error) {
	side := ports(hosts)
	do, undo = onLANs(tableOf("partition", hosts),
		[]string{fmt.Sprintf("meta mark set %d", otherMark), fmt.Sprintf("iifname %s meta mark set %d", side, sideMark)},
		[]string{fmt.Sprintf("oifname %s meta mark %d drop", side, otherMark), fmt.Sprintf("oifname != %s meta mark %d drop", side, sideMark)})
	return do, undo, nil
}

func planForwardDrop(_ context.Context, _ *Lab, hosts []*Host) (do, undo []Command, err error) {
	for _, h := range hosts {
		do = append(do, Command{h.Name, "nft add table inet somebodys_firewall"},
			Command{h.Name, "nft 'add chain inet somebodys_firewall forward { type filter hook forward priority 0; policy drop; }'"})
		undo = append(undo, Command{h.Name, "nft delete table inet somebodys_firewall"})
	}
	return do, undo, nil
}

func planRoutes(ctx context.Context, l *Lab, hosts []*Host) (do, undo []Command, err error) {
	for _, h := range hosts {
		var routes []struct{ Dst, Gateway, Dev string }
		if err := h.read(ctx, &routes, "ip", "-json", "route"); err != nil {
			return nil, nil, err
		}
		for _, r := range routes {
			if r.Gateway == "" || r.Dst == "default" {
				continue
			}
			do = append(do, Command{h.Name, "ip route del " + r.Dst})
			if l.BackendName() == Static {
				undo = append(undo, Command{h.Name, fmt.Sprintf("ip route replace %s via %s dev %s", r.Dst, r.Gateway, r.Dev)})
			}
		}
	}
	return do, undo, some(do, "no host has a route to another's workloads", "a lab with two hosts or more has some, once their workloads reach each other")
}

// some refuses a fault that would do nothing.
func some(do []Command, why, fix string) error {
	if len(do) > 0 {
		return nil
	}
	return model.Problem{Code: codeFault, Reason: "the fault cannot be made here: " + why, Fix: fix}
}

// read reads what a command of a host prints as JSON.
func (h *Host) read(ctx context.Context, into any, command ...string) error {
	text, err := h.Output(ctx, command...)
	if err != nil || len(text) == 0 {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %s: %w", h.Name, strings.Join(command, " "), err)
	}
	return nil
}

// tunnel is a VXLAN link as ip shows it.
type tunnel struct {
	IfName   string
	MTU      int
	LinkInfo struct {
		Data struct{ ID, Port int } `json:"info_data"`
	}
}

// tunnels are a host's VXLAN links.
func (h *Host) tunnels(ctx context.Context) ([]tunnel, error) {
	var all []tunnel
	err := h.read(ctx, &all, "ip", "-details", "-json", "link", "show", "type", "vxlan")
	return all, err
}

// tunnelPort is the tunnels' UDP port; without any, the usual one.
func (l *Lab) tunnelPort(ctx context.Context) int {
	for _, h := range l.hosts {
		tunnels, _ := h.tunnels(ctx) // a host may be down
		for _, t := range tunnels {
			return t.LinkInfo.Data.Port
		}
	}
	return 8472 // Linux's default for VXLAN, older than IANA's 4789
}

// planOnTunnels makes a command of each of the things that are read of each tunnel.
func planOnTunnels(ctx context.Context, hosts []*Host, what string, lines func(h *Host, tunnel string) ([]string, error)) (do, undo []Command, err error) {
	for _, h := range hosts {
		tunnels, err := h.tunnels(ctx)
		if err != nil {
			return nil, nil, err
		}
		for _, t := range tunnels {
			all, err := lines(h, t.IfName)
			if err != nil {
				return nil, nil, err
			}
			for _, line := range all {
				do = append(do, Command{h.Name, line})
			}
		}
	}
	return do, nil, some(do, "there is no tunnel "+what, "in a lab that is a cluster flatnet lab backend vxlan makes some")
}

func planTunnel(ctx context.Context, _ *Lab, hosts []*Host) (do, undo []Command, err error) {
	return planOnTunnels(ctx, hosts, "on the host", func(_ *Host, tunnel string) ([]string, error) { return []string{"ip link del " + tunnel}, nil })
}

func planFDB(ctx context.Context, _ *Lab, hosts []*Host) (do, undo []Command, err error) {
	return planOnTunnels(ctx, hosts, "that leads to another host", func(h *Host, tunnel string) ([]string, error) {
		var entries []struct{ MAC, Dst string }
		err := h.read(ctx, &entries, "bridge", "-json", "fdb", "show", "dev", tunnel)
		var lines []string
		for _, e := range entries {
			if e.Dst != "" {
				lines = append(lines, fmt.Sprintf("bridge fdb del %s dev %s dst %s", e.MAC, tunnel, e.Dst))
			}
		}
		return lines, err
	})
}

func planNeighbours(ctx context.Context, _ *Lab, hosts []*Host) (do, undo []Command, err error) {
	return planOnTunnels(ctx, hosts, "that leads to another host", func(h *Host, tunnel string) ([]string, error) {
		var entries []struct{ Dst string }
		err := h.read(ctx, &entries, "ip", "-json", "neigh", "show", "dev", tunnel, "nud", "permanent")
		var lines []string
		for _, e := range entries {
			lines = append(lines, fmt.Sprintf("ip neigh del %s dev %s", e.Dst, tunnel))
		}
		return lines, err
	})
}

func planHostDown(_ context.Context, l *Lab, hosts []*Host) (do, undo []Command, err error) {
	for _, h := range hosts {
		if !h.Running() {
			return nil, nil, model.Problem{Code: codeFault, Reason: fmt.Sprintf("%s is down already", h.Name), Fix: "start it again first", Example: "flatnet lab fix " + l.flags() + faultHostDown}
		}
	}
	return nil, nil, nil
}

// powerOff returns what comes to the same in words of a shell.
func powerOff(ctx context.Context, _ *Lab, hosts []*Host) (done []Command, err error) {
	for _, h := range hosts {
		if err := h.PowerOff(ctx); err != nil {
			return done, err
		}
		done = append(done, Command{lanName, "ip link del " + h.port()}, Command{thisMachine, fmt.Sprintf("kill -KILL %d", h.Holder.PID)})
	}
	return done, nil
}

// powerOn boots hosts, also one that was half down.
func powerOn(ctx context.Context, l *Lab, hosts []*Host) (done []Command, err error) {
	for _, h := range hosts {
		if err := h.PowerOff(ctx); err != nil {
			return done, err
		}
		if err := h.boot(ctx); err != nil {
			return done, err
		}
		done = append(done, Command{lanName, "ip " + h.cable()}, Command{h.Name, "flatnetd"})
		if err := l.rejoin(ctx, h); err != nil {
			return done, err
		}
		if err := h.runAll(ctx); err != nil {
			return done, err
		}
		for _, w := range h.Spec.Workloads {
			done = append(done, Command{h.Name, "flatnet " + strings.Join(h.runArgs(w, l.network()), " ")})
		}
	}
	return done, l.teachNames(ctx)
}

// etcd is the name of the program that flatnetd starts on a server of a cluster; the kernel keeps 15 characters of it.
const etcd = "flatnet-etcd"

func planEtcd(_ context.Context, l *Lab, hosts []*Host) (do, undo []Command, err error) {
	var running []*Host
	for _, h := range l.hosts {
		pids := h.processes(etcd)
		if len(pids) > 0 {
			running = append(running, h)
		}
		for _, pid := range pids {
			if len(hosts) == 0 || slices.Contains(hosts, h) {
				do = append(do, Command{h.Name, fmt.Sprintf("kill -STOP %d", pid)})
				undo = append(undo, Command{h.Name, fmt.Sprintf("kill -CONT %d", pid)})
			}
		}
	}
	if len(do) == 0 && len(running) > 0 {
		named, servers := strings.Join(hostNames(hosts), ", "), strings.Join(hostNames(running), " ")
		return nil, nil, model.Problem{Code: codeFault, Reason: "the fault cannot be made here: there is no etcd on " + named, Fix: "there is one on " + servers,
			Example: "flatnet lab break " + l.flags() + "etcd-down " + servers}
	}
	return do, undo, some(do, "no host runs an etcd", "a lab that is a cluster has one on its first host; one with --backend static or none has no cluster")
}

func planChangedAddress(_ context.Context, _ *Lab, hosts []*Host) (do, undo []Command, err error) {
	for _, h := range hosts {
		old, now := onLAN(h.Spec.LAN, h.Number), onLAN(h.Spec.LAN, h.otherPlace())
		do = append(do, readdress(h, old, now)...)
		undo = append(undo, readdress(h, now, old)...)
	}
	return do, undo, nil
}

// otherPlace is the number of the host's address after it has changed; nobody has it before.
func (h *Host) otherPlace() int { return MaxHosts + h.Number }

// moveTo notes where hosts are.
func moveTo(changed bool) func(context.Context, *Lab, []*Host) ([]Command, error) {
	return func(ctx context.Context, l *Lab, hosts []*Host) ([]Command, error) {
		err := l.record(func(*state) {
			for _, h := range hosts {
				if h.Place = h.Number; changed {
					h.Place = h.otherPlace()
				}
			}
		})
		for _, h := range hosts {
			if !changed && h.Running() {
				err = errors.Join(err, l.rejoin(ctx, h)) // routes by hand went with the address
			}
		}
		if err != nil || slices.ContainsFunc(l.hosts, func(h *Host) bool { return !h.Running() }) {
			return nil, err
		}
		return nil, l.teachNames(ctx)
	}
}

// readdress changes the addresses of a host's cable. The routes by it go with the last address, and come again.
func readdress(h *Host, old, now []netip.Prefix) []Command {
	var all []Command
	for i := range old {
		all = append(all, Command{h.Name, fmt.Sprintf("ip address del %s dev eth0", old[i])},
			Command{h.Name, fmt.Sprintf("ip address add %s dev eth0 nodad", now[i])})
	}
	for _, route := range h.defaultRoutes() {
		all = append(all, Command{h.Name, "ip " + route})
	}
	return all
}
