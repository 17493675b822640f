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
		}[word]
	}
	if group == "show" {
		return "bridges, routes, links, neigh or nft; a network: flatnet net inspect NAME, a workload: flatnet ep inspect NAME"
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
		"addbr": "flatnet net create NAME --bridge BRIDGE", "delbr": "flatnet net rm NAME", "addif": "flatnet connect NET WORKLOAD", "delif": "flatnet disconnect NET WORKLOAD",
		"domiflist": "flatnet ep inspect WORKLOAD", "attach-interface": "flatnet connect NET WORKLOAD", "detach-interface": "flatnet disconnect NET WORKLOAD",
	}[word]
}

// dockerTerminal takes docker's -i and -t, which ask for what a command here has anyway.
func dockerTerminal(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolP("interactive", "i", false, "docker's; a command has its starter's input anyway")
	f.BoolP("tty", "t", false, "docker's; a command has its starter's terminal anyway")
	_ = f.MarkHidden("interactive")
	_ = f.MarkHidden("tty")
}
