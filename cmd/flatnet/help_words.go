package main

import (
	"fmt"
	"io"
	"strings"
)

// pageFor is the page about another tool or about a word of the field, and what to say before it.
func pageFor(word string) (page, note string) {
	word = strings.ToLower(word)
	if page, ok := toolPages()[strings.TrimPrefix(word, "from ")]; ok {
		return page, ""
	}
	if mode, isVMware := vmwareModes()[word]; isVMware {
		return "from-vmware", fmt.Sprintf("%s is a network of mode %s here.", word, mode)
	}
	switch word {
	case "nat", "routed", "route", "bridged", "bridging", "host-only", "hostonly", "isolated", "internal", "cable", "cluster", "mode", "masquerade", "snat", "proxy-arp", "proxyarp", "proxy arp":
		return "modes", ""
	}
	note, ok := wordNotes()[word]
	if !ok {
		return "", ""
	}
	return "modes", note
}

// toolPages are the tools that people come from, by all the names they have.
func toolPages() map[string]string {
	pages := map[string]string{}
	for page, tools := range map[string]string{
		"from-docker":  "docker podman nerdctl moby compose docker-compose macvlan ipvlan swarm",
		"from-cni":     "cni containerd ctr crictl cri-o crio k3s nomad calico host-local portmap",
		"from-virsh":   "virsh libvirt kvm qemu virt-manager virt-install proxmox",
		"from-vmware":  "vmware vmrun workstation virtualbox vboxmanage vbox fusion",
		"from-ovs":     "ovs openvswitch open-vswitch ovs-vsctl ovs-ofctl",
		"from-brctl":   "brctl bridge-utils bridge ip iproute2 netns iptables nft nftables ifconfig route arp",
		"from-kubectl": "kubectl kubernetes k8s kubeadm",
		"from-flannel": "flannel flanneld vxlan host-gw hostgw net-conf.json subnet.env etcdctl overlay backend vni",
	} {
		for tool := range strings.FieldsSeq(tools) {
			pages[tool] = page
		}
	}
	pages["ip netns"], pages["ip route"], pages["ip link"] = "from-brctl", "from-brctl", "from-brctl"
	pages["open vswitch"] = "from-ovs"
	return pages
}

// vmwareModes are VMware's networks by their mode here.
func vmwareModes() map[string]string {
	return map[string]string{"vmnet0": "bridged", "vmnet1": "host-only", "vmnet8": "nat", "lan segment": "isolated"}
}

// wordNotes say in a few lines what no page is about.
func wordNotes() map[string]string {
	return map[string]string{
		"dhcp": "A workload has its addresses at once, without DHCP; a server for it comes later. Where they come from: flatnet net set NAME --ip-range R.\n" +
			"One of your own choice: flatnet run --network NAME,ip=A. On a bridged network without a subnet workloads number themselves.",
		"vlan": "VLANs: not yet. What stands in for them: a network for each (flatnet net create NAME), or a VLAN link made by hand as the uplink:\n" +
			"ip link add link eth1 name eth1.10 type vlan id 10; flatnet net create lan10 --mode bridged --uplink eth1.10",
		"uplink": "The uplink is the link by which a network leaves the host: of nat and routed networks that of the host's routes, or the one named with\n" +
			"--uplink; of bridged ones the NIC that is put into the bridge. Change it: flatnet net set NAME --uplink eth1, or none.",
		"gateway": "The gateway of a nat, routed or host-only network is the host itself, at the first address of the subnet or the one named with\n" +
			"--gateway; of a bridged one the LAN's router. Change it: flatnet net set NAME --gateway A. The host's own: flatnet show routes.",
	}
}

// explainWord prints the page about a word; false when there is none.
func explainWord(stdout io.Writer, word string) (bool, error) {
	page, note := pageFor(word)
	if page == "" {
		return false, nil
	}
	if note != "" {
		fmt.Fprintf(stdout, "%s\n\n", note)
	}
	text, err := topicPages.ReadFile("topics/" + page + ".md")
	if err != nil {
		return true, err
	}
	return true, writePage(stdout, string(text))
}
