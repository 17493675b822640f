package reach

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/internal/model"
	"github.com/flatnet/flatnet/test/reach/prober"
)

// onLinkTrials look for the host's addresses on the network itself, by ARP and neighbour discovery, where the
// table says that they are not reached.
func (l *lab) onLinkTrials() []trial {
	var all []trial
	for _, name := range []string{"h1b", "hoffb", "hisob", "i1b", "i2b", "iisob"} {
		from := l.actor(name)
		for _, as := range [][]netip.Addr{hostLAN1, hostLAN2, hostLo, l.network("n2").gateways()} {
			for _, a := range as {
				from.IP(fmt.Sprintf("route replace %s dev eth0", a))
				all = append(all, every(trial{cell: from.net.row + ": " + toHost + ", on-link", from: from, to: a})...)
			}
		}
	}
	return all
}

// uplinkTrials are of a network that may leave by br0 only, and of one that leaves with an address of its own.
func (l *lab) uplinkTrials() []trial {
	own := addrs("198.51.100.11", "2001:db8:1::11")
	number(l.host.Machine, "eth0", own, 0)
	l.host.IP(fmt.Sprintf("address change %s/64 dev eth0 nodad preferred_lft 0", own[1])) // masquerade prefers the latest
	pinned, snat := l.extra("npin", 101, "--uplink", "br0"), l.extra("nsnat", 102, "--snat-ip", own[0].String(), "--snat-ip", own[1].String())
	var all []trial
	add := func(cell string, from, to *actor, source []netip.Addr) {
		for i, a := range to.addrs {
			if a.IsLinkLocalUnicast() {
				continue
			}
			tr := trial{cell: cell, from: from, to: a}
			if source != nil {
				tr.by, tr.source = to, source[i:i+1]
			}
			all = append(all, every(tr)...)
		}
	}
	add("uplink br0", pinned, l.actor("lan2"), hostLAN2)
	add("uplink br0", pinned, l.actor("lan1"), nil)
	add("uplink br0", pinned, l.actor("inet"), nil)
	add("snat-ip", snat, l.actor("lan1"), own)
	add("snat-ip", snat, l.actor("inet"), own)
	add("snat-ip", snat, l.actor("lan2"), own)
	return all
}

// extra makes a nat network with flags, and a workload on it.
func (l *lab) extra(name string, index int, flags ...string) *actor {
	l.Helper()
	n := &network{name: name, row: "nat"}
	n.define(index)
	l.flat.must(append([]string{"net", "create", name, "--subnet", n.model.Subnets[0].Prefix.String(), "--subnet", n.model.Subnets[1].Prefix.String()}, flags...)...)
	l.flat.workload(name+"a", n, 10)
	return l.attach(name+"a", n, 10)
}

// loopbackIsClosed sends packets to and from the host's loopback addresses on the wire: route_localnet, which forwards of
// 127.0.0.1 need, must not open it.
func (l *lab) loopbackIsClosed() []string {
	l.Helper()
	lo := netip.MustParseAddr("127.0.0.1")
	type shot struct {
		from     *actor
		dst      model.MAC
		src, to  netip.Addr
		port     uint16
		arrives  bool
		token    uint32
		describe string
	}
	var shots []shot
	for _, name := range []string{"n1a", "n1free", "noffa", "h1a", "hoffa", "i1a", "r1a", "roffa", "rmasqa", "lan1", "lan2", "bnica", "bbra"} {
		from := l.actor(name)
		dst, link := model.MAC{}, "eth0"
		switch {
		case from.beyondLAN2():
			link = "br0"
		case !from.onLAN():
			link = "fn-" + from.net.name
		}
		dst = l.macOf(&actor{Machine: l.host.Machine, link: link})
		own := from.addrs[0]
		gateway := hostLAN1[0]
		arrives := from.onLAN() || from.net.model.Routes()
		shots = append(shots,
			shot{from: from, dst: dst, src: own, to: gateway, port: prober.Port, arrives: arrives, describe: "control"},
			shot{from: from, dst: dst, src: own, to: lo, port: prober.Port, describe: "to 127.0.0.1"},
			shot{from: from, dst: dst, src: own, to: lo, port: 8082, describe: "to a forward of 127.0.0.1"},
			shot{from: from, dst: dst, src: lo, to: gateway, port: prober.Port, describe: "from 127.0.0.1"},
			shot{from: from, dst: dst, src: lo, to: gateway, port: 8080, describe: "from 127.0.0.1 to a forward"})
	}
	l.host.Sysctl("net/ipv4/conf/fn-n1/accept_local=1") // without it the kernel itself refuses what claims to be from 127.0.0.1
	defer l.host.Sysctl("net/ipv4/conf/fn-n1/accept_local=0")
	for i := range shots {
		s := &shots[i]
		l.token++
		s.token = l.token
		payload := binary.BigEndian.AppendUint32(nil, s.token)
		frame := ether(s.dst, l.macOf(s.from), etherIPv4, ipv4(s.src, s.to, udp(9, s.port, payload)))
		if err := s.from.agent.Send(s.from.link, frame, frame, frame); err != nil { // thrice, as the kernel may lose one
			l.Fatal(err)
		}
	}
	time.Sleep(silence)
	r := l.carryOut(nil)
	var wrong []string
	for _, s := range shots {
		if got := len(r.seen[s.token]) > 0; got != s.arrives {
			wrong = append(wrong, fmt.Sprintf("[packet %s] of %s: arrives %t, want %t; %s", s.describe, s.from.Name, got, s.arrives, describe(prober.Result{}, r.seen[s.token])))
		}
	}
	return wrong
}

// invalidPackets sends TCP segments that conntrack finds invalid: those of workloads must not leave untranslated, those that
// only pass the host are not ours to drop.
func (l *lab) invalidPackets() []string {
	l.Helper()
	var wrong []string
	for _, c := range []struct {
		from, to, link, host string
		passes               bool
	}{{"n1a", "lan1", "eth0", "fn-n1", false}, {"n1a", "lan2", "eth0", "fn-n1", false}, {"rmasqa", "lan1", "eth0", "fn-rmasq", false}, {"r1a", "lan1", "eth0", "fn-r1", true}, {"lan1", "lan2", "eth0", "eth0", true}, {"lan2", "lan1", "eth0", "br0", true}} {
		by := l.macOf(&actor{Machine: l.host.Machine, link: c.host})
		if passed := l.passesInvalid(l.actor(c.from), l.actor(c.to), c.link, by); passed != c.passes {
			wrong = append(wrong, fmt.Sprintf("[invalid segment] %s → %s: passes %t, want %t", c.from, c.to, passed, c.passes))
		}
	}
	return wrong
}

// passesInvalid reports whether a TCP segment that conntrack finds invalid comes from one to the other's link by way of the host with this MAC.
func (l *lab) passesInvalid(from, to *actor, link string, by model.MAC) bool {
	l.Helper()
	if err := to.agent.Sniff(link); err != nil {
		l.Fatal(err)
	}
	marker, last := fmt.Appendf(nil, "<bad %s>", from.Name), fmt.Appendf(nil, "<last %s>", from.Name)
	bad := ipv4(from.addrs[0], to.addrs[0], tcpSynFin(from.addrs[0], to.addrs[0], marker))
	bad[9] = protoTCP
	bad[10], bad[11] = 0, 0
	binary.BigEndian.PutUint16(bad[10:], checksum(bad[:20]))
	good := ipv4(from.addrs[0], to.addrs[0], udp(9, 9, last))
	mac := l.macOf(from)
	caught := l.caughtUntil(sniffPoint{to, link}, last, func() {
		if err := from.agent.Send(from.link, ether(by, mac, etherIPv4, bad), ether(by, mac, etherIPv4, good)); err != nil {
			l.Fatal(err)
		}
	})
	return slices.ContainsFunc(caught, func(f []byte) bool { return bytes.Contains(f, marker) })
}

// spokenFor sends from the LAN in the name of workloads: conntrack would take it for the beginning of a connection of theirs, and what is
// then sent to them for the answer.
func (l *lab) spokenFor() []string {
	l.Helper()
	var wrong []string
	from, to := l.actor("lan1"), l.actor("lan2")
	if err := to.agent.Sniff("eth0"); err != nil {
		l.Fatal(err)
	}
	dst, mac := l.macOf(&actor{Machine: l.host.Machine, link: "eth0"}), l.macOf(from)
	frame := func(src, dest netip.Addr, text []byte) []byte {
		if src.Is4() {
			return ether(dst, mac, etherIPv4, ipv4(src, dest, udp(9, 9, text)))
		}
		return ether(dst, mac, etherIPv6, ipv6(src, dest, protoUDP, udp(9, 9, text)))
	}
	for _, name := range []string{"n1a", "r1a", "rmasqa", "h1a"} {
		for i, src := range l.actor(name).addrs[:2] {
			marker, last := fmt.Appendf(nil, "<as %s>", src), fmt.Appendf(nil, "<after %s>", src)
			caught := l.caughtUntil(sniffPoint{to, "eth0"}, last, func() {
				if err := from.agent.Send(from.link, frame(src, to.addrs[i], marker), frame(from.addrs[i], to.addrs[i], last)); err != nil {
					l.Fatal(err)
				}
			})
			if slices.ContainsFunc(caught, func(f []byte) bool { return bytes.Contains(f, marker) }) {
				wrong = append(wrong, fmt.Sprintf("[in a workload's name] lan1 as %s (%s): it passes the host", src, name))
			}
		}
	}
	return wrong
}

// sctpOnLoopback6 is what neither NAT nor a program turns: it must reach the host itself.
func (l *lab) sctpOnLoopback6() trial {
	return trial{cell: "SCTP on [::1]", from: l.host, kind: prober.SCTP, to: netip.MustParseAddr("::1"), port: anywhere["n1a"], by: l.host}
}

// loopback6 tries forwards on [::1] from the host, as far as this kernel has them.
func (l *lab) loopback6() {
	l.Helper()
	var status api.Status
	if err := json.Unmarshal([]byte(l.flat.must("status", "-o", "json")), &status); err != nil {
		l.Fatal(err)
	}
	feature := status.Features["ipv6-loopback-forwards"]
	l.Logf("ipv6-loopback-forwards: %s", feature)
	if strings.HasPrefix(feature, "no") {
		return
	}
	one := netip.MustParseAddr("::1")
	target := l.actor("n1a")
	all := []trial{l.sctpOnLoopback6()}
	for _, kind := range []prober.Kind{prober.TCP, prober.UDP} {
		for at, port := range map[uint16]uint16{8080: prober.Port, 9000: 9000, 9005: 9005, 9010: 9010, 9100: 9200, 9110: 9210} {
			all = append(all, trial{cell: "forward from host, on [::1]", from: l.host, kind: kind, to: one, port: at, by: target, atPort: port})
		}
		all = append(all, trial{cell: "forward from host, on [::1]: a port beside", from: l.host, kind: kind, to: one, port: 9011, never: target},
			trial{cell: "[::1] of the workload is its own", from: target, kind: kind, to: one, port: 8080, never: l.host})
	}
	l.try(all)
}

// removedForward takes a forward back under a client that goes on from the same port.
func (l *lab) removedForward() {
	l.Helper()
	target := l.actor("n1a")
	l.flat.forward("n1a", "8500:7777/udp", "8500:7777/tcp")
	again := func(by *actor) (all []trial) {
		for _, from := range []string{"lan1", "n2a", "n1b", "host"} {
			for i, to := range hostLAN1 {
				tr := trial{cell: "a forward", from: l.actor(from), kind: prober.UDP, to: to, port: 8500, fromPort: uint16(12345 + i), by: by}
				if by == nil {
					tr.cell, tr.never = "a forward that was taken back", target
				}
				all = append(all, tr)
			}
		}
		return all
	}
	l.try(again(target))
	l.flat.must("net", "forward", "rm", "udp/8500", "tcp/8500")
	l.try(again(nil))
}

// attachments tries those that are no network.
func (l *lab) attachments() {
	l.Helper()
	l.flat.must("run", "-d", "--name", "none1", "--network", "none", "--", "sleep", "infinity")
	l.flat.must("run", "-d", "--name", "host1", "--network", "host", "--", "sleep", "infinity")
	l.flat.must("run", "-d", "--name", "join1", "--network", "container:n1a", "--", "sleep", "infinity")
	var ps []api.Workload
	if err := json.Unmarshal([]byte(l.flat.must("ps", "-o", "json")), &ps); err != nil {
		l.Fatal(err)
	}
	inode := map[string]string{}
	for _, w := range ps {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", w.Process.PID))
		if err != nil {
			l.Errorf("%s: %v", w.Name, err)
		}
		inode[w.Name] = ns
	}
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", l.host.agent.PID()))
	if err != nil {
		l.Fatal(err)
	}
	if inode["host1"] != own || inode["join1"] != inode["n1a"] || inode["none1"] == own || inode["none1"] == inode["n1a"] {
		l.Errorf("namespaces: host %s, workloads %v", own, inode)
	}
	none := l.add(kerneltest.At(l.T, "none1", l.flat.netns("none1")), nil, "lo")
	if out := none.Run("ip", "-o", "link"); strings.Count(out, "\n") != 1 {
		l.Errorf("none1 has more than lo:\n%s", out)
	}
	l.alive() // none1 on its own 127.0.0.1 and ::1 too
}

// leftBehind are the lines by which two traces differ.
func leftBehind(before, after string) []string {
	var out []string
	for _, d := range []struct{ sign, has, lacks string }{{"-", before, after}, {"+", after, before}} {
		for line := range strings.Lines(d.has) {
			if !strings.Contains(d.lacks, line) {
				out = append(out, d.sign+line)
			}
		}
	}
	return out
}

// traces is what can be seen of the host's network apart from what comes and goes by itself.
func (l *lab) traces() string {
	l.Helper()
	var b strings.Builder
	for _, command := range []string{"ip -o link", "ip -o address", "ip route show table all", "ip -6 route show table all", "ip rule", "nft list ruleset",
		"sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv6.conf.eth0.accept_ra net.ipv6.conf.eth1.accept_ra net.ipv4.conf.all",
		"grep " + filepath.Dir(l.TempDir()) + " /proc/mounts"} { // the daemon's own: other tests mount and unmount theirs meanwhile
		out, _ := l.host.Try(strings.Fields(command)...)
		b.WriteString("# " + command + "\n" + out)
	}
	return b.String()
}
