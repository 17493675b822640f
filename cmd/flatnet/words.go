package main

import (
	"strings"

	"github.com/spf13/cobra"
)

// wordOfOthers says what a word of docker, virsh or brctl is called here; nothing when it is none.
func wordOfOthers(group, word string) string {
	if group == "net" {
		return map[string]string{
			"destroy": "flatnet net stop NAME, or for good flatnet net rm NAME",
			"dumpxml": "flatnet get network NAME",
			"update":  netSetHint, "modify": netSetHint, "change": netSetHint, "alter": netSetHint, "config": netSetHint,
			"attach": "flatnet connect NETWORK WORKLOAD", "detach": "flatnet disconnect NETWORK WORKLOAD",
			"addif": addifHint, "add-port": addifHint, "rename": renameHint, "add": "flatnet net create NAME", "new": "flatnet net create NAME",
			"publish": "flatnet net forward add WORKLOAD 8080:80", "port": "flatnet net forward ls", "restart": "flatnet net stop NAME && flatnet net start NAME",
			"backend": "flatnet net set NAME --backend host-gw", "nodes": "flatnet net inspect NAME, or all hosts: flatnet host ls",
			"apply": "flatnet apply -f FILE", "get": "flatnet get network NAME", "dhcp-leases": "flatnet ep ls --network NAME",
		}[word]
	}
	if group == "show" {
		return "bridges, routes, links, neigh or nft; a network: flatnet net inspect NAME, a workload: flatnet ep inspect NAME"
	}
	if group == "host" {
		return map[string]string{
			"inspect": "flatnet host ls -o yaml; with the hosts' blocks of one network: flatnet net inspect NAME", "add": "flatnet token create, and there flatnet join",
			"drain": "flatnet leave there, or flatnet host rm NAME on a server",
		}[word]
	}
	if group != "flatnet" {
		return ""
	}
	if virsh, ok := strings.CutPrefix(word, "net-"); ok {
		return map[string]string{
			"list": "flatnet net ls", "start": "flatnet net start NAME", "destroy": "flatnet net stop NAME", "undefine": "flatnet net rm NAME",
			"define": "flatnet net define NAME", "create": "flatnet net create NAME", "info": "flatnet net inspect NAME",
			"dumpxml": "flatnet get network NAME", "autostart": "flatnet net autostart NAME", "edit": "flatnet net edit NAME",
			"update": "flatnet net set NAME", "dhcp-leases": "flatnet ep ls --network NAME", "port-list": "flatnet ep ls --network NAME",
		}[virsh]
	}
	return map[string]string{
		"port":    "flatnet net forward ls",
		"cluster": "flatnet init, flatnet join, flatnet host ls, flatnet leave",
		"reset":   "flatnet leave; all of flatnet: flatnet uninstall",
		"swarm":   "flatnet init, flatnet join, flatnet leave; more: flatnet help from docker",
		"backend": "flatnet net set NETWORK --backend host-gw",
		"forward": "flatnet net forward add, ls or rm",
		"inspect": "flatnet net inspect NAME, flatnet ep inspect NAME, flatnet ps --format json",
		"start":   "a workload starts with its command: flatnet run -d --name NAME -- COMMAND; a network: flatnet net start NAME",
		"restart": "remove it and start it again: flatnet rm -f NAME, flatnet run -d --name NAME -- COMMAND",
		"kill":    "flatnet stop -t 1 NAME, or with the workload: flatnet rm -f NAME",
		"attach":  "flatnet connect NET WORKLOAD",
		"detach":  "flatnet disconnect NET WORKLOAD",
		"top":     "flatnet ps",
		"list":    "flatnet ps, flatnet net ls",
		"ls":      "flatnet ps, flatnet net ls",

		"bridge": "flatnet show bridges", "bridges": "flatnet show bridges", "brctl": "flatnet show bridges; more: flatnet help from brctl",
		"route": "flatnet show routes", "routes": "flatnet show routes", "link": "flatnet show links", "links": "flatnet show links",
		"neigh": "flatnet show neigh", "arp": "flatnet show neigh", "nft": "flatnet show nft", "rules": "flatnet show nft",
		"addbr": "flatnet net create NAME --bridge BRIDGE", "delbr": "flatnet net rm NAME", "addif": addifHint, "delif": delifHint,
		"add-br": "flatnet net create NAME --bridge BRIDGE", "del-br": "flatnet net rm NAME", "list-br": "flatnet net ls", "list-ports": "flatnet ep ls --network NAME",
		"add-port": addifHint, "del-port": delifHint,
		"set": netSetHint, "edit": "flatnet net edit NAME", "update": netSetHint, "modify": netSetHint, "change": netSetHint, "rename": renameHint,
		"create": "a network: flatnet net create NAME; a workload: flatnet run -d --name NAME -- COMMAND", "define": "flatnet net define NAME",
		"delete": "a network: flatnet net rm NAME; a workload: flatnet rm NAME", "destroy": "a network: flatnet net stop NAME; a workload: flatnet rm -f NAME",
		"prune": "flatnet net prune", "publish": "flatnet net forward add WORKLOAD 8080:80",
		"domiflist": "flatnet ep inspect WORKLOAD", "attach-interface": "flatnet connect NET WORKLOAD", "detach-interface": "flatnet disconnect NET WORKLOAD",
	}[word]
}

const (
	netSetHint = "flatnet net set NAME --mtu 1400 (all it changes: flatnet help net set), or flatnet net edit NAME"
	addifHint  = "a NIC: flatnet net set NAME --mode bridged --uplink eth1; a workload: flatnet connect NETWORK WORKLOAD"
	delifHint  = "a NIC: flatnet net set NAME --mode isolated; a workload: flatnet disconnect NETWORK WORKLOAD"
	renameHint = "a name stays; make another (flatnet net create NAME, flatnet run --name NAME) and remove the old one"
)

// dockerTerminal takes docker's -i and -t, which ask for what a command here has anyway.
func dockerTerminal(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolP("interactive", "i", false, "docker's; a command has its starter's input anyway")
	f.BoolP("tty", "t", false, "docker's; a command has its starter's terminal anyway")
	_ = f.MarkHidden("interactive")
	_ = f.MarkHidden("tty")
}
