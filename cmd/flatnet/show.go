package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

func newShow(a *app) *cobra.Command {
	return group("show", "what this host has, ours and others': bridges, routes, links, neigh, nft", "flatnet show bridges",
		newShowBridges(a), newShowRoutes(a), newShowLinks(a), newShowNeigh(a), newShowNFT(a))
}

// showing is what the show commands have in common.
type showing struct {
	app               *app
	list              listing
	workload, network string
}

func (c *showing) flags(cmd *cobra.Command) {
	c.list.flags(cmd)
	cmd.Flags().StringVar(&c.network, "network", "", "only what belongs to this network")
	_ = cmd.RegisterFlagCompletionFunc("network", c.app.complete(networkNames))
}

// inside adds the ways to name a workload: `show links web` and `show links --workload web`.
func (c *showing) inside(cmd *cobra.Command) {
	c.flags(cmd)
	cmd.Flags().StringVarP(&c.workload, "workload", "w", "", "inside this workload's namespace, instead of the host's")
	_ = cmd.RegisterFlagCompletionFunc("workload", c.app.complete(workloadNames))
	cmd.ValidArgsFunction = c.app.complete(workloadNames)
}

// where is the workload to look into; empty for the host.
func (c *showing) where(args []string) (string, error) {
	if len(args) == 0 {
		return c.workload, nil
	}
	if c.workload != "" && c.workload != args[0] {
		return "", badUsage("two workloads are named: %s and %s", args[0], c.workload)
	}
	return args[0], nil
}

// only leaves those of the network that was asked for.
func only[T any](c *showing, list []T, network func(T) string) []T {
	if c.network == "" {
		return list
	}
	return slices.DeleteFunc(list, func(one T) bool { return network(one) != c.network })
}

// showBridges lists bridges with the columns of `brctl show`.
type showBridges struct{ showing }

func newShowBridges(a *app) *cobra.Command {
	c := &showBridges{showing{app: a}}
	cmd := command(a, "bridges [flags]", "bridges as brctl show lists them, with the network of each and the workload at each port",
		"flatnet show bridges\nflatnet show bridges --network lab", cobra.NoArgs, c.run)
	cmd.Aliases = []string{"bridge", "br"}
	c.flags(cmd)
	return cmd
}

// bridgeRow is one port of a bridge; a bridge without ports has one row.
type bridgeRow struct {
	api.HostBridge
	api.BridgePort
	more bool // the row before is of the same bridge
}

func (c *showBridges) run(ctx context.Context, _ []string, stdout io.Writer) error {
	bridges, err := c.app.client().HostBridges(ctx)
	if err != nil {
		return err
	}
	bridges = only(&c.showing, bridges, func(b api.HostBridge) string { return b.Network })
	if c.list.output != "" && c.list.output != "wide" || c.list.format != "" || c.list.quiet {
		return table[api.HostBridge]{
			columns: []column[api.HostBridge]{{"BRIDGE-NAME", false, bridgeName}},
			name:    bridgeName,
		}.show(stdout, c.list, bridges)
	}
	var rows []bridgeRow
	for _, b := range bridges {
		for _, p := range b.Ports {
			rows = append(rows, bridgeRow{HostBridge: b, BridgePort: p})
		}
		if len(b.Ports) == 0 {
			rows = append(rows, bridgeRow{HostBridge: b})
		}
	}
	return writeBridges(stdout, c.list, rows)
}

func bridgeName(b api.HostBridge) string { return b.Name }

// writeBridges names each bridge once, as brctl does; without headers, which is for programs, on every line.
func writeBridges(w io.Writer, l listing, rows []bridgeRow) error {
	once := func(cell func(bridgeRow) string) func(bridgeRow) string {
		return func(r bridgeRow) string {
			if r.more {
				return " "
			}
			return cell(r)
		}
	}
	t := table[bridgeRow]{columns: []column[bridgeRow]{
		{"BRIDGE-NAME", false, once(func(r bridgeRow) string { return r.Name })},
		{"BRIDGE-ID", false, once(func(r bridgeRow) string { return r.ID })},
		{"STP-ENABLED", false, once(func(r bridgeRow) string { return yesNo(r.STP) })},
		{"INTERFACES", false, func(r bridgeRow) string { return r.Link }},
		{"NETWORK", false, func(r bridgeRow) string { return r.Network }},
		{"WORKLOAD", false, func(r bridgeRow) string { return r.Workload }},
	}}
	if err := t.sort(l, rows); err != nil {
		return err
	}
	for i := range rows {
		rows[i].more = !l.noHeaders && i > 0 && rows[i].Name == rows[i-1].Name
	}
	return t.text(w, l, rows)
}

// showLinks lists links with the columns of `ip link`.
type showLinks struct{ showing }

func newShowLinks(a *app) *cobra.Command {
	c := &showLinks{showing{app: a}}
	cmd := command(a, "links [WORKLOAD] [flags]", "links as ip link lists them, with network and workload",
		"flatnet show links -o wide\nflatnet show links web", cobra.MaximumNArgs(1), c.run)
	cmd.Aliases = []string{"link"}
	c.inside(cmd)
	return cmd
}

func (c *showLinks) run(ctx context.Context, args []string, stdout io.Writer) error {
	workload, err := c.where(args)
	if err != nil {
		return err
	}
	links, err := c.app.client().Links(ctx, workload)
	if err != nil {
		return err
	}
	return table[api.Link]{
		columns: []column[api.Link]{
			{"INDEX", false, func(l api.Link) string { return strconv.Itoa(l.Index) }},
			{"NAME", false, func(l api.Link) string { return l.Name }},
			{"STATE", false, func(l api.Link) string { return l.State }},
			{"MTU", false, func(l api.Link) string { return strconv.Itoa(l.MTU) }},
			{"MASTER", false, func(l api.Link) string { return l.Master }},
			{"MAC", false, func(l api.Link) string { return l.MAC }},
			{"KIND", true, func(l api.Link) string { return l.Kind }},
			{"FLAGS", true, func(l api.Link) string { return strings.Join(l.Flags, ",") }},
			{"QDISC", true, func(l api.Link) string { return l.Qdisc }},
			{"PEER", true, func(l api.Link) string { return l.Peer }},
			{"ADDRESSES", true, func(l api.Link) string { return strings.Join(l.Addresses, ",") }},
			{"NETWORK", false, func(l api.Link) string { return l.Network }},
			{"WORKLOAD", false, func(l api.Link) string { return l.Workload }},
		},
		name: func(l api.Link) string { return l.Name },
	}.show(stdout, c.list, only(&c.showing, links, func(l api.Link) string { return l.Network }))
}

// showNeigh lists neighbours with the columns of `ip neigh`.
type showNeigh struct{ showing }

func newShowNeigh(a *app) *cobra.Command {
	c := &showNeigh{showing{app: a}}
	cmd := command(a, "neigh [WORKLOAD] [flags]", "neighbours as ip neigh lists them, with the workload that has the address",
		"flatnet show neigh\nflatnet show neigh web", cobra.MaximumNArgs(1), c.run)
	cmd.Aliases = []string{"neighbours", "neighbour", "neighbors", "neighbor", "arp"}
	cmd.Long = "STATE is ip's: REACHABLE, STALE, FAILED, PERMANENT …; PROXY: the host answers for the address on that link. Where another MAC than\n" +
		"the workload's answers for its address, it is said beside: two have one address, or somebody pretends."
	c.inside(cmd)
	return cmd
}

func (c *showNeigh) run(ctx context.Context, args []string, stdout io.Writer) error {
	workload, err := c.where(args)
	if err != nil {
		return err
	}
	neighbours, err := c.app.client().Neighbours(ctx, workload)
	if err != nil {
		return err
	}
	return table[api.Neighbour]{
		columns: []column[api.Neighbour]{
			{"ADDRESS", false, func(n api.Neighbour) string { return n.Address }},
			{"DEV", false, func(n api.Neighbour) string { return n.Link }},
			{"LLADDR", false, func(n api.Neighbour) string { return n.MAC }},
			{"STATE", false, func(n api.Neighbour) string { return n.State }},
			{"ROUTER", true, func(n api.Neighbour) string { return yesNo(n.Router) }},
			{"NETWORK", false, func(n api.Neighbour) string { return n.Network }},
			{"WORKLOAD", false, neighbourCell},
		},
		name: func(n api.Neighbour) string { return n.Address },
	}.show(stdout, c.list, only(&c.showing, neighbours, func(n api.Neighbour) string { return n.Network }))
}

func neighbourCell(n api.Neighbour) string {
	who := n.Workload
	if n.Host {
		who = "(the host)"
	}
	if n.Conflict != "" {
		who += "  but " + n.Conflict
	}
	return who
}

// showRoutes lists routes with the columns of `route -n`, and with -o wide those of `ip route`.
type showRoutes struct {
	showing
	v4, v6 bool
	table  string
}

func newShowRoutes(a *app) *cobra.Command {
	c := &showRoutes{showing: showing{app: a}}
	cmd := command(a, "routes [WORKLOAD] [flags]", "routes as route -n lists them (-o wide: as ip route), with the network they lead to",
		"flatnet show routes\nflatnet show routes web -4\nflatnet show routes --table all -o wide", cobra.MaximumNArgs(1), c.run)
	cmd.Aliases = []string{"route"}
	cmd.Long = "FLAGS are route's: U up, G by a gateway, H a single address, ! refused. Its Ref and Use are left out: the kernel says 0 for them.\n" +
		"The routes of fe80::/64, one for each link, are listed with -6 or --table all."
	c.inside(cmd)
	cmd.Flags().BoolVarP(&c.v4, "ipv4", "4", false, "IPv4 only")
	cmd.Flags().BoolVarP(&c.v6, "ipv6", "6", false, "IPv6 only")
	cmd.Flags().StringVar(&c.table, "table", "main", "main, local, default, a number, or all")
	_ = cmd.RegisterFlagCompletionFunc("table", words("main", "local", "all"))
	return cmd
}

func (c *showRoutes) run(ctx context.Context, args []string, stdout io.Writer) error {
	workload, err := c.where(args)
	if err != nil {
		return err
	}
	routes, err := c.app.client().Routes(ctx, workload)
	if err != nil {
		return err
	}
	c.tellTables(routes)
	routes = slices.DeleteFunc(routes, func(r api.Route) bool { return !c.wants(r) })
	return table[api.Route]{
		columns: []column[api.Route]{
			{"DESTINATION", false, destinationCell},
			{"GATEWAY", false, routeGatewayCell},
			{"GENMASK", false, genmaskCell},
			{"FLAGS", false, routeFlags},
			{"METRIC", false, func(r api.Route) string { return strconv.FormatUint(uint64(r.Metric), 10) }},
			{"IFACE", false, func(r api.Route) string { return r.Link }},
			{"PROTO", true, func(r api.Route) string { return r.Proto }},
			{"SCOPE", true, func(r api.Route) string { return r.Scope }},
			{"SRC", true, func(r api.Route) string { return r.Source }},
			{"TYPE", true, func(r api.Route) string { return r.Type }},
			{"TABLE", true, func(r api.Route) string { return r.Table }},
			{"MTU", true, func(r api.Route) string { return numberOrNone(r.MTU) }},
			{"STATE", true, func(r api.Route) string { return strings.Join(r.State, ",") }},
			{"NETWORK", false, func(r api.Route) string { return r.Network }},
		},
		name: func(r api.Route) string { return r.Dest },
	}.show(stdout, c.list, only(&c.showing, routes, func(r api.Route) string { return r.Network }))
}

func (c *showRoutes) wants(r api.Route) bool {
	v6 := strings.Contains(r.Dest, ":")
	switch {
	case c.v4 != c.v6 && c.v6 != v6:
		return false
	case c.table == "all":
		return true
	case r.Dest == linkLocal && !c.v6:
		return false
	}
	return c.table == r.Table || c.table == "254" && r.Table == "main" || c.table == "255" && r.Table == "local"
}

// linkLocal is the destination that every link with IPv6 has a route to.
const linkLocal = "fe80::/64"

// tellTables says that there are tables beside main, as a workload on several networks has: who reads main alone would take it
// for everything.
func (c *showRoutes) tellTables(routes []api.Route) {
	if c.table != "main" || c.list.output != "" && c.list.output != "wide" || c.list.quiet || c.list.noHeaders {
		return
	}
	var tables []string
	for _, r := range routes {
		if r.Table != "main" && r.Table != "local" && !slices.Contains(tables, r.Table) {
			tables = append(tables, r.Table)
		}
	}
	if len(tables) > 0 {
		fmt.Fprintf(c.app.stderr, "more tables: %s   (--table all shows them; ip rule says when they are asked)\n", strings.Join(tables, ", "))
	}
}

// destinationCell is the address of an IPv4 destination, whose length GENMASK tells; of IPv6 the prefix.
func destinationCell(r api.Route) string {
	if p, err := netip.ParsePrefix(r.Dest); err == nil && p.Addr().Is4() {
		return p.Addr().String()
	}
	return r.Dest
}

func routeGatewayCell(r api.Route) string {
	switch {
	case r.Via != "":
		return r.Via
	case strings.Contains(r.Dest, ":"):
		return "::"
	}
	return "0.0.0.0"
}

func genmaskCell(r api.Route) string {
	p, err := netip.ParsePrefix(r.Dest)
	if err != nil || !p.Addr().Is4() {
		return ""
	}
	mask := ^uint32(0) << (32 - p.Bits())
	return fmt.Sprintf("%d.%d.%d.%d", byte(mask>>24), byte(mask>>16), byte(mask>>8), byte(mask))
}

func routeFlags(r api.Route) string {
	flags := "U"
	if slices.Contains([]string{"blackhole", "unreachable", "prohibit", "throw"}, r.Type) {
		flags = "!"
	}
	if r.Via != "" {
		flags += "G"
	}
	if p, err := netip.ParsePrefix(r.Dest); err == nil && p.IsSingleIP() {
		flags += "H"
	}
	return flags
}

func numberOrNone(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}
