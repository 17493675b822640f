package kernel_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/internal/kernel"
)

// furnish makes objects of every sort that is listed, by hand.
func furnish(t *testing.T) {
	run(t, "sysctl -qw net.ipv6.conf.default.addr_gen_mode=1") // no addresses that come later by themselves
	run(t, "ip link set lo up")
	run(t, "ip link add br0 type bridge stp_state 1 priority 4096")
	run(t, "ip link add br1 type bridge")
	run(t, "ip link add v0 type veth peer name v1")
	run(t, "ip link add v2 mtu 1400 type veth peer name away netns "+workload(t, "far"))
	run(t, "ip link add half0 up type veth peer name half1")
	run(t, "ip link add link v1 mac0 type macvlan mode bridge")
	run(t, "ip tuntap add dev tun0 mode tun")
	for _, l := range []string{"v0 master br0 alias mine", "v1 up", "v2 up", "br0 up", "br1 up arp off", "v0 up", "tun0 up"} {
		run(t, "ip link set "+l)
	}
	for _, a := range []string{"10.0.0.1/24 dev v1", "10.0.1.1/24 dev br0", "2001:db8::1/64 dev v1 nodad", "10.9.0.1 peer 10.9.0.2/32 dev tun0"} {
		run(t, "ip address add "+a)
	}
	for _, r := range []string{
		"default via 10.0.0.254 metric 50 proto static", "192.0.2.0/24 nexthop via 10.0.0.2 weight 2 nexthop via 10.0.1.2 dev br0 onlink",
		"blackhole 198.51.100.0/24", "unreachable 198.51.101.0/24 metric 7", "203.0.113.7 dev v1 src 10.0.0.1 mtu 1300 table 100", "203.0.113.8 via inet6 2001:db8::9 dev v1",
		"default via 10.0.0.253 dev v1 onlink table 1000",
	} {
		run(t, "ip route add "+r)
	}
	for _, r := range []string{"default via 2001:db8::fe", "2001:db8:1::/64 nexthop via 2001:db8::2 nexthop via 2001:db8::3", "prohibit 2001:db8:2::/64 proto 157"} {
		run(t, "ip -6 route add "+r)
	}
	for _, n := range []string{
		"10.0.0.2 lladdr 02:00:00:00:00:02 dev v1", "10.0.0.3 lladdr 02:00:00:00:00:03 dev v1 nud stale router", "10.0.0.4 dev v1 nud failed",
		"2001:db8::2 lladdr 02:00:00:00:00:02 dev v1 nud permanent protocol 157", "10.0.1.2 lladdr 02:00:00:00:00:02 dev br0 nud noarp",
		"proxy 10.0.0.77 dev br0 protocol 157", "proxy 2001:db8::77 dev br0",
	} {
		run(t, "ip neigh add "+n)
	}
}

// said is what ip says of something, as JSON.
func said(t *testing.T, line string) []map[string]any {
	t.Helper()
	var list []map[string]any
	out, err := exec.Command("sh", "-c", "ip -j "+line).Output()
	if err != nil {
		t.Fatalf("ip -j %s: %v", line, err)
	}
	if len(out) == 0 {
		return nil
	}
	if err := json.Unmarshal(out, &list); err != nil {
		t.Fatalf("ip -j %s: %v\n%s", line, err, out)
	}
	return list
}

func str(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case []any:
		var words []string
		for _, one := range v {
			words = append(words, str(one))
		}
		return strings.Join(words, ",")
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

// agree fails when the two lists do not become the same, in whatever order: the kernel tells of carriers a while later.
func agree(t *testing.T, what string, lists func() (got, want []string)) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		got, want := lists()
		slices.Sort(got)
		slices.Sort(want)
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: got\n%s\nip says\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestLinksAreThoseOfIP(t *testing.T) {
	k := host(t)
	furnish(t)
	list := func() []kernel.LinkInfo { return listed(t, k.ListLinks) }
	agree(t, "links", func() (got, want []string) {
		for _, l := range list() {
			got = append(got, fmt.Sprint(l.Index, l.Name, l.Kind, l.Flags, l.State, l.MTU, l.MAC, l.Master, l.Peer, l.Qdisc, l.Alias, sorted(l.Addrs)))
		}
		return got, linksSaid(t)
	})
	for _, l := range list() {
		if l.Name == "br0" && (!l.STP || l.BridgeID != "1000."+strings.ReplaceAll(l.MAC, ":", "")) {
			t.Errorf("br0: STP %v, id %s", l.STP, l.BridgeID)
		}
	}
}

func listed[T any](t *testing.T, list func(context.Context, string) ([]T, error)) []T {
	t.Helper()
	all, err := list(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func sorted[T any](list []T) []string {
	var words []string
	for _, one := range list {
		words = append(words, fmt.Sprint(one))
	}
	slices.Sort(words)
	return words
}

func linksSaid(t *testing.T) (lines []string) {
	addresses := said(t, "address")
	for i, l := range said(t, "-d link") {
		kind := ""
		if info, ok := l["linkinfo"].(map[string]any); ok {
			kind = str(info["info_kind"])
		}
		peer := str(l["link"])
		if peer == "" && l["link_index"] != nil {
			peer = "if" + str(l["link_index"])
		}
		var addrs []string
		for _, a := range addresses[i]["addr_info"].([]any) {
			a := a.(map[string]any)
			addrs = append(addrs, str(a["local"])+"/"+str(a["prefixlen"]))
		}
		lines = append(lines, fmt.Sprint(l["ifindex"], l["ifname"], kind, l["flags"], l["operstate"], l["mtu"], str(l["address"]), str(l["master"]),
			peer, str(l["qdisc"]), str(l["ifalias"]), sorted(addrs)))
	}
	return lines
}

func TestRoutesAreThoseOfIP(t *testing.T) {
	k := host(t)
	furnish(t)
	agree(t, "routes", func() (got, want []string) {
		for _, r := range listed(t, k.ListRoutes) {
			got = append(got, routeLine(r))
		}
		for _, v := range []string{"4", "6"} {
			for _, r := range said(t, "-N -d -"+v+" route show table all") {
				want = append(want, routesSaid(r, v == "6")...)
			}
		}
		return got, want
	})
}

func routeLine(r kernel.RouteInfo) string {
	dest := r.Dest.String()
	if r.Dest.Bits() == 0 {
		dest = "default"
	} else if r.Dest.IsSingleIP() {
		dest = r.Dest.Addr().String()
	}
	via, source := "", ""
	if r.Via.IsValid() {
		via = r.Via.String()
	}
	if r.Source.IsValid() {
		source = r.Source.String()
	}
	state := slices.Clone(r.State)
	slices.Sort(state)
	return fmt.Sprintf("%s %s via=%s dev=%s src=%s proto=%s scope=%s metric=%d table=%s mtu=%d %s", r.Type, dest, via, r.Link, source, r.Proto, r.Scope, r.Metric, r.Table, r.MTU, state)
}

// routesSaid are the lines of a route as ip -N says it, one for each next hop: numbers where it leaves out what is usual.
func routesSaid(r map[string]any, v6 bool) []string {
	or := func(v any, usual string) string {
		if v == nil {
			return usual
		}
		return str(v)
	}
	protos := map[string]string{"1": "redirect", "2": "kernel", "3": "boot", "4": "static", "9": "ra"}
	proto := or(r["protocol"], "boot")
	if name, ok := protos[proto]; ok {
		proto = name
	}
	scope := map[string]string{"0": "global", "253": "link", "254": "host"}[or(r["scope"], "0")]
	if v6 {
		scope = ""
	}
	table := map[string]string{"254": "main", "255": "local"}[or(r["table"], "254")]
	if table == "" {
		table = str(r["table"])
	}
	mtu := "0"
	types := map[string]string{"1": "unicast", "2": "local", "3": "broadcast", "5": "multicast", "6": "blackhole", "7": "unreachable", "8": "prohibit"}
	if m, ok := r["metrics"].([]any); ok {
		mtu = or(m[0].(map[string]any)["mtu"], "0")
	}
	hops, many := r["nexthops"].([]any)
	if !many {
		hops = []any{r}
	}
	var lines []string
	for _, h := range hops {
		hop := h.(map[string]any)
		via := str(hop["gateway"])
		if v, ok := hop["via"].(map[string]any); ok {
			via = str(v["host"])
		}
		dev := str(hop["dev"])
		flags := strings.Split(strings.ToLower(str(hop["flags"])), ",")
		flags = slices.DeleteFunc(flags, func(f string) bool { return !slices.Contains([]string{"dead", "onlink", "linkdown"}, f) })
		slices.Sort(flags)
		lines = append(lines, fmt.Sprintf("%s %s via=%s dev=%s src=%s proto=%s scope=%s metric=%s table=%s mtu=%s %s",
			types[or(r["type"], "1")], r["dst"], via, dev, str(r["prefsrc"]), proto, scope, or(r["metric"], "0"), table, mtu, flags))
	}
	return lines
}

func TestNeighboursAreThoseOfIP(t *testing.T) {
	k := host(t)
	furnish(t)
	agree(t, "neighbours", func() (got, want []string) {
		for _, n := range listed(t, k.ListNeighbours) {
			if n.Proxy {
				n.State = "PROXY"
			}
			got = append(got, fmt.Sprint(n.Addr, " ", n.Link, " ", n.MAC, " ", n.State, " ", n.Router))
		}
		for _, n := range said(t, "neigh") {
			_, router := n["router"]
			want = append(want, fmt.Sprint(n["dst"], " ", n["dev"], " ", str(n["lladdr"]), " ", str(n["state"]), " ", router))
		}
		for _, n := range append(said(t, "-4 neigh show proxy"), said(t, "-6 neigh show proxy")...) {
			want = append(want, fmt.Sprint(n["dst"], " ", n["dev"], "  PROXY ", false))
		}
		return got, want
	})
}

func TestListsOfOtherNamespaces(t *testing.T) {
	k := host(t)
	path := workload(t, "web")
	run(t, "ip link add v0 type veth peer name eth0 netns "+path)
	links, err := k.ListLinks(context.Background(), path)
	if err != nil || len(links) != 2 || links[1].Name != "eth0" || !strings.HasPrefix(links[1].Peer, "if") {
		t.Errorf("links %+v, %v", links, err)
	}
	if _, err := k.ListRoutes(context.Background(), path+"x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a namespace that is not there: %v", err)
	}
}
