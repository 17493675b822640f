package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/flatnet/flatnet/api"
	"github.com/spf13/cobra"
)

func newNet(a *app) *cobra.Command {
	g := group("net", "networks: create, ls, inspect, set, edit, rm, start, stop, forward …", "flatnet net create lab --subnet 10.8.0.0/24",
		newNetCreate(a), newNetDefine(a), newNetLs(a), newNetInspect(a), newNetSet(a), newNetEdit(a), newNetRm(a), newNetPrune(a),
		newNetStart(a), newNetStop(a), newNetAutostart(a), newConnect(a, "flatnet net"), newDisconnect(a, "flatnet net"), newForward(a))
	g.Aliases = []string{"network", "networks"}
	return g
}

// netLs lists networks.
type netLs struct {
	app  *app
	list listing
}

func newNetLs(a *app) *cobra.Command {
	c := &netLs{app: a}
	cmd := command(a, "ls [flags]", "list networks", "flatnet net ls -o wide", cobra.NoArgs, c.run)
	cmd.Aliases = []string{"list"}
	c.list.flags(cmd)
	return cmd
}

func (c *netLs) run(ctx context.Context, _ []string, stdout io.Writer) error {
	nets, err := c.app.client().Networks(ctx)
	if err != nil {
		return err
	}
	return networkTable().show(stdout, c.list, nets)
}

func networkTable() table[api.Network] {
	builtin := func(name string) api.Network {
		return api.Network{Name: name, Spec: api.NetworkSpec{Mode: name}, Status: api.NetworkStatus{State: "built-in", Scope: "node"}}
	}
	return table[api.Network]{
		columns: []column[api.Network]{
			{"NAME", false, func(n api.Network) string { return n.Name }},
			{"MODE", false, func(n api.Network) string { return n.Spec.Mode }},
			{"SUBNET", false, rangeCells},
			{"GATEWAY", false, func(n api.Network) string { return subnetCells(n, gatewayCell) }},
			{"DHCP", false, func(api.Network) string { return "" }},
			{"ENDPOINTS", false, endpointCount},
			{"STATE", false, func(n api.Network) string { return n.Status.State }},
			{"AUTOSTART", true, autostartCell},
			{"UPLINK", true, func(n api.Network) string { return strings.Join(n.Status.Uplinks, ",") }},
			{"NAT", true, func(n api.Network) string { return strings.Join(n.Status.NAT, "; ") }},
			{"BLOCKS", true, blockCells},
			{"SCOPE", true, func(n api.Network) string { return n.Status.Scope }},
		},
		name:    func(n api.Network) string { return n.Name },
		builtin: []api.Network{builtin("none"), builtin("host")},
	}
}

func subnetCells(n api.Network, part func(api.SubnetStatus) string) string {
	var cells []string
	for _, s := range n.Status.Subnets {
		if p := part(s); p != "" {
			cells = append(cells, p)
		}
	}
	return strings.Join(cells, ",")
}

// rangeCells are the addresses of a network: its subnets, or the pools of one of the cluster.
func rangeCells(n api.Network) string {
	if n.Spec.Cluster == nil {
		return subnetCells(n, subnetCell)
	}
	var cells []string
	for _, p := range n.Spec.Cluster.Pools {
		cells = append(cells, p.Subnet)
	}
	return strings.Join(cells, ",")
}

// blockCells are the blocks of a cluster network that this host holds.
func blockCells(n api.Network) string {
	if n.Spec.Cluster == nil {
		return ""
	}
	return subnetCells(n, subnetCell)
}

func endpointCount(n api.Network) string {
	if n.Status.State == "built-in" {
		return ""
	}
	return fmt.Sprint(len(n.Status.Endpoints))
}

func autostartCell(n api.Network) string {
	if n.Status.State == "built-in" {
		return ""
	}
	return yesNo(n.Spec.Autostart == nil || *n.Spec.Autostart)
}

func subnetCell(s api.SubnetStatus) string  { return s.Subnet }
func gatewayCell(s api.SubnetStatus) string { return s.Gateway }
