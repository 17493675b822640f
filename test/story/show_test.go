package story_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/flatnet/flatnet/api"
	"github.com/flatnet/flatnet/internal/kernel/kerneltest"
	"github.com/flatnet/flatnet/test/rig"
)

// What `flatnet show` lists is what brctl, route and ip list, of flatnet's own and of others, and beside it stands whose it is.
func TestShowIsWhatTheToolsSay(t *testing.T) {
	o := newOffice(t)
	h := rig.New(t, o.host)
	h.Flatnet("net", "create", "lab", "--mode", "host-only", "--subnet", "10.8.0.0/24")
	h.Flatnet("run", "-d", "--name", "web", "-p", "8080:80", "--", "sleep", "1000")
	h.Flatnet("run", "-d", "--name", "db", "--network", "default", "--network", "lab", "--", "sleep", "1000")
	o.host.IP("link add theirs type bridge stp_state 1", "link add tap0 type veth peer name tap1", "link set tap0 master theirs", "link set tap1 master fn-lab",
		"address add 198.51.100.1/24 dev theirs", "link set theirs up", "link set tap0 up", "route add 203.0.113.0/24 via 192.0.2.1 metric 7",
		"route add unreachable 10.99.0.0/16", "neigh add 192.0.2.66 lladdr 02:00:00:00:00:66 dev eth0", "neigh add proxy 192.0.2.77 dev eth0")
	db := strings.Split(endpoint(t, h, "db").IPs[0], "/")[0]
	h.Flatnet("exec", "web", "--", "ping", "-c1", "-W2", db)
	h.Flatnet("exec", "web", "--", "ping", "-c1", "-W2", "192.0.2.1")

	agree(t, "bridges and brctl", func() (got, want []string) { return bridgesShown(h), bridgesOfBrctl(o.host) })
	agree(t, "routes and route -n", func() (got, want []string) {
		return rows(h.Flatnet("show", "routes", "-4", "--no-headers"), 0, 1, 2, 3, 4, 5), routesOfRoute(o.host)
	})
	for _, where := range []string{"", "web", "db"} {
		m := o.host
		if where != "" {
			m = h.Workload(where)
		}
		agree(t, "links and ip "+where, func() (got, want []string) { return linksShown(t, h, where), linksOfIP(t, m) })
		agree(t, "routes and ip "+where, func() (got, want []string) { return routesShown(t, h, where), routesOfIP(t, m) })
		agree(t, "neighbours and ip "+where, func() (got, want []string) { return neighboursShown(t, h, where), neighboursOfIP(t, m) })
	}

	whose := func(kind string, args []string, wants ...string) {
		t.Helper()
		out := h.Flatnet(append([]string{"show", kind, "--no-headers"}, args...)...)
		lines := rows(out)
		for _, want := range wants {
			if !slices.Contains(lines, want) {
				t.Errorf("show %s %s: want the line %q in\n%s", kind, args, want, strings.Join(lines, "\n"))
			}
		}
	}
	whose("routes", nil, "10.8.0.0 0.0.0.0 255.255.255.0 U 0 fn-lab lab", "198.51.100.0 0.0.0.0 255.255.255.0 U 0 theirs -", "0.0.0.0 192.0.2.1 0.0.0.0 UG 0 eth0 -")
	whose("routes", []string{"web"}, "10.66.0.0 0.0.0.0 255.255.255.0 U 0 eth0 default", "0.0.0.0 10.66.0.1 0.0.0.0 UG 0 eth0 default")
	whose("routes", []string{"--network", "lab", "-4"}, "10.8.0.0 0.0.0.0 255.255.255.0 U 0 fn-lab lab")
	for _, want := range []string{"fv-db no default db", "fv-web no default web", "tap1 no lab -", "tap0 yes - -"} {
		if got := rows(h.Flatnet("show", "bridges", "--no-headers"), 3, 2, 4, 5); !slices.Contains(got, want) {
			t.Errorf("bridges: want %q in\n%s", want, strings.Join(got, "\n"))
		}
	}
	if got := rows(h.Flatnet("show", "neigh", "web", "--no-headers"), 0, 1, 4, 5); !slices.Contains(got, db+" eth0 default db") || !slices.Contains(got, "10.66.0.1 eth0 default (the") {
		t.Errorf("neighbours of web: %q", got)
	}
	readable(t, o.host, h)
}

// readable: nft reads the listing, which names the forward beside its element.
func readable(t *testing.T, m *kerneltest.Machine, h *rig.Host) {
	t.Helper()
	text := h.Flatnet("show", "nft")
	has(t, text, "tcp . 8080 : ", "# forward tcp/8080, workload web, network default", `"fn-lab",`)
	if out, err := m.Try("sh", "-c", "nft -c -f - <<'EOF'\n"+text+"\nEOF"); err != nil {
		t.Errorf("nft does not read it: %s", out)
	}
	if strings.Contains(text, "nobody asked") {
		t.Errorf("strays in\n%s", text)
	}
}

// agree fails when two lists do not come to hold the same lines, in whatever order.
func agree(t *testing.T, what string, lists func() (got, want []string)) {
	t.Helper()
	for end := time.Now().Add(rig.Patience); ; time.Sleep(50 * time.Millisecond) {
		got, want := lists()
		slices.Sort(got)
		slices.Sort(want)
		if len(want) > 0 && slices.Equal(got, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: flatnet says\n%s\nthe tool\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// rows are the lines of a table, all columns or those chosen, with one space between.
func rows(text string, columns ...int) []string {
	var list []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(columns) == 0 {
			list = append(list, strings.Join(words, " "))
			continue
		}
		var chosen []string
		for _, c := range columns {
			chosen = append(chosen, words[c])
		}
		list = append(list, strings.Join(chosen, " "))
	}
	return list
}

func bridgesShown(h *rig.Host) []string {
	return rows(h.Flatnet("show", "bridges", "--no-headers"), 0, 1, 2, 3)
}

// bridgesOfBrctl has a line for each port, as brctl names a bridge only once.
func bridgesOfBrctl(m *kerneltest.Machine) []string {
	var list []string
	bridge := ""
	lines := strings.Split(strings.TrimSpace(m.Run("brctl", "show")), "\n")
	for _, line := range lines[1:] {
		words := strings.Fields(line)
		port := "-"
		if len(words) >= 3 {
			bridge = strings.Join(words[:3], " ")
			words = words[3:]
		}
		if len(words) > 0 {
			port = words[0]
		}
		list = append(list, bridge+" "+port)
	}
	return list
}

// routesOfRoute are without Ref and Use. route writes - for what a route that refuses does not have.
func routesOfRoute(m *kerneltest.Machine) []string {
	_, body, _ := strings.Cut(m.Run("route", "-n"), "Iface\n")
	list := rows(body, 0, 1, 2, 3, 4, 7)
	for i, line := range list {
		words := strings.Fields(line)
		if words[3] == "!" {
			list[i] = fmt.Sprintf("%s 0.0.0.0 %s ! 0 -", words[0], words[2])
		}
	}
	return list
}

func decode[T any](t *testing.T, text string) []T {
	t.Helper()
	var list []T
	if strings.TrimSpace(text) == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return list
}

func showJSON[T any](t *testing.T, h *rig.Host, kind, where string, flags ...string) []T {
	t.Helper()
	args := append([]string{"show", kind, "-o", "json"}, flags...)
	if where != "" {
		args = append(args, "--workload", where)
	}
	return decode[T](t, h.Flatnet(args...))
}

func linksShown(t *testing.T, h *rig.Host, where string) (list []string) {
	for _, l := range showJSON[api.Link](t, h, "links", where) {
		list = append(list, fmt.Sprint(l.Index, l.Name, l.Flags, l.State, l.MTU, l.MAC, l.Master, l.Qdisc))
	}
	return list
}

func linksOfIP(t *testing.T, m *kerneltest.Machine) (list []string) {
	type link struct {
		IfIndex                                   int
		IfName, OperState, Address, Master, Qdisc string
		Flags                                     []string
		MTU                                       int
	}
	for _, l := range decode[link](t, m.Run("ip", "-j", "link")) {
		list = append(list, fmt.Sprint(l.IfIndex, l.IfName, l.Flags, l.OperState, l.MTU, l.Address, l.Master, l.Qdisc))
	}
	return list
}

func routesShown(t *testing.T, h *rig.Host, where string) (list []string) {
	for _, r := range append(showJSON[api.Route](t, h, "routes", where, "-4"), showJSON[api.Route](t, h, "routes", where, "-6")...) {
		dest := strings.TrimSuffix(r.Dest, "/32")
		if r.Dest == "0.0.0.0/0" || r.Dest == "::/0" {
			dest = "default"
		}
		list = append(list, fmt.Sprint(dest, " via ", r.Via, " dev ", r.Link, " src ", r.Source, " metric ", r.Metric, " proto ", r.Proto))
	}
	return list
}

func routesOfIP(t *testing.T, m *kerneltest.Machine) (list []string) {
	type route struct {
		Dst, Gateway, Dev, PrefSrc, Protocol string
		Metric                               int
	}
	for _, family := range []string{"-4", "-6"} {
		for _, r := range decode[route](t, m.Run("ip", "-j", family, "route")) {
			if r.Protocol == "" {
				r.Protocol = "boot"
			}
			list = append(list, fmt.Sprint(r.Dst, " via ", r.Gateway, " dev ", r.Dev, " src ", r.PrefSrc, " metric ", r.Metric, " proto ", r.Protocol))
		}
	}
	return list
}

func neighboursShown(t *testing.T, h *rig.Host, where string) (list []string) {
	for _, n := range showJSON[api.Neighbour](t, h, "neigh", where) {
		if n.State == "PROXY" {
			n.MAC = n.State
		}
		list = append(list, fmt.Sprint(n.Address, n.Link, n.MAC))
	}
	return list
}

func neighboursOfIP(t *testing.T, m *kerneltest.Machine) (list []string) {
	type neighbour struct{ Dst, Dev, LLAddr string }
	for _, n := range decode[neighbour](t, m.Run("ip", "-j", "neigh")) {
		list = append(list, fmt.Sprint(n.Dst, n.Dev, n.LLAddr))
	}
	for _, n := range decode[neighbour](t, m.Run("ip", "-j", "neigh", "show", "proxy")) {
		list = append(list, fmt.Sprint(n.Dst, n.Dev, "PROXY"))
	}
	return list
}
